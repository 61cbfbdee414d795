"""PPO: a policy and a value, learned from what the policy has just played (Schulman et al. 2017).

https://arxiv.org/abs/1707.06347, with the choices of "What matters in on-policy RL"
(https://arxiv.org/abs/2006.05990) and "The 37 implementation details of PPO" as fields. A2C is the
preset of one epoch and one minibatch (https://arxiv.org/abs/2205.09123). The first two rows of a
rollout were played before the last updates; their stored log-probabilities say so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import Advice, Extras, Step
from ludus.agents.losses import clipped_surrogate, clipped_value
from ludus.agents.memory.rollout import Rollout
from ludus.agents.optimizer import OptimizerName, clip_norm, make_optimizer, take_step
from ludus.agents.returns import gae
from ludus.agents.schedules import linear
from ludus.agents.seeding import generator, seed_of
from ludus.agents.value_policy import as_batch
from ludus.envs.dict_observation import MASK, PackedDict, legal_actions
from ludus.envs.errors import ConfigError, TrainingError
from ludus.networks.cores import Core, CoreName, State, TwoCores, make_core
from ludus.networks.encoders import (
    Activation,
    Encoder,
    EncoderName,
    ProjectedEncoder,
    TwoEncoders,
    has_statistics,
    make_encoder,
    update_statistics,
)
from ludus.networks.flat import flat_gradient, flatten_parameters
from ludus.networks.layers import start_orthogonal
from ludus.networks.network import Network
from ludus.networks.policies import ActionKind, Categorical, PolicyHead, PolicyOut
from ludus.networks.running_stats import RewardScale, RunningMeanStd

_METRICS = (
    *("loss", "policy_gradient_loss", "value_loss", "entropy_loss"),  # SB3's names
    *("approx_kl", "clip_fraction", "grad_norm"),
)
_KL = _METRICS.index("approx_kl")


@dataclass(frozen=True)
class PPOConfig:
    """Every choice of a PPO."""

    encoder: EncoderName = "mlp"
    """network from observation to features"""
    hidden: tuple[int, ...] = (64, 64)
    """units of the MLP encoder's layers"""
    activation: Activation = "tanh"
    """of the MLP encoder"""
    width: int = 1
    """IMPALA encoder: multiple of the paper's channels"""
    features: int = 0
    """units of a layer with ReLU after the encoder; 0 for none"""
    shared: bool = False
    """one encoder and core for policy and value, else each has its own"""
    core: CoreName = "none"
    """memory between encoder and head"""
    core_units: int = 128
    """size of its output"""
    layers: int = 1
    """gtrxl: blocks"""
    heads: int = 4
    """gtrxl: heads of the attention; they divide core_units"""
    window: int = 32
    """gtrxl: rows that each block looks back"""
    orthogonal: bool = True
    """start with orthogonal weights, gain 0.01 for the policy's layer, else as torch does"""
    log_std: float = 0.0
    """continuous actions: logarithm of the deviation at first"""
    optimizer: OptimizerName = "adam"
    """plain_rmsprop is A2C's"""
    learning_rate: float = 3e-4
    """step size of the optimizer"""
    anneal_learning_rate: bool = True
    """let it fall linearly to 0 over the training"""
    optimizer_eps: float = 1e-5
    """added to the denominator (all but sgd)"""
    max_grad_norm: float = 0.5
    """gradients are scaled down to this L2 norm; 0 for no limit"""
    rollout_length: int = 128
    """rows of each env between two rounds of learning"""
    epochs: int = 4
    """passes over a rollout"""
    minibatches: int = 4
    """updates a pass"""
    gamma: float = 0.99
    """discount per step"""
    lam: float = 0.95
    """lambda of the advantages: 0 bootstraps after one step, 1 at the end of the rollout"""
    clip_range: float = 0.2
    """how far an action's probability may move by its ratio to what it was; inf for no limit"""
    anneal_clip_range: bool = False
    """let it fall linearly to 0 over the training"""
    value_clip: float = 0.0
    """how far a value may move from what it was, in the units of its loss; 0 for no limit"""
    value_coef: float = 0.5
    """weight of the value loss"""
    entropy_coef: float = 0.0
    """weight of the entropy bonus"""
    normalize_advantage: bool = True
    """give the advantages of a minibatch mean 0 and deviation 1"""
    normalize_observation: bool = False
    """running mean and deviation of observations that are floats; updated after each round"""
    normalize_reward: bool = False
    """divide rewards by the running deviation of the discounted return"""
    normalize_value: bool = False
    """learn values with mean 0 and deviation 1 (PopArt)"""
    target_kl: float = 0.0
    """end a round after an epoch of a larger KL divergence; 0 for no limit"""
    desired_kl: float = 0.0
    """adapt the learning rate after each round to this KL divergence; 0 keeps the schedule"""
    clip_reward: bool = False
    """learn from rewards clipped to [-1, 1]; scores are never clipped"""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, and combinations that do not make sense."""
        positive = "width core_units layers heads window learning_rate optimizer_eps "
        for name in (positive + "rollout_length epochs minibatches").split():
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")
        not_negative = "features max_grad_norm value_clip value_coef entropy_coef target_kl "
        for name in (not_negative + "desired_kl").split():
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if not self.clip_range > 0:
            raise ConfigError(f"clip_range is {self.clip_range}; it must be above 0, inf for none")
        if any(units < 1 for units in self.hidden):
            raise ConfigError(f"hidden is {self.hidden}; every layer needs 1 unit or more")
        if self.desired_kl and self.anneal_learning_rate:
            raise ConfigError(
                "desired_kl adapts the learning rate, and anneal_learning_rate lets it fall; turn "
                "one of them off"
            )
        if self.core == "gtrxl" and self.core_units % self.heads:
            raise ConfigError(
                f"heads is {self.heads}, which does not divide core_units, {self.core_units}"
            )


class PPO:
    """A PPO over everything it needs.

    Args:
        config: losses, cadence and schedules.
        network: policy and value.
        flat: its parameters in one tensor, see `flatten_parameters`.
        optimizer: of `flat`.
        rollout: where rows go and minibatches come from; it keeps log_prob and value.
        space: of one observation.
        kind: of the actions.
        seed: of the exploration.
        steps: env steps of the whole training, which the schedules are over.
    """

    def __init__(
        self,
        config: PPOConfig,
        network: Network[PolicyOut],
        flat: Tensor,
        optimizer: torch.optim.Optimizer,
        rollout: Rollout,
        space: spaces.Box,
        kind: ActionKind,
        seed: int,
        steps: int,
    ) -> None:
        self.config, self.network, self.flat = config, network, flat
        self.optimizer, self.rollout, self.kind = optimizer, rollout, kind
        self.device = flat.device
        self._space = space
        self._parameters = list(network.parameters())
        self._exploration = generator(self.device, seed, 1)
        self._evaluation = generator(self.device, seed, 2)
        self.gradients: Callable[..., Sequence[Tensor]] = self._gradients
        self.update: Callable[..., None] = self._update
        recurrent = config.core in ("lstm", "gru")
        self.capturable = not recurrent  # episodes cut its rows where the data says
        self._rate = torch.tensor(config.learning_rate, device=self.device)  # read by an update
        self._clip = torch.tensor(config.clip_range, device=self.device)
        optimizer.param_groups[0]["lr"] = self._rate
        self._advantage = rollout.extras["advantage"][:-1]  # [T, B]
        self._target = rollout.extras["target"][:-1]
        self._sums = torch.zeros(len(_METRICS), device=self.device)
        self._summed = 0
        self._reward_scale = RewardScale(config.gamma, rollout.num_envs)
        self._returns = RunningMeanStd()
        self._explained = torch.zeros((), device=self.device)
        self._steps = steps
        self.env_steps, self.updates = 0, 0

    # -- acting -------------------------------------------------------------------------------

    def initial_state(self, num_envs: int) -> State:
        """The core's state before an episode."""
        return self.network.initial_state(num_envs)

    @torch.no_grad()
    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, explore: bool
    ) -> tuple[np.ndarray, State, Extras]:
        """Actions [B, *action] for obs [B, *obs]; what `observe` keeps goes into the extras."""
        out, after, allowed = self._look(obs, state, first)
        policy = self.kind.distribution(out, allowed)
        chance = self.kind.noise((len(obs),), self._exploration) if explore else None
        action = policy.mode() if chance is None else policy.sample(chance)
        extras = {"action": action, "log_prob": policy.log_prob(action), "value": out.value}
        return self.kind.env_action(action), after, extras | {"state": state}

    def _look(
        self, obs: np.ndarray, state: State, first: np.ndarray
    ) -> tuple[PolicyOut, State, Tensor | None]:
        """What the network says of one row [B, ...], the state after it, and what is legal."""
        seen = torch.from_numpy(obs).to(self.device, non_blocking=True).unsqueeze(0)  # [1, B, *obs]
        opens = torch.from_numpy(first).to(self.device, non_blocking=True).unsqueeze(0)
        out, after = self.network(seen, state, opens)
        row = PolicyOut(out.logits[0], out.log_std, out.value[0])
        return row, after, legal_actions(self._space, seen[0])

    @torch.no_grad()
    def predict(
        self,
        observation: np.ndarray | Mapping[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Stable-Baselines3's signature; with a core the state must be given back."""
        if isinstance(observation, Mapping):
            if not isinstance(self._space, PackedDict):
                raise ValueError(
                    "the observation is a dictionary; this agent was trained on arrays"
                )
            observation = self._space.pack(observation)
        obs, first, single = as_batch(observation, episode_start, self._space.shape)
        state = self.initial_state(len(obs)) if state is None else state
        out, state, allowed = self._look(obs, state, first)
        policy = self.kind.distribution(out, allowed)
        if deterministic:
            action = policy.mode()
        else:
            action = policy.sample(self.kind.noise((len(obs),), self._evaluation))
        actions = self.kind.env_action(action)
        return (actions[0] if single else actions), state

    @torch.no_grad()
    def advise(
        self, observation: np.ndarray, state: Any = None, episode_start: np.ndarray | None = None
    ) -> tuple[Advice, Any]:
        """The policy, where there is one choice of discrete actions, and the value."""
        obs, first, _ = as_batch(observation, episode_start, self._space.shape)
        state = self.initial_state(len(obs)) if state is None else state
        out, state, allowed = self._look(obs, state, first)
        policy = self.kind.distribution(out, allowed)
        probability = policy.log_p.exp().cpu().numpy() if isinstance(policy, Categorical) else None
        action = self.kind.env_action(policy.mode())
        return Advice(action, out.value.cpu().numpy(), None, probability), state

    # -- learning -----------------------------------------------------------------------------

    def observe(self, step: Step) -> None:
        """Remember one row, with the action as it was drawn."""
        c, reward = self.config, step.reward
        reward = np.clip(reward, -1, 1) if c.clip_reward else reward
        if c.normalize_reward:
            reward = self._reward_scale(reward, step.valid, step.terminated)
        row = step._replace(reward=reward, action=step.extras["action"])
        self.rollout.add(row, step.extras["state"])
        self.env_steps += int(step.valid.sum())

    @property
    def clip_range(self) -> float:
        """How far a ratio may move at this env step."""
        c = self.config
        if not c.anneal_clip_range:
            return c.clip_range
        return linear(c.clip_range, 0.0, self._steps, self.env_steps)

    def learn(self) -> int:
        """Learn from the rollout once it is full; the next begins with its last row.

        Raises:
            TrainingError: a loss or gradient is not finite.
        """
        if not self.rollout.full:
            return 0
        c, before = self.config, self.updates
        if c.normalize_observation and not has_statistics(self.network.encoder):
            self._observe_rollout()  # before there are statistics, nothing is learned
            return 0
        if c.anneal_learning_rate:
            self._rate.fill_(linear(c.learning_rate, 0.0, self._steps, self.env_steps))
        self._clip.fill_(self.clip_range)
        self._set_targets()
        kl = 0.0
        for _ in range(c.epochs):
            summed = self._sums[_KL].clone()
            for index in self.rollout.minibatch_indices():
                self.update(index)
                self.updates += 1
            if c.target_kl or c.desired_kl:
                kl = float(self._sums[_KL] - summed) / c.minibatches
                if c.target_kl and kl > c.target_kl:
                    break
        self._summed += self.updates - before
        self._refuse_infinite()
        if c.desired_kl:  # as in rsl_rl, https://arxiv.org/abs/2109.11978, appendix A.5
            factor = 1 / 1.5 if kl > 2 * c.desired_kl else 1.5 if kl < c.desired_kl / 2 else 1.0
            self._rate.mul_(factor).clamp_(1e-5, 1e-2)
        if c.normalize_observation:
            self._observe_rollout()
        else:
            self.rollout.restart()
        return self.updates - before

    def _observe_rollout(self) -> None:
        """Take the T rows into the running statistics and begin the next rollout."""
        update_statistics(self.network.encoder, self.rollout.obs[:-1].flatten(0, 1))
        self.rollout.restart()

    @torch.no_grad()
    def _set_targets(self) -> None:
        """Advantages and lambda-returns of the T rows, by the values as they were when acting."""
        r = self.rollout
        value = r.extras["value"]  # [T + 1, B]
        advantage = gae(
            *(r.reward[:-1], r.discount[:-1], value[:-1], value[1:]), r.valid[1:], self.config.lam
        )
        self._advantage.copy_(advantage)
        self._target.copy_(advantage + value[:-1])
        valid = r.valid[:-1]
        spread = self._target[valid].var(correction=0)
        self._explained = 1 - advantage[valid].var(correction=0) / spread.clamp(min=1e-12)
        if self.config.normalize_value:
            self._returns.update(self._target[valid].cpu().numpy(), forget=0.1)
            head = self.network.head
            assert isinstance(head, PolicyHead)
            mean, std = self._returns.mean, max(self._returns.variance, 1e-4) ** 0.5
            head.rescale_value(*torch.tensor([mean, std], device=self.device).float().unbind())

    def _gradients(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Of one minibatch; a pure function of its index that asks for no tensor's value.

        Args:
            index: [N], from `Rollout.minibatch_indices`.

        Returns:
            Metrics [7]; the gradient [size], scaled down to the largest norm.
        """
        c, batch = self.config, self.rollout.minibatch(index)
        advantage, target = batch.extras["advantage"], batch.extras["target"]  # [L, N] each
        out, _ = self.network(batch.obs, batch.state, batch.first)
        policy = self.kind.distribution(out, legal_actions(self._space, batch.obs))
        log_ratio = policy.log_prob(batch.action) - batch.extras["log_prob"]
        if c.normalize_advantage:
            apart = advantage - batch.mean(advantage)
            advantage = apart / (batch.mean(apart.square()).sqrt() + 1e-8)
        ratio = log_ratio.exp()
        policy_loss = batch.mean(clipped_surrogate(ratio, advantage, self._clip))
        value_loss = batch.mean(self._value_loss(out.value, batch.extras["value"], target))
        entropy_loss = -batch.mean(policy.entropy())
        loss = policy_loss + c.value_coef * value_loss + c.entropy_coef * entropy_loss
        gradients = torch.autograd.grad(loss, self._parameters)
        gradient = flat_gradient(gradients, self._parameters)
        norm = clip_norm(gradient, c.max_grad_norm)
        apart = ratio.detach() - 1
        kl = batch.mean(apart - log_ratio.detach())  # http://joschu.net/blog/kl-approx.html, k3
        clipped = batch.mean((apart.abs() > self._clip).to(torch.float32))
        told = [loss.detach(), policy_loss.detach(), value_loss.detach(), entropy_loss.detach()]
        return torch.stack([*told, kl, clipped, norm]), gradient

    def _value_loss(self, value: Tensor, before: Tensor, target: Tensor) -> Tensor:
        """Of each row [L, N], in units of the returns' deviation where values are normalised."""
        scale = 1 / self.network.head.value_std  # type: ignore[operator]  # a buffer
        value, before, target = value * scale, before * scale, target * scale
        if self.config.value_clip:
            return clipped_value(value, before, target, self.config.value_clip)
        return 0.5 * (value - target).square()

    def _update(self, index: Tensor) -> None:
        """One optimizer step on a minibatch."""
        metrics, gradient = self.gradients(index)
        take_step(self.optimizer, self.flat, gradient)
        self._sums += metrics

    def example(self) -> tuple[Tensor]:
        """An index without chance, of the shape of all others."""
        return (self.rollout.example(),)

    def changes(self) -> list[Tensor]:
        """The tensors that `update` changes."""
        return [self.flat, *self.optimizer.state[self.flat].values(), self._sums]

    def _refuse_infinite(self) -> None:
        wrong = dict(zip(_METRICS, self._sums.tolist(), strict=True))
        for name, value in wrong.items():
            if not np.isfinite(value):
                raise TrainingError(
                    f"{name} became {value} within {self.updates:,} updates; a smaller "
                    f"learning_rate (now {float(self._rate):g}) or max_grad_norm may help, or "
                    "normalize_reward where rewards are large"
                )

    def metrics(self) -> dict[str, float]:
        """Means since the last call, and where the schedules stand."""
        values = {"learning_rate": float(self._rate)}
        if self.config.clip_range < float("inf"):
            values["clip_range"] = self.clip_range
        if self._summed:
            means = (self._sums / self._summed).tolist()
            values |= dict(zip(_METRICS, means, strict=True))
            values["explained_variance"] = float(self._explained)
            self._sums.zero_()
            self._summed = 0
        return values

    # -- state --------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters and statistics by name."""
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
            "rate": self._rate,
            "rollout": self.rollout.state_dict(),
            "exploration": self._exploration.get_state(),
            "evaluation": self._evaluation.get_state(),
            "reward_scale": self._reward_scale.state_dict(),
            "returns": self._returns.state_dict(),
            "env_steps": self.env_steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.load_weights(state["network"])
        for name, moment in self.optimizer.state[self.flat].items():
            moment.copy_(state["optimizer"][name])
        self._rate.copy_(state["rate"])
        self.rollout.load_state_dict(state["rollout"])
        self._exploration.set_state(state["exploration"])
        self._evaluation.set_state(state["evaluation"])
        self._reward_scale.load_state_dict(state["reward_scale"])
        self._returns.load_state_dict(state["returns"])
        self.env_steps, self.updates = state["env_steps"], state["updates"]


def build(
    config: PPOConfig,
    observation_space: spaces.Box,
    action_space: spaces.Space[Any],
    *,
    num_envs: int,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> PPO:
    """A fresh PPO for an env; without `training` its memory is as small as can be.

    Raises:
        ConfigError: the action space is none that a policy can handle, the minibatches do not
            divide the rollout, or the network or the rollout does not fit.
    """
    c = config
    with torch.random.fork_rng(
        devices=[device] if device.type == "cuda" else []
    ):  # one generator per purpose: this one for the weights
        torch.manual_seed(seed)
        try:
            kind = ActionKind(action_space)
            _check_mask(observation_space, kind)
            network = make_network(c, observation_space, kind).to(device)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    rollout = Rollout(
        c.rollout_length if training else 1,
        num_envs,
        observation_space,
        action_space,
        minibatches=c.minibatches if training else 1,
        gamma=c.gamma,
        state=network.initial_state(num_envs),
        device=device,
        seed=seed_of(seed, 3),
        extras=("log_prob", "value"),
        targets=("advantage", "target"),
    )
    flat = flatten_parameters(network)
    optimizer = make_optimizer(c.optimizer, flat, c.learning_rate, c.optimizer_eps)
    return PPO(c, network, flat, optimizer, rollout, observation_space, kind, seed, steps)


def make_network(config: PPOConfig, space: spaces.Box, kind: ActionKind) -> Network[PolicyOut]:
    """Policy and value as one network, its trunk shared or not.

    Raises:
        ValueError: the encoder does not fit the observations.
    """
    c = config
    encoders = [_make_encoder(c, space) for _ in range(1 if c.shared else 2)]
    cores = [
        make_core(c.core, e.dim, c.core_units, layers=c.layers, heads=c.heads, window=c.window)
        for e in encoders
    ]
    encoder = encoders[0] if c.shared else TwoEncoders(*encoders)
    core: Core = cores[0] if c.shared else TwoCores(*cores)
    head = PolicyHead(core.dim, kind, not c.shared, c.log_std)
    if c.orthogonal:
        start_orthogonal(encoder, 2**0.5)
        start_orthogonal(head.policy, 0.01)
        start_orthogonal(head.value, 1.0)
    return Network(encoder, core, head)


def _check_mask(space: spaces.Box, kind: ActionKind) -> None:
    if isinstance(space, PackedDict) and MASK in space.parts:
        size = space.parts[MASK].space.shape[0]
        if kind.continuous or size != kind.outputs:
            needed = "none, for they are continuous" if kind.continuous else str(kind.outputs)
            raise ValueError(f"{MASK} has {size} numbers; these actions need {needed}")


def _make_encoder(config: PPOConfig, space: spaces.Box) -> Encoder | ProjectedEncoder:
    c = config
    encoder = make_encoder(
        *(c.encoder, space, c.hidden, c.width),
        activation=c.activation,
        normalise=c.normalize_observation,
    )
    return ProjectedEncoder(encoder, c.features) if c.features else encoder
