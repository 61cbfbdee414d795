"""The pages of the site: docs/, the READMEs and other files of the repository that they link to.

Every file keeps its path in the repository, so that a relative link works here as it does on
GitHub. Source files that a page links to become pages of their own. Equations become MathML, which
browsers draw without a script.
"""

import html
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import agent_pages
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
# pages outside of docs/
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
PACKAGES = (
    *("agents", "cli", "comparison", "envs", "evaluation", "networks", "training", "viewer"),
    "__init__.py",
)
ASSETS = (".png", ".gif", ".html")
LANGUAGES = {".py": "python", ".cff": "yaml"}
_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")  # the path of a relative link
_FIELDS = re.compile(r"^<!-- fields of ([\w.]+) -->$", re.M)
_GOTCHAS = re.compile(r"^## (Library gotchas\n.*?)(?=^## )", re.M | re.S)
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def on_startup(**_: Any) -> None:
    """Make a folder in which the API's generator finds `ludus` and nothing else.

    The package is the root of the repository, which also holds the virtual env and the tests: to
    read all that takes two minutes. The generator looks for the folder before `on_config`.
    """
    package = ROOT / "build" / "api" / "ludus"
    package.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        if not (package / name).is_symlink():
            (package / name).symlink_to(Path("../../..") / name)


def on_files(files: Files, config: Any) -> Files:
    """Replace the files of docs/ by all pages, under their paths in the repository."""
    kept = Files([file for file in files if file.src_dir != config.docs_dir])
    pages = [*PAGES, "benchmarks/env_faults.md"]
    pages += [path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")]
    for page in pages:
        kept.append(_file(config, page, page.removeprefix("docs/")))
    kept.append(_file(config, "docs/site/ludus.css", "assets/ludus.css"))
    gotchas = _GOTCHAS.search(_text("CONTRIBUTING.md"))
    assert gotchas, "CONTRIBUTING.md has no section of gotchas"
    text = re.sub(r"^(\w.*)\n\n(?=- )", r"## \1\n\n", gotchas[1], flags=re.M)
    kept.append(File.generated(config, "gotchas.md", content=f"# {text}"))
    for path in sorted({link for page in pages for link in _links(page)} - set(pages)):
        if path.endswith(ASSETS):
            kept.append(_file(config, path, path.removeprefix("docs/")))
        elif not path.endswith(".md"):
            language = LANGUAGES.get(Path(path).suffix, "text")
            content = f"# {path}\n\n```{language}\n{_text(path)}\n```\n"
            kept.append(File.generated(config, f"sources/{path}.md", content=content))
    return kept


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Add what is generated of an agent, and turn links to source files into links to their pages.

    Raises:
        PluginError: a link leads to no file of the repository.
    """
    path = page.file.src_uri
    if path == "CONTRIBUTING.md":
        return _GOTCHAS.sub("", markdown)
    if path.startswith("sources/"):
        return markdown
    name = re.fullmatch(r"docs/agents/(\w+)\.md", path)
    if name and name[1] != "index":
        markdown += agent_pages.generated(name[1])
    markdown = _FIELDS.sub(lambda found: _table(found[1]), markdown)
    up = "../" * path.count("/")

    def source(link: re.Match[str]) -> str:
        target = _resolve(path, link[1])
        if target.endswith((*ASSETS, ".md")):
            return link[1]
        return f"{up}sources/{target}.md"

    return _outside_code(markdown, source)


def on_page_content(content: str, **_: Any) -> str:
    """Replace LaTeX by MathML."""

    def mathml(found: re.Match[str]) -> str:
        block = found[1] == "div"
        math = convert(html.unescape(found[2]), display="block" if block else "inline")
        return f'<div class="equation">{math}</div>' if block else math

    return _EQUATION.sub(mathml, content)


@cache
def _text(path: str) -> str:
    return (ROOT / path).read_text()


def _table(name: str) -> str:
    """Return the table of the fields of a dataclass, named with its module."""
    module, _, kind = name.rpartition(".")
    return agent_pages.table_of(getattr(import_module(module), kind))


def _file(config: Any, path: str, destination: str) -> File:
    """Return a file of the repository, as a page or as it is."""
    file = File.generated(config, path, abs_src_path=str(ROOT / path))
    if path.endswith(".md"):
        destination = re.sub(r"\bREADME\.md$", "index.md", destination).removesuffix("md") + "html"
    file.dest_uri = destination
    return file


def _outside_code(text: str, replace: Any) -> str:
    """Replace the links of a page that are not in a block of code."""
    parts = re.split(r"(^ *```.*?^ *```)", text, flags=re.M | re.S)
    return "".join(p if i % 2 else _LINK.sub(replace, p) for i, p in enumerate(parts))


def _links(page: str) -> list[str]:
    """Return the files that a page links to, as paths in the repository."""
    found: list[str] = []

    def keep(link: re.Match[str]) -> str:
        found.append(_resolve(page, link[1]))
        return link[0]

    _outside_code(_text(page), keep)
    return found


def _resolve(page: str, link: str) -> str:
    """Return the path in the repository of a link on a page."""
    target = (ROOT / page).parent.joinpath(link).resolve()
    if not target.is_file():
        raise PluginError(f"{page} links to {link}, which is no file")
    return target.relative_to(ROOT).as_posix()
