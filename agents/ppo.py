"""Proximal policy optimisation (Schulman et al. 2017, https://arxiv.org/abs/1707.06347).

The choices of "What matters in on-policy RL" (https://arxiv.org/abs/2006.05990) and "The 37
implementation details of PPO" are fields. A2C is the preset with one epoch and one minibatch
(https://arxiv.org/abs/2205.09123), and IMPALA (https://arxiv.org/abs/1802.01561) is A2C with
V-trace, on rollouts that the policy of one round before has played.

Learning overlaps the env's step, so the first two rows of a rollout were played by the policy
before the last updates. Their stored log-probabilities are those of that policy, and they are
learned from as rows of a later epoch are: when the first update begins, the ratios of 8% of these
rows lie outside the clip range on CartPole, of 9% on MinAtar's Breakout and of 16% on Pong with
`ppo_small` (means over a training), where all other ratios are 1. That is 1 row in 16 with rollouts
of 32 rows, and 1 in 64 with 128. `approx_kl`, `clip_fraction`, `target_kl` and `desired_kl` leave
these rows out: they measure the newest updates alone. With `overlap` all rows were played one round
before, and `approx_kl` and `clip_fraction` include its updates, unless V-trace takes the
probabilities anew.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import EnvLike
from ludus.agents.auxiliary import Auxiliary, make_auxiliary
from ludus.agents.learner import Learner, linear
from ludus.agents.losses import clipped_surrogate, clipped_value
from ludus.agents.memory.rollout import Rollout
from ludus.agents.memory.step import Step
from ludus.agents.overlap import Overlap
from ludus.agents.ppo_config import PPOConfig
from ludus.agents.ppo_network import make_network
from ludus.agents.returns import gae, vtrace
from ludus.agents.sampling_policy import SamplingPolicy
from ludus.agents.seeding import seed_of, seeded_weights
from ludus.envs.dict_observation import legal_actions
from ludus.envs.errors import TrainingError
from ludus.networks.cores import same_operations
from ludus.networks.encoders import (
    has_statistics,
    update_statistics,
)
from ludus.networks.network import Network, flatten_parameters
from ludus.networks.policies import ActionKind, PolicyHead, PolicyOut
from ludus.networks.running_stats import RewardScale, RunningMeanStd

_METRICS = (  # SB3's names
    "loss",
    "policy_gradient_loss",
    "value_loss",
    "entropy_loss",
    "approx_kl",
    "clip_fraction",
    "explained_variance",  # of the rollout
)
_KL = _METRICS.index("approx_kl")
_OLDER_ROWS = 2  # of a rollout, played by the policy before the last updates


class PPO:
    """A PPO.

    Args:
        config: losses, rollouts and schedules.
        network: policy and value.
        rollout: stores rows and returns minibatches; has the extras log_prob and value.
        playing: another for the rows that are played while the agent learns; None with
            `config.overlap` off.
        auxiliary: further loss of the features; None without one.
        space: of one observation.
        kind: of the actions.
        device: where network and rollout live.
        seed: of the sampled actions.
        steps: env steps of the whole training, for the schedules.
    """

    def __init__(
        self,
        config: PPOConfig,
        network: Network[PolicyOut],
        rollout: Rollout,
        playing: Rollout | None,
        auxiliary: Auxiliary | None,
        space: spaces.Box,
        kind: ActionKind,
        device: torch.device,
        seed: int,
        steps: int,
    ) -> None:
        self.config, self.network, self.rollout, self.kind = config, network, rollout, kind
        self._auxiliary = auxiliary
        self.playing = rollout if playing is None else playing
        self.device, self._space = device, space
        # Tensors, because a captured update reads them.
        self._rate = torch.tensor(config.learning_rate, device=device)
        self._clip = torch.tensor(config.clip_range, device=device)
        flat = flatten_parameters(network)
        self._overlap = None if playing is None else Overlap(network, flat)
        staging = self.playing.staging
        self._policy = SamplingPolicy(network, kind, space, staging, seed)
        self._actor = self._policy
        if self._overlap is not None:
            self._actor = SamplingPolicy(self._overlap.network, kind, space, staging, seed)
        self.learner = Learner(
            self,
            network,
            flat,
            space,
            actor=self._actor,
            optimizer=config.optimizer,
            learning_rate=self._rate,
            eps=config.optimizer_eps,
            max_grad_norm=config.max_grad_norm,
            metrics=_METRICS,
            overlap=self._overlap,
            auxiliary=auxiliary,
            schedules=self._schedules,
        )
        self.predict, self.advise = self.learner.predict, self.learner.advise
        self.weights, self.load_weights = self.learner.weights, self.learner.load_weights
        self.start_from, self.metrics = self.learner.start_from, self.learner.metrics
        self.state_dict = self.learner.state_dict
        self.load_state_dict = self.learner.load_state_dict
        self.initial_state = network.initial_state
        self.choose, self.advice = self._policy.choose, self._policy.advice
        self.act = self._actor.act
        self.capturable = same_operations(config.core, rollout.length, device)
        self._target = rollout.extras["target"][:-1]  # [T, B]
        self._advantage = torch.zeros_like(self._target)  # [T, B], not normalised
        self._newer = torch.ones_like(self._target)  # [T, B], 0 in rows of the policy before
        self._newer[: 0 if config.vtrace else _OLDER_ROWS] = 0.0
        # Of a rollout's decisions; minibatches have more or fewer, and an epoch's mean is exact.
        self._newer_share = torch.ones((), device=device)
        self._reward_scale = RewardScale(config.gamma, rollout.num_envs)
        self._returns = RunningMeanStd()
        self._explained = torch.zeros((), device=device)
        self._normalises = False  # whether the encoder is known to have statistics
        self._steps = steps
        self.example = rollout.example
        self.env_steps, self.updates = 0, 0

    def observe(self, step: Step) -> None:
        """Store one row, with the action as the policy sampled it."""
        c, reward = self.config, step.reward
        reward = np.clip(reward, -1, 1) if c.clip_reward else reward
        if c.normalize_reward:
            join = self.learner.row_ranks.moments
            reward = self._reward_scale(reward, step.valid, step.terminated, join)
        row = step._replace(reward=reward, action=step.extras["action"])
        self.playing.add(row, step.extras["state"])
        self.env_steps += int(step.valid.sum())

    @property
    def clip_range(self) -> float:
        """Distance by which a probability ratio may leave 1 at this env step."""
        c = self.config
        if not c.anneal_clip_range:
            return c.clip_range
        return linear(c.clip_range, 0.0, self._steps, self.env_steps)

    def learn(self) -> int:
        """Begin the updates of a full rollout and the next rollout, with the last row of this one.

        Returns:
            The number of updates that ended, with `overlap` those of the rollout before.

        Raises:
            TrainingError: a loss or gradient is not finite.
        """
        if not self.playing.full:
            return 0
        c, before = self.config, self.updates
        self.learner.finish()
        if c.normalize_observation and not self._normalises:
            self._normalises = has_statistics(self.network.encoder)
            if not self._normalises:
                # Without statistics the weights would fit observations on another scale.
                self._update_statistics(self.playing)
                if self._overlap is not None:
                    self._overlap.take_over()
                self.playing.restart()
                return 0
        if c.anneal_learning_rate:
            self._rate.fill_(linear(c.learning_rate, 0.0, self._steps, self.env_steps))
        self._clip.fill_(self.clip_range)
        if self._overlap is None:
            self._learn_from_rollout()
        else:
            self.rollout.copy_from(self.playing)
            self._overlap.start(self._learn_from_rollout)
        self.playing.restart()
        return self.updates - before

    def _update_statistics(self, rollout: Rollout) -> None:
        """Update the running statistics with the T rows."""
        if self.config.normalize_observation:
            obs, join = rollout.obs[:-1].flatten(0, 1), self.learner.ranks.moments
            update_statistics(self.network.encoder, obs, join)

    def _learn_from_rollout(self) -> None:
        """Do the updates of a full rollout; it stays as it is."""
        self._set_targets()
        self._do_epochs()
        self._update_statistics(self.rollout)

    def _do_epochs(self) -> None:
        c, kl = self.config, 0.0
        for _ in range(c.epochs):
            kl_before = self.learner.sums[_KL].clone()
            epoch = self.playing.epoch()  # whose generator is in checkpoints
            self._weigh(epoch)
            for index in epoch:
                self.learner.update(index)
            if c.target_kl or c.desired_kl:
                summed = self.learner.sums[_KL] - kl_before
                # rounded alike on all ranks, which must end their epochs together
                kl = float(self.learner.ranks.mean(summed)) / c.minibatches
                if c.target_kl and kl > c.target_kl:
                    break
        self._check_finite()
        if c.desired_kl:  # as in rsl_rl, https://arxiv.org/abs/2109.11978, appendix A.5
            factor = 1 / 1.5 if kl > 2 * c.desired_kl else 1.5 if kl < c.desired_kl / 2 else 1.0
            self._rate.mul_(factor).clamp_(1e-5, 1e-2)

    @torch.no_grad()
    def _set_targets(self) -> None:
        """Compute advantages and value targets of the T rows."""
        r, lam = self.rollout, self.config.lam
        ratio = self._assess_again() if self.config.vtrace else None
        value = r.extras["value"]  # [T + 1, B]
        rows = (r.reward[:-1], r.discount[:-1], value[:-1], value[1:], r.valid[1:])
        advantage = gae(*rows, lam) if ratio is None else vtrace(*rows, ratio, lam)
        self._advantage.copy_(advantage)
        self._target.copy_(advantage + value[:-1])
        valid = r.valid[:-1]
        counts = torch.stack([(valid * self._newer).sum(), valid.sum()])
        newer, every = self.learner.ranks.sum(counts).unbind()
        share = newer / every.clamp(min=1)
        self._newer_share.copy_(share.clamp(min=1e-8))
        variance = _variance(self._target, valid)
        self._explained.copy_(1 - _variance(advantage, valid) / variance.clamp(min=1e-12))
        if self.config.normalize_value:
            targets = self._target[valid].cpu().numpy()
            self._returns.update(targets, forget=0.1, join=self.learner.ranks.moments)
            head = self.network.head
            assert isinstance(head, PolicyHead)
            mean, std = self._returns.mean, max(self._returns.variance, 1e-4) ** 0.5
            head.rescale_value(
                torch.tensor(mean, dtype=torch.float32, device=self.device),
                torch.tensor(std, dtype=torch.float32, device=self.device),
            )

    @torch.no_grad()
    def _weigh(self, epoch: Tensor) -> None:
        """Compute what a minibatch of an epoch [M, N] needs of all its rows, once for all."""
        r, ranks, advantage = self.rollout, self.learner.ranks, self._advantage
        r.weigh(epoch, ranks)
        weight = r.extras["weight"][:-1]  # [T, B]
        r.extras["newer_weight"][:-1] = weight * self._newer / self._newer_share
        if self.config.normalize_advantage:
            mean = ranks.mean(r.sums(advantage * weight, epoch))  # [M]
            centred = advantage - r.of_each_row(mean, epoch)
            deviation = ranks.mean(r.sums(centred.square() * weight, epoch)).sqrt()  # [M]
            advantage = centred * r.of_each_row(1 / (deviation + 1e-8), epoch)
        r.extras["advantage"][:-1] = advantage

    def _assess_again(self) -> Tensor:
        """Give all rows the values and log-probabilities of the policy that learns.

        Returns:
            Probability ratios [T, B] to the policy that acted; 1 where a rival acted.
        """
        r, space = self.rollout, self._space
        value, log_prob = r.extras["value"], r.extras["log_prob"]  # [T + 1, B] each
        before = log_prob.clone()
        for envs in r.env_chunks():
            obs, state = r.obs[:, envs], tuple(s[envs] for s in r.state)
            out, _ = self.network(obs, state, r.first[:, envs])
            policy = self.kind.distribution(out, legal_actions(space, obs))
            value[:, envs] = out.value
            log_prob[:, envs] = policy.log_prob(r.action[:, envs])
        ratio = torch.where(r.chosen_by_agent, (log_prob - before).exp(), 1.0)
        return ratio[:-1]

    def gradients(self, index: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of one minibatch. Pure, and never synchronises with the device.

        Args:
            index: [N], of a minibatch of an epoch, see `_weigh`.
            noise: of the auxiliary loss, if it has any.

        Returns:
            Metrics [7 or 8]; the gradient [size].
        """
        c, batch = self.config, self.rollout.minibatch(index)
        advantage, target = batch.extras["advantage"], batch.extras["target"]  # [L, N] each
        rows = batch.obs, batch.state, batch.first
        out, _, latents = self.network.forward_with_latents(*rows)
        policy = self.kind.distribution(out, legal_actions(self._space, batch.obs))
        log_ratio = policy.log_prob(batch.action) - batch.extras["log_prob"]
        ratio = log_ratio.exp()
        policy_loss = batch.mean(clipped_surrogate(ratio, advantage, self._clip))
        value_loss = batch.mean(self._value_loss(out.value, batch.extras["value"], target))
        entropy_loss = -batch.mean(policy.entropy())
        loss = policy_loss + c.value_coef * value_loss + c.entropy_coef * entropy_loss
        auxiliary: list[Tensor] = []
        if self._auxiliary is not None:
            each = self._auxiliary.loss_of_minibatch(latents, batch, self.rollout, index, *noise)
            auxiliary = [batch.mean(each)]
            loss = loss + auxiliary[0]
        gradient = self.learner.gradient(loss)
        newer = batch.extras["newer_weight"]
        distance = ratio.detach() - 1
        divergence = distance - log_ratio.detach()  # k3 of http://joschu.net/blog/kl-approx.html
        kl = (divergence * newer).sum()
        clipped = ((distance.abs() > self._clip) * newer).sum()
        metrics = [
            loss.detach(),
            policy_loss.detach(),
            value_loss.detach(),
            entropy_loss.detach(),
            kl,
            clipped,
            self._explained,
            *(each.detach() for each in auxiliary),
        ]
        return torch.stack(metrics), gradient

    def _value_loss(self, value: Tensor, old_value: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each row [L, N], in units of the returns' deviation with PopArt."""
        scale = 1 / self.network.head.value_std  # type: ignore[operator]  # a buffer
        value, old_value, target = value * scale, old_value * scale, target * scale
        if self.config.value_clip:
            return clipped_value(value, old_value, target, self.config.value_clip)
        return 0.5 * (value - target).square()

    def _check_finite(self) -> None:
        names, sums = self.learner.metric_names, self.learner.sums.tolist()
        for name, value in zip(names, sums, strict=True):
            if not np.isfinite(value):
                raise TrainingError(
                    f"{name} became {value} within {self.updates:,} updates; a smaller "
                    f"learning_rate (now {float(self._rate):g}) or max_grad_norm may help, or "
                    "normalize_reward where rewards are large"
                )

    def _schedules(self) -> dict[str, float]:
        """Return the current value of each schedule."""
        values = {}
        if self.config.clip_range < float("inf"):
            values["clip_range"] = self.clip_range
        return values

    def parts(self) -> dict[str, Any]:
        """Return the parts of the state besides network and optimizer."""
        return {
            "rollout": self.playing,
            # a constant one is the configuration's, which a resume may change
            **({"rate": self._rate} if self.config.desired_kl else {}),
            "exploration": self._actor.exploration,
            "evaluation": self._policy.evaluation,
            "reward_scale": self._reward_scale,
            "returns": self._returns,
            **({} if self._overlap is None else {"actor": self._overlap}),
        }


def _variance(x: Tensor, where: Tensor) -> Tensor:
    """Return the variance of x where `where` is true; does not wait for a GPU, as a mask would."""
    weight = where.to(x.dtype) / where.sum().clamp(min=1)
    centred = x - (x * weight).sum()
    return (centred.square() * weight).sum()


def build(
    config: PPOConfig,
    env: EnvLike,
    *,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> PPO:
    """Build a fresh PPO, see `registry.build`."""
    c, space = config, env.observation_space
    with seeded_weights(seed, device):
        kind = ActionKind(env.action_space)
        network = make_network(c, env, kind).to(device)

    def make_rollout() -> Rollout:
        return Rollout(
            c.rollout_length if training else 1,
            env,
            minibatches=c.minibatches if training else 1,
            gamma=c.gamma,
            state=network.initial_state(env.num_envs),
            device=device,
            seed=seed_of(seed, 3),
            extras=("log_prob", "value"),
            targets=("advantage", "target", "newer_weight"),
        )

    rollout, playing = make_rollout(), make_rollout() if c.overlap and training else None
    auxiliary = make_auxiliary(c, network, env, rollout.rows_of_minibatch, device, seed)
    return PPO(c, network, rollout, playing, auxiliary, space, kind, device, seed, steps)
