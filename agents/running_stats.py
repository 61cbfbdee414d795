"""Running mean and variance of what an agent meets, and rewards on the scale of their return."""

from typing import Any

import numpy as np


class Moments:
    """Mean and variance of numbers that come in batches (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.mean, self.variance, self.count = 0.0, 1.0, 0.0

    def update(self, values: np.ndarray, forget: float = 0.0) -> None:
        """Take values [N] in; what came before counts `forget` less from now on."""
        if not len(values):
            return
        mean, variance = float(np.mean(values, dtype=np.float64)), float(np.var(values))
        before = self.count * (1 - forget)
        total = before + len(values)
        share, apart = len(values) / total, mean - self.mean
        self.variance = (
            self.variance * (1 - share) + variance * share + apart**2 * share * (1 - share)
        )
        self.mean += apart * share
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        """All three."""
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.mean, self.variance, self.count = state["mean"], state["variance"], state["count"]


class RewardScale:
    """Rewards over the running deviation of the discounted return, cut off at 10 of them.

    "The 37 implementation details of PPO", continuous actions, detail 6.

    Args:
        gamma: discount per step.
        num_envs: B.
    """

    def __init__(self, gamma: float, num_envs: int) -> None:
        self._gamma, self._returns, self._moments = gamma, np.zeros(num_envs), Moments()

    def __call__(self, reward: np.ndarray, valid: np.ndarray, terminated: np.ndarray) -> np.ndarray:
        """Scaled rewards [B] float32; a row that is not valid opens the next game."""
        self._returns = self._returns * self._gamma + reward
        self._moments.update(self._returns[valid])
        self._returns[~valid | terminated] = 0.0
        scale = (self._moments.variance + 1e-8) ** -0.5
        return np.clip(reward * scale, -10, 10).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Where the returns and their moments stand."""
        return {"returns": self._returns, "moments": self._moments.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._returns = np.array(state["returns"])
        self._moments.load_state_dict(state["moments"])
