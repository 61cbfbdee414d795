"""Action masks of Discrete and MultiDiscrete actions, and random actions within them.

A mask [P] has a number for each value of each choice, 0 where it is illegal.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import EnvError


def mask_size(space: spaces.Space[Any]) -> int:
    """Return the size of an action space's masks, P; 0 for continuous actions."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(space.nvec.sum()) if isinstance(space, spaces.MultiDiscrete) else 0


def check_mask_size(
    observation_space: spaces.Box, action_space: spaces.Space[Any], env_id: str
) -> None:
    """Check that the mask in observations fits the actions.

    Raises:
        EnvError: it does not.
    """
    if isinstance(observation_space, PackedDict) and MASK in observation_space.parts:
        size, needed = observation_space.parts[MASK].space.shape[0], mask_size(action_space)
        if size != needed:
            wanted = str(needed) if needed else "none, for they are continuous"
            raise EnvError(f"{env_id}: {MASK} has {size} numbers; its actions need {wanted}")


def split_mask(space: spaces.Space[Any], mask: np.ndarray) -> list[np.ndarray]:
    """Split masks [B, P] into one [B, A_i] for each choice."""
    if not isinstance(space, spaces.MultiDiscrete):
        return [mask]
    return np.split(mask, np.cumsum(space.nvec)[:-1], axis=1)


def legal_mask(space: spaces.Box, obs: np.ndarray) -> np.ndarray | None:
    """Return the masks [B, P] bool in observations [B, *obs]; None if all actions are legal."""
    if not isinstance(space, PackedDict) or MASK not in space.parts:
        return None
    part = space.parts[MASK]
    return obs[:, part.start : part.end] > 0


def random_actions(
    space: spaces.Space[Any],
    count: int,
    generator: np.random.Generator,
    legal: np.ndarray | None = None,
) -> np.ndarray:
    """Sample uniformly random legal actions [B, *action], as the env numbers them.

    Args:
        space: action space of one env.
        count: B.
        generator: random numbers.
        legal: masks [B, P]; None if all actions are legal.
    """
    if isinstance(space, spaces.Discrete):
        if legal is None:
            return generator.integers(space.n, size=count) + space.start
        return _random_legal(legal, generator) + space.start
    if isinstance(space, spaces.MultiDiscrete):
        if legal is None:
            return generator.integers(space.nvec, size=(count, *space.shape)) + space.start
        flat = spaces.MultiDiscrete(space.nvec.reshape(-1))
        chosen = [_random_legal(choice, generator) for choice in split_mask(flat, legal)]
        return np.stack(chosen, axis=1).reshape(count, *space.shape) + space.start
    assert isinstance(space, spaces.Box)
    return np.stack([_random_box(space, generator) for _ in range(count)])


def mix_random_actions(
    actions: np.ndarray,
    epsilon: float,
    space: spaces.Space[Any],
    generator: np.random.Generator,
    legal: np.ndarray | None,
) -> np.ndarray:
    """Replace each action [B, *action] by a random legal one with probability epsilon.

    Args:
        actions: those to replace.
        epsilon: probability of a random action; 0 draws no random numbers.
        space: action space of one env.
        generator: random numbers.
        legal: masks [B, P]; None if all actions are legal.
    """
    if not epsilon:
        return actions
    explore = generator.random(len(actions)) < epsilon
    random = random_actions(space, len(actions), generator, legal)
    return np.where(explore.reshape(-1, *[1] * (actions.ndim - 1)), random, actions)


def _random_legal(legal: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Sample the index [B] of a number above 0 in each row of legal [B, A]; 0 if there is none."""
    chosen: np.ndarray = (generator.random(legal.shape) * (legal > 0)).argmax(1)
    return chosen


def _random_box(space: spaces.Box, generator: np.random.Generator) -> np.ndarray:
    """Sample as `Box.sample` does: uniform, exponential or normal, by which bounds are finite."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    below, above = space.bounded_below, space.bounded_above
    sample = generator.normal(size=space.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        tail = generator.exponential(size=space.shape)
        sample = np.where(below & ~above, low + tail, sample)
        sample = np.where(above & ~below, high - tail, sample)
        uniform = generator.random(space.shape)
        sample = np.where(below & above, low + uniform * (high - low), sample)
    return np.clip(sample, low, high).astype(np.float32)
