"""R2D2: a recurrent DQN that replays sequences (Kapturowski et al. 2019).

https://openreview.net/forum?id=r1lyTjAqYX. A sequence starts from the recurrent state stored when
it was played. Its first `burn_in` rows only warm that state up, the rows after them are trained,
and n more rows supply their returns. DRQN (https://arxiv.org/abs/1507.06527) starts from a zero
state, without burn-in, priorities and value rescaling. Unlike the paper's, the core does not get
the last action and reward.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents import losses
from ludus.agents.agent import EnvLike
from ludus.agents.auxiliary import Auxiliary, auxiliary_network, make_auxiliary
from ludus.agents.learner import Learner, UpdateSchedule, linear
from ludus.agents.memory.following import following_rows
from ludus.agents.memory.priority import importance_weights
from ludus.agents.memory.replay import Replay
from ludus.agents.memory.sequences import SequenceBatch, Sequences
from ludus.agents.memory.step import EVERY_ENV, Extras, Step
from ludus.agents.r2d2_config import R2D2Config
from ludus.agents.returns import NStep, n_step_return
from ludus.agents.seeding import seed_of, seeded_weights
from ludus.agents.value_policy import ValuePolicy, discrete
from ludus.envs.errors import ConfigError
from ludus.networks.cores import State, make_core, same_operations
from ludus.networks.dtypes import widest_float
from ludus.networks.encoders import make_encoder
from ludus.networks.heads import QHead, QOut, Streams
from ludus.networks.network import Network, TargetNetwork, flatten_parameters


class R2D2:
    """A recurrent DQN.

    Args:
        config: loss, update schedule and exploration.
        network: the online network.
        memory: stores rows and samples sequences.
        auxiliary: further loss of the features; None without one.
        space: of one observation.
        action_space: defines the number of the first action.
        device: where networks and memory live.
        seed: of the exploration.
    """

    def __init__(
        self,
        config: R2D2Config,
        network: Network[QOut],
        memory: Sequences,
        auxiliary: Auxiliary | None,
        space: spaces.Box,
        action_space: spaces.Discrete,
        device: torch.device,
        seed: int,
    ) -> None:
        self.config, self.network, self.memory, self.device = config, network, memory, device
        self._auxiliary = auxiliary
        flat = flatten_parameters(network)
        self.target = TargetNetwork(network, flat)
        self._policy = ValuePolicy(
            network, action_space, memory.ring.staging, seed, config.evaluation_epsilon
        )
        self.learner = Learner(
            self,
            network,
            flat,
            space,
            actor=self._policy,
            optimizer=config.optimizer,
            learning_rate=config.learning_rate,
            eps=config.optimizer_eps,
            max_grad_norm=config.max_grad_norm,
            metrics=("loss", "q_values"),
            schedules=self._schedules,
            target=self.target,
            priorities=memory.priorities if config.prioritised else None,
            auxiliary=auxiliary,
        )
        self.predict, self.advise = self.learner.predict, self.learner.advise
        self.weights, self.load_weights = self.learner.weights, self.learner.load_weights
        self.start_from, self.metrics = self.learner.start_from, self.learner.metrics
        self.state_dict = self.learner.state_dict
        self.load_state_dict = self.learner.load_state_dict
        self.initial_state = network.initial_state
        self.choose, self.advice = self._policy.choose, self._policy.advice
        backup = losses.rescaled if config.value_rescaling else losses.bellman
        loss = losses.huber_td if config.loss == "huber" else losses.mse_td
        self._td_loss = partial(loss, backup=backup)
        self._schedule = UpdateSchedule(config.replay_ratio, config.learning_starts)
        unrolled = max(config.burn_in, config.sequence_length + config.n_step)  # at once
        self.capturable = same_operations(config.core, unrolled, device)
        self.env_steps, self.updates = 0, 0

    def epsilons(self, num_envs: int) -> np.ndarray:
        """Return each env's probability of a random action [B], largest first (section 2.3)."""
        c = self.config
        base = linear(c.epsilon_start, c.epsilon_end, c.epsilon_steps, self.env_steps)
        ranks = self.learner.ranks
        place = ranks.rank * num_envs + np.arange(num_envs)  # among the envs of all ranks
        ladder = place / max(1, ranks.size * num_envs - 1)
        return base ** (1 + c.epsilon_alpha * ladder)

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, envs: slice = EVERY_ENV
    ) -> tuple[np.ndarray, State, Extras]:
        """Return epsilon-greedy actions [N] for obs [N, *obs] of `envs`."""
        epsilon = self.epsilons(self.memory.ring.num_envs)[envs]
        return self._policy.act(obs, state, first, envs, epsilon=epsilon)

    def observe(self, step: Step) -> None:
        """Store one row, and the core's state before it."""
        reward = np.clip(step.reward, -1, 1) if self.config.clip_reward else step.reward
        action = step.action - self._policy.first_action
        self.memory.add(step._replace(reward=reward, action=action), step.extras["state"])
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Do the updates that are due and return their number."""
        c = self.config
        if len(self.memory) == 0:
            return 0
        due = self._schedule.due(self.env_steps, self.updates)
        for _ in range(due):
            self.learner.update(self.memory.uniforms(c.batch_size))
            if self.updates % c.target_interval == 0:
                self.target.update(c.polyak)
        return due

    def gradients(self, uniforms: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        """Compute the gradients of the sequences that `uniforms` [N] sample.

        Args:
            uniforms: [N].
            noise: of the auxiliary loss, if it has any.

        Returns:
            Metrics [2 or 3]; the gradient [size]; the sequences' indices [N], their priorities [N],
            and with priorities the largest importance weight before they were normalised.
        """
        batch = self.memory.sample(uniforms)
        loss, priority, mean_q, latents = self.loss(batch)  # [N], [N], scalar
        metrics = [mean_q]
        if self._auxiliary is not None:
            further = self._auxiliary_loss(batch, latents, *noise)  # [N]
            loss = loss + further
            metrics.append(further.detach().mean())
        largest: list[Tensor] = []
        if self.config.prioritised:
            beta = self.config.priority_beta
            weight, *largest = importance_weights(batch.probability, beta)
            loss = loss * weight
        loss = loss.mean()
        gradient = self.learner.gradient(loss)
        return torch.stack([loss.detach(), *metrics]), gradient, batch.indices, priority, *largest

    def example(self) -> tuple[Tensor]:
        """Return fixed uniforms."""
        return (
            torch.zeros(
                self.config.batch_size, dtype=widest_float(self.device), device=self.device
            ),
        )

    def loss(self, batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return each sequence's mean loss [N] and priority [N], and the mean q, a scalar.

        The last is the latents of the rows after the burn-in, [(L + n) * N, dim].
        """
        c = self.config
        online, target, latents = self._unroll(batch)  # q [L + n, N, A] each
        trained = slice(c.burn_in, c.burn_in + c.sequence_length)
        valid, action = batch.valid[trained], batch.action[trained]  # [L, N] each
        returns = self._returns(batch)  # [L, N] each
        # Values of the row that each return bootstraps from.
        rows = torch.arange(c.sequence_length, device=self.device).unsqueeze(1)
        bootstrap = (returns.steps + rows).unsqueeze(-1)
        bootstrap = bootstrap.expand(-1, -1, self._policy.num_actions)  # [L, N, A]
        next_q = target.gather(0, bootstrap)
        selection = online.detach().gather(0, bootstrap) if c.double else next_q
        q = online[: c.sequence_length]
        td = self._td_loss(
            QOut(q), action, returns.reward, returns.discount, QOut(next_q), selection.argmax(-1)
        )
        count = valid.sum(0).clamp(min=1)  # [N]
        loss = (td.loss * valid).sum(0) / count
        error = td.priority * valid
        priority = c.priority_eta * error.amax(0) + (1 - c.priority_eta) * error.sum(0) / count
        return loss, priority, losses.chosen(q.detach(), action).mean(), latents

    def _auxiliary_loss(self, batch: SequenceBatch, latents: Tensor, *noise: Tensor) -> Tensor:
        """Return each sequence's mean auxiliary loss over its trained rows, [N]."""
        assert self._auxiliary is not None
        c, steps = self.config, self._auxiliary.steps
        after = slice(c.burn_in, None)
        obs, valid = batch.obs[after], batch.valid[after]
        rows = c.sequence_length * obs.shape[1]
        following = None
        if steps:
            following = following_rows(obs, batch.action[after], valid, c.sequence_length, steps)
        loss = self._auxiliary.loss(latents[:rows], obs.flatten(0, 1)[:rows], following, *noise)
        trained = valid[: c.sequence_length]
        return (loss.view(trained.shape) * trained).sum(0) / trained.sum(0).clamp(min=1)

    def _unroll(self, batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return q of the rows after the burn-in by the online and the target network.

        The last is the online network's latents of these rows.
        """
        burn_in = self.config.burn_in
        state = batch.state
        if not self.config.stored_state:
            state = tuple(torch.zeros_like(s) for s in state)
        results = []
        for network in (self.network, self.target.network):  # each warms up its own state
            warm = state
            if burn_in:
                with torch.no_grad():
                    _, warm = network(batch.obs[:burn_in], state, batch.first[:burn_in])
            after = batch.obs[burn_in:], warm, batch.first[burn_in:]
            out, _, latents = network.forward_with_latents(*after)
            results.append((out.q, latents))
        (online, latents), (target, _) = results
        return online, target, latents

    def _returns(self, batch: SequenceBatch) -> NStep:
        """Return the n-step returns of the trained rows, [L, N] each."""
        c = self.config
        rows = torch.arange(c.sequence_length, device=self.device) + c.burn_in
        window = rows + torch.arange(c.n_step, device=self.device).unsqueeze(1)  # [n, L]
        ends = ~batch.valid[window + 1]  # [n, L, N]
        reward, discount = batch.reward[window], batch.discount[window]
        flat = n_step_return(reward.flatten(1), discount.flatten(1), ends.flatten(1))
        shape = (c.sequence_length, batch.valid.shape[1])
        return NStep(flat.reward.view(shape), flat.discount.view(shape), flat.steps.view(shape))

    def _schedules(self) -> dict[str, float]:
        """Return the current value of each schedule."""
        return {
            "exploration_rate": float(self.epsilons(self.memory.ring.num_envs).mean()),
            "replay_fill": min(1.0, self.memory.ring.written / self.memory.ring.rows),
        }

    def parts(self) -> dict[str, Any]:
        """Return the parts of the state besides networks and optimizer."""
        return {
            "memory": self.memory,
            "exploration": self._policy.exploration,
            "evaluation": self._policy.evaluation,
        }


def build(
    config: R2D2Config,
    env: EnvLike,
    *,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> R2D2:
    """Build a fresh R2D2, see `registry.build`."""
    c, space, num_envs, stack = config, env.observation_space, env.num_envs, env.stack
    action_space = discrete(env.action_space, "R2D2")
    period = c.period
    smallest = -(-(c.rows + stack) // period) * period + period  # rows
    if training and c.replay_size < smallest * num_envs:
        raise ConfigError(
            f"replay_size is {c.replay_size}; with {num_envs} envs and sequences of "
            f"{c.rows} rows it must be at least {smallest * num_envs}"
        )
    wanted = min(c.replay_size, 2 * steps + smallest * num_envs) // num_envs
    rows = max(smallest, wanted // period * period) if training else smallest
    ring = Replay(
        rows * num_envs,
        num_envs,
        space.shape,
        space.dtype,
        stack=stack,
        n_step=c.n_step,
        gamma=c.gamma,
        device=device,
        seed=0,
    )
    with seeded_weights(seed, device):
        network = _make_network(c, env, int(action_space.n)).to(device)
    alpha = c.priority_alpha if c.prioritised else 0.0
    state = network.initial_state(1)
    memory = Sequences(ring, c.rows, period, state, alpha, seed_of(seed, 3))
    trained = c.batch_size * c.sequence_length
    auxiliary = make_auxiliary(c, network, env, trained, device, seed)
    return R2D2(c, network, memory, auxiliary, space, action_space, device, seed)


def _make_network(config: R2D2Config, env: EnvLike, actions: int) -> Network[QOut]:
    c, space = config, env.observation_space
    encoder = make_encoder(c.encoder, space, c.hidden, c.width)
    core = make_core(c.core, encoder.dim, c.core_units)
    streams = Streams(core.dim, actions, hidden=c.head_hidden, dueling=c.dueling)
    return Network(encoder, core, QHead(streams), space, auxiliary_network(c, encoder, env))
