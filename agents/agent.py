"""The contract between an agent and everything that trains, evaluates or watches it."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from ludus.networks.cores import State
from ludus.networks.network import Network

Extras = dict[str, Any]  # what `act` remembers for `observe`; never kept on the agent


class Step(NamedTuple):
    """Row t of the stream with the action taken there, and what row t + 1 said of it; B envs."""

    obs: np.ndarray  # [B, *obs], row t
    first: np.ndarray  # [B] bool, row t opens an episode
    valid: np.ndarray  # [B] bool, the action was used; False where row t ended the game
    action: np.ndarray  # [B, *action]
    reward: np.ndarray  # [B] float32 raw, of row t + 1
    terminated: np.ndarray  # [B] bool, of row t + 1: do not bootstrap from it
    extras: Extras
    discount_sign: np.ndarray | float = (
        1.0  # [B] float32 of row t + 1, -1 where the other player moves
    )
    chosen_by_agent: np.ndarray | bool = (
        True  # [B] bool, the agent chose the action; else a rival did
    )


class Batch(NamedTuple):
    """N transitions of n steps; the target is reward + discount * value(next_obs)."""

    obs: Tensor  # [N, *obs]
    action: Tensor  # [N] int64
    reward: Tensor  # [N] float32, discounted sum of up to n rewards
    discount: Tensor  # [N] float32, gamma^k, negative for the other player, 0 where terminated
    next_obs: Tensor  # [N, *obs]


class Player(Protocol):
    """Whatever acts with SB3's `predict`."""

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions for a batch of observations, and the state."""


class Advice(NamedTuple):
    """What an agent thinks of B observations; NaN where it has no opinion on an action."""

    action: np.ndarray  # [B] what it would do, as the env numbers it
    value: np.ndarray  # [B] return that it expects
    q: np.ndarray | None  # [B, A] return that it expects of each action; None if it has none
    probability: np.ndarray | None  # [B, A] of each action; None where it has no policy
    visits: np.ndarray | None = None  # [B, A] of a search; None where there is none


@runtime_checkable
class Advisor(Protocol):
    """An agent that says what it thinks of discrete actions, without chance."""

    def advise(
        self, observation: np.ndarray, state: Any = None, episode_start: np.ndarray | None = None
    ) -> tuple[Advice, Any]:
        """What it thinks of observations [B, *obs], and the state after them."""


@runtime_checkable
class HasNetwork(Protocol):
    """An agent whose network can be looked into."""

    network: Network[Any]


@runtime_checkable
class Searching(Protocol):
    """An agent that searches before it moves."""

    simulations: int  # positions that it looks at for a move in `predict` and `advise`


@runtime_checkable
class Agent(Protocol):
    """Acts, observes, learns; owns its memory and its cadence."""

    env_steps: int  # decisions taken so far, over all envs
    updates: int  # optimizer steps taken so far

    def initial_state(self, num_envs: int) -> State:
        """The state to act from before the first row."""

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, explore: bool
    ) -> tuple[np.ndarray, State, Extras]:
        """Actions [B, *action] for obs [B, *obs]; `first` [B] resets the state."""

    def observe(self, step: Step) -> None:
        """Take in what the last action led to."""

    def learn(self) -> int:
        """Do the updates that are due; return how many."""

    def metrics(self) -> dict[str, float]:
        """Means since the last call, for the log; the only place that waits for the device."""

    def state_dict(self) -> dict[str, Any]:
        """All of it: weights, optimizer, memory, schedules, generators."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""

    def weights(self) -> dict[str, Tensor]:
        """What acting without exploration needs."""

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """The inverse of `weights`."""

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Stable-Baselines3's signature: actions for one observation or a batch, and the state."""
