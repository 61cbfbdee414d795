"""PQN: Q-learning without replay and without a target network (Gallici et al. 2024).

https://arxiv.org/abs/2407.04811. Layer normalisation keeps the bootstrap stable, and many envs take
the place of the replay: a rollout of T rows of B envs is learned from in a few epochs, with the
targets G_t = r_t + gamma ((1 - lambda) max_a q(s_{t+1}, a) + lambda G_{t+1}) fixed beforehand. The
first two rows of a rollout were played before the last updates, which Q-learning does not mind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import Advice, Extras, Step
from ludus.agents.losses import chosen
from ludus.agents.memory.rollout import Rollout
from ludus.agents.optimizer import OptimizerName, clip_norm, make_optimizer, take_step
from ludus.agents.returns import lambda_return
from ludus.agents.schedules import linear
from ludus.agents.value_policy import ValueActor
from ludus.envs.errors import ConfigError
from ludus.networks.cores import State, make_core
from ludus.networks.encoders import EncoderName, make_encoder
from ludus.networks.flat import flat_gradient, flatten_parameters
from ludus.networks.heads import QHead, QOut, Streams
from ludus.networks.names import RecurrentName
from ludus.networks.network import Network

_METRICS = ("loss", "q_values", "grad_norm")
_AT_ONCE = 256  # observations valued in one forward pass: what a CPU's cache holds


@dataclass(frozen=True)
class PQNConfig:
    """Every choice of a PQN."""

    encoder: EncoderName = "mlp"
    """network from observation to features"""
    hidden: tuple[int, ...] = (128, 128)
    """units of the MLP encoder's layers"""
    width: int = 1
    """IMPALA encoder: multiple of the paper's channels"""
    layer_norm: bool = True
    """layer normalisation before each ReLU"""
    core: RecurrentName = "none"
    """memory between encoder and head"""
    core_units: int = 128
    """size of its state"""
    head_hidden: int = 0
    """units of the head's hidden layer; 0 for none"""
    dueling: bool = False
    """split the head into value and advantage"""
    optimizer: OptimizerName = "radam"
    """rmsprop is centred as the 2015 DQN's, with eps outside the root"""
    learning_rate: float = 2.5e-4
    """step size of the optimizer"""
    anneal_learning_rate: bool = False
    """let it fall linearly to 0 over the training"""
    optimizer_eps: float = 1e-8
    """added to the denominator (adam, radam, rmsprop, adagrad)"""
    max_grad_norm: float = 10.0
    """gradients are scaled down to this L2 norm; 0 for no limit"""
    rollout_length: int = 32
    """rows of each env between two rounds of learning"""
    epochs: int = 2
    """passes over a rollout"""
    minibatches: int = 32
    """updates a pass"""
    gamma: float = 0.99
    """discount per step"""
    lam: float = 0.65
    """lambda of the returns: 0 bootstraps after one step, 1 at the end of the rollout"""
    clip_reward: bool = False
    """learn from rewards clipped to [-1, 1]; scores are never clipped"""
    epsilon_start: float = 1.0
    """probability of a random action at first, drawn for each env"""
    epsilon_end: float = 0.001
    """probability of a random action at last"""
    epsilon_fraction: float = 0.1
    """share of the training from first to last"""
    evaluation_epsilon: float = 0.001
    """probability of a random action in `predict(deterministic=False)`"""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, and combinations that do not make sense."""
        positive = "width core_units learning_rate optimizer_eps rollout_length epochs minibatches"
        for name in positive.split():
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")
        for name in ("head_hidden", "max_grad_norm"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        shares = "gamma lam epsilon_start epsilon_end epsilon_fraction evaluation_epsilon"
        for name in shares.split():
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if any(units < 1 for units in self.hidden):
            raise ConfigError(f"hidden is {self.hidden}; every layer needs 1 unit or more")
        if self.layer_norm and self.encoder == "impala":
            raise ConfigError(
                "layer_norm does not go with the encoder impala; turn one of them off"
            )


class PQN:
    """A PQN over everything it needs.

    Args:
        config: cadence and schedules.
        network: the only network.
        flat: its parameters in one tensor, see `flatten_parameters`.
        optimizer: of `flat`.
        rollout: where rows go and minibatches come from.
        action_space: gives the number of the first action.
        device: where the network lives.
        seed: of the exploration.
        steps: env steps of the whole training, which the schedules are over.
    """

    def __init__(
        self,
        config: PQNConfig,
        network: Network[QOut],
        flat: Tensor,
        optimizer: torch.optim.Optimizer,
        rollout: Rollout,
        action_space: spaces.Discrete,
        device: torch.device,
        seed: int,
        steps: int,
    ) -> None:
        self.config, self.network, self.flat = config, network, flat
        self.optimizer, self.rollout, self.device = optimizer, rollout, device
        self._parameters = list(network.parameters())
        self._actor = ValueActor(network, action_space, rollout.obs_shape, device, seed)
        self.gradients: Callable[..., Sequence[Tensor]] = self._gradients
        self.update: Callable[..., None] = self._update
        self.capturable = config.core == "none"  # episodes cut a core's rows where the data says
        self._rate = torch.tensor(config.learning_rate, device=device)  # a captured update reads it
        optimizer.param_groups[0]["lr"] = self._rate
        self._target = rollout.extras["target"][:-1]  # [T, B]
        self._sums = torch.zeros(len(_METRICS), device=device)
        self._summed = 0
        self._steps = steps
        self.env_steps, self.updates = 0, 0

    # -- acting -------------------------------------------------------------------------------

    @property
    def epsilon(self) -> float:
        """Probability of a random action at this env step."""
        c = self.config
        duration = c.epsilon_fraction * self._steps
        return linear(c.epsilon_start, c.epsilon_end, duration, self.env_steps)

    @property
    def learning_rate(self) -> float:
        """Step size of the optimizer at this env step."""
        c = self.config
        end = 0.0 if c.anneal_learning_rate else c.learning_rate
        return linear(c.learning_rate, end, self._steps, self.env_steps)

    def initial_state(self, num_envs: int) -> State:
        """The core's state before an episode."""
        return self.network.initial_state(num_envs)

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, explore: bool
    ) -> tuple[np.ndarray, State, Extras]:
        """Actions [B] for obs [B, *obs]; the state before the row goes into the extras."""
        actions, after = self._actor.greedy(obs, state, first)
        if explore:
            actions = self._actor.explore(actions, obs, self.epsilon)
        return actions, after, {"state": state}

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Stable-Baselines3's signature; with a core the state must be given back."""
        epsilon = 0.0 if deterministic else self.config.evaluation_epsilon
        return self._actor.predict(observation, state, episode_start, epsilon)

    def advise(
        self, observation: np.ndarray, state: Any = None, episode_start: np.ndarray | None = None
    ) -> tuple[Advice, Any]:
        """The values of the actions, and the state after."""
        return self._actor.advise(observation, state, episode_start)

    # -- learning -----------------------------------------------------------------------------

    def observe(self, step: Step) -> None:
        """Remember one row."""
        reward = np.clip(step.reward, -1, 1) if self.config.clip_reward else step.reward
        action = step.action - self._actor.first_action
        self.rollout.add(step._replace(reward=reward, action=action), step.extras["state"])
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Learn from the rollout once it is full; the next begins with its last row."""
        if not self.rollout.full:
            return 0
        self._rate.fill_(self.learning_rate)
        self._set_targets()
        before = self.updates
        for _ in range(self.config.epochs):
            for index in self.rollout.minibatch_indices():
                self.update(index)
                self.updates += 1
        self.rollout.restart()
        self._summed += self.updates - before
        return self.updates - before

    @torch.no_grad()
    def _set_targets(self) -> None:
        """Q(lambda) returns of the T rows, by the network as it is now."""
        r = self.rollout
        envs = torch.arange(r.num_envs, device=self.device)
        values = torch.cat([self._values(at) for at in envs.split(max(1, _AT_ONCE // len(r.obs)))])
        values = values.t()  # [T + 1, B]
        discount, goes_on = r.discount[:-1], r.valid[1:]
        self._target.copy_(
            lambda_return(r.reward[:-1], discount, values[1:], goes_on, self.config.lam)
        )

    def _values(self, envs: Tensor) -> Tensor:
        """max_a q of all rows of some envs [n], [n, T + 1]."""
        r = self.rollout
        state = tuple(s[envs] for s in r.state)
        out, _ = self.network(r.obs[:, envs], state, r.first[:, envs])
        return out.q.amax(-1).t()

    def _gradients(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Of one minibatch; a pure function of its index that asks for no tensor's value.

        The loss is half the squared error, mean over the rows whose action was used.

        Args:
            index: [N], from `Rollout.minibatch_indices`.

        Returns:
            Metrics [3]; the gradient [size], scaled down to the largest norm.
        """
        batch = self.rollout.minibatch(index)
        out, _ = self.network(batch.obs, batch.state, batch.first)  # q [L, N, A]
        value = chosen(out.q, batch.action)  # [L, N]
        error = value - batch.extras["target"]
        loss = 0.5 * batch.mean(error.square())
        gradients = torch.autograd.grad(loss, self._parameters)
        gradient = flat_gradient(gradients, self._parameters)
        norm = clip_norm(gradient, self.config.max_grad_norm)
        values = batch.mean(value.detach())
        return torch.stack([loss.detach(), values, norm]), gradient

    def _update(self, index: Tensor) -> None:
        """One optimizer step on a minibatch; asks for no tensor's value without a core."""
        metrics, gradient = self.gradients(index)
        take_step(self.optimizer, self.flat, gradient)
        self._sums += metrics

    def example(self) -> tuple[Tensor]:
        """An index without chance, of the shape of all others."""
        return (self.rollout.example(),)

    def changes(self) -> list[Tensor]:
        """The tensors that `update` changes."""
        return [self.flat, *self.optimizer.state[self.flat].values(), self._sums]

    def metrics(self) -> dict[str, float]:
        """Means since the last call, and where the schedules stand."""
        values = {
            "exploration_rate": self.epsilon,
            "learning_rate": self.learning_rate,
        }
        if self._summed:
            means = (self._sums / self._summed).tolist()
            values |= dict(zip(_METRICS, means, strict=True))
            self._sums.zero_()
            self._summed = 0
        return values

    # -- state --------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters by name."""
        return dict(self.network.state_dict())

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """The inverse of `weights`."""
        self.network.load_state_dict(weights)

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of another training."""
        self.load_weights(weights)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        return {
            "network": self.weights(),
            "optimizer": dict(self.optimizer.state[self.flat]),
            "rollout": self.rollout.state_dict(),
            **self._actor.state_dict(),
            "env_steps": self.env_steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.load_weights(state["network"])
        for name, moment in self.optimizer.state[self.flat].items():
            moment.copy_(state["optimizer"][name])
        self.rollout.load_state_dict(state["rollout"])
        self._actor.load_state_dict(state)
        self.env_steps, self.updates = state["env_steps"], state["updates"]


def build(
    config: PQNConfig,
    observation_space: spaces.Box,
    action_space: spaces.Space[Any],
    *,
    num_envs: int,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> PQN:
    """A fresh PQN for an env; without `training` its memory is as small as can be.

    Raises:
        ConfigError: the action space is not Discrete, the minibatches do not divide the rollout, or
            the network or the rollout does not fit.
    """
    c = config
    if not isinstance(action_space, spaces.Discrete):
        raise ConfigError(f"PQN needs a Discrete action space; this env has {action_space}")
    with torch.random.fork_rng(
        devices=[device] if device.type == "cuda" else []
    ):  # one generator per purpose: this one for the weights
        torch.manual_seed(seed)
        network = _make_network(c, observation_space, int(action_space.n)).to(device)
    rollout = Rollout(
        c.rollout_length if training else 1,
        num_envs,
        observation_space,
        action_space,
        minibatches=c.minibatches if training else 1,
        gamma=c.gamma,
        state=network.initial_state(num_envs),
        device=device,
        seed=int(np.random.SeedSequence([seed, 3]).generate_state(1)[0]),
        targets=("target",),
    )
    flat = flatten_parameters(network)
    optimizer = make_optimizer(c.optimizer, flat, c.learning_rate, c.optimizer_eps)
    return PQN(c, network, flat, optimizer, rollout, action_space, device, seed, steps)


def _make_network(config: PQNConfig, space: spaces.Box, actions: int) -> Network[QOut]:
    c = config
    try:
        encoder = make_encoder(c.encoder, space, c.hidden, c.width, layer_norm=c.layer_norm)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    core = make_core(c.core, encoder.dim, c.core_units)
    streams = Streams(
        core.dim, actions, hidden=c.head_hidden, dueling=c.dueling, layer_norm=c.layer_norm
    )
    return Network(encoder, core, QHead(streams), space)
