from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from ludus.comparison.aggregates import (
    AGGREGATES,
    estimate,
    human_normalised,
    human_reference,
    improvement,
    iqm,
    mean,
    mean_band,
    median,
    optimality_gap,
    performance_profile,
    pooled_iqm,
    probability_of_improvement,
    profile,
    resample,
    summarise,
)


def test_iqm_by_hand():
    # of 8 numbers the lowest and the highest 2 go: (2 + 3 + 4 + 5) / 4
    assert iqm(np.array([100.0, 3, 1, 4, 5, 6, 2, -50])) == 3.5


@pytest.mark.parametrize("count", range(1, 14))
def test_iqm_is_scipy_s_trimmed_mean(count):
    scores = np.random.default_rng(count).normal(size=(3, 5, count)).round(1)  # some are alike
    assert np.array_equal(iqm(scores), trim_mean(scores, 0.25, axis=-1))


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
    assert human_reference("road_runner") == (11.5, 7845.0)


def _scores(runs, tasks, seed=0):
    return np.random.default_rng(seed).normal(0.6, 0.5, (runs, tasks))


def test_aggregates_by_hand():
    scores = np.array([[0.0, 1.0, 4.0], [2.0, 1.0, 8.0]])  # task means 1, 1 and 6
    assert mean(scores) == pytest.approx(8 / 3)
    assert median(scores) == 1
    assert pooled_iqm(scores) == pytest.approx((1 + 1 + 2 + 4) / 4)  # of 6 one goes at either end
    assert optimality_gap(scores) == pytest.approx(1 - 5 / 6)
    assert optimality_gap(scores, gamma=2.0) == pytest.approx(2 - 8 / 6)


def test_probability_of_improvement_by_hand():
    x, y = np.array([[3.0, 1.0], [1.0, 1.0]]), np.array([[2.0, 1.0], [1.0, 0.0], [0.0, 5.0]])
    first = (3 + 0.5 + 1) / 6  # 3 beats all, 1 beats 0 and ties with 1
    second = 2 * (0.5 + 1) / 6
    assert probability_of_improvement(x, y) == pytest.approx((first + second) / 2)
    assert probability_of_improvement(y, x) == pytest.approx(1 - (first + second) / 2)
    assert probability_of_improvement(x, x) == 0.5


def test_profile_by_hand():
    scores = np.array([[0.0, 1.0], [1.0, 3.0]])
    taus = np.array([-1.0, 0.0, 1.0, 2.0, 3.0])
    assert performance_profile(scores, taus).tolist() == [1, 0.75, 0.25, 0.25, 0]


@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000), st.booleans())
def test_all_resamples_at_once_are_as_one_by_one(runs, tasks, others, seed, ties):
    scores, rival = _scores(runs, tasks, seed), _scores(others, tasks, seed + 1)
    if ties:
        scores, rival = np.round(scores), np.round(rival)
    generator = np.random.default_rng(seed)
    drawn, against = (resample(s, 4, generator) for s in (scores, rival))
    for aggregate in AGGREGATES.values():
        np.testing.assert_allclose(aggregate(drawn), [aggregate(one) for one in drawn], atol=1e-12)
    better = [
        np.mean([(a > b) + 0.5 * (a == b) for t in range(tasks) for a in x[:, t] for b in y[:, t]])
        for x, y in zip(drawn, against, strict=True)
    ]
    np.testing.assert_allclose(probability_of_improvement(drawn, against), better, atol=1e-12)
    taus = np.linspace(-1, 2, 7)
    naive = [[(one > tau).mean() for tau in taus] for one in drawn]
    np.testing.assert_allclose(performance_profile(drawn, taus), naive, atol=1e-12)


def test_runs_are_drawn_for_each_task_by_itself():
    scores = np.arange(12.0).reshape(4, 3)
    drawn = resample(scores, 3_000, np.random.default_rng(0))
    assert drawn.shape == (3_000, 4, 3)
    assert (drawn % 3 == np.arange(3)).all()  # a score stays in its column
    rows = drawn // 3
    assert len({tuple(row) for row in rows[:, 0].tolist()}) == 4**3  # columns draw apart
    counts = np.bincount(rows.astype(int).ravel())
    np.testing.assert_allclose(counts / counts.sum(), 0.25, atol=0.01)


@pytest.mark.parametrize(
    "scores", [np.zeros(3), np.zeros((0, 2)), np.array([[1.0, np.nan]]), np.zeros((2, 2, 2))]
)
def test_what_is_no_matrix_of_scores_is_refused(scores):
    with pytest.raises(ValueError, match="same number of runs"):
        estimate(scores, mean)


def test_improvement_needs_the_same_tasks():
    with pytest.raises(ValueError, match="same tasks"):
        improvement(np.zeros((2, 2)), np.zeros((2, 3)))


def test_one_run_has_an_interval_of_no_width():
    found = estimate(np.array([[0.2, 0.6]]), mean)
    assert found.low == found.value == found.high == pytest.approx(0.4)


def test_an_interval_narrows_with_runs_and_repeats_with_its_seed():
    few, many = estimate(_scores(4, 3), mean), estimate(_scores(64, 3), mean)
    assert few.high - few.low > 2 * (many.high - many.low)
    assert estimate(_scores(4, 3), mean) == few != estimate(_scores(4, 3), mean, seed=1)


def test_a_band_is_the_interval_of_the_mean_at_each_point():
    """With many draws, because the mean of 5 drawn of 5 takes few values."""
    curves = _scores(5, 3)
    value, low, high = mean_band(curves, resamples=50_000)
    for point in range(3):
        found = estimate(curves[:, point : point + 1], mean, resamples=50_000)
        assert value[point] == pytest.approx(found.value)
        assert low[point] == pytest.approx(found.low, abs=0.01)
        assert high[point] == pytest.approx(found.high, abs=0.01)


# rliable is the authors' own code: the numbers must be theirs.
_SHAPES = [(1, 1), (1, 4), (5, 1), (3, 2), (5, 7), (10, 3)]


def _theirs(metrics):
    return {
        "IQM": metrics.aggregate_iqm,
        "median": metrics.aggregate_median,
        "mean": metrics.aggregate_mean,
        "optimality gap": metrics.aggregate_optimality_gap,
    }


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("ties", [False, True])
def test_numbers_and_intervals_are_those_of_rliable(shape, ties):
    """Intervals on the same resamples: rliable's metric of each, and their percentiles."""
    metrics = pytest.importorskip("rliable.metrics")
    scores = np.round(_scores(*shape)) if ties else _scores(*shape)
    drawn = resample(scores, 300, np.random.default_rng(0))
    for name, aggregate in AGGREGATES.items():
        theirs = _theirs(metrics)[name]
        found = estimate(scores, aggregate, resamples=300)
        interval = np.percentile([theirs(one) for one in drawn], [2.5, 97.5])
        assert found.value == pytest.approx(theirs(scores), abs=1e-6)
        np.testing.assert_allclose([found.low, found.high], interval, atol=1e-6)


@pytest.mark.parametrize("runs", [(1, 1), (5, 5), (3, 8)])
@pytest.mark.parametrize("ties", [False, True])
def test_improvement_is_that_of_rliable(runs, ties):
    metrics = pytest.importorskip("rliable.metrics")
    x, y = (_scores(n, 4, seed) for seed, n in enumerate(runs))
    if ties:
        x, y = np.round(x), np.round(y)
    generator = np.random.default_rng(0)
    drawn = zip(*(resample(s, 100, generator) for s in (x, y)), strict=True)
    theirs = [metrics.probability_of_improvement(*pair) for pair in drawn]
    found = improvement(x, y, resamples=100)
    assert found.value == pytest.approx(metrics.probability_of_improvement(x, y), abs=1e-6)
    np.testing.assert_allclose(
        [found.low, found.high], np.percentile(theirs, [2.5, 97.5]), atol=1e-6
    )


def test_profiles_are_those_of_rliable():
    library = pytest.importorskip("rliable.library")
    scores, taus = _scores(5, 3), np.linspace(-1, 2, 13)
    found = profile(scores, taus, resamples=200)
    drawn = resample(scores, 200, np.random.default_rng(0))
    theirs = [library.score_distributions(one, taus) for one in drawn]
    np.testing.assert_allclose(found[0], library.score_distributions(scores, taus), atol=1e-6)
    np.testing.assert_allclose(found[1:], np.percentile(theirs, [2.5, 97.5], axis=0), atol=1e-6)


def test_the_bootstrap_is_that_of_rliable():
    """On draws of its own, so about equal."""
    library = pytest.importorskip("rliable.library")
    metrics = pytest.importorskip("rliable.metrics")
    if int(version("arch").split(".")[0]) >= 8:
        pytest.skip("the bootstrap of rliable 1.2.0 needs arch below 8")
    np.random.seed(0)  # noqa: NPY002, rliable draws from the global generator
    scores = _scores(6, 4)
    theirs = _theirs(metrics)

    def all_of_them(drawn):
        return np.array([theirs[name](drawn) for name in AGGREGATES])

    _, intervals = library.get_interval_estimates({"a": scores}, all_of_them, reps=2_000)
    ours = [estimate(scores, aggregate) for aggregate in AGGREGATES.values()]
    np.testing.assert_allclose(
        [[e.low for e in ours], [e.high for e in ours]], intervals["a"], atol=0.03
    )
