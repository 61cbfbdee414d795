"""Deep Q-network (Mnih et al. 2015, https://doi.org/10.1038/nature14236) and its variants.

target = reward + discount * q_target(next_obs, argmax_a q(next_obs, a))

The argmax is the online network's with `double` (https://arxiv.org/abs/1509.06461), else the target
network's. Every other variant changes one part: the source of batches (`prioritised`), the outputs
of the head (`dueling`, `noisy`, `head`), or the target (`n_step`, `munchausen`, `value_rescaling`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents import losses
from ludus.agents.agent import EnvLike
from ludus.agents.augmentation import Augmentation
from ludus.agents.auxiliary import Auxiliary, make_auxiliary
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.dqn_network import make_network
from ludus.agents.horizon import annealed
from ludus.agents.learner import Learner, UpdateSchedule, exponential, linear
from ludus.agents.memory.following import Following
from ludus.agents.memory.priority import importance_weights
from ludus.agents.memory.replay import Batch, Replay
from ludus.agents.memory.step import EVERY_ENV, Extras, Step
from ludus.agents.resets import Resets
from ludus.agents.seeding import generator, seed_of, seeded_weights
from ludus.agents.value_heads import HeadKind, head_kind
from ludus.agents.value_policy import ValuePolicy, discrete
from ludus.envs.errors import ConfigError
from ludus.networks.cores import State
from ludus.networks.dtypes import widest_float
from ludus.networks.encoders import (
    has_statistics,
    update_statistics,
)
from ludus.networks.heads import NO_NOISE, HeadNoise, Streams, ValueOut
from ludus.networks.network import Network, TargetNetwork, flatten_parameters
from ludus.networks.running_stats import leave_constants

_MEASURED = 256  # transitions by which observations are normalised


class UpdateRandomness(NamedTuple):
    """Everything random in one update of a batch of N; an unused field is empty."""

    uniforms: Tensor  # [N] float64 in [0, 1), selects the batch
    noise: Tensor  # [3, noise_size] standard normal: online, target, choice of the next action
    taus: Tensor  # [K, 1, N] in [0, 1), of the online network
    next_taus: Tensor  # [K', 1, N] in [0, 1), of the target network
    # of obs, next_obs and the rows after that an auxiliary loss looks at, see `Augmentation`
    augmentation: Tensor  # [2 + K, N, 3]


class DQN:
    """A DQN.

    Args:
        config: loss, update schedule and exploration.
        network: the online network.
        fresh: returns another with the weights of a seed.
        head: the kind of its head.
        memory: stores transitions and samples batches.
        auxiliary: further loss of the features; None without one.
        space: of one observation.
        action_space: defines the number of the first action.
        device: where networks and memory live.
        seed: of weights, exploration and noise.
        steps: env steps of the whole training, for what is annealed over it.
    """

    def __init__(
        self,
        config: DQNConfig,
        network: Network[ValueOut],
        fresh: Callable[[int], Network[ValueOut]],
        head: HeadKind,
        memory: Replay,
        auxiliary: Auxiliary | None,
        space: spaces.Box,
        action_space: spaces.Discrete,
        device: torch.device,
        seed: int,
        steps: int,
    ) -> None:
        self.config, self.memory, self.device = config, memory, device
        self._online, self._auxiliary = network, auxiliary
        flat = flatten_parameters(network)
        self.target = TargetNetwork(network, flat)
        self.network = self.target.network if config.act_by_target else network  # that acts
        self._policy = ValuePolicy(
            self.network, action_space, memory.staging, seed, config.evaluation_epsilon
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
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            metrics=("loss", "q_values"),
            schedules=self._schedules,
            target=self.target,
            acts_by_target=config.act_by_target,
            priorities=memory.priorities,
            auxiliary=auxiliary,
            frozen_encoder=config.freeze == "encoder",
        )
        self.predict, self.advise = self.learner.predict, self.learner.advise
        self.weights, self.load_weights = self.learner.weights, self.learner.load_weights
        self.start_from, self.metrics = self.learner.start_from, self.learner.metrics
        self.state_dict = self.learner.state_dict
        self.load_state_dict = self.learner.load_state_dict
        self.initial_state = network.initial_state
        self.choose, self.advice = self._policy.choose, self._policy.advice
        self._head = head
        streams = network.head.streams
        assert isinstance(streams, Streams)
        self._noise_size = streams.noise_size
        self._acting_noise = generator(device, seed, 4)
        self._update_noise = generator(device, seed, 5)
        self._beta = torch.full((1,), config.priority_beta_start, device=device)
        self._no_resets = torch.zeros(1, config.batch_size, dtype=torch.bool, device=device)
        self._resets = Resets(config, fresh, seed) if config.reset_interval else None
        self._horizon = annealed(config, device)
        memory.horizon = None if self._horizon is None else self._horizon.present
        self._schedule = UpdateSchedule(config.replay_ratio, config.learning_starts)
        self._steps = steps
        augmentation = Augmentation(config.random_shift, config.intensity_noise)
        self._augmentation = augmentation if any(augmentation) else None
        self._normalises = False  # whether the encoder is known to have statistics
        self.capturable = True
        self.env_steps, self.updates = 0, 0

    @property
    def epsilon(self) -> float:
        """Probability of a random action at this env step; 1 before learning starts."""
        c = self.config
        if c.reward_free or self.env_steps < c.learning_starts:
            return 1.0
        if c.epsilon_off and self.env_steps >= c.epsilon_off:
            return 0.0
        decay = linear if c.epsilon_decay == "linear" else exponential
        return decay(c.epsilon_start, c.epsilon_end, c.epsilon_steps, self.env_steps)

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, envs: slice = EVERY_ENV
    ) -> tuple[np.ndarray, State, Extras]:
        """Return actions [N] for obs [N, *obs] of `envs`, epsilon-greedy, with noisy layers."""
        noise = self._sample_noise(self._acting_noise, len(obs))
        return self._policy.act(obs, state, first, envs, epsilon=self.epsilon, noise=noise)

    def _sample_noise(self, source: torch.Generator, rows: int) -> Tensor | None:
        """Return standard normal [rows, noise_size]; None without noisy layers."""
        if not self._noise_size:
            return None
        return torch.randn(rows, self._noise_size, generator=source, device=self.device)

    def observe(self, step: Step) -> None:
        """Store one row."""
        reward = np.clip(step.reward, -1, 1) if self.config.clip_reward else step.reward
        action = step.action - self._policy.first_action
        self.memory.add(step._replace(reward=reward, action=action))
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Do the updates that are due and return their number."""
        due = self._schedule.due(self.env_steps, self.updates)
        if not due or not self.learner.agree(len(self.memory) >= self.config.batch_size):
            return 0
        self.study(due, self.env_steps / self._steps)
        return due

    def study(self, updates: int, progress: float) -> None:
        """Do updates from memory; `progress` is the finished share of the training."""
        c = self.config
        if updates and c.normalize_observation and not self._normalises:
            self._measure_observations()
        if updates and c.prioritised:
            beta = linear(c.priority_beta_start, c.priority_beta_end, 1, progress)
            self._beta.fill_(beta)
        for _ in range(updates):
            if self._horizon is not None:
                self._horizon.move(self._updates_since_reset)
            self.learner.update(*self.randomness())
            if self.updates % c.target_interval == 0:
                self.target.update(c.polyak)
            if self._resets is not None and self._resets.due(self.updates, progress):
                self._resets.reset(self.learner)

    @property
    def _updates_since_reset(self) -> int:
        return self.updates - (0 if self._resets is None else self._resets.latest)

    def _measure_observations(self) -> None:
        """Set the mean and deviation of observations, unless they are set, from the memory.

        They stay as they are: if they moved, so would all values at once, in the target, too.
        """
        encoder = self._online.encoder
        if not has_statistics(encoder):
            spread = torch.arange(_MEASURED, dtype=widest_float(self.device), device=self.device)
            with torch.no_grad():
                obs = self.memory.sample(spread / _MEASURED).batch.obs
                update_statistics(encoder, obs, self.learner.ranks.moments)
                leave_constants(encoder)
            self.target.update(1.0)
        self._normalises = True

    def randomness(self) -> UpdateRandomness:
        """Sample the randomness of the next update."""
        uniforms = self.memory.uniforms(self.config.batch_size)
        noise = self._sample_noise(self._update_noise, 3)
        return self._randomness(uniforms, noise, self._update_noise)

    def example(self) -> UpdateRandomness:
        """Return fixed randomness, of the shapes of all other."""
        uniforms = torch.zeros(
            self.config.batch_size, dtype=widest_float(self.device), device=self.device
        )
        shape = (3, self._noise_size)
        noise = torch.zeros(shape, device=self.device) if self._noise_size else None
        return self._randomness(uniforms, noise, None)

    def _randomness(
        self, uniforms: Tensor, noise: Tensor | None, source: torch.Generator | None
    ) -> UpdateRandomness:
        taus = next_taus = unused = torch.zeros(0, device=self.device)
        if self._head.taus:
            taus, next_taus = self._head.sample_taus(len(uniforms), source, self.device)
        noise, augmentation = unused if noise is None else noise, unused
        if self._augmentation is not None:
            images = 2 + self.config.rows_ahead  # for each transition
            augmentation = self._augmentation.sample(images, len(uniforms), source, self.device)
        return UpdateRandomness(uniforms, noise, taus, next_taus, augmentation)

    def gradients(
        self,
        uniforms: Tensor,
        noise: Tensor,
        taus: Tensor,
        next_taus: Tensor,
        augmentation: Tensor,
        *codes: Tensor,
    ) -> tuple[Tensor, ...]:
        """Compute the gradients of one batch. Pure, and never synchronises with the device.

        Args:
            uniforms: see `UpdateRandomness`, as all arguments but the last.
            codes: random input of the auxiliary loss, if it has any.

        Returns:
            Metrics [2 or 3]; the gradient [size]; the indices of the batch [N], their new
            priorities [N], and with priorities the largest importance weight before they were
            normalised.
        """
        sample = self.memory.sample(uniforms)
        batch = sample.batch
        if self._augmentation is not None:
            batch = batch._replace(
                obs=self._augmentation(batch.obs, augmentation[0]),
                next_obs=self._augmentation(batch.next_obs, augmentation[1]),
            )
        action = batch.action.unsqueeze(0)  # [1, N]
        noises = self._head_noises(noise, taus, next_taus)
        td, out, latents = self._td(batch, *noises)
        loss = 0.0 * td.loss if self.config.reward_free else td.loss
        metrics = [losses.chosen(out.q.detach(), action).mean()]
        if self.config.conservative:
            loss = loss + self.config.conservative * losses.conservative(out.q, action)
        if self._auxiliary is not None:
            following = self._following(sample.indices, augmentation)
            further = self._auxiliary.loss(latents, batch.obs, following, *codes)  # [N]
            loss = loss + further
            metrics.append(further.detach().mean())
        largest: list[Tensor] = []
        if sample.probability is not None:
            weight, *largest = importance_weights(sample.probability, self._beta)
            loss = loss * weight
        loss = loss.mean()
        gradient = self.learner.gradient(loss)
        return (
            torch.stack([loss.detach(), *metrics]),
            gradient,
            sample.indices,
            td.priority[0],
            *largest,
        )

    def _following(self, indices: Tensor, augmentation: Tensor) -> Following | None:
        """Return the augmented rows after transitions that the auxiliary loss looks at."""
        if self._auxiliary is None or not self._auxiliary.steps:
            return None
        following = self.memory.following(indices, self._auxiliary.steps)
        if self._augmentation is None:
            return following
        obs = self._augmentation(following.obs, augmentation[2:].flatten(0, 1))
        return following._replace(obs=obs)

    def _td(
        self, batch: Batch, online: HeadNoise, target: HeadNoise, selection: HeadNoise
    ) -> tuple[losses.TD, ValueOut, Tensor]:
        """Return loss and priority [1, N] of a batch, and the online network's output.

        The last is the online network's latents of the observations, [N, dim].
        """
        # The network has a time dimension; transitions are sequences of one row, [1, N].
        action = batch.action.unsqueeze(0)
        reward, discount = batch.reward.unsqueeze(0), batch.discount.unsqueeze(0)
        out, latents = self._forward(self._online, batch.obs, online)
        with torch.no_grad():
            next_out, _ = self._forward(self.target.network, batch.next_obs, target)
            next_action = next_out.q.argmax(-1)  # [1, N], or a policy [1, N, A]
            if self.config.munchausen:
                here = out.q.detach()
                if not self.config.munchausen_online:
                    here = self._forward(self.target.network, batch.obs, target)[0].q
                reward, next_action = losses.munchausen(
                    here,
                    next_out.q,
                    action,
                    reward,
                    discount,
                    scale=self.config.munchausen_scale,
                    temperature=self.config.munchausen_temperature,
                    floor=self.config.munchausen_floor,
                )
            elif self.config.double:
                chosen, _ = self._forward(self._online, batch.next_obs, selection)
                next_action = chosen.q.argmax(-1)
        td = self._head.loss(out, action, reward, discount, next_out, next_action)
        return td, out, latents

    @torch.no_grad()
    def td_error(self, batch: Batch) -> Tensor:
        """Return the mean priority of a batch without noise: |delta|, or a distribution's loss."""
        td, _, _ = self._td(batch, NO_NOISE, NO_NOISE, NO_NOISE)
        return td.priority.mean()

    def _head_noises(
        self, noise: Tensor, taus: Tensor, next_taus: Tensor
    ) -> tuple[HeadNoise, HeadNoise, HeadNoise]:
        """Return the head's random input for the online, target and selecting forward pass."""
        layers = noise.unbind() if self._noise_size else (None, None, None)
        online, target = (taus, next_taus) if self._head.taus else (None, None)
        return (
            HeadNoise(layers[0], online),
            HeadNoise(layers[1], target),
            HeadNoise(layers[2], None),
        )

    def _forward(
        self, network: Network[ValueOut], obs: Tensor, noise: HeadNoise
    ) -> tuple[ValueOut, Tensor]:
        """Return the head's output for obs [N, *obs], values [1, N, A], and latents [N, dim]."""
        state = network.initial_state(len(obs))
        rows = obs.unsqueeze(0), state, self._no_resets
        out, _, latents = network.forward_with_latents(*rows, noise)
        return out, latents

    def _schedules(self) -> dict[str, float]:
        """Return the current value of each schedule."""
        values = {
            "exploration_rate": self.epsilon,
            "replay_fill": len(self.memory) / self.memory.capacity,
        }
        if self.config.prioritised:
            values["priority_beta"] = float(self._beta)
        if self._horizon is not None:
            values["n_step"], values["gamma"] = self._horizon.at(self._updates_since_reset)
        return values

    def parts(self) -> dict[str, Any]:
        """Return the parts of the state besides networks and optimizer."""
        return {
            **({} if self._resets is None else self._resets.parts()),
            "memory": self.memory,
            "exploration": self._policy.exploration,
            "evaluation": self._policy.evaluation,
            "acting_noise": self._acting_noise,
            "update_noise": self._update_noise,
            "beta": self._beta,
        }


def build(
    config: DQNConfig,
    env: EnvLike,
    *,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> DQN:
    """Build a fresh DQN, see `registry.build`."""
    c, space, num_envs, stack = config, env.observation_space, env.num_envs, env.stack
    action_space = discrete(env.action_space, "DQN")
    Augmentation(c.random_shift, c.intensity_noise).check_fits(space.shape)
    # At worst, in episodes of one step, every second row only ends an episode.
    usable = (c.replay_size // num_envs - c.successors - stack + 1) * num_envs // 2
    if usable < c.batch_size:
        raise ConfigError(
            f"replay_size is {c.replay_size}; with {num_envs} envs, stack {stack}, "
            f"{c.successors} rows after each and batch_size {c.batch_size} it must be at least "
            f"{2 * c.batch_size + num_envs * (c.successors + stack)}"
        )
    smallest = num_envs * (c.successors + stack + 1)
    largest = 2 * steps + smallest  # all rows of the training
    memory = Replay(
        min(c.replay_size, largest) if training else smallest,
        num_envs,
        space.shape,
        space.dtype,
        stack=stack,
        n_step=c.longest_n_step,
        gamma=c.gamma,
        device=device,
        seed=seed_of(seed, 3),
        alpha=c.priority_alpha if c.prioritised else None,
        rows_ahead=c.rows_ahead,
    )
    head = head_kind(c)

    def fresh(seed: int) -> Network[ValueOut]:
        with seeded_weights(seed, device):
            return make_network(c, head, env, int(action_space.n)).to(device)

    network = fresh(seed)
    auxiliary = make_auxiliary(c, network, env, c.batch_size, device, seed)
    return DQN(c, network, fresh, head, memory, auxiliary, space, action_space, device, seed, steps)
