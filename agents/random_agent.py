"""The random player: every legal action with the same probability; the zero of comparisons."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import Extras, Step
from ludus.envs.dict_observation import legal_actions
from ludus.networks.cores import State


@dataclass(frozen=True)
class RandomConfig:
    """Nothing to choose."""


class RandomAgent:
    """Draws actions uniformly from the action space, within a mask; learns nothing."""

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Space[Any], seed: int):
        self._obs_dims = len(observation_space.shape)
        self._observation_space = observation_space
        self._space = copy.deepcopy(action_space)  # the env's own keeps its generator
        self._space.seed(seed)
        self.env_steps = self.updates = 0

    def initial_state(self, num_envs: int) -> State:
        """Nothing to remember."""
        return ()

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, explore: bool
    ) -> tuple[np.ndarray, State, Extras]:
        """Random actions [B, *action]."""
        allowed = legal_actions(self._observation_space, torch.from_numpy(obs))
        if allowed is None or not isinstance(self._space, spaces.Discrete):
            return np.stack([np.asarray(self._space.sample()) for _ in obs]), state, {}
        masks = allowed.numpy().astype(np.int8)
        return np.stack([np.asarray(self._space.sample(mask=mask)) for mask in masks]), state, {}

    def observe(self, step: Step) -> None:
        """Count the decisions."""
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Nothing is ever due."""
        return 0

    def metrics(self) -> dict[str, float]:
        """Nothing to say."""
        return {}

    def weights(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Nothing to load."""

    def state_dict(self) -> dict[str, Any]:
        """Where the count and the generator stand."""
        state = self._space.np_random.bit_generator.state
        return {"env_steps": self.env_steps, "generator": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.env_steps = state["env_steps"]
        self._space.np_random.bit_generator.state = state["generator"]

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Stable-Baselines3's signature; never deterministic."""
        obs = np.asarray(observation)
        single = obs.ndim == self._obs_dims
        actions, _, _ = self.act(obs[None] if single else obs, (), np.empty(0), explore=True)
        return (actions[0] if single else actions), state
