"""Which fields of a configuration vary, and between which values, in a tuning or in a grid."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints

from ludus.envs.bounds import Bounds
from ludus.envs.errors import ConfigError
from ludus.envs.markers import bare
from ludus.envs.only_with import without_effect
from ludus.envs.suggest import closest

_FACTOR = 10.0  # a value varies from a tenth of the preset's to ten times as much
_COUNT_FACTOR = 4  # a count from a quarter to four times as much, in powers of two

# What people tune, see rl-zoo's spaces and Andrychowicz et al. 2020
# (https://arxiv.org/abs/2006.05990). Fields that a configuration does not have, or that are off in
# its preset (0), do not vary.
TUNED = (
    *("learning_rate", "gamma", "lam", "batch_size", "replay_ratio", "n_step", "target_interval"),
    *("epsilon_end", "rollout_length", "epochs", "minibatches", "entropy_coef", "clip_range"),
    *("value_coef", "max_grad_norm"),
)


class Suggesting(Protocol):
    """What a search space needs of an `optuna.Trial`."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return a whole number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""


@dataclass(frozen=True)
class Dimension:
    """The values of one field."""

    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()
    below_one: bool = False
    """1 minus the value varies, on a logarithmic scale, as for discounts"""

    @property
    def log(self) -> bool:
        """Whether the scale is logarithmic."""
        return self.low > 0 and self.high / self.low >= _FACTOR

    def suggest(self, trial: Suggesting, name: str) -> Any:
        """Return a trial's value of the field."""
        if self.kind == "choice":
            return trial.suggest_categorical(name, list(self.choices))
        if self.kind == "int":
            return trial.suggest_int(name, int(self.low), int(self.high))
        if self.below_one:
            return 1 - trial.suggest_float(f"1 - {name}", 1 - self.high, 1 - self.low, log=True)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        """Return the values in words, for tables."""
        if self.kind == "choice":
            return ", ".join(map(str, self.choices))
        scale = "1 - x logarithmic" if self.below_one else "logarithmic" if self.log else "linear"
        scale = "whole numbers" if self.kind == "int" else scale
        return f"{self.low:g} to {self.high:g}, {scale}"


def search_space(
    config: Any, changes: Sequence[str] = (), fixed: Sequence[str] = ()
) -> tuple[Any, dict[str, Dimension]]:
    """Return the configuration with its fixed fields, and what varies around it.

    Args:
        config: of the preset.
        changes: `field=low..high` or `field=a,b,c`, which replace or extend the space.
        fixed: `field=value`.

    Raises:
        ConfigError: there is no such field, it has no effect, or a value is no value of it.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for text in fixed:
        name, value = _named(text, hints, "fix")
        changed = {name: _parse(name, hints[name], value)}
        config = replace(config, **changed)
    space = {}
    for name in TUNED:
        if name in hints:
            found = _around(hints[name], getattr(config, name))
            if found is not None:
                space[name] = found
    for text in changes:
        name, value = _named(text, hints, "space")
        space[name] = _given(name, hints[name], value)
    for text in fixed:
        space.pop(text.partition("=")[0].strip().replace("-", "_"), None)
    if not space:
        raise ConfigError("nothing varies; name fields by --space field=low..high")
    chosen = [text.partition("=")[0].strip().replace("-", "_") for text in (*changes, *fixed)]
    _require_effect(config, chosen, space)
    return config, space


def grid(config: Any, axes: Sequence[str]) -> list[Any]:
    """Return the configuration with each combination of the values of some fields.

    Args:
        config: of the preset.
        axes: `field=a,b,c` each.

    Raises:
        ConfigError: there is no such field, it has no effect, or a value is no value of it.
    """
    hints = get_type_hints(type(config), include_extras=True)
    values: dict[str, list[Any]] = {}
    for text in axes:
        name, listed = _named(text, hints, "grid")
        if name in values:
            raise ConfigError(f"--grid names {name} twice; list all values of a field at once")
        values[name] = [_parse(name, hints[name], each) for each in listed.split(",")]
        if len(set(values[name])) < len(values[name]):
            raise ConfigError(f"--grid is {text}, which contains a value twice; list each once")
    _require_effect(config, values, values)
    combinations = [dict(zip(values, each, strict=True)) for each in product(*values.values())]
    return [replace(config, **changed) for changed in combinations]


def _require_effect(config: Any, names: Iterable[str], varying: Iterable[str]) -> None:
    """Check that fields have an effect with some of the values of those that vary.

    Raises:
        ConfigError: one has none.
    """
    for name in names:
        why = without_effect(config, name, varying)
        if why:
            raise ConfigError(why)


def _around(hint: Any, value: Any) -> Dimension | None:
    """Return the values around a preset's, within the field's bounds; None if it does not vary."""
    kind, bounds = _bare(hint)
    if isinstance(value, bool) or not isinstance(value, int | float) or value == 0:
        return None
    if not math.isfinite(value):
        return None
    if kind is int:
        steps = range(-int(math.log2(_COUNT_FACTOR)), int(math.log2(_COUNT_FACTOR)) + 1)
        around = sorted({round(value * 2.0**step) for step in steps})
        accepted = tuple(each for each in around if each >= 1 and bounds.accepts(each))
        return Dimension("choice", choices=accepted)
    if bounds.high == 1 and 0.5 < value < 1:  # a discount
        gap = 1 - value
        return Dimension("float", 1 - min(0.5, gap * _FACTOR), 1 - gap / _FACTOR, below_one=True)
    low, high = value / _FACTOR, value * _FACTOR
    return Dimension("float", max(low, bounds.low), min(high, bounds.high))


def _given(name: str, hint: Any, text: str) -> Dimension:
    """Parse `low..high` or `a,b,c`."""
    kind, bounds = _bare(hint)
    low, dots, high = text.partition("..")
    if dots:
        if kind not in (int, float):
            raise ConfigError(f"{name} is no number; name its values, as in --space {name}=a,b")
        ends = _parse(name, hint, low), _parse(name, hint, high)
        if not ends[0] < ends[1]:
            raise ConfigError(f"{name} varies from {low} to {high}; the first must be smaller")
        discount = kind is float and bounds.high == 1 and ends[0] >= 0.5 and ends[1] < 1
        return Dimension("int" if kind is int else "float", *ends, below_one=discount)
    values = tuple(_parse(name, hint, each) for each in text.split(","))
    if len(set(values)) < 2:
        raise ConfigError(f"{name} has the only value {text}; use --fix {name}={text}")
    return Dimension("choice", choices=values)


def _named(text: str, hints: Mapping[str, Any], option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not value.strip():
        forms = {"fix": "field=value", "grid": "field=a,b,c"}
        form = forms.get(option, "field=low..high or field=a,b,c")
        raise ConfigError(f"--{option} is {text}; it must be {form}")
    if name not in hints or name == "module":
        raise ConfigError(closest(name, sorted(set(hints) - {"module"}), "field"))
    return name, value.strip()


def _parse(name: str, hint: Any, text: str) -> Any:
    """Parse one value of a field."""
    kind, bounds = _bare(hint)
    text = text.strip()
    value: Any = text
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float):
            value = float(text)
            if kind is int:
                value = int(value) if value.is_integer() else int(text)
            if not bounds.accepts(value):
                raise ConfigError(f"{name} is {value}; {bounds}")
            return value
    except (ValueError, KeyError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise ConfigError(f"{name} is {text}; it must be {words[kind]}") from None
    if get_origin(kind) is Literal and text not in get_args(kind):
        raise ConfigError(f"{name} is {text}; it must be one of {', '.join(get_args(kind))}")
    if kind is not str and get_origin(kind) is not Literal:
        raise ConfigError(f"{name} cannot vary; numbers, flags and names can")
    return value


def _bare(hint: Any) -> tuple[Any, Bounds]:
    """Return a field's type without its annotations, and its bounds."""
    bounds = Bounds(-math.inf, math.inf)
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Bounds):
            bounds = extra
    return bare(hint), bounds


def params_of(space: Mapping[str, Dimension], config: Any) -> dict[str, Any] | None:
    """Return a configuration as a trial's parameters; None if it lies outside of the space."""
    params = {}
    for name, dimension in space.items():
        value = getattr(config, name)
        if dimension.kind == "choice":
            inside = value in dimension.choices
        else:
            inside = dimension.low <= value <= dimension.high
        if not inside:
            return None
        params[f"1 - {name}" if dimension.below_one else name] = (
            1 - value if dimension.below_one else value
        )
    return params
