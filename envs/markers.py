"""What the fields of a dataclass declare beside their types, as in Annotated[float, POSITIVE]."""

from dataclasses import fields
from functools import cache
from typing import Any, TypeVar, get_type_hints

_M = TypeVar("_M")


def markers(kind: type, marker: type[_M]) -> dict[str, tuple[_M, ...]]:
    """Return the markers of a type that a dataclass declares, by field.

    Args:
        kind: the dataclass.
        marker: type of the markers.
    """
    declared = {
        name: tuple(each for each in found if isinstance(each, marker))
        for name, found in _all_markers(kind).items()
    }
    return {name: found for name, found in declared.items() if found}


@cache
def _all_markers(kind: type) -> dict[str, tuple[Any, ...]]:
    """Return whatever a dataclass declares, by field."""
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: getattr(hints[each.name], "__metadata__", ()) for each in fields(kind)}


def bare(hint: Any) -> Any:
    """Return a type hint without its markers."""
    return hint.__origin__ if hasattr(hint, "__metadata__") else hint
