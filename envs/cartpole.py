"""Gymnasium's vectorised CartPole as a backend."""

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.utils.seeding import np_random

from ludus.envs.errors import EnvError
from ludus.envs.vector import BackendStep


class CartPoleBackend:
    """B poles that step in one array operation, from the start states of Gymnasium's single env.

    Args:
        num_envs: B.
        max_episode_steps: steps after which an episode is truncated.
        render: keep images, so that `render` works.
    """

    def __init__(self, num_envs: int, max_episode_steps: int, render: bool = False) -> None:
        self.num_envs = num_envs
        mode = "rgb_array" if render else None
        self._env = CartPoleVectorEnv(num_envs, max_episode_steps, render_mode=mode)
        self._env.reset(seed=0)
        space = self._env.single_observation_space
        assert isinstance(space, spaces.Box)
        self.observation_space, self.action_space = space, self._env.single_action_space
        self.action_names: Sequence[str] = ("left", "right")
        self._actions: np.ndarray | None = None

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true; return all observations."""
        state = self._env.state
        assert state is not None
        # The vector env cannot reset single poles from seeds of their own, so this sets its state.
        for index in np.flatnonzero(mask):
            rng, _ = np_random(int(seeds[index]))
            state[:, index] = rng.uniform(-0.05, 0.05, 4)
        self._env.steps[mask] = 0
        self._env.prev_done[mask] = False
        return state.T.astype(np.float32)

    def send(self, actions: np.ndarray) -> None:
        """Keep the actions for `recv`."""
        self._actions = actions

    def recv(self) -> BackendStep:
        """Step all poles."""
        assert self._actions is not None
        obs, reward, terminated, truncated, _ = self._env.step(self._actions)
        none = np.zeros(self.num_envs, bool)
        return BackendStep(obs, reward, terminated, truncated & ~terminated, none)

    def render(self, index: int) -> np.ndarray:
        """Return an image of one pole, [height, width, 3] uint8."""
        frames = self._env.render()
        if frames is None:
            raise EnvError("make the env with render=True to see its picture")
        return np.asarray(frames[index])

    def close(self) -> None:
        """Free the images."""
        self._env.close()
