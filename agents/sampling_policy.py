"""Acting by sampling from a policy, within an action mask."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import Advice
from ludus.agents.memory.step import EVERY_ENV, Extras, RowStaging
from ludus.agents.seeding import generator
from ludus.envs.dict_observation import legal_actions
from ludus.networks.cores import State
from ludus.networks.network import Network
from ludus.networks.policies import ActionKind, Categorical, Distribution, PolicyOut


class SamplingPolicy:
    """Acts by the policy of a network's head.

    Args:
        network: policy and value.
        kind: of the actions.
        space: of one observation.
        staging: of the memory that stores the rows.
        seed: of the sampled actions.
    """

    def __init__(
        self,
        network: Network[PolicyOut],
        kind: ActionKind,
        space: spaces.Box,
        staging: RowStaging,
        seed: int,
    ) -> None:
        self._network, self._kind, self._space = network, kind, space
        self.staging = staging
        # `capture` replaces this one by a faster function with the same results.
        self.assess: Callable[..., Sequence[Tensor]] = self._assess
        self.exploration = generator(staging.device, seed, 1)
        self.evaluation = generator(staging.device, seed, 2)

    def _forward(
        self, obs: Tensor, state: State, first: Tensor
    ) -> tuple[Distribution, PolicyOut, State]:
        """Return the policy, the head's output and the next state for one row [B, ...]."""
        out, after = self._network(obs.unsqueeze(0), state, first.unsqueeze(0))  # [1, B, ...]
        row = PolicyOut(out.logits[0], out.log_std, out.value[0])
        return self._kind.distribution(row, legal_actions(self._space, obs)), row, after

    def _assess(
        self, obs: Tensor, first: Tensor, noise: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Return sampled actions [B, *action], their log_prob [B], values [B], and the next state.

        Args:
            obs: [B, *obs].
            first: [B] bool, resets the state.
            noise: of the sample, see `ActionKind.noise`.
            *state: the core's, [B, ...] each.
        """
        policy, out, after = self._forward(obs, state, first)
        action = policy.sample(noise)
        return action, policy.log_prob(action), out.value, *after

    @torch.no_grad()
    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, envs: slice = EVERY_ENV
    ) -> tuple[np.ndarray, State, Extras]:
        """Return actions [N, *action] for obs [N, *obs] of `envs`, sampled from the policy.

        The extras are the action as the policy numbers it, its log_prob [N], the value [N], and the
        state before the row; the next call may overwrite the first three.
        """
        batch, resets = self.staging.observation(obs, first, envs)
        noise = self._kind.noise((len(obs),), self.exploration)
        action, log_prob, value, *next_state = self.assess(batch, resets, noise, *state)
        extras = {"action": action, "log_prob": log_prob, "value": value, "state": state}
        chosen = self._kind.env_action(self.staging.download(action))
        return chosen, tuple(s.clone() for s in next_state), extras

    @torch.no_grad()
    def choose(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, deterministic: bool
    ) -> tuple[np.ndarray, State]:
        """Return actions [B, *action] for evaluation, the mode or sampled, and the next state."""
        batch, resets = self.staging.upload(obs, first)
        policy, _, state = self._forward(batch, state, resets)
        if deterministic:
            action = policy.mode()
        else:
            action = policy.sample(self._kind.noise((len(obs),), self.evaluation))
        return self._kind.env_action(self.staging.download(action)), state

    @torch.no_grad()
    def advice(self, obs: np.ndarray, state: State, first: np.ndarray) -> tuple[Advice, State]:
        """Return the value, the policy of a single discrete action, and the next state."""
        batch, resets = self.staging.upload(obs, first)
        policy, out, state = self._forward(batch, state, resets)
        probability = policy.log_p.exp().cpu().numpy() if isinstance(policy, Categorical) else None
        action = self._kind.env_action(self.staging.download(policy.mode()))
        return Advice(action, out.value.cpu().numpy(), None, probability), state
