"""The sequential probability ratio test of a difference in Elo: play until it is decided.

Wald 1945, https://doi.org/10.1214/aoms/1177731118, in the generalised form that chess engines are
tested with (https://www.chessprogramming.org/Sequential_Probability_Ratio_Test): the likelihood
ratio of N pairs of games with mean score m and variance v is, to second order,

    log L = N (s1 - s0) (2 m - s0 - s1) / (2 v),  s = 1 / (1 + 10^(-Elo / 400)).

A pair is two games with the same opening, one from each side, whose results depend on each other.
"""

import math
from dataclasses import dataclass, field

import numpy as np

ERROR = 0.05  # probability of either mistake

_OUTCOMES = np.arange(5) / 4  # mean points of a pair
_PRIOR = 0.2  # pairs of each outcome that are added, so that the variance is never 0


def expected_score(elo: float) -> float:
    """Return the mean points of a game against a player that is so many points weaker."""
    return 1 / (1 + 10 ** (-elo / 400))


@dataclass
class SequentialTest:
    """A test of whether the first of two players is `high` rather than `low` points stronger."""

    low: float
    """difference in Elo under the null hypothesis"""
    high: float
    """difference in Elo under the alternative"""
    pairs: np.ndarray = field(default_factory=lambda: np.zeros(5, np.int64))
    """[5] number of pairs in which the first took 0, 0.5, 1, 1.5 and 2 points"""

    bound = math.log((1 - ERROR) / ERROR)
    """the test ends when the logarithm of the likelihood ratio reaches it or its negative"""

    def add(self, points: np.ndarray) -> None:
        """Count games, each two in a row a pair.

        Args:
            points: [2 N] 1, 0.5 or 0 for the first player.
        """
        outcomes = np.round(2 * points.reshape(-1, 2).sum(1)).astype(np.int64)
        self.pairs += np.bincount(outcomes, minlength=5)

    @property
    def log_ratio(self) -> float:
        """Return the logarithm of the likelihood ratio, high over low."""
        count = int(self.pairs.sum())
        if not count:
            return 0.0
        weights = self.pairs + _PRIOR
        weights = weights / weights.sum()
        mean = float((weights * _OUTCOMES).sum())
        variance = float((weights * (_OUTCOMES - mean) ** 2).sum())
        s0, s1 = expected_score(self.low), expected_score(self.high)
        return count * (s1 - s0) * (2 * mean - s0 - s1) / (2 * variance)

    @property
    def accepted(self) -> float | None:
        """Return the difference that was accepted; None while the test goes on."""
        if abs(self.log_ratio) < self.bound:
            return None
        return self.high if self.log_ratio > 0 else self.low
