"""Observations as an env returns them, for `predict`: adapted as the training adapted them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from ludus.envs.adapt import Adaptation

Predict = Callable[..., tuple[np.ndarray, Any]]


def accept_raw_observations(predict: Predict, adaptation: Adaptation) -> Predict:
    """Return a `predict` that also takes observations of the env's own space, one or a batch.

    Args:
        predict: takes adapted observations.
        adaptation: of the env that the agent was built for.
    """

    def predict_raw(
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return actions and the next state, with Stable-Baselines3's signature.

        Args:
            observation: one observation or a batch, as the env returns them or as the vector env
                of the training does.
            state: returned by the previous call; None at the start.
            episode_start: [B] bool, resets the state.
            deterministic: act greedily, without the evaluation epsilon or sampling.
        """
        adapted = adapt_batch(adaptation, observation)
        return predict(adapted, state, episode_start, deterministic)

    return predict_raw


def adapt_batch(adaptation: Adaptation, observation: Any) -> Any:
    """Adapt one observation or a batch of the env's own space; return all others as they are."""
    space, source = adaptation.space, adaptation.source
    if isinstance(observation, np.ndarray) and observation.dtype == space.dtype:
        own = isinstance(source, spaces.Box) and source.shape == space.shape
        if observation.shape[observation.ndim - len(space.shape) :] == space.shape and not own:
            return observation
    single = _is_single(source, observation)
    if single is None:
        return observation
    if single:
        return _adapted(adaptation, observation)
    return np.stack([_adapted(adaptation, row) for row in _rows(source, observation)])


def _adapted(adaptation: Adaptation, obs: Any) -> np.ndarray:
    if adaptation.info_mask_size:  # nobody gives the mask here, so every action is legal
        return adaptation.convert((obs, np.ones(adaptation.info_mask_size, np.int8)))
    return adaptation.convert(obs)


def _is_single(space: spaces.Space[Any], obs: Any) -> bool | None:
    """Return whether obs is one observation of a space, or a batch; None if it is neither."""
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping):
            return None
        parts = [_is_single(inner, obs[key]) for key, inner in space.items() if key in obs]
        return _all_alike([part for part in parts if part is not None])
    if isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple) or len(obs) != len(space.spaces):
            return None
        parts = [_is_single(inner, part) for inner, part in zip(space.spaces, obs, strict=True)]
        return _all_alike(parts)
    if isinstance(obs, Mapping | tuple | str):
        return None
    shape, given = tuple(space.shape or ()), np.shape(obs)
    if given == shape:
        return True
    return False if given[1:] == shape and len(given) == len(shape) + 1 else None


def _all_alike(parts: list[bool | None]) -> bool | None:
    return parts[0] if parts and all(part == parts[0] for part in parts) else None


def _rows(space: spaces.Space[Any], obs: Any) -> list[Any]:
    """Split a batch into observations."""
    if isinstance(space, spaces.Dict):
        count = len(next(iter(obs.values())))
        return [{key: values[i] for key, values in obs.items()} for i in range(count)]
    if isinstance(space, spaces.Tuple):
        return list(zip(*obs, strict=True))
    return list(obs)
