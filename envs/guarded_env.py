"""One Gymnasium env with its observations adapted and its results checked.

Errors are returned in `info["ludus_error"]`, not raised: a worker process can report them to the
trainer, and nothing is printed.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import EnvError, describe_error

ERROR = "ludus_error"

_Convert = Callable[[Any], np.ndarray]


def _adapt(space: spaces.Space[Any]) -> tuple[spaces.Box, _Convert]:
    """Return the Box that the learner sees instead of `space`, and the conversion into it.

    Images become channels first and float64 becomes float32. A dictionary becomes the bytes of its
    adapted parts. Everything else is flattened, a Discrete observation to one-hot.

    Raises:
        EnvError: observations of this space have no fixed size.
    """
    if isinstance(space, spaces.Dict):
        return _adapt_dict(space)
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        if len(space.shape) == 3 and space.shape[-1] in (1, 3, 4) and space.shape[0] > 4:
            low, high = space.low.transpose(2, 0, 1), space.high.transpose(2, 0, 1)
            return spaces.Box(low, high, dtype=np.uint8), lambda obs: obs.transpose(2, 0, 1)
        return space, lambda obs: obs
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        low, high = _to_float32(space.low), _to_float32(space.high)
        return spaces.Box(low, high, dtype=np.float32), _to_float32
    if not space.is_np_flattenable:
        raise EnvError(f"has the observation space {space}, which has no fixed size")
    flat = spaces.flatten_space(space)
    box = spaces.Box(-np.inf, np.inf, flat.shape, np.float32)
    return box, lambda obs: np.asarray(spaces.flatten(space, obs), np.float32)


def _adapt_dict(space: spaces.Dict) -> tuple[PackedDict, _Convert]:
    adapted = {key: _adapt(inner) for key, inner in space.spaces.items() if key != MASK}
    parts = {key: box for key, (box, _) in adapted.items()}
    if any(isinstance(box, PackedDict) for box in parts.values()) or not parts:
        raise EnvError(
            f"has the observation space {space}; one level of keys is supported, and an observation"
            f" besides {MASK}"
        )
    for key, box in parts.items():
        if not box.shape:
            low, high = box.low.reshape(1), box.high.reshape(1)
            parts[key] = spaces.Box(low, high, dtype=box.dtype.type)
    mask = space.spaces.get(MASK)
    if mask is not None:
        if not isinstance(mask, spaces.MultiBinary | spaces.Box) or not mask.shape:
            raise EnvError(
                f"has {mask} for {MASK}; use MultiBinary, with a number for each choice of action"
            )
        parts[MASK] = spaces.Box(0, 1, (int(np.prod(mask.shape)),), np.uint8)
    packed = PackedDict(parts)

    def convert(obs: Any) -> np.ndarray:
        arrays = {
            key: np.reshape(convert_part(obs[key]), parts[key].shape)
            for key, (_, convert_part) in adapted.items()
        }
        for key, array in arrays.items():  # once packed into bytes, a NaN is not recognised
            if not np.isfinite(array).all():
                raise EnvError(f"returned the observation {array} for {key}")
        if MASK in parts:
            arrays[MASK] = np.asarray(obs[MASK]).reshape(-1) != 0
        return packed.pack(arrays)

    return packed, convert


def _to_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # inf is allowed in bounds and refused in observations
        return values.astype(np.float32)


class GuardedEnv(gymnasium.Wrapper[np.ndarray, Any, Any, Any]):
    """Wrapper that adapts observations, checks results, and ignores steps after a game's end.

    Steps between a game's end and the next reset return the last observation and no reward, because
    the other envs of a vector env step on.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._inner = env.observation_space
        self.observation_space, self._convert = _adapt(env.observation_space)
        self._last = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        self._over = True
        self._discrete = isinstance(env.action_space, spaces.Discrete)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        """Start an episode."""
        try:
            obs, _ = self.env.reset(seed=seed)
            self._last, self._over = self._checked(obs), False
        except Exception as error:  # whatever a user's env may raise
            return self._last, {ERROR: describe_error(error)}
        return self._last, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Any]:
        """Step the env, if its game is not over."""
        if self._over:
            return self._last, 0.0, False, False, {}
        try:
            action = int(action) if self._discrete else action
            obs, reward, terminated, truncated, _ = self.env.step(action)
            self._last = self._checked(obs)
            reward = _scalar(reward)
            self._over = bool(terminated) or bool(truncated)
        except Exception as error:  # whatever a user's env may raise
            self._over = True
            return self._last, 0.0, False, False, {ERROR: describe_error(error)}
        return self._last, reward, bool(terminated), bool(truncated), {}

    def render(self) -> Any:
        """Return the env's image, or the description of an error as a string."""
        try:
            return self.env.render()
        except Exception as error:  # whatever a user's env may raise
            return describe_error(error)

    def _checked(self, obs: Any) -> np.ndarray:
        """Check an observation against its space and convert it."""
        inner = self._inner
        if isinstance(inner, spaces.Box):
            # `inner.contains` gives no reason. Values outside the bounds are accepted.
            if not isinstance(obs, np.ndarray):
                raise EnvError(
                    f"returned an observation of type {type(obs).__name__}, not an array"
                )
            if obs.shape != inner.shape:
                raise EnvError(
                    f"returned an observation of shape {obs.shape}; its space promises "
                    f"{inner.shape}"
                )
            if obs.dtype != inner.dtype:
                raise EnvError(
                    f"returned an observation of dtype {obs.dtype}; its space promises "
                    f"{inner.dtype}"
                )
            if obs.dtype.kind == "f" and np.isnan(obs).any():
                raise EnvError(f"returned the observation {obs}, which holds NaN")
        elif not inner.contains(obs):
            raise EnvError(f"returned the observation {obs}, which is not in {inner}")
        return self._convert(obs)


def _scalar(reward: Any) -> float:
    value = np.asarray(reward)
    if value.shape != () or value.dtype.kind not in "iufb":
        raise EnvError(f"returned the reward {reward!r}, which is not a number")
    if not np.isfinite(value):
        raise EnvError(f"returned the reward {reward}")
    return float(value)


class FailedEnv(gymnasium.Env[Any, Any]):
    """Placeholder for an env whose constructor failed in a worker; `reset` raises the error.

    Args:
        error: raised by the constructor.
        observation_space: of an env that was made.
        action_space: of an env that was made.
    """

    def __init__(
        self,
        error: Exception,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self._problem = f"could not be made in its worker: it {describe_error(error)}"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        """Raise the constructor's error."""
        raise EnvError(self._problem)
