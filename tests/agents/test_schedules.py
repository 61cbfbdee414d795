import pytest

from ludus.agents.learner import linear


@pytest.mark.parametrize(
    ("step", "value"), [(0, 1.0), (25, 0.8), (50, 0.6), (100, 0.2), (101, 0.2), (10**9, 0.2)]
)
def test_linear_by_hand(step, value):
    assert linear(1.0, 0.2, 100, step) == pytest.approx(value, abs=1e-12)


def test_linear_ends_exactly_and_may_last_no_time():
    assert linear(1.0, 0.1, 3, 3) == 0.1
    assert linear(1.0, 0.1, 0, 0) == 0.1


def test_linear_may_rise():
    assert linear(0.4, 1.0, 10, 5) == pytest.approx(0.7)
