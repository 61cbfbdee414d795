"""One Gymnasium env with its observations adapted and its results checked.

Errors of the env are returned, not raised: a worker process can report them to the trainer, and
nothing is printed.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ludus.envs.action_mask import mask_size
from ludus.envs.adapt import Channels, adapt, check_observation
from ludus.envs.dict_observation import MASK
from ludus.envs.errors import EnvError, describe_error
from ludus.envs.frame import as_picture
from ludus.envs.global_generators import GlobalGenerators


class GuardedEnv:
    """One env that adapts observations, checks results, and ignores steps after a game's end.

    Steps between a game's end and the next reset return the last observation and no reward, because
    the other envs of a vector env step on.

    Args:
        make_env: makes the env.
        channels: position of the channels of its pictures; None to infer it.
        generators: global random generators of this env alone; None if it uses none.
        seed: of the reset that shows whether the env has action masks in `info`; None for an env
            that is known to have none.
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env[Any, Any]],
        channels: Channels | None = None,
        generators: GlobalGenerators | None = None,
        seed: int | None = None,
    ) -> None:
        self._generators = generators
        self._calls: Any = contextlib.nullcontext() if generators is None else generators
        with self._calls:
            self._env = make_env()
            size = 0 if seed is None else _info_mask_size(self._env, seed)
        self.action_space = self._env.action_space
        self.adaptation = adapt(self._env.observation_space, channels, size)
        self.observation_space = self.adaptation.space
        self._last = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        self._over = True

    def reset(self, seed: int) -> tuple[np.ndarray, str | None]:
        """Start an episode from a seed; return its observation, and what went wrong."""
        try:
            with self._calls:
                if self._generators is not None:
                    self._generators.seed(seed)
                result = self._env.reset(seed=seed)
            obs, info = _reset_result(result)
            self._last, self._over = self._checked(obs, info, over=False), False
        except Exception as error:  # whatever a user's env may raise
            return self._last, describe_error(error)
        return self._last, None

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, str | None]:
        """Step the env with one action [*action], if its game is not over.

        Returns:
            The observation, the reward, terminated, truncated, and what went wrong.
        """
        if self._over:
            return self._last, 0.0, False, False, None
        try:
            taken = self._own_action(action)
            with self._calls:
                result = self._env.step(taken)
            obs, reward, terminated, truncated, info = _step_result(result)
            reward = _number(reward)
            terminated, truncated = _flag(terminated, "terminated"), _flag(truncated, "truncated")
            over = terminated or truncated
            self._last = self._checked(obs, info, over)
            self._over = over
        except Exception as error:  # whatever a user's env may raise
            self._over = True
            return self._last, 0.0, False, False, describe_error(error)
        return self._last, reward, terminated, truncated, None

    def picture(self) -> np.ndarray:
        """Return the env's image, [height, width, 3] uint8.

        Raises:
            EnvError: it cannot render.
        """
        try:
            with self._calls:
                if self._generators is None:
                    return as_picture(self._env.render())
                with self._generators.preserved():  # a resumed training renders nothing
                    return as_picture(self._env.render())
        except Exception as error:  # whatever a user's env may raise
            raise EnvError(describe_error(error)) from error

    def close(self) -> None:
        """Close the env."""
        with self._calls:
            self._env.close()

    def _own_action(self, action: np.ndarray) -> Any:
        """Return an action [*action] in the dtype and within the bounds of the env's own space."""
        space = self.action_space
        return int(action) if isinstance(space, spaces.Discrete) else own_actions(space, action)

    def _checked(self, obs: Any, info: Any, over: bool) -> np.ndarray:
        """Check an observation against the env's space and convert it."""
        check_observation(self.adaptation.source, obs)
        size = self.adaptation.info_mask_size
        if not size:
            return self.adaptation.convert(obs)
        mask = info.get(MASK)
        if mask is None:
            if not over:
                raise EnvError(f"shows no {MASK} in info, which it had at its first reset")
            mask = np.zeros(size, np.int8)
        return self.adaptation.convert((obs, mask))


def own_actions(space: spaces.Space[Any], actions: np.ndarray) -> np.ndarray:
    """Return actions [..., *action] in the dtype and within the bounds of an env's own space."""
    own = actions.astype(space.dtype)  # a copy: the env may keep it
    if isinstance(space, spaces.Box):  # float32 rounds a bound of float64
        np.clip(own, space.low, space.high, out=own)
    return own


def _info_mask_size(env: gymnasium.Env[Any, Any], seed: int) -> int:
    """Return the size of the action mask that a reset shows in `info`; 0 for none.

    A mask within the observation is used instead of it.
    """
    space, actions = env.observation_space, env.action_space
    if isinstance(space, spaces.Dict) and MASK in space.spaces:
        return 0
    needed = mask_size(actions)
    if not needed:
        return 0
    try:
        _, info = _reset_result(env.reset(seed=seed))
        mask = np.asarray(info[MASK])
    except Exception:  # the episode's own reset reports it
        return 0
    return needed if mask.size == needed and mask.dtype.kind in "biuf" else 0


def _reset_result(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise EnvError(
            "returned no (observation, info) from reset; it seems to follow the old Gym API, which "
            "a wrapper must adapt to Gymnasium's"
        )
    return result


def _step_result(result: Any) -> tuple[Any, Any, Any, Any, Any]:
    if not isinstance(result, tuple) or len(result) != 5 or not isinstance(result[4], dict):
        got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise EnvError(
            f"returned {got} from step; Gymnasium's are observation, reward, terminated, "
            "truncated and info"
        )
    return result


def _number(reward: Any) -> float:
    value = np.asarray(reward)
    if value.shape != () or value.dtype.kind not in "iufb":
        raise EnvError(f"returned the reward {reward!r}, which is not a number")
    if not np.isfinite(value):
        raise EnvError(f"returned the reward {reward}")
    return float(value)


def _flag(value: Any, name: str) -> bool:
    array = np.asarray(value)
    if array.shape == () and (array.dtype == np.bool_ or value in (0, 1)):
        return bool(array)
    raise EnvError(f"returned {value!r} for {name}, which is neither True nor False")
