"""Acting by action values: greedy, epsilon-greedy, and within an action mask."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import Advice
from ludus.agents.memory.step import EVERY_ENV, Extras, RowStaging
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
        way_out = "; ppo takes it" if isinstance(space, spaces.Box) else ""
        raise ConfigError(f"{agent} needs a Discrete action space; this env has {space}{way_out}")
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
        staging: of the memory that stores the rows.
        seed: of the random actions.
        evaluation_epsilon: probability of a random action in `predict(deterministic=False)`.
    """

    def __init__(
        self,
        network: Network[Any],
        action_space: spaces.Discrete,
        staging: RowStaging,
        seed: int,
        evaluation_epsilon: float,
    ) -> None:
        self._network, self.staging = network, staging
        self.acting_network = network  # in the training, see `ActingAhead`
        self._no_noise = torch.zeros(0, device=staging.device)
        # `capture` replaces this one by a faster function with the same results.
        self.assess: Callable[..., Sequence[Tensor]] = self._assess
        self.num_actions, self.first_action = int(action_space.n), int(action_space.start)
        self.exploration = np.random.default_rng([seed, 1])
        self.evaluation = np.random.default_rng([seed, 2])
        self._evaluation_epsilon = evaluation_epsilon

    def _assess(
        self, obs: Tensor, first: Tensor, noise: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the greedy actions [B], numbered from 0, their values [B, A], and the next state.

        Args:
            obs: [B, *obs].
            first: [B] bool, resets the state.
            noise: of the head's noisy layers, [B, noise_size]; empty for none.
            *state: the core's, [B, ...] each.
        """
        return self._evaluate(self.acting_network, obs, first, noise, state)

    def _evaluate(
        self, network: Network[Any], obs: Tensor, first: Tensor, noise: Tensor, state: State
    ) -> tuple[Tensor, ...]:
        head_noise = HeadNoise(noise if noise.numel() else None)
        out, after = network(obs.unsqueeze(0), state, first.unsqueeze(0), head_noise)
        return out.q[0].argmax(-1), out.q[0], *after

    @torch.no_grad()
    def act(
        self,
        obs: np.ndarray,
        state: State,
        first: np.ndarray,
        envs: slice = EVERY_ENV,
        *,
        epsilon: float | np.ndarray,
        noise: Tensor | None = None,
    ) -> tuple[np.ndarray, State, Extras]:
        """Return actions [N] for training, the next state, and as an extra the state before.

        Args:
            obs: [N, *obs].
            state: the core's.
            first: [N] bool, resets the state.
            envs: N of the envs that `staging` is for.
            epsilon: probability of a random legal action, a number or [N].
            noise: of the head's noisy layers, [N, noise_size].
        """
        batch, resets = self.staging.observation(obs, first, envs)
        noise = self._no_noise if noise is None else noise
        action, _, *after = self.assess(batch, resets, noise, *state)
        actions = self.staging.download(action) + self.first_action
        actions = self._epsilon_greedy(actions, obs, epsilon, self.exploration)
        return actions, tuple(s.clone() for s in after), {"state": state}

    @torch.no_grad()
    def _values(
        self, obs: np.ndarray, state: State, first: np.ndarray
    ) -> tuple[Tensor, Tensor, State]:
        """Return greedy actions [B] and values [B, A] for obs [B, *obs], and the next state."""
        batch, resets = self.staging.upload(obs, first)
        noise = self._no_noise
        action, q, *after = self._evaluate(self._network, batch, resets, noise, state)
        return action, q, tuple(after)

    def greedy(self, obs: np.ndarray, state: State, first: np.ndarray) -> tuple[np.ndarray, State]:
        """Return the actions [B] of the highest values, and the next state."""
        action, _, state = self._values(obs, state, first)
        return self.staging.download(action) + self.first_action, state

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
        _, values, state = self._values(obs, state, first)
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
