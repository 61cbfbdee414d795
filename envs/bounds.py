"""Bounds of configuration fields, declared with each field and checked by one function.

learning_rate: Annotated[float, POSITIVE] = 1e-4
"""

from dataclasses import dataclass, is_dataclass
from typing import Any

from ludus.envs.markers import markers

_INFINITY = float("inf")


@dataclass(frozen=True)
class Bounds:
    """An interval of numbers; a tuple is checked element by element, and None is always accepted.

    Args:
        low: smallest accepted value.
        high: largest accepted value.
        above_low: exclude `low` itself.
        below_high: exclude `high` itself.
    """

    low: float
    high: float
    above_low: bool = False
    below_high: bool = False

    def accepts(self, value: Any) -> bool:
        """Return whether a number, or every number of a tuple, lies within the bounds."""
        if isinstance(value, tuple):
            return all(self.accepts(each) for each in value)
        low = value > self.low if self.above_low else value >= self.low
        high = value < self.high if self.below_high else value <= self.high
        return bool(low and high)  # a NaN fails both

    def __str__(self) -> str:
        """Return the end of an error message, `it must be ...`."""
        low, high = _text(self.low), _text(self.high)
        if self.low == -_INFINITY:
            if self.high == _INFINITY:
                return "it must be finite"
            return f"it must be {'below' if self.below_high else 'at most'} {high}"
        if self.high == _INFINITY:
            number = f"above {low}" if self.above_low else f"{low} or more"
            return f"it must be {number}{' and finite' if self.below_high else ''}"
        low = f"above {low}" if self.above_low else f"from {low}"
        return f"it must be {low} to {'below ' if self.below_high else ''}{high}"


def _text(number: float) -> str:
    """Format a bound: whole numbers in full, with separators."""
    return f"{int(number):,}" if number % 1 == 0 else f"{number:g}"


POSITIVE = Bounds(0, _INFINITY, above_low=True, below_high=True)
NON_NEGATIVE = Bounds(0, _INFINITY, below_high=True)
NON_NEGATIVE_OR_INFINITE = Bounds(0, _INFINITY)  # for limits: infinity is none
AT_LEAST_ONE = Bounds(1, _INFINITY, below_high=True)
FRACTION = Bounds(0, 1)
FINITE = Bounds(-_INFINITY, _INFINITY, above_low=True, below_high=True)


def check_bounds(config: Any, error: type[Exception]) -> None:
    """Check every bounded field of a dataclass instance.

    Args:
        config: the instance; call this from its `__post_init__`.
        error: raised with one sentence that names the field, its value and its bounds.
    """
    assert is_dataclass(config)
    kind: Any = type(config)
    for name, declared in markers(kind, Bounds).items():
        value = getattr(config, name)
        for bounds in declared:
            if value is not None and not bounds.accepts(value):
                raise error(f"{name} is {value}; {bounds}")
