import numpy as np
import pytest

from ludus.training.statistics import human_normalised, iqm, summarise


def test_iqm_by_hand():
    # of 8 numbers the lowest and the highest 2 go: (2 + 3 + 4 + 5) / 4
    assert iqm(np.array([100.0, 3, 1, 4, 5, 6, 2, -50])) == 3.5


def test_of_five_seeds_the_interval_is_over_trainings():
    """Games within a training are alike, so only whole trainings can be drawn."""
    scores = np.repeat(np.array([[0.0], [10.0], [20.0], [30.0], [40.0]]), 8, axis=1)
    score = summarise(scores)
    assert score.mean == score.iqm == 20
    assert score.over == "5 trainings"
    assert score.low <= 5
    assert score.high >= 35


def test_of_fewer_seeds_it_is_over_their_games():
    score = summarise(np.repeat(np.array([[0.0], [10.0], [20.0], [30.0]]), 8, axis=1))
    assert score.over == "32 games"
    assert score.low == score.high == 15  # games within a training do not differ here
    one = summarise(np.array([np.arange(20.0)]))
    assert one.over == "20 games"
    assert one.low < one.iqm == 9.5 < one.high


def test_equal_scores_have_no_interval():
    score = summarise(np.full((3, 4), 7.0))
    assert (score.low, score.iqm, score.high) == (7, 7, 7)


def test_the_interval_covers_what_it_says():
    """Of 60 samples of a normal distribution about 57 hold its mean; 51 at the very least."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        score = summarise(generator.normal(3.0, 1.0, (1, 40)))
        held += score.low <= 3.0 <= score.high
    assert held >= 51


def test_human_normalised():
    assert human_normalised("road_runner", 11.5) == 0
    assert human_normalised("road_runner", 7845.0) == pytest.approx(1)
    assert human_normalised("pong", 14.6) == pytest.approx(1, abs=0.01)
    assert human_normalised("no_such_game", 1.0) is None
