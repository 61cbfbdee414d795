"""An extension of the API's generator: a comment beside a field of a class is its docstring."""

from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Take the comments of named tuples, which have the shapes of their fields."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, agent: Any, **_: Any) -> None:
        """Give a field without a docstring the comment in its line, or that in the lines above."""
        parent, line = attr.parent, attr.lineno
        if attr.docstring is not None or line is None or not (parent and parent.is_class):
            return
        lines = attr.filepath.read_text().splitlines()  # type: ignore[union-attr]  # one module
        _, found, text = lines[line - 1].partition("  # ")
        above = line - 2
        while not found and lines[above].strip().startswith("# "):
            text = f"{lines[above].strip().removeprefix('# ')} {text}".strip()
            above -= 1
        if text:
            attr.docstring = griffe.Docstring(text, lineno=line, parent=attr)
