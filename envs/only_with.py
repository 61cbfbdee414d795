"""Configuration fields that matter only with certain values of another, declared with each field.

atoms: Annotated[int, AT_LEAST_ONE, OnlyWith(("head",), ("c51",))] = 51
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ludus.envs.errors import ConfigError
from ludus.envs.markers import markers


@dataclass(frozen=True)
class OnlyWith:
    """A field has no effect unless one of some others has one of some values.

    Args:
        fields: the others.
        values: the values; none for all but 0 and off.
    """

    fields: tuple[str, ...]
    values: tuple[str, ...] = ()

    def holds(self, config: Any) -> bool:
        """Return whether a field that declares this has an effect."""
        found = [getattr(config, field) for field in self.fields]
        return any(value in self.values if self.values else value for value in found)


def without_effect(config: Any, name: str, varying: Iterable[str] = ()) -> str:
    """Return why a field of a configuration has no effect, and what to do; "" if it has one.

    Args:
        config: instance of a dataclass.
        name: of the field.
        varying: fields that take other values too.
    """
    for condition in markers(type(config), OnlyWith).get(name, ()):
        if condition.holds(config) or not set(condition.fields).isdisjoint(varying):
            continue
        others = " or ".join(condition.fields)
        if not condition.values:
            return f"{name} has no effect without {others}; add that, or leave {name} out"
        now, values = getattr(config, others), " or ".join(condition.values)
        return (
            f"{name} has no effect with {others} {now}; choose {others} {values}, or leave "
            f"{name} out"
        )
    return ""


def check_effect(config: Any, before: Any) -> None:
    """Check that every field that was changed has an effect.

    Args:
        config: instance of a dataclass.
        before: the instance that it was made from.

    Raises:
        ConfigError: one has none.
    """
    for name in markers(type(config), OnlyWith):
        why = without_effect(config, name)
        if why and getattr(config, name) != getattr(before, name):
            raise ConfigError(why)
