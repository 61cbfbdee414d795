"""R2D2: a recurrent DQN that replays sequences (Kapturowski et al. 2019).

https://openreview.net/forum?id=r1lyTjAqYX. The core's state was stored when the sequence was
played; the first `burn_in` rows only bring it up to date, the rows after them are learned from, and
n more give their returns. DRQN (https://arxiv.org/abs/1507.06527) is the same from a zero state,
without burn-in, priorities and rescaling. Unlike the paper's, the core does not see the last action
and reward.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents import losses
from ludus.agents.agent import Advice, Extras, Step
from ludus.agents.memory.replay import Replay
from ludus.agents.memory.sequences import SequenceBatch, Sequences
from ludus.agents.optimizer import OptimizerName, clip_norm, make_optimizer, take_step
from ludus.agents.returns import n_step_return
from ludus.agents.schedules import linear
from ludus.agents.target_network import OnlineAndTarget
from ludus.agents.value_policy import ValueActor
from ludus.envs.errors import ConfigError
from ludus.networks.cores import State, make_core
from ludus.networks.encoders import EncoderName, make_encoder
from ludus.networks.heads import QHead, QOut, Streams
from ludus.networks.network import Network

_METRICS = ("loss", "q_values", "grad_norm")


@dataclass(frozen=True)
class R2D2Config:
    """Every choice of an R2D2."""

    encoder: EncoderName = "mlp"
    """network from observation to features"""
    hidden: tuple[int, ...] = (64,)
    """units of the MLP encoder's layers"""
    width: int = 1
    """IMPALA encoder: multiple of the paper's channels"""
    core: Literal["lstm", "gru"] = "lstm"
    """kind of memory"""
    core_units: int = 64
    """size of its state"""
    head_hidden: int = 0
    """units of the head's hidden layer; 0 for none"""
    dueling: bool = True
    """split the head into value and advantage"""
    double: bool = True
    """the online network chooses the action that the target network values"""
    value_rescaling: bool = True
    """learn values on the scale of h(x) = sign(x) (sqrt(|x| + 1) - 1) + x / 1000"""
    loss: Literal["huber", "mse"] = "mse"
    """of the temporal-difference error"""
    optimizer: OptimizerName = "adam"
    """rmsprop is centred as the 2015 DQN's, with eps outside the root"""
    learning_rate: float = 1e-4
    """step size of the optimizer"""
    optimizer_eps: float = 1e-3
    """added to the denominator (adam, radam, rmsprop, adagrad)"""
    max_grad_norm: float = 10.0
    """gradients are scaled down to this L2 norm; 0 for no limit"""
    batch_size: int = 64
    """sequences an update"""
    sequence_length: int = 80
    """rows of a sequence that are learned from; neighbours overlap by half of them"""
    burn_in: int = 40
    """rows before them that only bring the core's state up to date"""
    stored_state: bool = True
    """begin from the state that was stored when the sequence was played, else from zeros"""
    gamma: float = 0.997
    """discount per step"""
    n_step: int = 5
    """steps of the return before bootstrapping"""
    clip_reward: bool = False
    """learn from rewards clipped to [-1, 1]; scores are never clipped"""
    replay_size: int = 100_000
    """transitions kept"""
    prioritised: bool = True
    """replay in proportion to priority^alpha, corrected by importance weights"""
    priority_alpha: float = 0.9
    """exponent of the priorities"""
    priority_beta: float = 0.6
    """exponent of the importance weights"""
    priority_eta: float = 0.9
    """priority of a sequence: eta * largest + (1 - eta) * mean error"""
    learning_starts: int = 1_000
    """env steps before the first update"""
    replay_ratio: float = 0.01
    """updates per env step"""
    target_interval: int = 2_500
    """updates between two steps of the target network towards the online one"""
    polyak: float = 1.0
    """share of the online network in a step of the target; 1 is a copy"""
    epsilon_start: float = 0.4
    """probability of a random action at first"""
    epsilon_end: float = 0.4
    """probability of a random action at last"""
    epsilon_steps: int = 1
    """env steps from first to last"""
    epsilon_alpha: float = 7.0
    """env i of B explores with epsilon^(1 + alpha * i / (B - 1)); 0 for all alike"""
    evaluation_epsilon: float = 0.01
    """probability of a random action in `predict(deterministic=False)`"""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        positive = "width core_units learning_rate optimizer_eps batch_size sequence_length n_step "
        for name in (positive + "replay_size replay_ratio target_interval polyak").split():
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and finite")
        not_negative = "head_hidden max_grad_norm burn_in learning_starts epsilon_steps "
        for name in (not_negative + "epsilon_alpha").split():
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        shares = "gamma polyak priority_alpha priority_beta priority_eta epsilon_start epsilon_end "
        for name in (shares + "evaluation_epsilon").split():
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if any(units < 1 for units in self.hidden):
            raise ConfigError(f"hidden is {self.hidden}; every layer needs 1 unit or more")

    @property
    def period(self) -> int:
        """Rows between the starts of two neighbouring sequences."""
        return max(1, self.sequence_length // 2)

    @property
    def rows(self) -> int:
        """Rows that an update reads of each sequence."""
        return self.burn_in + self.sequence_length + self.n_step


class R2D2:
    """A recurrent DQN over everything it needs.

    Args:
        config: cadence, loss and schedules.
        networks: online and target.
        optimizer: of what is trained in `networks`.
        memory: where rows go and sequences come from.
        action_space: gives the number of the first action.
        device: where both networks live.
        seed: of the exploration.
    """

    def __init__(
        self,
        config: R2D2Config,
        networks: OnlineAndTarget[QOut],
        optimizer: torch.optim.Optimizer,
        memory: Sequences,
        action_space: spaces.Discrete,
        device: torch.device,
        seed: int,
    ) -> None:
        self.config, self.networks, self.network = config, networks, networks.network
        self.optimizer, self.memory, self.device = optimizer, memory, device
        self._actor = ValueActor(self.network, action_space, memory.ring.obs_shape, device, seed)
        backup = losses.rescaled if config.value_rescaling else losses.bellman
        loss = losses.huber_td if config.loss == "huber" else losses.mse_td
        self._loss = partial(loss, backup=backup)
        self._sums = torch.zeros(len(_METRICS), device=device)
        self._summed = 0
        self._ratio = Fraction(str(config.replay_ratio))  # exact, whatever num_envs is
        self.env_steps, self.updates = 0, 0

    # -- acting -------------------------------------------------------------------------------

    def epsilons(self, num_envs: int) -> np.ndarray:
        """Probability of a random action [B]: the first env explores most (paper, section 2.3)."""
        c = self.config
        base = linear(c.epsilon_start, c.epsilon_end, c.epsilon_steps, self.env_steps)
        ladder = np.arange(num_envs) / max(1, num_envs - 1)
        return base ** (1 + c.epsilon_alpha * ladder)

    def initial_state(self, num_envs: int) -> State:
        """The core's state before an episode."""
        return self.network.initial_state(num_envs)

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, explore: bool
    ) -> tuple[np.ndarray, State, Extras]:
        """Actions [B] for obs [B, *obs]; the state before the row goes into the extras."""
        actions, after = self._actor.greedy(obs, state, first)
        if explore:
            actions = self._actor.explore(actions, obs, self.epsilons(len(obs)))
        return actions, after, {"state": state}

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Stable-Baselines3's signature; the state must be given back at the next call."""
        epsilon = 0.0 if deterministic else self.config.evaluation_epsilon
        return self._actor.predict(observation, state, episode_start, epsilon)

    def advise(
        self, observation: np.ndarray, state: Any = None, episode_start: np.ndarray | None = None
    ) -> tuple[Advice, Any]:
        """The values of the actions, and the state after."""
        return self._actor.advise(observation, state, episode_start)

    # -- learning -----------------------------------------------------------------------------

    def observe(self, step: Step) -> None:
        """Remember one row, and the core's state before it."""
        reward = np.clip(step.reward, -1, 1) if self.config.clip_reward else step.reward
        action = step.action - self._actor.first_action
        self.memory.add(step._replace(reward=reward, action=action), step.extras["state"])
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Do the updates that are due: floor(replay_ratio * steps since learning_starts) in all."""
        c = self.config
        if len(self.memory) == 0:
            return 0
        due = int(self._ratio * max(0, self.env_steps - c.learning_starts)) - self.updates
        for _ in range(due):
            self.update(self.memory.uniforms(c.batch_size))
            self.updates += 1
            if self.updates % c.target_interval == 0:
                self.networks.move(c.polyak)
        self._summed += due
        return due

    def update(self, chance: Tensor) -> None:
        """One optimizer step on the sequences that `chance` [N] picks."""
        batch = self.memory.sample(chance)
        loss, priority, q = self.loss(batch)  # [N], [N], mean
        if self.config.prioritised:
            weight = batch.scaled_probability.pow(-self.config.priority_beta)
            loss = loss * (weight / weight.max()).to(torch.float32)
        loss = loss.mean()
        gradient = self.networks.gradient(loss)
        norm = clip_norm(gradient, self.config.max_grad_norm)
        take_step(self.optimizer, self.networks.trained, gradient)
        if self.config.prioritised:
            self.memory.priorities.update(batch.place, priority)
        self._sums += torch.stack([loss.detach(), q, norm])

    def loss(self, batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss of each sequence [N], its priority [N], and the mean q."""
        c = self.config
        online, target = self._unroll(batch)  # q [L + n, N, A] each
        valid = batch.valid[c.burn_in : c.burn_in + c.sequence_length]  # [L, N]
        reward, discount, ahead = self._returns(batch)  # [L, N] each
        later = (ahead + torch.arange(len(ahead), device=self.device).unsqueeze(1)).unsqueeze(-1)
        later = later.expand(-1, -1, self._actor.num_actions)
        next_q = target.gather(0, later)  # [L, N, A]
        chooser = online.detach().gather(0, later) if c.double else next_q
        action = batch.action[c.burn_in : c.burn_in + c.sequence_length]
        q = online[: c.sequence_length]
        td = self._loss(QOut(q), action, reward, discount, QOut(next_q), chooser.argmax(-1))
        count = valid.sum(0).clamp(min=1)  # [N]
        loss = (td.loss * valid).sum(0) / count
        error = td.priority * valid
        priority = c.priority_eta * error.amax(0) + (1 - c.priority_eta) * error.sum(0) / count
        return loss, priority, losses.chosen(q.detach(), action).mean()

    def _unroll(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Values of the rows after the burn-in, by both networks; each has a state of its own."""
        burn, c = self.config.burn_in, self.config
        state = batch.state if c.stored_state else tuple(s.zero_() for s in batch.state)
        values = []
        for network in (self.network, self.networks.target):
            warm = state
            if burn:
                with torch.no_grad():
                    _, warm = network(batch.obs[:burn], state, batch.first[:burn])
            out, _ = network(batch.obs[burn:], warm, batch.first[burn:])
            values.append(out.q)
        return values[0], values[1]

    def _returns(self, batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Rewards, discounts and steps ahead of the rows that are learned from, [L, N] each."""
        c = self.config
        rows = torch.arange(c.sequence_length, device=self.device) + c.burn_in
        window = rows + torch.arange(c.n_step, device=self.device).unsqueeze(1)  # [n, L]
        ends = ~batch.valid[window + 1]
        parts = (batch.reward[window], batch.discount[window], ends)  # [n, L, N]
        back = n_step_return(*(part.flatten(1) for part in parts))
        shape = (c.sequence_length, batch.valid.shape[1])
        return back.reward.view(shape), back.discount.view(shape), back.steps.view(shape)

    def metrics(self) -> dict[str, float]:
        """Means since the last call, and where the schedules stand."""
        values = {
            "exploration_rate": float(self.epsilons(self.memory.ring.num_envs).mean()),
            "learning_rate": self.config.learning_rate,
            "replay_fill": min(1.0, self.memory.ring.written / self.memory.ring.rows),
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
        self.env_steps, self.updates = state["env_steps"], state["updates"]


def build(
    config: R2D2Config,
    observation_space: spaces.Box,
    action_space: spaces.Space[Any],
    *,
    num_envs: int,
    stack: int,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> R2D2:
    """A fresh R2D2 for an env; without `training` its memory is as small as can be.

    Raises:
        ConfigError: the action space is not Discrete, or the network or memory does not fit.
    """
    if not isinstance(action_space, spaces.Discrete):
        raise ConfigError(f"R2D2 needs a Discrete action space; this env has {action_space}")
    period = config.period
    smallest = -(-(config.rows + stack) // period) * period + period  # rows
    wanted = min(config.replay_size, 2 * steps + smallest * num_envs) // num_envs
    if training and config.replay_size < smallest * num_envs:
        raise ConfigError(
            f"replay_size is {config.replay_size}; with {num_envs} envs and sequences of "
            f"{config.rows} rows it must be at least {smallest * num_envs}"
        )
    rows = max(smallest, wanted // period * period) if training else smallest
    ring = Replay(
        rows * num_envs,
        num_envs,
        observation_space.shape,
        observation_space.dtype,
        stack=stack,
        n_step=config.n_step,
        gamma=config.gamma,
        device=device,
        seed=0,
    )
    with torch.random.fork_rng(
        devices=[device] if device.type == "cuda" else []
    ):  # one generator per purpose: this one for the weights
        torch.manual_seed(seed)
        network = _make_network(config, observation_space, int(action_space.n)).to(device)
    sampling = int(np.random.SeedSequence([seed, 3]).generate_state(1)[0])
    alpha = config.priority_alpha if config.prioritised else 0.0
    memory = Sequences(ring, config.rows, period, network.initial_state(1), alpha, sampling)
    networks = OnlineAndTarget(network, frozen_encoder=False)
    optimizer = make_optimizer(
        config.optimizer, networks.trained, config.learning_rate, config.optimizer_eps
    )
    return R2D2(config, networks, optimizer, memory, action_space, device, seed)


def _make_network(config: R2D2Config, space: spaces.Box, actions: int) -> Network[QOut]:
    c = config
    try:
        encoder = make_encoder(c.encoder, space, c.hidden, c.width)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    core = make_core(c.core, encoder.dim, c.core_units)
    streams = Streams(core.dim, actions, hidden=c.head_hidden, dueling=c.dueling)
    return Network(encoder, core, QHead(streams), space)
