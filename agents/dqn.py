"""Deep Q-network (Mnih et al. 2015, https://doi.org/10.1038/nature14236) and its first refinements.

target = reward + discount * q_target(next_obs, argmax_a q(next_obs, a)), where the argmax is the
online network's with `double` (https://arxiv.org/abs/1509.06461) and the target's without.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents import losses
from ludus.agents.agent import ConfigError, Extras, Step
from ludus.agents.memory.replay import Replay
from ludus.agents.schedules import linear
from ludus.networks.cores import State, make_core
from ludus.networks.encoders import EncoderName, make_encoder
from ludus.networks.flat import flat_gradient, flatten_parameters
from ludus.networks.heads import DuelingHead, QHead, QOut
from ludus.networks.network import Network

Gradients = Callable[[Tensor], Sequence[Tensor]]
Update = Callable[[Tensor], None]

_METRICS = ("loss", "q_values", "grad_norm")


@dataclass(frozen=True)
class DQNConfig:
    """Every choice of a DQN."""

    encoder: EncoderName = "mlp"
    """network from observation to features"""
    hidden: tuple[int, ...] = (64, 64)
    """units of the MLP encoder's layers"""
    width: int = 1
    """IMPALA encoder: multiple of the paper's channels"""
    head_hidden: int = 0
    """units of the head's hidden layer; 0 for none"""
    dueling: bool = False
    """split the head into value and advantage"""
    double: bool = False
    """the online network chooses the action that the target network values"""
    loss: Literal["huber", "mse"] = "huber"
    """of the temporal-difference error"""
    optimizer: Literal["adam", "rmsprop", "sgd", "adagrad"] = "adam"
    """rmsprop is centred as the 2015 DQN's, with eps outside the root"""
    learning_rate: float = 1e-4
    """step size of the optimizer"""
    optimizer_eps: float = 1e-8
    """added to the denominator (adam, rmsprop, adagrad)"""
    momentum: float = 0.0
    """of sgd and rmsprop"""
    max_grad_norm: float = 10.0
    """gradients are scaled down to this L2 norm; 0 for no limit"""
    batch_size: int = 32
    """transitions an update"""
    gamma: float = 0.99
    """discount per step"""
    n_step: int = 1
    """steps of the return before bootstrapping"""
    clip_reward: bool = False
    """learn from rewards clipped to [-1, 1]; scores are never clipped"""
    replay_size: int = 100_000
    """transitions kept"""
    learning_starts: int = 1_000
    """env steps before the first update"""
    replay_ratio: float = 0.25
    """updates per env step"""
    target_interval: int = 2_500
    """updates between two steps of the target network towards the online one"""
    polyak: float = 1.0
    """share of the online network in a step of the target; 1 is a copy"""
    epsilon_start: float = 1.0
    """probability of a random action at first, drawn for each env"""
    epsilon_end: float = 0.05
    """probability of a random action at last"""
    epsilon_steps: int = 100_000
    """env steps from first to last"""
    evaluation_epsilon: float = 0.05
    """probability of a random action in `predict(deterministic=False)`"""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        positive = "learning_rate optimizer_eps batch_size n_step replay_size replay_ratio "
        for name in (positive + "target_interval width").split():
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")
        for name in (
            "learning_starts",
            "epsilon_steps",
            "momentum",
            "max_grad_norm",
            "head_hidden",
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("gamma", "polyak", "epsilon_start", "epsilon_end", "evaluation_epsilon"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if self.polyak == 0:
            raise ConfigError("polyak is 0, so the target would never move; use up to 1")
        if any(units < 1 for units in self.hidden):
            raise ConfigError(f"hidden is {self.hidden}; every layer needs 1 unit or more")
        if self.replay_size < self.batch_size:
            raise ConfigError(
                f"replay_size is {self.replay_size}, below batch_size {self.batch_size}"
            )


def make_network(config: DQNConfig, observation_space: spaces.Box, actions: int) -> Network[QOut]:
    """The Q-network that the config describes."""
    try:
        encoder = make_encoder(config.encoder, observation_space, config.hidden, config.width)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    core = make_core("none", encoder.dim)
    head = DuelingHead if config.dueling else QHead
    return Network(encoder, core, head(core.dim, actions, config.head_hidden))


def make_optimizer(config: DQNConfig, flat: Tensor) -> torch.optim.Optimizer:
    """The optimizer that the config names, in a form that a CUDA graph may hold where there is one.

    Args:
        config: which optimizer, and its values.
        flat: all parameters, [size].
    """
    rate, eps = config.learning_rate, config.optimizer_eps
    cuda = flat.is_cuda
    match config.optimizer:
        case "adam":
            return torch.optim.Adam([flat], rate, eps=eps, fused=True, capturable=cuda)
        case "rmsprop":
            return torch.optim.RMSprop(
                [flat],
                rate,
                alpha=0.95,
                eps=eps,
                momentum=config.momentum,
                centered=True,
                capturable=cuda,
            )
        case "sgd":
            return torch.optim.SGD([flat], rate, momentum=config.momentum, fused=True)
        case "adagrad":
            return torch.optim.Adagrad([flat], rate, eps=eps, fused=not cuda)


def prime(optimizer: torch.optim.Optimizer, flat: Tensor) -> None:
    """Make the optimizer's moments now, at zero, so that a captured update finds them in place."""
    flat.grad = torch.zeros_like(flat)
    optimizer.step()
    for moment in optimizer.state[flat].values():
        moment.zero_()


class DQN:
    """A DQN over everything it needs.

    Args:
        config: cadence, loss and schedules.
        network: the online network; `target` has its shape.
        target: the target network.
        flat: the online network's parameters in one tensor, see `flatten_parameters`.
        flat_target: the target network's.
        optimizer: of `flat`.
        memory: where transitions go and batches come from.
        action_space: gives the number of the first action.
        device: where both networks live.
        seed: of the exploration.
    """

    def __init__(
        self,
        config: DQNConfig,
        network: Network[QOut],
        target: Network[QOut],
        flat: Tensor,
        flat_target: Tensor,
        optimizer: torch.optim.Optimizer,
        memory: Replay,
        action_space: spaces.Discrete,
        device: torch.device,
        seed: int,
    ) -> None:
        self.config, self.network, self.target = config, network, target
        self.optimizer, self.memory, self.device = optimizer, memory, device
        self._parameters: list[Tensor] = list(network.parameters())
        self._flat, self._flat_target = flat, flat_target
        self._num_actions, self._first_action = int(action_space.n), int(action_space.start)
        self._loss: losses.TDLoss = losses.huber_td if config.loss == "huber" else losses.mse_td
        self._exploration = np.random.default_rng([seed, 1])
        self._evaluation = np.random.default_rng([seed, 2])
        self.gradients: Gradients = self._gradients
        self.update: Update = self._update
        self._sums = torch.zeros(len(_METRICS), device=device)
        self._summed = 0
        self._no_first = torch.zeros(1, config.batch_size, dtype=torch.bool, device=device)
        self._ratio = Fraction(str(config.replay_ratio))  # exact, whatever num_envs is
        self.env_steps, self.updates = 0, 0

    # -- acting -------------------------------------------------------------------------------

    @property
    def epsilon(self) -> float:
        """Probability of a random action at this env step; 1 before learning starts."""
        c = self.config
        if self.env_steps < c.learning_starts:
            return 1.0
        return linear(c.epsilon_start, c.epsilon_end, c.epsilon_steps, self.env_steps)

    def initial_state(self, num_envs: int) -> State:
        """Nothing to remember between rows."""
        return self.network.initial_state(num_envs)

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, explore: bool
    ) -> tuple[np.ndarray, State, Extras]:
        """Actions [B] for obs [B, *obs]: epsilon-greedy with `explore`, else greedy."""
        actions, state = self._greedy(obs, state, first)
        if explore:
            actions = self._explore(actions, self.epsilon, self._exploration)
        return actions + self._first_action, state, {}

    @torch.no_grad()
    def _greedy(self, obs: np.ndarray, state: State, first: np.ndarray) -> tuple[np.ndarray, State]:
        seen = torch.from_numpy(obs).to(self.device, non_blocking=True).unsqueeze(0)  # [1, B, *obs]
        opens = torch.from_numpy(first).to(self.device, non_blocking=True).unsqueeze(0)
        out, state = self.network(seen, state, opens)
        return out.q[0].argmax(-1).cpu().numpy(), state

    def _explore(
        self, actions: np.ndarray, epsilon: float, generator: np.random.Generator
    ) -> np.ndarray:
        """Each env throws its own coin."""
        coins = generator.random(len(actions)) < epsilon
        return np.where(coins, generator.integers(self._num_actions, size=len(actions)), actions)

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Stable-Baselines3's signature; takes one observation or a batch of them."""
        obs = np.ascontiguousarray(observation)
        single = obs.ndim == len(self.memory.obs_shape)
        obs = obs[None] if single else obs
        if obs.shape[1:] != self.memory.obs_shape:
            raise ValueError(
                f"the observation has shape {list(obs.shape[1:])}; this agent was trained on "
                f"{list(self.memory.obs_shape)}"
            )
        first = np.zeros(len(obs), bool) if episode_start is None else np.asarray(episode_start)
        state = self.initial_state(len(obs)) if state is None else state
        actions, state = self._greedy(obs, state, first)
        if not deterministic:
            actions = self._explore(actions, self.config.evaluation_epsilon, self._evaluation)
        actions = actions + self._first_action
        return (actions[0] if single else actions), state

    # -- learning -----------------------------------------------------------------------------

    def observe(self, step: Step) -> None:
        """Remember one row."""
        reward = np.clip(step.reward, -1, 1) if self.config.clip_reward else step.reward
        action = step.action - self._first_action
        self.memory.add(step._replace(reward=reward, action=action))
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Do the updates that are due: floor(replay_ratio * steps since learning_starts) in all."""
        if len(self.memory) < self.config.batch_size:
            return 0
        learned = max(0, self.env_steps - self.config.learning_starts)
        due = int(self._ratio * learned) - self.updates
        for _ in range(due):
            self.update(self.memory.draw(self.config.batch_size))
            self.updates += 1
            if self.updates % self.config.target_interval == 0:
                self._move_target()
        self._summed += due
        return due

    def _gradients(self, chance: Tensor) -> tuple[Tensor, Tensor]:
        """Metrics [3], and the gradient of all parameters [size], scaled down to the largest norm.

        A pure function of `chance` [N], which picks the batch; asks for no tensor's value.
        """
        batch = self.memory.sample(chance)
        next_out, next_action = self._next(batch.next_obs)
        out = self._out(self.network, batch.obs)
        loss = self._loss(
            out, batch.action, batch.reward, batch.discount, next_out, next_action
        ).mean()
        gradients = torch.autograd.grad(loss, self._parameters)
        gradient = flat_gradient(gradients, self._parameters)
        norm = torch.linalg.vector_norm(gradient)
        limit = self.config.max_grad_norm or float("inf")
        gradient.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        return torch.stack([loss.detach(), out.q.detach().mean(), norm]), gradient

    def _update(self, chance: Tensor) -> None:
        """One optimizer step on the batch that `chance` picks; asks for no tensor's value."""
        metrics, self._flat.grad = self.gradients(chance)
        self.optimizer.step()
        self._sums += metrics

    def example(self) -> Tensor:
        """An input of `gradients` and `update`."""
        return torch.zeros(self.config.batch_size, dtype=torch.float64, device=self.device)

    def changes(self) -> list[Tensor]:
        """The tensors that `update` changes."""
        return [self._flat, *self.optimizer.state[self._flat].values(), self._sums]

    def _out(self, network: Network[QOut], obs: Tensor) -> QOut:
        """Values [N, A] of a batch of observations [N, *obs]."""
        out, _ = network(obs.unsqueeze(0), network.initial_state(len(obs)), self._no_first)
        return QOut(out.q[0])

    @torch.no_grad()
    def _next(self, next_obs: Tensor) -> tuple[QOut, Tensor]:
        """The target's values of next_obs [N, *obs] and the action [N] to take there."""
        out = self._out(self.target, next_obs)
        chooser = self._out(self.network, next_obs) if self.config.double else out
        return out, chooser.q.argmax(-1)

    @torch.no_grad()
    def _move_target(self) -> None:
        if self.config.polyak == 1.0:
            self._flat_target.copy_(self._flat)
        else:
            self._flat_target.lerp_(self._flat, self.config.polyak)

    def metrics(self) -> dict[str, float]:
        """Means since the last call, and where the schedules stand."""
        values = {
            "exploration_rate": self.epsilon,
            "learning_rate": self.config.learning_rate,
            "replay_fill": len(self.memory) / self.memory.capacity,
        }
        if self._summed:
            means = (self._sums / self._summed).tolist()
            values |= dict(zip(_METRICS, means, strict=True))
            self._sums.zero_()
            self._summed = 0
        return values

    # -- state --------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """The online network's parameters by name."""
        return dict(self.network.state_dict())

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """The inverse of `weights`."""
        self.network.load_state_dict(weights)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        return {
            "network": self.weights(),
            "target": dict(self.target.state_dict()),
            "optimizer": dict(self.optimizer.state[self._flat]),
            "memory": self.memory.state_dict(),
            "exploration": self._exploration.bit_generator.state,
            "evaluation": self._evaluation.bit_generator.state,
            "env_steps": self.env_steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.load_weights(state["network"])
        self.target.load_state_dict(state["target"])
        for name, moment in self.optimizer.state[self._flat].items():
            moment.copy_(state["optimizer"][name])
        self.memory.load_state_dict(state["memory"])
        self._exploration.bit_generator.state = state["exploration"]
        self._evaluation.bit_generator.state = state["evaluation"]
        self.env_steps, self.updates = state["env_steps"], state["updates"]


def build(
    config: DQNConfig,
    observation_space: spaces.Box,
    action_space: spaces.Space[Any],
    *,
    num_envs: int,
    stack: int,
    device: torch.device,
    seed: int,
    training: bool = True,
) -> DQN:
    """A fresh DQN for an env; without `training` its memory is as small as can be.

    Raises:
        ConfigError: the action space is not Discrete, or the network or memory does not fit.
    """
    if not isinstance(action_space, spaces.Discrete):
        raise ConfigError(f"DQN needs a Discrete action space; this env has {action_space}")
    # at worst, in games of one step, every second row only ends a game
    usable = (config.replay_size // num_envs - config.n_step - stack + 1) * num_envs // 2
    if usable < config.batch_size:
        raise ConfigError(
            f"replay_size is {config.replay_size}; with {num_envs} envs, stack {stack}, n_step "
            f"{config.n_step} and batch_size {config.batch_size} it must be at least "
            f"{2 * config.batch_size + num_envs * (config.n_step + stack)}"
        )
    smallest = num_envs * (config.n_step + stack + 1)
    memory = Replay(
        config.replay_size if training else smallest,
        num_envs,
        observation_space.shape,
        observation_space.dtype,
        stack=stack,
        n_step=config.n_step,
        gamma=config.gamma,
        device=device,
        seed=int(np.random.SeedSequence([seed, 3]).generate_state(1)[0]),
    )
    with torch.random.fork_rng(
        devices=[device] if device.type == "cuda" else []
    ):  # one generator per purpose: this one for the weights
        torch.manual_seed(seed)
        network = make_network(config, observation_space, int(action_space.n)).to(device)
        target = make_network(config, observation_space, int(action_space.n)).to(device)
    target.load_state_dict(network.state_dict())
    target.requires_grad_(False)
    flat, flat_target = flatten_parameters(network), flatten_parameters(target)
    optimizer = make_optimizer(config, flat)
    prime(optimizer, flat)
    return DQN(
        config, network, target, flat, flat_target, optimizer, memory, action_space, device, seed
    )
