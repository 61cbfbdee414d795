"""PQN: Q-learning without replay and without a target network (Gallici et al. 2024).

https://arxiv.org/abs/2407.04811. Layer normalisation keeps bootstrapping stable, and many envs
replace the replay memory: each rollout of T rows of B envs is used for a few epochs with the fixed
targets G_t = r_t + gamma ((1 - lambda) max_a q(s_{t+1}, a) + lambda G_{t+1}). The first two rows of
a rollout were played before the last updates, which is harmless to Q-learning. Layer
normalisation is that of the authors' code, https://github.com/mttga/purejaxql.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import EnvLike
from ludus.agents.auxiliary import Auxiliary, auxiliary_network, make_auxiliary
from ludus.agents.learner import Learner, linear
from ludus.agents.losses import chosen
from ludus.agents.memory.rollout import Rollout
from ludus.agents.memory.step import EVERY_ENV, Extras, Step
from ludus.agents.overlap import Overlap
from ludus.agents.pqn_config import PQNConfig
from ludus.agents.returns import lambda_return
from ludus.agents.seeding import seed_of, seeded_weights
from ludus.agents.value_policy import ValuePolicy, discrete
from ludus.networks.cores import State, make_core, same_operations
from ludus.networks.encoders import make_encoder
from ludus.networks.heads import QHead, QOut, Streams
from ludus.networks.network import Network, flatten_parameters


class PQN:
    """A PQN.

    Args:
        config: rollouts, schedules and exploration.
        network: the only network.
        rollout: stores rows and returns minibatches.
        playing: another for the rows that are played while the agent learns; None with
            `config.overlap` off.
        auxiliary: further loss of the features; None without one.
        space: of one observation.
        action_space: defines the number of the first action.
        device: where network and rollout live.
        seed: of the exploration.
        steps: env steps of the whole training, for the schedules.
    """

    def __init__(
        self,
        config: PQNConfig,
        network: Network[QOut],
        rollout: Rollout,
        playing: Rollout | None,
        auxiliary: Auxiliary | None,
        space: spaces.Box,
        action_space: spaces.Discrete,
        device: torch.device,
        seed: int,
        steps: int,
    ) -> None:
        self.config, self.network, self.rollout, self.device = config, network, rollout, device
        self._auxiliary = auxiliary
        self.playing = rollout if playing is None else playing
        self._rate = torch.tensor(config.learning_rate, device=device)  # captured updates read it
        flat = flatten_parameters(network)
        self._overlap = None if playing is None else Overlap(network, flat)
        staging, epsilon = self.playing.staging, config.evaluation_epsilon
        self._policy = ValuePolicy(network, action_space, staging, seed, epsilon)
        self._actor = self._policy
        if self._overlap is not None:
            copied = self._overlap.network
            self._actor = ValuePolicy(copied, action_space, staging, seed, epsilon)
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
            metrics=("loss", "q_values"),
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
        self.capturable = same_operations(config.core, rollout.length, device)
        self._target = rollout.extras["target"][:-1]  # [T, B]
        self._steps = steps
        self.example = rollout.example
        self.env_steps, self.updates = 0, 0

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

    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, envs: slice = EVERY_ENV
    ) -> tuple[np.ndarray, State, Extras]:
        """Return epsilon-greedy actions [N] for obs [N, *obs] of `envs`."""
        return self._actor.act(obs, state, first, envs, epsilon=self.epsilon)

    def observe(self, step: Step) -> None:
        """Store one row."""
        reward = np.clip(step.reward, -1, 1) if self.config.clip_reward else step.reward
        action = step.action - self._policy.first_action
        self.playing.add(step._replace(reward=reward, action=action), step.extras["state"])
        self.env_steps += int(step.valid.sum())

    def learn(self) -> int:
        """Begin the updates of a full rollout and the next rollout, with the last row of this one.

        Returns:
            The number of updates that ended, with `overlap` those of the rollout before.
        """
        if not self.playing.full:
            return 0
        before = self.updates
        self.learner.finish()
        self._rate.fill_(self.learning_rate)
        if self._overlap is None:
            self._learn_from_rollout()
        else:
            self.rollout.copy_from(self.playing)
            self._overlap.start(self._learn_from_rollout)
        self.playing.restart()
        return self.updates - before

    def _learn_from_rollout(self) -> None:
        """Do the updates of a full rollout; it stays as it is."""
        self._set_targets()
        for _ in range(self.config.epochs):
            epoch = self.playing.epoch()  # whose generator is in checkpoints
            self.rollout.weigh(epoch, self.learner.ranks)
            for index in epoch:
                self.learner.update(index)

    @torch.no_grad()
    def _set_targets(self) -> None:
        """Compute the Q(lambda) returns of the T rows with the current network."""
        r = self.rollout
        values = torch.cat([self._values(envs) for envs in r.env_chunks()]).t()  # [T + 1, B]
        self._target.copy_(
            lambda_return(r.reward[:-1], r.discount[:-1], values[1:], r.valid[1:], self.config.lam)
        )

    def _values(self, envs: Tensor) -> Tensor:
        """Return max_a q of all rows of envs [n]: [n, T + 1]."""
        r = self.rollout
        state = tuple(s[envs] for s in r.state)
        out, _ = self.network(r.obs[:, envs], state, r.first[:, envs])
        return out.q.amax(-1).t()

    def gradients(self, index: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of one minibatch. Pure, and never synchronises with the device.

        The loss is half the squared error, averaged over the rows where the agent acted.

        Args:
            index: [N], of a minibatch of an epoch that was weighed.
            noise: of the auxiliary loss, if it has any.

        Returns:
            Metrics [2 or 3]; the gradient [size].
        """
        batch = self.rollout.minibatch(index)
        # q [L, N, A], latents [L * N, dim]
        out, _, latents = self.network.forward_with_latents(batch.obs, batch.state, batch.first)
        value = chosen(out.q, batch.action)  # [L, N]
        error = value - batch.extras["target"]
        loss = 0.5 * batch.mean(error.square())
        metrics = [batch.mean(value.detach())]
        if self._auxiliary is not None:
            further = batch.mean(
                self._auxiliary.loss_of_minibatch(latents, batch, self.rollout, index, *noise)
            )
            loss = loss + further
            metrics.append(further.detach())
        gradient = self.learner.gradient(loss)
        return torch.stack([loss.detach(), *metrics]), gradient

    def _schedules(self) -> dict[str, float]:
        """Return the current value of each schedule."""
        return {"exploration_rate": self.epsilon}

    def parts(self) -> dict[str, Any]:
        """Return the parts of the state besides network and optimizer."""
        return {
            "rollout": self.playing,
            "exploration": self._actor.exploration,
            "evaluation": self._policy.evaluation,
            **({} if self._overlap is None else {"actor": self._overlap}),
        }


def build(
    config: PQNConfig,
    env: EnvLike,
    *,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> PQN:
    """Build a fresh PQN, see `registry.build`."""
    c, space, action_space = config, env.observation_space, discrete(env.action_space, "PQN")
    with seeded_weights(seed, device):
        network = _make_network(c, env, int(action_space.n)).to(device)

    def make_rollout() -> Rollout:
        return Rollout(
            c.rollout_length if training else 1,
            env,
            minibatches=c.minibatches if training else 1,
            gamma=c.gamma,
            state=network.initial_state(env.num_envs),
            device=device,
            seed=seed_of(seed, 3),
            targets=("target",),
        )

    rollout, playing = make_rollout(), make_rollout() if c.overlap and training else None
    auxiliary = make_auxiliary(c, network, env, rollout.rows_of_minibatch, device, seed)
    return PQN(c, network, rollout, playing, auxiliary, space, action_space, device, seed, steps)


def _make_network(config: PQNConfig, env: EnvLike, actions: int) -> Network[QOut]:
    c, space = config, env.observation_space
    encoder = make_encoder(c.encoder, space, c.hidden, c.width, layer_norm=c.layer_norm)
    core = make_core(c.core, encoder.dim, c.core_units)
    streams = Streams(
        core.dim,
        actions,
        hidden=c.head_hidden,
        dueling=c.dueling,
        layer_norm=c.layer_norm != "none",
    )
    return Network(encoder, core, QHead(streams), space, auxiliary_network(c, encoder, env))
