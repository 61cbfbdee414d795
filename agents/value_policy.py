"""Acting by action values: greedy, epsilon-greedy, and within an action mask."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import Advice
from ludus.agents.memory.replay import Staging
from ludus.envs.action_mask import random_actions
from ludus.envs.dict_observation import legal_actions
from ludus.envs.errors import ConfigError
from ludus.networks.cores import State
from ludus.networks.heads import ILLEGAL, HeadNoise
from ludus.networks.network import Network


def discrete(space: spaces.Space[Any], agent: str) -> spaces.Discrete:
    """Return the action space of an agent that needs a Discrete one.

    Raises:
        ConfigError: it is of another kind.
    """
    if not isinstance(space, spaces.Discrete):
        raise ConfigError(f"{agent} needs a Discrete action space; this env has {space}")
    return space


def epsilon_greedy(
    actions: np.ndarray,
    epsilon: float | np.ndarray,
    num_actions: int,
    generator: np.random.Generator,
    legal: np.ndarray | None = None,
) -> np.ndarray:
    """Replace each action [B] by a random one with probability epsilon (a number, or [B]).

    Args:
        actions: [B], numbered from 0.
        epsilon: of each env.
        num_actions: A.
        generator: random numbers, independent for each env.
        legal: [B, A] bool, the actions to sample from; None for all.
    """
    explore = generator.random(len(actions)) < epsilon
    if legal is None:
        random = generator.integers(num_actions, size=len(actions))
    else:
        random = random_actions(spaces.Discrete(num_actions), len(actions), generator, legal)
    return np.where(explore, random, actions)


class ValuePolicy:
    """Acts by the values of a network's head.

    Args:
        network: its head emits `q` [T, B, A].
        action_space: defines the number of actions and the number of the first.
        device: where the network lives.
        seed: of the random actions.
        evaluation_epsilon: probability of a random action in `predict(deterministic=False)`.
    """

    def __init__(
        self,
        network: Network[Any],
        action_space: spaces.Discrete,
        device: torch.device,
        seed: int,
        evaluation_epsilon: float,
    ) -> None:
        self._network, self._staging = network, Staging(device)
        self.num_actions, self.first_action = int(action_space.n), int(action_space.start)
        self.exploration = np.random.default_rng([seed, 1])
        self.evaluation = np.random.default_rng([seed, 2])
        self._evaluation_epsilon = evaluation_epsilon

    @torch.no_grad()
    def _values(
        self, obs: np.ndarray, state: State, first: np.ndarray, noise: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return action values [B, A] for obs [B, *obs], and the next state."""
        batch, resets = self._staging.upload(obs, first)
        out, state = self._network(batch.unsqueeze(0), state, resets.unsqueeze(0), HeadNoise(noise))
        return out.q[0], state

    def greedy(
        self, obs: np.ndarray, state: State, first: np.ndarray, noise: Tensor | None = None
    ) -> tuple[np.ndarray, State]:
        """Return the actions [B] of the highest values, and the next state."""
        q, state = self._values(obs, state, first, noise)
        return q.argmax(-1).cpu().numpy() + self.first_action, state

    def explore(
        self, actions: np.ndarray, obs: np.ndarray, epsilon: float | np.ndarray
    ) -> np.ndarray:
        """Return actions [B], some replaced by random legal ones, for training."""
        return self._epsilon_greedy(actions, obs, epsilon, self.exploration)

    def choose(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, deterministic: bool
    ) -> tuple[np.ndarray, State]:
        """Return actions [B] for evaluation, and the next state."""
        actions, state = self.greedy(obs, state, first)
        if self._evaluation_epsilon and not deterministic:
            actions = self._epsilon_greedy(actions, obs, self._evaluation_epsilon, self.evaluation)
        return actions, state

    def advice(self, obs: np.ndarray, state: State, first: np.ndarray) -> tuple[Advice, State]:
        """Return the action values, NaN where an action is illegal, and the next state."""
        values, state = self._values(obs, state, first)
        q = values.cpu().numpy()
        legal_q = np.where(q > ILLEGAL, q, np.nan)
        return Advice(q.argmax(-1) + self.first_action, q.max(-1), legal_q, None), state

    def _epsilon_greedy(
        self,
        actions: np.ndarray,
        obs: np.ndarray,
        epsilon: float | np.ndarray,
        generator: np.random.Generator,
    ) -> np.ndarray:
        space = self._network.mask_space
        mask = None if space is None else legal_actions(space, torch.from_numpy(obs))
        legal = None if mask is None else mask.numpy()
        actions = actions - self.first_action
        mixed = epsilon_greedy(actions, epsilon, self.num_actions, generator, legal)
        return mixed + self.first_action
