"""Deep Q-network (Mnih et al. 2015, https://doi.org/10.1038/nature14236) and its whole family.

target = reward + discount * q_target(next_obs, argmax_a q(next_obs, a)), where the argmax is the
online network's with `double` (https://arxiv.org/abs/1509.06461) and the target's without. Every
other member of the family changes one part: where batches come from (`prioritised`), what the head
says (`dueling`, `noisy`, `head`), or the target (`n_step`, `munchausen`, `value_rescaling`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents import losses
from ludus.agents.agent import Advice, Batch, Extras, Step
from ludus.agents.memory.replay import Replay
from ludus.agents.optimizer import OptimizerName, clip_norm, make_optimizer, take_step
from ludus.agents.schedules import linear
from ludus.agents.seeding import generator
from ludus.agents.target_network import OnlineAndTarget
from ludus.agents.value_policy import ValueActor
from ludus.envs.errors import ConfigError
from ludus.networks.cores import State, make_core
from ludus.networks.encoders import EncoderName, make_encoder
from ludus.networks.heads import (
    NO_NOISE,
    CategoricalHead,
    HeadNoise,
    ImplicitQuantileHead,
    QHead,
    QuantileHead,
    Streams,
    ValueHead,
    ValueOut,
)
from ludus.networks.network import Network

Gradients = Callable[..., Sequence[Tensor]]
Update = Callable[..., None]

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
    pool: int = 0
    """IMPALA encoder: side of the adaptive max-pooling at its end; 0 for none"""
    spectral_norm: bool = False
    """IMPALA encoder: spectral normalisation of the residual convolutions"""
    layer_norm: bool = False
    """layer normalisation before each ReLU"""
    freeze: Literal["none", "encoder"] = "none"
    """what keeps the weights it starts from"""
    head: Literal["q", "c51", "qr", "iqn"] = "q"
    """a value for each action, or a distribution: categorical, quantiles, implicit quantiles"""
    head_hidden: int = 0
    """units of the head's hidden layer; 0 for none"""
    dueling: bool = False
    """split the head into value and advantage"""
    noisy: bool = False
    """explore by learned noise in the head's layers"""
    noisy_sigma: float = 0.5
    """scale of that noise at first"""
    atoms: int = 51
    """c51: returns that the distribution is over"""
    v_min: float = -10.0
    """c51: the lowest of them"""
    v_max: float = 10.0
    """c51: the highest of them"""
    quantiles: int = 200
    """qr: quantiles"""
    samples: int = 64
    """iqn: quantiles drawn for each transition"""
    target_samples: int = 64
    """iqn: quantiles drawn for each target"""
    policy_samples: int = 32
    """iqn: quantiles, evenly spaced, whose mean the actor takes"""
    double: bool = False
    """the online network chooses the action that the target network values"""
    munchausen: bool = False
    """add the scaled log-policy to the reward, and follow the softmax policy"""
    munchausen_scale: float = 0.9
    """alpha: share of the log-policy that is added"""
    munchausen_temperature: float = 0.03
    """tau: temperature of the softmax policy"""
    munchausen_floor: float = -1.0
    """l0: temperature times log-policy is clipped to this and 0"""
    value_rescaling: bool = False
    """learn values on the scale of h(x) = sign(x) (sqrt(|x| + 1) - 1) + x / 1000"""
    conservative: float = 0.0
    """weight of CQL's penalty on actions that the data does not show; 0 for none"""
    loss: Literal["huber", "mse"] = "huber"
    """of the temporal-difference error; a distribution has its own"""
    optimizer: OptimizerName = "adam"
    """rmsprop is centred as the 2015 DQN's, with eps outside the root"""
    learning_rate: float = 1e-4
    """step size of the optimizer"""
    optimizer_eps: float = 1e-8
    """added to the denominator (adam, radam, rmsprop, adagrad)"""
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
    prioritised: bool = False
    """replay in proportion to priority^alpha, corrected by importance weights"""
    priority_alpha: float = 0.5
    """exponent of the priorities; 0 is uniform"""
    priority_beta_start: float = 0.4
    """exponent of the importance weights at first"""
    priority_beta_end: float = 1.0
    """exponent of the importance weights at the end of the training"""
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
        """Refuse values that cannot work, and combinations that do not make sense."""
        positive = "learning_rate optimizer_eps batch_size n_step replay_size replay_ratio width "
        positive += "target_interval noisy_sigma quantiles samples target_samples policy_samples "
        for name in (positive + "munchausen_temperature").split():
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")
        not_negative = "learning_starts epsilon_steps momentum max_grad_norm head_hidden pool "
        for name in (not_negative + "conservative").split():
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        shares = "gamma polyak epsilon_start epsilon_end evaluation_epsilon priority_alpha "
        for name in (shares + "priority_beta_start priority_beta_end munchausen_scale").split():
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        for name, wrong, why in (
            ("polyak", self.polyak == 0, "so the target would never move; use up to 1"),
            ("hidden", min(self.hidden, default=1) < 1, "every layer needs 1 unit or more"),
            ("atoms", self.atoms < 2, "it must be 2 or more"),
            ("v_min", not self.v_min < self.v_max, f"it must be below v_max {self.v_max}"),
            ("munchausen_floor", not self.munchausen_floor < 0, "it must be below 0"),
            (
                "replay_size",
                self.replay_size < self.batch_size,
                f"below batch_size {self.batch_size}",
            ),
        ):
            if wrong:
                raise ConfigError(f"{name} is {getattr(self, name)}; {why}")
        for field, other, why in (
            ("munchausen", self.double, "double: a softmax policy has no argmax to choose"),
            ("munchausen", self.value_rescaling, "value_rescaling: its temperature is in rewards"),
            (
                "loss mse",
                self.loss == "mse" and self.head != "q",
                f"head {self.head}, which has a loss of its own",
            ),
            ("spectral_norm", self.encoder != "impala", f"the encoder {self.encoder}, only impala"),
            ("pool", self.encoder != "impala", f"the encoder {self.encoder}, only impala"),
            ("layer_norm", self.encoder == "impala", "the encoder impala"),
        ):
            if other and (field == "loss mse" or getattr(self, field)):
                raise ConfigError(f"{field} does not go with {why}; turn one of them off")


def make_network(
    config: DQNConfig, observation_space: spaces.Box, actions: int
) -> Network[ValueOut]:
    """The Q-network that the config describes."""
    c = config
    try:
        encoder = make_encoder(
            c.encoder,
            observation_space,
            c.hidden,
            c.width,
            pool=c.pool,
            spectral_norm=c.spectral_norm,
            layer_norm=c.layer_norm,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    core = make_core("none", encoder.dim)
    streams = Streams(
        core.dim,
        actions,
        {"q": 1, "c51": c.atoms, "qr": c.quantiles, "iqn": 1}[c.head],
        hidden=c.head_hidden,
        dueling=c.dueling,
        sigma=c.noisy_sigma if c.noisy else 0.0,
        layer_norm=c.layer_norm,
    )
    head: ValueHead
    match c.head:
        case "q":
            head = QHead(streams)
        case "c51":
            head = CategoricalHead(streams, c.v_min, c.v_max)
        case "qr":
            head = QuantileHead(streams)
        case "iqn":
            head = ImplicitQuantileHead(streams, c.samples, c.policy_samples)
    return Network(encoder, core, head, observation_space)


def _make_loss(config: DQNConfig) -> losses.TDLoss:
    backup = losses.rescaled if config.value_rescaling else losses.bellman
    scalar = losses.huber_td if config.loss == "huber" else losses.mse_td
    kinds: dict[str, Any] = {"q": scalar, "c51": losses.categorical_td}
    return partial(kinds.get(config.head, losses.quantile_td), backup=backup)


class UpdateRandomness(NamedTuple):
    """All that is random in one update of a batch of N."""

    pick: Tensor  # [N] float64 in [0, 1), chooses the batch
    noise: Tensor  # [3, noise_size] standard normal: online, target, choice of the next action
    taus: Tensor  # [K, 1, N] in [0, 1), of the online network
    next_taus: Tensor  # [K', 1, N], of the target network; what the config has no use for is `pick`


class DQN:
    """A DQN over everything it needs.

    Args:
        config: cadence, loss and schedules.
        networks: online and target.
        optimizer: of what is trained in `networks`.
        memory: where transitions go and batches come from.
        action_space: gives the number of the first action.
        device: where both networks live.
        seed: of the exploration.
        steps: env steps of the whole training, for what is annealed over it.
    """

    def __init__(
        self,
        config: DQNConfig,
        networks: OnlineAndTarget[ValueOut],
        optimizer: torch.optim.Optimizer,
        memory: Replay,
        action_space: spaces.Discrete,
        device: torch.device,
        seed: int,
        steps: int,
    ) -> None:
        self.config, self.networks, self.network = config, networks, networks.network
        self.optimizer, self.memory, self.device = optimizer, memory, device
        self._actor = ValueActor(self.network, action_space, memory.obs_shape, device, seed)
        self._loss = _make_loss(config)
        self._acting_noise = generator(device, seed, 4)
        self._update_noise = generator(device, seed, 5)
        self.gradients: Gradients = self._gradients
        self.update: Update = self._update
        self.capturable = True
        streams = networks.network.head.streams
        assert isinstance(streams, Streams)
        self._noise_size = streams.noise_size
        self._beta = torch.full((1,), config.priority_beta_start, device=device)
        self._sums = torch.zeros(len(_METRICS), device=device)
        self._summed = 0
        self._no_first = torch.zeros(1, config.batch_size, dtype=torch.bool, device=device)
        self._ratio = Fraction(str(config.replay_ratio))  # exact, whatever num_envs is
        self._steps = steps
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
        """Actions [B] for obs [B, *obs]: with `explore` epsilon-greedy and noisy, else greedy."""
        noise = self._normal(self._acting_noise, len(obs)) if explore else None
        actions, state = self._actor.greedy(obs, state, first, noise)
        if explore:
            actions = self._actor.explore(actions, obs, self.epsilon)
        return actions, state, {}

    def _normal(self, generator: torch.Generator, rows: int) -> Tensor | None:
        """Standard normal [rows, noise_size], or None where no layer is noisy."""
        if not self._noise_size:
            return None
        return torch.randn(rows, self._noise_size, generator=generator, device=self.device)

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Stable-Baselines3's signature; takes one observation or a batch of them."""
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
        self.memory.add(step._replace(reward=reward, action=action))
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Do the updates that are due: floor(replay_ratio * steps since learning_starts) in all."""
        if len(self.memory) < self.config.batch_size:
            return 0
        learned = max(0, self.env_steps - self.config.learning_starts)
        due = int(self._ratio * learned) - self.updates
        self.study(due, self.env_steps / self._steps)
        return due

    def study(self, updates: int, progress: float) -> None:
        """Do so many updates from memory; `progress` is the share of the training that is over."""
        c = self.config
        if updates and c.prioritised:
            beta = linear(c.priority_beta_start, c.priority_beta_end, 1, progress)
            self._beta.fill_(beta)
        for _ in range(updates):
            self.update(*self.randomness())
            self.updates += 1
            if self.updates % c.target_interval == 0:
                self.networks.move(c.polyak)
        self._summed += updates

    def randomness(self) -> UpdateRandomness:
        """The chance of the next update."""
        c, pick = self.config, self.memory.uniforms(self.config.batch_size)
        noise = self._normal(self._update_noise, 3)
        if c.head != "iqn":
            return UpdateRandomness(pick, pick if noise is None else noise, pick, pick)
        samples = c.samples + c.target_samples
        taus = torch.rand(
            samples, 1, c.batch_size, generator=self._update_noise, device=self.device
        )
        both = taus.split([c.samples, c.target_samples])
        return UpdateRandomness(pick, pick if noise is None else noise, *both)

    def _gradients(
        self, pick: Tensor, noise: Tensor, taus: Tensor, next_taus: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of one batch; a pure function of a `UpdateRandomness` that asks for no tensor's value.

        Returns:
            Metrics [3]; the gradient of all that is trained [size], scaled down to the largest
            norm; the places of the batch [N] and their new priorities [N].
        """
        sample = self.memory.sample(pick)
        action = sample.batch.action.unsqueeze(0)
        td, out = self._td(sample.batch, *self._chances(noise, taus, next_taus))
        loss = td.loss
        if self.config.conservative:
            loss = loss + self.config.conservative * losses.conservative(out.q, action)
        if sample.scaled_probability is not None:
            loss = loss * _importance(sample.scaled_probability, self._beta)
        loss = loss.mean()
        gradient = self.networks.gradient(loss)
        norm = clip_norm(gradient, self.config.max_grad_norm)
        metrics = torch.stack([loss.detach(), losses.chosen(out.q.detach(), action).mean(), norm])
        return metrics, gradient, sample.place, td.priority[0]

    def _td(
        self, batch: Batch, online: HeadNoise, following: HeadNoise, choosing: HeadNoise
    ) -> tuple[losses.TD, ValueOut]:
        """Loss and priority [1, N] of a batch, and what the online network says of it."""
        action = batch.action.unsqueeze(0)  # [1, N], as all that follows
        reward, discount = batch.reward.unsqueeze(0), batch.discount.unsqueeze(0)
        with torch.no_grad():
            next_out = self._out(self.networks.target, batch.next_obs, following)
            if self.config.munchausen:
                here = self._out(self.networks.target, batch.obs, following)
                reward, choice = self._munchausen(here.q, next_out.q, action, reward, discount)
            elif self.config.double:
                choice = self._out(self.network, batch.next_obs, choosing).q.argmax(-1)
            else:
                choice = next_out.q.argmax(-1)
        out = self._out(self.network, batch.obs, online)
        return self._loss(out, action, reward, discount, next_out, choice), out

    @torch.no_grad()
    def td_error(self, batch: Batch) -> Tensor:
        """Mean priority of a batch without noise, a scalar: |delta|, or a distribution's loss."""
        td, _ = self._td(batch, NO_NOISE, NO_NOISE, NO_NOISE)
        return td.priority.mean()

    def _chances(self, noise: Tensor, taus: Tensor, next_taus: Tensor) -> list[HeadNoise]:
        """For the online network, the target, and the choice of the next action."""
        implicit = self.config.head == "iqn"
        drawn = (taus, next_taus, None) if implicit else (None, None, None)
        noises = noise if self._noise_size else (None, None, None)
        return [HeadNoise(n, t) for n, t in zip(noises, drawn, strict=True)]

    def _munchausen(
        self, q: Tensor, next_q: Tensor, action: Tensor, reward: Tensor, discount: Tensor
    ) -> losses.Munchausen:
        c = self.config
        scale, temperature, floor = (
            c.munchausen_scale,
            c.munchausen_temperature,
            c.munchausen_floor,
        )
        return losses.munchausen(
            q, next_q, action, reward, discount, scale=scale, temperature=temperature, floor=floor
        )

    def _update(self, *draw: Tensor) -> None:
        """One optimizer step on what a `UpdateRandomness` picks; asks for no tensor's value."""
        self.network.power_iteration()
        metrics, gradient, place, priority = self.gradients(*draw)
        take_step(self.optimizer, self.networks.trained, gradient)
        if self.memory.priorities is not None:
            self.memory.priorities.update(place, priority)
        self._sums += metrics

    def example(self) -> UpdateRandomness:
        """A draw without chance, of the shapes of all others."""
        c = self.config
        zeros = partial(torch.zeros, device=self.device)
        pick = zeros(c.batch_size, dtype=torch.float64)
        noise = zeros(3, self._noise_size) if self._noise_size else pick
        if c.head != "iqn":
            return UpdateRandomness(pick, noise, pick, pick)
        taus, next_taus = (
            zeros(c.samples, 1, c.batch_size),
            zeros(c.target_samples, 1, c.batch_size),
        )
        return UpdateRandomness(pick, noise, taus, next_taus)

    def changes(self) -> list[Tensor]:
        """The tensors that `update` changes."""
        moments = self.optimizer.state[self.networks.trained].values()
        priorities = self.memory.priorities
        kept = [] if priorities is None else priorities.tensors().values()
        return [self.networks.flat, *self.network.buffers(), *moments, *kept, self._sums]

    def _out(self, network: Network[ValueOut], obs: Tensor, chance: HeadNoise) -> ValueOut:
        """What the head says of a batch of observations [N, *obs], each value [1, N, A]."""
        state = network.initial_state(len(obs))
        return network(obs.unsqueeze(0), state, self._no_first, chance)[0]

    def metrics(self) -> dict[str, float]:
        """Means since the last call, and where the schedules stand."""
        values = {
            "exploration_rate": self.epsilon,
            "learning_rate": self.config.learning_rate,
            "replay_fill": len(self.memory) / self.memory.capacity,
        }
        if self.config.prioritised:
            values["priority_beta"] = float(self._beta)
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

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Take the weights of another training, for the target too."""
        self.load_weights(weights)
        self.networks.move(1.0)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        return {
            **self.networks.state_dict(),
            "optimizer": dict(self.optimizer.state[self.networks.trained]),
            "memory": self.memory.state_dict(),
            **self._actor.state_dict(),
            "acting_noise": self._acting_noise.get_state(),
            "update_noise": self._update_noise.get_state(),
            "beta": self._beta,
            "env_steps": self.env_steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.networks.load_state_dict(state)
        for name, moment in self.optimizer.state[self.networks.trained].items():
            moment.copy_(state["optimizer"][name])
        self.memory.load_state_dict(state["memory"])
        self._actor.load_state_dict(state)
        self._acting_noise.set_state(state["acting_noise"])
        self._update_noise.set_state(state["update_noise"])
        self._beta.copy_(state["beta"])
        self.env_steps, self.updates = state["env_steps"], state["updates"]


def _importance(scaled_probability: Tensor, beta: Tensor) -> Tensor:
    """Importance weights [N] float32, the largest 1 (arXiv 1511.05952, section 3.4)."""
    weight = scaled_probability.pow(-beta)
    return (weight / weight.max()).to(torch.float32)


def build(
    config: DQNConfig,
    observation_space: spaces.Box,
    action_space: spaces.Space[Any],
    *,
    num_envs: int,
    stack: int,
    device: torch.device,
    seed: int,
    steps: int,
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
    at_most = 2 * steps + smallest  # every second row may end a game
    memory = Replay(
        min(config.replay_size, at_most) if training else smallest,
        num_envs,
        observation_space.shape,
        observation_space.dtype,
        stack=stack,
        n_step=config.n_step,
        gamma=config.gamma,
        device=device,
        seed=int(np.random.SeedSequence([seed, 3]).generate_state(1)[0]),
        alpha=config.priority_alpha if config.prioritised else None,
    )
    with torch.random.fork_rng(
        devices=[device] if device.type == "cuda" else []
    ):  # one generator per purpose: this one for the weights
        torch.manual_seed(seed)
        network = make_network(config, observation_space, int(action_space.n)).to(device)
    networks = OnlineAndTarget(network, frozen_encoder=config.freeze == "encoder")
    optimizer = make_optimizer(
        config.optimizer,
        networks.trained,
        config.learning_rate,
        config.optimizer_eps,
        config.momentum,
    )
    return DQN(config, networks, optimizer, memory, action_space, device, seed, steps)
