"""Scores against compute in benchmarks/, by numbers computed by hand."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAMS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(PROGRAMS)
    for name in ("scaling", "curves", "trainings", "experiments"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("scaling")


def test_operations_are_those_of_the_layers(scaling):
    """A convolution 3x3 of 4 planes to 8x8, a layer of 128 units, three actions; 2 epochs."""
    forward = 2 * (64 * 16 * 9 * 4 + 64 * 16 * 128 + 128 * 3)
    assert scaling.operations("MinAtar/Breakout-v1", 1.0) == 7 * forward
    forward = 2 * (64 * 4 * 9 * 4 + 64 * 4 * 32 + 32 * 3)
    assert scaling.operations("MinAtar/Breakout-v1", 0.25) == 7 * forward


def test_the_frontier_has_no_cheaper_score_as_high(scaling):
    assert scaling.frontier(np.array([1.0, 3.0, 2.0, 3.0, 5.0, 4.0])).tolist() == [0, 1, 4]


def test_cells_are_in_the_order_of_their_compute(scaling):
    env = "MinAtar/Breakout-v1"
    lines = {
        f"{width} {steps} {seed}": {
            "env": env,
            "options": ["--width", width],
            "steps": steps,
            "seed": seed,
            "evaluations": [{"returns": [0.0]}, {"returns": [seed, seed + 2.0]}],
        }
        for width, steps, seed in (("1", 100, 0), ("0.25", 200, 3), ("1", 100, 4))
    }
    found = scaling.cells({**lines, "other": {"env": "MinAtar/Asterix-v1"}}, env)
    assert found.width.tolist() == [0.25, 1.0]
    assert found.steps.tolist() == [200, 100]
    np.testing.assert_equal(found.scores, [[np.nan, 1.0], [4.0, np.nan], [np.nan, 5.0]])
    assert found.mean.tolist() == [4.0, 3.0]
    assert found.compute[1] == 100 * scaling.operations(env, 1.0)


def test_the_exponent_is_that_of_the_frontier(scaling):
    compute = np.array([1e9, 1e10, 1e11, 1e12])
    exact = 0.01 * compute**0.3
    assert scaling.power_law(compute, exact) == pytest.approx((0.01, 0.3))
    below = np.array([1.0, 1.0, 0.5, 1.0])
    assert scaling.exponent(compute, exact * below) == pytest.approx(0.3)
