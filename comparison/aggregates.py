"""Statistics of a comparison: aggregates over envs, bootstrap intervals, human-normalised scores.

Agarwal et al. 2021, https://arxiv.org/abs/2108.13264, say why the mean of a few runs is not enough.
Over several envs, the tasks, scores are a matrix [runs, tasks] of normalised scores; the numbers
are those of the authors' rliable 1.2.0. All functions of a matrix take leading dimensions too,
[..., runs, tasks], so that every resample is computed at once.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from scipy import stats

_RESAMPLES = 5_000
ENOUGH_SEEDS = 5
"""Minimum number of trainings for an interval over trainings."""


@dataclass(frozen=True)
class Score:
    """What one agent scored on one env."""

    mean: float
    iqm: float  # mean of the middle half
    low: float  # 95% interval of the IQM
    high: float
    over: str  # population of the interval: trainings, or the games of these trainings


def iqm(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and the highest quarter."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def summarise(scores: np.ndarray) -> Score:
    """Sum up scores [seeds, games], every game counting alike.

    With five seeds or more the bootstrap draws trainings, whole. With fewer, which say nothing of
    how trainings differ, it draws games within each training, and `over` says so.
    """
    seeds, games = scores.shape
    generator = np.random.default_rng(0)
    by_seed = seeds >= ENOUGH_SEEDS
    if by_seed:
        drawn = scores[generator.integers(seeds, size=(_RESAMPLES, seeds))]  # [R, seeds, games]
    else:
        which = generator.integers(games, size=(_RESAMPLES, seeds, games))
        drawn = np.take_along_axis(scores[None], which, axis=2)
    low, high = np.percentile(iqm(drawn.reshape(_RESAMPLES, -1)), [2.5, 97.5])
    over = f"{seeds} trainings" if by_seed else f"{scores.size} games"
    return Score(
        float(scores.mean()), float(iqm(scores.reshape(-1))), float(low), float(high), over
    )


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


def mean(scores: np.ndarray) -> np.ndarray:
    """Return the mean over tasks of the tasks' means, [..., runs, tasks] to [...]."""
    return scores.mean(axis=-2).mean(axis=-1)


def median(scores: np.ndarray) -> np.ndarray:
    """Median over tasks of the tasks' means, [..., runs, tasks] to [...]."""
    return np.median(scores.mean(axis=-2), axis=-1)


def pooled_iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean of all runs of all tasks together, [..., runs, tasks] to [...].

    Of n scores int(n / 4) go at either end, so where n is no multiple of 4 a little more than the
    middle half stays, as in rliable.
    """
    return iqm(scores.reshape(*scores.shape[:-2], -1))


def optimality_gap(scores: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """Return the mean shortfall from gamma; scores above gamma count as gamma. Lower is better."""
    return gamma - np.minimum(scores, gamma).mean(axis=(-2, -1))


AGGREGATES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "IQM": pooled_iqm,
    "median": median,
    "mean": mean,
    "optimality gap": optimality_gap,
}
"""The four aggregates of Agarwal et al., from [..., runs, tasks] to [...]."""


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probability that a run of x beats a run of y on a task, mean over tasks; a tie is half.

    On each task it is Mann and Whitney's U over the number of pairs.

    Args:
        x: [..., runs, tasks].
        y: [..., runs, tasks], of the same tasks; the number of runs may differ.
    """
    wins = np.zeros((*x.shape[:-2], *y.shape[-2:]))  # [..., runs of y, tasks]
    for run in range(x.shape[-2]):  # a loop over runs, so that memory stays that of a resample
        mine = x[..., run : run + 1, :]
        wins += (mine > y) + 0.5 * (mine == y)
    return wins.mean(axis=(-2, -1)) / x.shape[-2]


def performance_profile(scores: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """Share of all runs that score above each tau, [..., runs, tasks] to [..., taus]."""
    return np.stack([(scores > tau).mean(axis=(-2, -1)) for tau in taus], axis=-1)


def resample(scores: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Resample runs with replacement, separately for each task (stratified bootstrap).

    Args:
        scores: [runs, tasks].
        count: resamples.
        generator: what draws.

    Returns:
        [count, runs, tasks].

    Raises:
        ValueError: scores are no matrix of numbers. Tasks with different numbers of runs make
            none; cut them to the same number first.
    """
    shape = np.shape(scores)
    if len(shape) != 2 or 0 in shape or not np.isfinite(scores).all():
        raise ValueError(
            f"scores of shape {list(shape)} are not finite numbers [runs, tasks]; "
            "give every task the same number of runs, and leave out what has no score"
        )
    drawn = generator.integers(shape[0], size=(count, *shape))
    return np.take_along_axis(scores[None], drawn, axis=1)


def estimate(
    scores: np.ndarray,
    aggregate: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return an aggregate of scores [runs, tasks] with its percentile interval.

    With one run the interval is the value itself and carries no information.
    """
    drawn = aggregate(resample(scores, resamples, np.random.default_rng(seed)))
    return _percentile(aggregate(scores), drawn)


def improvement(
    x: np.ndarray, y: np.ndarray, *, resamples: int = _RESAMPLES, seed: int = 0
) -> Estimate:
    """Probability of improvement of x over y, [runs, tasks], each resampled by itself."""
    if np.shape(x)[1:] != np.shape(y)[1:]:
        raise ValueError(
            f"scores of shapes {list(np.shape(x))} and {list(np.shape(y))} are not of the same "
            "tasks; give both one column for each task"
        )
    generator = np.random.default_rng(seed)
    drawn = [resample(scores, resamples, generator) for scores in (x, y)]
    return _percentile(probability_of_improvement(x, y), probability_of_improvement(*drawn))


def profile(
    scores: np.ndarray, taus: np.ndarray, *, resamples: int = 2_000, seed: int = 0
) -> np.ndarray:
    """Performance profile of scores [runs, tasks]: its value, low and high, [3, taus]."""
    drawn = resample(scores, resamples, np.random.default_rng(seed))
    low, high = np.percentile(performance_profile(drawn, taus), [2.5, 97.5], axis=0)
    return np.stack([performance_profile(scores, taus), low, high])


def mean_band(curves: np.ndarray, *, resamples: int = 2_000, seed: int = 0) -> np.ndarray:
    """Return the mean of curves [runs, points] and its 95% band over runs, [3, points]."""
    runs = len(curves)
    # how often each run is drawn: [resamples, runs]
    counts = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), resamples)
    low, high = np.percentile(counts @ curves / runs, [2.5, 97.5], axis=0)
    return np.stack([curves.mean(axis=0), low, high])


def _percentile(value: np.ndarray, drawn: np.ndarray) -> Estimate:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def human_reference(rom: str) -> tuple[float, float] | None:
    """Return the mean returns of a random and a human player of an Atari game; None if unknown.

    They are dqn_zoo's: no-op starts, no sticky actions, 108,000 frames.
    """
    table = files("ludus.comparison").joinpath("atari_human_random.csv").read_text()
    for row in csv.DictReader(table.splitlines()):
        if row["game"] == rom:
            return float(row["random"]), float(row["human"])
    return None


def human_normalised(rom: str, score: float) -> float | None:
    """(score - random) / (human - random) of `human_reference`, or None where it has none."""
    reference = human_reference(rom)
    if reference is None:
        return None
    random, human = reference
    return (score - random) / (human - random)


def smooth(episodes: np.ndarray, grid: np.ndarray, window: int = 20) -> np.ndarray:
    """Return the mean of the last `window` games at each step of grid; NaN before the first.

    Args:
        episodes: [games, 4] as in episodes.csv.
        grid: [points] env steps.
        window: games in a mean.
    """
    steps, returns = episodes[:, 0], episodes[:, 2]
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    ends = np.searchsorted(steps, grid, side="right")  # games finished by then
    starts = np.maximum(ends - window, 0)
    with np.errstate(invalid="ignore"):
        return np.where(ends > 0, (sums[ends] - sums[starts]) / (ends - starts), np.nan)
