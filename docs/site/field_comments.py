"""An extension of the API's generator: the comments beside the fields of a named tuple.

They hold the shapes of tensors. The generator reads docstrings only, so they become the section
"Attributes" of the tuple's docstring.
"""

from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Add the comments of named tuples to their docstrings."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Add a section of the fields that have a comment, in their line or in the lines above."""
        if not any(str(base) == "NamedTuple" for base in cls.bases) or cls.docstring is None:
            return
        lines = cls.filepath.read_text().splitlines()  # type: ignore[union-attr]  # one module
        rows = []
        for name, field in cls.attributes.items():
            line = (field.lineno or 1) - 1
            _, found, text = lines[line].partition("  # ")
            while not found and lines[line - 1].strip().startswith("# "):
                line -= 1
                text = f"{lines[line].strip().removeprefix('# ')} {text}".strip()
            rows.append(f"    {name}: {text or name.replace('_', ' ')}")
        if rows:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(rows)
