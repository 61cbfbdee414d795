"""Statistics of a comparison: aggregates over envs, bootstrap intervals, human-normalised scores.

The methods are those of Agarwal et al. 2021, https://arxiv.org/abs/2108.13264. The results equal
those of the authors' rliable 1.2.0. Normalised scores are a matrix [runs, tasks], with one task for
each env. All functions of a matrix also take leading dimensions, [..., runs, tasks], so that all
resamples are computed at once.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

_RESAMPLES = 5_000
ENOUGH_SEEDS = 5
"""Minimum number of trainings for an interval over trainings."""


@dataclass(frozen=True)
class Score:
    """Score of one agent on one env."""

    mean: float
    iqm: float  # mean of the middle half
    low: float  # 95% interval of the IQM
    high: float
    over: str  # population of the interval: trainings, or the games of these trainings


def iqm(scores: np.ndarray) -> np.ndarray:
    """Return the interquartile mean [...] of scores [..., n]: that of the middle half.

    As `scipy.stats.trim_mean`, without its import of more than half a second.
    """
    count = scores.shape[-1]
    low, high = count // 4, count - count // 4
    ordered = np.partition(scores, (low, high - 1))
    middle: np.ndarray = ordered[..., low:high].mean(-1)
    return middle


def summarise(scores: np.ndarray) -> Score:
    """Summarise scores [seeds, games] with equal weight for every game.

    With five seeds or more, the bootstrap resamples whole trainings. Fewer seeds do not show how
    trainings differ, so it resamples games within each training. `over` names which of the two.
    """
    seeds, games = scores.shape
    generator = np.random.default_rng(0)
    by_seed = seeds >= ENOUGH_SEEDS
    if by_seed:
        seed_indices = generator.integers(seeds, size=(_RESAMPLES, seeds))
        resampled = scores[seed_indices]  # [resamples, seeds, games]
    else:
        game_indices = generator.integers(games, size=(_RESAMPLES, seeds, games))
        resampled = np.take_along_axis(scores[None], game_indices, axis=2)
    low, high = np.percentile(iqm(resampled.reshape(_RESAMPLES, -1)), [2.5, 97.5])
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
    """Return the median over tasks of the tasks' means, [..., runs, tasks] to [...]."""
    return np.median(scores.mean(axis=-2), axis=-1)


def pooled_iqm(scores: np.ndarray) -> np.ndarray:
    """Return the interquartile mean over all runs and tasks, [..., runs, tasks] to [...].

    Of n scores, int(n / 4) are removed at either end. If n is no multiple of 4, slightly more than
    half of them remain, as in rliable.
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
    """Return the probability that a run of x beats one of y, as a mean over tasks; a tie is 0.5.

    On each task, it is the Mann-Whitney U statistic divided by the number of pairs.

    Args:
        x: [..., runs, tasks].
        y: [..., runs, tasks] with the same tasks; the number of runs may differ.
    """
    wins = np.zeros((*x.shape[:-2], *y.shape[-2:]))  # [..., runs of y, tasks]
    for run in range(x.shape[-2]):  # a loop over runs limits memory to the size of y
        one = x[..., run : run + 1, :]
        wins += (one > y) + 0.5 * (one == y)
    return wins.mean(axis=(-2, -1)) / x.shape[-2]


def performance_profile(scores: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """Return the share of runs that score above each tau, [..., runs, tasks] to [..., taus]."""
    return np.stack([(scores > tau).mean(axis=(-2, -1)) for tau in taus], axis=-1)


def resample(scores: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Resample runs with replacement, separately for each task (stratified bootstrap).

    Args:
        scores: [runs, tasks].
        count: number of resamples.
        generator: source of random numbers.

    Returns:
        [count, runs, tasks].

    Raises:
        ValueError: scores are no matrix of finite numbers, for example because tasks have different
            numbers of runs.
    """
    shape = np.shape(scores)
    if len(shape) != 2 or 0 in shape or not np.isfinite(scores).all():
        raise ValueError(
            f"scores of shape {list(shape)} are not finite numbers [runs, tasks]; "
            "give every task the same number of runs, and leave out what has no score"
        )
    resampled = generator.integers(shape[0], size=(count, *shape))
    return np.take_along_axis(scores[None], resampled, axis=1)


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
    resampled = aggregate(resample(scores, resamples, np.random.default_rng(seed)))
    return _percentile(aggregate(scores), resampled)


def improvement(
    x: np.ndarray, y: np.ndarray, *, resamples: int = _RESAMPLES, seed: int = 0
) -> Estimate:
    """Return the probability of improvement of x over y, [runs, tasks], resampled independently."""
    if np.shape(x)[1:] != np.shape(y)[1:]:
        raise ValueError(
            f"scores of shapes {list(np.shape(x))} and {list(np.shape(y))} are not of the same "
            "tasks; give both one column for each task"
        )
    generator = np.random.default_rng(seed)
    resampled = [resample(scores, resamples, generator) for scores in (x, y)]
    return _percentile(probability_of_improvement(x, y), probability_of_improvement(*resampled))


def profile(
    scores: np.ndarray, taus: np.ndarray, *, resamples: int = 2_000, seed: int = 0
) -> np.ndarray:
    """Return the performance profile of scores [runs, tasks]: value, low and high, [3, taus]."""
    resampled = resample(scores, resamples, np.random.default_rng(seed))
    low, high = np.percentile(performance_profile(resampled, taus), [2.5, 97.5], axis=0)
    return np.stack([performance_profile(scores, taus), low, high])


def mean_band(curves: np.ndarray, *, resamples: int = 2_000, seed: int = 0) -> np.ndarray:
    """Return the mean of curves [runs, points] and its 95% band over runs, [3, points]."""
    runs = len(curves)
    # how often each run is resampled: [resamples, runs]
    counts = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), resamples)
    low, high = np.percentile(counts @ curves / runs, [2.5, 97.5], axis=0)
    return np.stack([curves.mean(axis=0), low, high])


def _percentile(value: np.ndarray, resampled: np.ndarray) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5])
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
    """Return (score - random) / (human - random), or None if `human_reference` has no values."""
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
