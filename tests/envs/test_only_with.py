"""Fields that matter only with certain values of others."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import pytest

from ludus.envs.errors import ConfigError
from ludus.envs.only_with import OnlyWith, check_effect, without_effect

BLUE = OnlyWith(("colour",), ("blue", "green"))


@dataclass(frozen=True)
class Paint:
    colour: Literal["red", "blue", "green"] = "red"
    glossy: bool = False
    coats: int = 0
    shine: Annotated[float, OnlyWith(("glossy",))] = 0.5
    depth: Annotated[float, "a note", BLUE] = 1.0
    drying: Annotated[int, OnlyWith(("glossy", "coats"))] = 3
    shimmer: Annotated[float, BLUE, OnlyWith(("glossy",))] = 0.1


@pytest.mark.parametrize(
    ("paint", "name", "why"),
    [
        (Paint(), "colour", ""),
        (Paint(), "shine", "shine has no effect without glossy; add that, or leave shine out"),
        (Paint(glossy=True), "shine", ""),
        (
            Paint(),
            "depth",
            "depth has no effect with colour red; choose colour blue or green, or leave depth out",
        ),
        (Paint("green"), "depth", ""),
        (
            Paint(),
            "drying",
            "drying has no effect without glossy or coats; add that, or leave drying out",
        ),
        (Paint(coats=2), "drying", ""),
        (Paint(glossy=True), "drying", ""),
        (Paint("blue"), "shimmer", "shimmer has no effect without glossy"),
        (Paint(glossy=True), "shimmer", "shimmer has no effect with colour red"),
        (Paint("blue", glossy=True), "shimmer", ""),
    ],
)
def test_a_field_has_an_effect_where_all_it_needs_holds(paint, name, why):
    assert without_effect(paint, name).startswith(why)
    assert bool(without_effect(paint, name)) == bool(why)


def test_a_field_may_vary_with_what_it_needs():
    assert without_effect(Paint(), "depth", ["coats"])
    assert not without_effect(Paint(), "depth", ["colour", "coats"])
    assert without_effect(Paint(), "shimmer", ["colour"]).startswith(
        "shimmer has no effect without"
    )


def test_only_what_was_changed_is_refused():
    check_effect(Paint(shine=0.1), Paint(shine=0.1))
    check_effect(Paint(glossy=True, shine=0.1), Paint())
    check_effect(
        replace(Paint(glossy=True, shine=0.1), glossy=False), Paint(glossy=True, shine=0.1)
    )
    with pytest.raises(ConfigError, match=r"^shine has no effect without glossy"):
        check_effect(Paint(shine=0.1), Paint())
