"""The actions of running episodes, from which these can be rebuilt."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class ActionHistory:
    """The actions so far of the running episode of each of B envs.

    Args:
        num_envs: B.
        shape: of one env's action.
        dtype: of the actions.
    """

    def __init__(self, num_envs: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.length = np.zeros(num_envs, np.int64)  # [B] steps of the episodes
        # [capacity, B, *action]; the capacity doubles when full
        self._actions = np.zeros((1024, num_envs, *shape), dtype)

    def begin(self, mask: np.ndarray) -> None:
        """Begin a new episode where mask [B] is true."""
        self.length[mask] = 0

    def record(self, actions: np.ndarray, taken: np.ndarray) -> None:
        """Append the actions [B, *action] where taken [B]."""
        if self.length.max() >= len(self._actions):
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)])
        envs = np.flatnonzero(taken)
        self._actions[self.length[envs], envs] = actions[envs]
        self.length += taken

    def actions(self) -> np.ndarray:
        """Return a copy of all actions [T, B, *action], 0 after the end of an episode's own."""
        actions = self._actions[: int(self.length.max(initial=0))].copy()
        actions[np.arange(len(actions))[:, None] >= self.length] = 0  # of earlier episodes
        return actions


class ReplayStep(NamedTuple):
    """One step of several episodes that are repeated together."""

    begins: np.ndarray  # [B] bool, the envs to reset before the step
    actions: np.ndarray | None  # [B, *action]; None after the last step
    running: np.ndarray  # [B] bool, the envs whose actions are recorded ones


def replay(length: np.ndarray, actions: np.ndarray, idle: np.ndarray) -> Iterator[ReplayStep]:
    """Yield the steps that rebuild episodes, one more than the longest of them has.

    All envs step together, so the episodes are aligned at their ends: the longest begins first. An
    env whose turn has not come takes idle actions, which its reset wipes out.

    Args:
        length: [B] steps of each episode.
        actions: [T, B, *action] of the episodes.
        idle: [*action], a valid action.
    """
    num_envs, longest = len(length), int(length.max(initial=0))
    for left in range(longest, -1, -1):
        running = (length >= left) & (left > 0)  # [B]
        chosen = None
        if left:
            at = np.maximum(length - left, 0)  # [B] position in each env's own episode
            recorded = actions[at, np.arange(num_envs)]
            where = running.reshape(num_envs, *(1,) * idle.ndim)
            chosen = np.where(where, recorded, idle.astype(actions.dtype))
        yield ReplayStep(length == left, chosen, running)
