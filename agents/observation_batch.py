"""The arguments of `predict` as a batch of arrays."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from ludus.agents.agent import Observation
from ludus.envs.dict_observation import PackedDict


class ObservationBatch(NamedTuple):
    """The arguments of `predict` as a batch."""

    obs: np.ndarray  # [B, *obs]
    first: np.ndarray  # [B] bool
    single: bool  # the argument was one observation, not a batch


def as_batch(
    observation: Observation, episode_start: np.ndarray | None, space: spaces.Box
) -> ObservationBatch:
    """Return one observation, a batch or a dictionary of either as a batch of arrays.

    Args:
        observation: [*obs] or [B, *obs]; a dictionary of arrays is packed.
        episode_start: [B] bool, resets the state; None for no resets.
        space: of one observation, as the agent was built for.

    Raises:
        ValueError: the observation has another shape than the space, or is a dictionary that the
            agent was not built for.
    """
    if isinstance(observation, Mapping):
        if not isinstance(space, PackedDict):
            raise ValueError("the observation is a dictionary; this agent was trained on arrays")
        observation = space.pack(observation)
    obs = np.ascontiguousarray(observation)
    single = obs.ndim == len(space.shape)
    obs = obs[None] if single else obs
    if obs.shape[1:] != space.shape:
        raise ValueError(
            f"the observation has shape {list(obs.shape[1:])}; this agent was trained on "
            f"{list(space.shape)}"
        )
    if episode_start is None:
        first = np.zeros(len(obs), bool)
    else:
        first = np.atleast_1d(np.asarray(episode_start, dtype=bool))
    return ObservationBatch(obs, first, single)
