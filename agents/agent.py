"""The protocols between an agent and everything that trains, evaluates or watches it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.memory.replay import Batch
from ludus.agents.memory.step import EVERY_ENV, Extras, Step
from ludus.networks.cores import State
from ludus.networks.network import Network

Observation = np.ndarray | Mapping[str, np.ndarray]


class Advice(NamedTuple):
    """An agent's assessment of B observations; NaN for actions that it cannot assess."""

    action: np.ndarray  # [B] its choice, as the env numbers actions
    value: np.ndarray  # [B] expected return
    q: np.ndarray | None  # [B, A] expected return of each action; None without action values
    probability: np.ndarray | None  # [B, A] of each action; None without a policy
    visits: np.ndarray | None = None  # [B, A] of a search; None without one


class EnvLike(Protocol):
    """The properties of an env, or of a data set in its place, that an agent is built for."""

    @property
    def env_id(self) -> str:
        """Id of the env."""

    @property
    def num_envs(self) -> int:
        """Number of envs that step together, B."""

    @property
    def observation_space(self) -> spaces.Box:
        """Space of one env's observations."""

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Space of one env's actions."""

    @property
    def stack(self) -> int:
        """Number of frames in one observation."""


class EnvSpec(NamedTuple):
    """An `EnvLike` without an env."""

    observation_space: spaces.Box
    action_space: spaces.Space[Any]
    num_envs: int = 1
    stack: int = 1
    env_id: str = ""


class Player(Protocol):
    """Anything that acts with SB3's `predict`."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return actions for one observation or a batch, and the state after them."""


@runtime_checkable
class Advisor(Protocol):
    """An agent that assesses discrete actions."""

    def advise(
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None
    ) -> tuple[Advice, Any]:
        """Return the assessment of observations [B, *obs], and the state after them."""


class AnyAgent(Player, Protocol):
    """An agent that can act and be saved: one of ours, or one of Stable-Baselines3's."""

    @property
    def env_steps(self) -> int:
        """Env steps (decisions) taken so far, summed over all envs."""

    @property
    def updates(self) -> int:
        """Optimizer steps taken so far."""

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors that acting without exploration needs."""

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load tensors returned by `weights`."""


@runtime_checkable
class Agent(AnyAgent, Protocol):
    """An agent that acts, observes and learns; it owns its memory and its update schedule."""

    env_steps: int  # the loop sets it where several processes train one agent

    def initial_state(self, num_envs: int) -> State:
        """Return the recurrent state before the first row."""

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray
    ) -> tuple[np.ndarray, State, Extras]:
        """Return actions [B, *action] for obs [B, *obs]; `first` [B] resets the state."""

    def observe(self, step: Step) -> None:
        """Store one row."""

    def learn(self) -> int:
        """Do the updates that are due and return their number."""

    def metrics(self) -> dict[str, float]:
        """Return means since the last call. The only method that synchronises with the device."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`."""


class ActsInParts(Agent, Protocol):
    """An agent that can act for some of its envs at a time."""

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, envs: slice = EVERY_ENV
    ) -> tuple[np.ndarray, State, Extras]:
        """Return actions [N, *action] for obs [N, *obs] of the envs `envs`, N of B."""


@runtime_checkable
class SelfTraining(AnyAgent, Protocol):
    """An agent of another library, which trains with a loop of its own."""

    def fit(
        self,
        env: Any,
        steps: int,
        *,
        on_row: Callable[[Any], None],
        on_step: Callable[[int], bool],
        write: Callable[[dict[str, float], int], None],
    ) -> None:
        """Train for `steps` env steps."""


@runtime_checkable
class LearnsFromMemory(Protocol):
    """An agent that learns from rows that are older than its last updates."""

    memory: Any


class Algorithm(Protocol):
    """What an agent implements itself; `learner.Learner` supplies the rest of `Agent`."""

    env_steps: int
    updates: int

    @property
    def capturable(self) -> bool:
        """Whether `gradients` runs the same operations on every call."""

    def initial_state(self, num_envs: int) -> State:
        """Return the recurrent state before an episode."""

    def choose(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, deterministic: bool
    ) -> tuple[np.ndarray, State]:
        """Return actions [B, *action] without exploration, for `predict`."""

    def advice(self, obs: np.ndarray, state: State, first: np.ndarray) -> tuple[Advice, State]:
        """Return the assessment of obs [B, *obs], for `advise`."""

    @property
    def gradients(self) -> Callable[..., Sequence[Tensor]]:
        """Compute the gradients of one batch. Pure, and never synchronises with the device.

        Takes the tensors of one update's randomness, as `example` returns them.

        Returns:
            Metrics [M]; the gradient [size]; for a replay memory also the batch's indices
            [N], their new priorities [N], and the largest importance weight.
        """

    def example(self) -> Sequence[Tensor]:
        """Return fixed arguments for `gradients`, of the shapes that it always gets."""

    def parts(self) -> dict[str, Any]:
        """Return the parts of the state besides network and optimizer, by name.

        A part is a tensor, an array, a generator, or an object with `state_dict`.
        """


@runtime_checkable
class HasNetwork(Protocol):
    """An agent whose network can be inspected."""

    network: Network[Any]  # that it acts by: of some agents the target network


@runtime_checkable
class Searching(Protocol):
    """An agent that runs a search before it moves."""

    simulations: int  # of one move in `predict` and `advise`
    # The network's forward pass of positions [N], and searches by their number of simulations where
    # they do the same operations whatever the data; `capture` replaces them by faster functions
    # with the same results.
    forward: Callable[[Tensor], Sequence[Tensor]]
    searches: dict[int, Callable[..., Sequence[Tensor]]]


@runtime_checkable
class MultiThreaded(Protocol):
    """An agent whose network is large although its observations may be small."""

    multithreaded: bool


@runtime_checkable
class Transferable(Protocol):
    """An agent that can start from another run's weights."""

    def weights(self) -> dict[str, Tensor]:
        """Return tensors by name, under `encoder.`, `core.` and `head.`."""

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Load weights, for the target network too."""


@runtime_checkable
class OfflineLearner(Agent, Transferable, Protocol):
    """An agent that can learn from a memory that was filled beforehand."""

    config: Any
    memory: Any
    device: torch.device
    env_steps: int

    def study(self, updates: int, progress: float) -> None:
        """Do updates from memory; `progress` is the finished share of the training."""

    def td_error(self, batch: Batch) -> Tensor:
        """Return the mean temporal-difference error of a batch, a scalar."""


class AgentConfig(Protocol):
    """A frozen dataclass with every choice of an agent; its module may be free of torch."""

    module: ClassVar[str]  # name of the module whose `build` makes the agent
    __dataclass_fields__: ClassVar[dict[str, Any]]
