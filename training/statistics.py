"""Statistics of a comparison: interquartile mean, bootstrap intervals, human-normalised scores.

Agarwal et al. 2021, https://arxiv.org/abs/2108.13264, say why the mean of a few runs is not enough.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from scipy import stats

_RESAMPLES = 5_000
_ENOUGH_SEEDS = 5


@dataclass(frozen=True)
class Score:
    """What one agent scored on one env."""

    mean: float
    iqm: float  # mean of the middle half
    low: float  # 95% interval of the IQM
    high: float
    over: str  # what the interval speaks of: trainings, or the games of these trainings


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
    by_seed = seeds >= _ENOUGH_SEEDS
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


def human_normalised(rom: str, score: float) -> float | None:
    """(score - random) / (human - random), or None where no human score is published.

    The reference scores are dqn_zoo's: no-op starts, no sticky actions, 108,000 frames.
    """
    table = files("ludus.training").joinpath("atari_human_random.csv").read_text()
    for row in csv.DictReader(table.splitlines()):
        if row["game"] == rom:
            random, human = float(row["random"]), float(row["human"])
            return (score - random) / (human - random)
    return None
