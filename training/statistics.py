"""Statistics of a comparison: interquartile mean, bootstrap intervals, human-normalised scores.

Agarwal et al. 2021, https://arxiv.org/abs/2108.13264, say why the mean of a few runs is not enough.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from scipy import stats

_RESAMPLES = 9_999


@dataclass(frozen=True)
class Score:
    """What one agent scored on one env."""

    mean: float
    iqm: float  # mean of the middle half
    low: float  # 95% interval of the IQM
    high: float
    over: str  # what the interval speaks of: seeds, or the games of one training


def iqm(scores: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and the highest quarter."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def summarise(scores: np.ndarray) -> Score:
    """Sum up scores [seeds, games].

    With three seeds or more the interval is over trainings: each seed counts with its mean. With
    fewer it can only speak of the games that these trainings played.
    """
    by_seed = len(scores) >= 3
    units = scores.mean(axis=1) if by_seed else scores.reshape(-1)  # [units]
    low = high = float(iqm(units))
    if len(units) > 1 and np.ptp(units) > 0:
        interval = stats.bootstrap(
            (units,),
            iqm,
            n_resamples=_RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    over = f"{len(scores)} seeds" if by_seed else f"{units.size} games"
    return Score(float(scores.mean()), float(iqm(units)), low, high, over)


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
