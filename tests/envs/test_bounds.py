"""Bounds of configuration fields: which values pass, and the sentence about those that do not."""

from dataclasses import dataclass
from typing import Annotated

import pytest

from ludus.envs.bounds import (
    AT_LEAST_ONE,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    Bounds,
    check_bounds,
)
from ludus.envs.errors import ConfigError

INF, NAN = float("inf"), float("nan")


@dataclass(frozen=True)
class Config:
    rate: Annotated[float, POSITIVE] = 0.1
    hidden: Annotated[tuple[int, ...], AT_LEAST_ONE] = (64,)
    clip: Annotated[float | None, NON_NEGATIVE] = None
    share: Annotated[float, "a note that is no bound", FRACTION] = 0.5
    steps: Annotated[int, Bounds(1, 10_000_000)] = 1
    name: str = "anything"

    def __post_init__(self) -> None:
        check_bounds(self, ConfigError)


@pytest.mark.parametrize(
    ("bounds", "good", "bad"),
    [
        (POSITIVE, [1e-300, 1, True, 1e300], [0, -1e-300, False, INF, NAN]),
        (NON_NEGATIVE, [0, -0.0, 5], [-1, INF, -INF, NAN]),
        (AT_LEAST_ONE, [1, 1.5], [0, 0.999, INF, NAN]),
        (FRACTION, [0, 1, 0.5], [-1e-9, 1 + 1e-9, NAN]),
        (Bounds(0, 1, below_high=True), [0, 0.999], [1, NAN]),
        (Bounds(0, 1, above_low=True), [1, 1e-9], [0, NAN]),
        (Bounds(0, INF), [0, INF], [-INF, NAN]),
        (FRACTION, [(), (0, 1), (0.5, (0, 1))], [(0, 2), (NAN,), (0, (1, -1))]),
    ],
    ids=str,
)
def test_values_within_and_outside(bounds, good, bad):
    assert [value for value in good if not bounds.accepts(value)] == []
    assert [value for value in bad if bounds.accepts(value)] == []


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        (POSITIVE, "above 0 and finite"),
        (NON_NEGATIVE, "0 or more and finite"),
        (AT_LEAST_ONE, "1 or more and finite"),
        (FRACTION, "from 0 to 1"),
        (Bounds(0, INF), "0 or more"),
        (Bounds(0, INF, above_low=True), "above 0"),
        (Bounds(0, 1, above_low=True, below_high=True), "above 0 to below 1"),
        (Bounds(-INF, 3), "at most 3"),
        (Bounds(-INF, 0.25, below_high=True), "below 0.25"),
        (Bounds(-INF, INF, above_low=True, below_high=True), "finite"),
        (Bounds(1, 10_000_000), "from 1 to 10,000,000"),
    ],
    ids=str,
)
def test_bounds_in_words(bounds, text):
    assert str(bounds) == f"it must be {text}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": NAN}, "rate is nan; it must be above 0 and finite"),
        ({"hidden": (64, 0)}, r"hidden is \(64, 0\); it must be 1 or more and finite"),
        ({"clip": -1.0}, "clip is -1.0; it must be 0 or more and finite"),
        ({"share": 2.0}, "share is 2.0; it must be from 0 to 1"),
        ({"steps": 10_000_001}, "steps is 10000001; it must be from 1 to 10,000,000"),
    ],
    ids=str,
)
def test_a_config_refuses_a_field_out_of_bounds(change, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Config(**change)


def test_a_config_within_its_bounds_is_made():
    assert Config(clip=None, hidden=(), name="").clip is None
    assert Config(clip=0.0, share=1, rate=1e-9).share == 1
