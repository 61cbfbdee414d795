"""Build a configuration from JSON, checked by the types of its fields."""

import types
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")
_Failure = type[Exception]


def former(name: str) -> dict[str, str]:
    """Return the metadata of a field that older files know under another name."""
    return {"former": name}


def former_bool(false: str, true: str) -> dict[str, tuple[str, str]]:
    """Return the metadata of a field of strings that older files have as a bool."""
    return {"former_bool": (false, true)}


def from_json(kind: type[_T], values: Any, error: _Failure) -> _T:
    """Build a dataclass from a JSON object, in which tuples are lists.

    Args:
        kind: the dataclass; its own checks of bounds run, too.
        values: what `json.loads` returned.
        error: raised with one sentence that names the field and its value.
    """
    name = kind.__name__
    if not isinstance(values, dict):
        raise error(f"{name} is {_short(values)}; it must be an object")
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    names = {field.metadata.get("former"): name for name, field in known.items()}
    values = {names.get(key, key): value for key, value in values.items()}
    for key in values:
        if key not in known:
            raise error(f"{name} has no field {_short(key)}")
    arguments: dict[str, Any] = {}
    for key, field in known.items():
        if key in values:
            if "former_bool" in field.metadata and isinstance(values[key], bool):
                values[key] = field.metadata["former_bool"][values[key]]
            arguments[key] = _converted(values[key], hints[key])
            if arguments[key] is _WRONG:
                raise error(
                    f"{key} is {_short(values[key])} in {name}; it must be {_words(hints[key])}"
                )
        elif field.default is MISSING and field.default_factory is MISSING:
            raise error(f"{name} lacks the field {key}")
    return kind(**arguments)


class _Wrong:
    """The type of `_WRONG`, which stands for a value of the wrong type."""


_WRONG = _Wrong()


def _converted(value: Any, hint: Any) -> Any:
    """Return a JSON value as a type hint demands it, `_WRONG` if it is of another type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is dict:
        hint = dict
    if origin in (Union, types.UnionType):
        results = (_converted(value, each) for each in arguments)
        return next((result for result in results if result is not _WRONG), _WRONG)
    if origin is Literal:
        same = any(value == each and type(value) is type(each) for each in arguments)
        return value if same else _WRONG
    if origin is tuple:
        return _converted_tuple(value, arguments)
    if hint is type(None):
        return None if value is None else _WRONG
    if hint is float and type(value) in (int, float):
        return value if value == value else _WRONG  # a NaN passes no bound, but may have none
    return value if type(value) is hint else _WRONG


def _converted_tuple(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _WRONG
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        return _WRONG
    items = [_converted(item, hint) for item, hint in zip(value, arguments, strict=True)]
    return _WRONG if any(item is _WRONG for item in items) else tuple(items)


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
