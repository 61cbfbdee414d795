"""Formats of numbers, names and settings in reports, and the conversion to plain JSON values."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np


def to_json(value: Any) -> Any:
    """Convert a value to what JSON can hold. Numbers that are not finite become null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [to_json(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(asdict(value))
    return str(value)


def format_number(value: float | None, decimals: int | None = None) -> str:
    """Format a number for a table, or return "-" if it is missing or not finite.

    Without `decimals`, large numbers have fewer of them.
    """
    if value is None or not math.isfinite(value):
        return "-"
    if decimals is None:
        decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:z,.{decimals}f}"


def format_percent(share: float | None) -> str:
    """Format a share as a percentage, or return "-" if it is missing or not finite."""
    return "-" if share is None or not math.isfinite(share) else f"{100 * share:z.1f}%"


def format_count(count: int, noun: str) -> str:
    """Format a count with its noun: `1 env`, `2 envs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_list(names: Sequence[str]) -> str:
    """Join names for a sentence: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def format_key(name: str) -> str:
    """Write the name of a setting with spaces."""
    return name.replace("_", " ")


def format_setting(value: Any) -> str:
    """Format the value of a setting."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else "-"
    return value if isinstance(value, str) else json.dumps(to_json(value))
