"""The random agent: uniformly random legal actions; the zero point of comparisons."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import EnvLike, Observation
from ludus.agents.memory.step import Extras, Step
from ludus.agents.observation_batch import as_batch
from ludus.agents.preset import Preset, family
from ludus.envs.action_mask import legal_mask, random_actions
from ludus.networks.cores import State


@dataclass(frozen=True)
class RandomConfig:
    """The random agent has no choices."""

    module: ClassVar[str] = "ludus.agents.random_agent"


class RandomAgent:
    """Samples actions uniformly from the action space, within an action mask; never learns."""

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Space[Any], seed: int):
        self._observation_space = observation_space
        self._action_space = action_space
        self._generator = np.random.default_rng(seed)
        self.env_steps = self.updates = 0

    def initial_state(self, num_envs: int) -> State:
        """Return an empty state."""
        return ()

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray
    ) -> tuple[np.ndarray, State, Extras]:
        """Return random actions [B, *action]."""
        legal = legal_mask(self._observation_space, obs)
        actions = random_actions(self._action_space, len(obs), self._generator, legal)
        return actions, state, {}

    def observe(self, step: Step) -> None:
        """Count the env steps."""
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Return 0."""
        return 0

    def metrics(self) -> dict[str, float]:
        """Return no metrics."""
        return {}

    def weights(self) -> dict[str, Tensor]:
        """Return no weights."""
        return {}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load no weights."""

    def state_dict(self) -> dict[str, Any]:
        """Return the number of env steps and the state of the generator."""
        return {"env_steps": self.env_steps, "generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.env_steps = state["env_steps"]
        self._generator.bit_generator.state = state["generator"]

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return random actions, with Stable-Baselines3's signature; never deterministic."""
        obs, first, single = as_batch(observation, episode_start, self._observation_space)
        actions, _, _ = self.act(obs, (), first)
        return (actions[0] if single else actions), state


def preset(name: str, env: EnvLike) -> Preset:
    """Return the preset."""
    return Preset(RandomConfig(), num_envs=16 if family(env) == "classic" else 8)


def build(
    config: RandomConfig,
    env: EnvLike,
    *,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> RandomAgent:
    """Build a random agent, see `registry.build`."""
    return RandomAgent(env.observation_space, env.action_space, seed)
