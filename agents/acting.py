"""What agents that choose by value share in acting: epsilon-greedy, and SB3's `predict`."""

from typing import NamedTuple

import numpy as np


def epsilon_greedy(
    actions: np.ndarray,
    epsilon: float | np.ndarray,
    num_actions: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Actions [B], each replaced by a random one with probability epsilon (one, or [B])."""
    coins = generator.random(len(actions)) < epsilon  # each env throws its own
    return np.where(coins, generator.integers(num_actions, size=len(actions)), actions)


class Seen(NamedTuple):
    """What `predict` was given, as a batch."""

    obs: np.ndarray  # [B, *obs]
    first: np.ndarray  # [B] bool
    single: bool  # it was one observation, not a batch


def as_batch(
    observation: np.ndarray, episode_start: np.ndarray | None, shape: tuple[int, ...]
) -> Seen:
    """One observation or a batch of them, as a batch.

    Raises:
        ValueError: the observation has another shape than `shape`.
    """
    obs = np.ascontiguousarray(observation)
    single = obs.ndim == len(shape)
    obs = obs[None] if single else obs
    if obs.shape[1:] != shape:
        raise ValueError(
            f"the observation has shape {list(obs.shape[1:])}; this agent was trained on "
            f"{list(shape)}"
        )
    if episode_start is None:
        first = np.zeros(len(obs), bool)
    else:
        first = np.atleast_1d(np.asarray(episode_start, dtype=bool))
    return Seen(obs, first, single)
