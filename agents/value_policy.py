"""What agents that choose by value share in acting: epsilon-greedy, and SB3's `predict`."""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import Advice
from ludus.envs.dict_observation import legal_actions
from ludus.networks.cores import State
from ludus.networks.heads import ILLEGAL, HeadNoise
from ludus.networks.network import Network


def epsilon_greedy(
    actions: np.ndarray,
    epsilon: float | np.ndarray,
    num_actions: int,
    generator: np.random.Generator,
    allowed: np.ndarray | None = None,
) -> np.ndarray:
    """Actions [B], each replaced by a random one with probability epsilon (one, or [B]).

    Args:
        actions: [B], from 0.
        epsilon: of each env.
        num_actions: A.
        generator: what is thrown with.
        allowed: [B, A] bool, what a random action is drawn from; None for all.
    """
    coins = generator.random(len(actions)) < epsilon  # each env throws its own
    if allowed is None:
        others = generator.integers(num_actions, size=len(actions))
    else:
        others = (generator.random(allowed.shape) * allowed).argmax(1)
    return np.where(coins, others, actions)


class ValueActor:
    """Acts by the values of a network, within what an action mask allows.

    Args:
        network: its head's `q` [T, B, A] is what counts.
        action_space: gives the number of actions and of the first of them.
        obs_shape: of one observation.
        device: where the network lives.
        seed: of the random actions.
    """

    def __init__(
        self,
        network: Network[Any],
        action_space: spaces.Discrete,
        obs_shape: tuple[int, ...],
        device: torch.device,
        seed: int,
    ) -> None:
        self._network, self._device, self._obs_shape = network, device, obs_shape
        self.num_actions, self.first_action = int(action_space.n), int(action_space.start)
        self._exploration = np.random.default_rng([seed, 1])
        self._evaluation = np.random.default_rng([seed, 2])

    @torch.no_grad()
    def greedy(
        self, obs: np.ndarray, state: State, first: np.ndarray, noise: Tensor | None = None
    ) -> tuple[np.ndarray, State]:
        """The actions [B] of the highest values for obs [B, *obs], and the core's state."""
        q, state = self._values(obs, state, first, noise)
        return q.argmax(-1).cpu().numpy() + self.first_action, state

    def _values(
        self, obs: np.ndarray, state: State, first: np.ndarray, noise: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Of all actions [B, A], and the core's state."""
        seen = self._to_device(obs).unsqueeze(0)  # [1, B, *obs]
        opens = self._to_device(first).unsqueeze(0)
        out, state = self._network(seen, state, opens, HeadNoise(noise))
        return out.q[0], state

    def explore(self, actions: np.ndarray, obs: np.ndarray, epsilon: Any) -> np.ndarray:
        """Actions [B] with random ones among them, in training."""
        return self._mixed(actions, obs, epsilon, self._exploration)

    def predict(
        self,
        observation: np.ndarray,
        state: Any,
        episode_start: np.ndarray | None,
        epsilon: float,
    ) -> tuple[np.ndarray, Any]:
        """SB3's `predict` with random actions of probability epsilon."""
        obs, first, single = as_batch(observation, episode_start, self._obs_shape)
        state = self._network.initial_state(len(obs)) if state is None else state
        actions, state = self.greedy(obs, state, first)
        if epsilon:
            actions = self._mixed(actions, obs, epsilon, self._evaluation)
        return (actions[0] if single else actions), state

    @torch.no_grad()
    def advise(
        self, observation: np.ndarray, state: Any, episode_start: np.ndarray | None
    ) -> tuple[Advice, Any]:
        """The values, NaN where an action is illegal."""
        obs, first, _ = as_batch(observation, episode_start, self._obs_shape)
        state = self._network.initial_state(len(obs)) if state is None else state
        values, state = self._values(obs, state, first)
        q = values.cpu().numpy()
        best = q.argmax(-1)
        told = np.where(q > ILLEGAL, q, np.nan)
        return Advice(best + self.first_action, q.max(-1), told, None), state

    def _mixed(
        self, actions: np.ndarray, obs: np.ndarray, epsilon: Any, generator: np.random.Generator
    ) -> np.ndarray:
        space = self._network.mask_space
        mask = None if space is None else legal_actions(space, torch.from_numpy(obs))
        allowed = None if mask is None else mask.numpy()
        actions = actions - self.first_action
        chosen = epsilon_greedy(actions, epsilon, self.num_actions, generator, allowed)
        return chosen + self.first_action

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """Where chance stands."""
        return {
            "exploration": self._exploration.bit_generator.state,
            "evaluation": self._evaluation.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._exploration.bit_generator.state = state["exploration"]
        self._evaluation.bit_generator.state = state["evaluation"]


class Seen(NamedTuple):
    """What `predict` was given, as a batch."""

    obs: np.ndarray  # [B, *obs]
    first: np.ndarray  # [B] bool
    single: bool  # it was one observation, not a batch


def as_batch(
    observation: np.ndarray, episode_start: np.ndarray | None, shape: tuple[int, ...]
) -> Seen:
    """One observation or a batch of them, as a batch.

    Raises:
        ValueError: the observation has another shape than `shape`.
    """
    obs = np.ascontiguousarray(observation)
    single = obs.ndim == len(shape)
    obs = obs[None] if single else obs
    if obs.shape[1:] != shape:
        raise ValueError(
            f"the observation has shape {list(obs.shape[1:])}; this agent was trained on "
            f"{list(shape)}"
        )
    if episode_start is None:
        first = np.zeros(len(obs), bool)
    else:
        first = np.atleast_1d(np.asarray(episode_start, dtype=bool))
    return Seen(obs, first, single)
