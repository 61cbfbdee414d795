"""Validation of actions before they reach a backend."""

from typing import Any

import numpy as np
from gymnasium import spaces

from ludus.envs.errors import EnvError


class ActionCheck:
    """Validate the actions of B envs: shape, dtype, bounds and legality.

    Args:
        space: action space of one env.
        num_envs: B.
        env_id: name of the env in error messages.

    Raises:
        EnvError: the action space is not supported.
    """

    def __init__(self, space: spaces.Space[Any], num_envs: int, env_id: str) -> None:
        self._space, self._num_envs, self._env_id = space, num_envs, env_id
        self.low, self.high = self._bounds()  # [*action]
        self.dtype: Any = np.float32 if isinstance(space, spaces.Box) else np.int64
        self.shape: tuple[int, ...] = tuple(space.shape or ())  # of one env's action

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        space = self._space
        if isinstance(space, spaces.Discrete):
            return np.array(space.start), np.array(space.start + space.n - 1)
        if isinstance(space, spaces.MultiDiscrete):
            return np.asarray(space.start), np.asarray(space.start + space.nvec - 1)
        if isinstance(space, spaces.Box):
            return space.low.astype(np.float32), space.high.astype(np.float32)
        raise EnvError(
            f"{self._env_id} has the action space {space}, which is not supported; "
            "use Discrete, MultiDiscrete or Box"
        )

    def validated(self, actions: np.ndarray) -> np.ndarray:
        """Return actions [B, *action] in the backend's dtype.

        Raises:
            EnvError: the shape, the dtype or a value is wrong.
        """
        shape = (self._num_envs, *self.shape)
        if actions.shape != shape:
            raise EnvError(f"actions have shape {actions.shape}; {self._env_id} takes {shape}")
        kinds, name = ("iu", "integers") if self.dtype is np.int64 else ("iuf", "numbers")
        if actions.dtype.kind not in kinds:
            raise EnvError(f"actions have dtype {actions.dtype}; {self._env_id} takes {name}")
        if self.dtype is np.float32:  # before the comparison: its bounds are float32, too
            actions = actions.astype(np.float32, copy=False)
        bad = ~((actions >= self.low) & (actions <= self.high) & np.isfinite(actions))
        if bad.any():
            index = int(np.argwhere(bad)[0][0])
            raise EnvError(
                f"action {actions[index]} for env {index} is outside {self._space} "
                f"of {self._env_id}"
            )
        return actions.astype(self.dtype, copy=False)

    def require_legal(self, actions: np.ndarray, mask: np.ndarray, used: np.ndarray) -> None:
        """Check actions [B] of a Discrete space against action masks [B, A] where used [B].

        Raises:
            EnvError: an action is illegal.
        """
        start = int(self.low)
        wrong = (mask[np.arange(self._num_envs), actions - start] == 0) & used
        if wrong.any():
            index = int(np.argmax(wrong))
            legal = ", ".join(str(action + start) for action in np.flatnonzero(mask[index]))
            raise EnvError(
                f"action {actions[index]} for env {index} is not legal in {self._env_id}; "
                f"legal are {legal}"
            )
