"""Gymnasium envs in the trainer's own process: known ones that cannot hang, and objects."""

from collections.abc import Sequence

import numpy as np

from ludus.envs.errors import EnvError
from ludus.envs.guarded_env import GuardedEnv
from ludus.envs.vector import BackendStep


class LocalBackend:
    """B copies of one env in this process.

    Args:
        envs: the copies.
    """

    def __init__(self, envs: Sequence[GuardedEnv]) -> None:
        self.num_envs, self._envs = len(envs), envs
        self.adaptation = self._envs[0].adaptation
        self.observation_space = self._envs[0].observation_space
        self.action_space = self._envs[0].action_space
        self.action_names: Sequence[str] = ()
        self._obs = np.zeros(
            (self.num_envs, *self.observation_space.shape), self.observation_space.dtype
        )
        self._actions = np.zeros(0)

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true; return all observations."""
        for i in np.flatnonzero(mask):
            self._obs[i], error = self._envs[int(i)].reset(int(seeds[i]))
            if error is not None:
                raise EnvError(error, int(i))
        return self._obs.copy()

    def send(self, actions: np.ndarray) -> None:
        """Keep the actions for `recv`."""
        self._actions = actions

    def recv(self) -> BackendStep:
        """Step every env."""
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        for i, env in enumerate(self._envs):
            obs, reward[i], terminated[i], truncated[i], error = env.step(self._actions[i])
            self._obs[i] = obs
            if error is not None:
                raise EnvError(error, i)
        no_life_lost = np.zeros(self.num_envs, bool)
        return BackendStep(self._obs.copy(), reward, terminated, truncated, no_life_lost)

    def render(self, index: int) -> np.ndarray:
        """Return the env's own image, [height, width, 3] uint8.

        Raises:
            EnvError: the env cannot render or failed to.
        """
        return self._envs[index].picture()

    def close(self) -> None:
        """Close the envs."""
        for env in self._envs:
            env.close()
