"""Pages: one HTML file each, without external files or links, from a template of this package."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined


def package_text(name: str) -> str:
    """Return the text of a file of this package."""
    return files("ludus.comparison").joinpath(name).read_text()


def render(
    template: str,
    values: Mapping[str, Any],
    *,
    filters: Mapping[str, Callable[..., Any]],
    tests: Mapping[str, Callable[..., bool]] | None = None,
    styles: tuple[str, ...] = ("report.css",),
) -> str:
    """Return the HTML of a page, in ASCII.

    Args:
        template: name of a file of this package; it escapes the values.
        values: what it shows.
        filters: functions of the template, by name.
        tests: further functions, of its conditions.
        styles: names of files of this package, whose text the template has as `style`.
    """
    environment = Environment(
        loader=FunctionLoader(package_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    environment.tests.update(tests or {})
    style = "".join(map(package_text, styles))
    html = environment.get_template(template).render(values, style=style)
    # Character references make the page independent of its encoding. They also replace lone
    # surrogates in names, which UTF-8 cannot encode.
    return html.encode("ascii", "xmlcharrefreplace").decode()
