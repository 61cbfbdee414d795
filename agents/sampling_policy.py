"""Acting by sampling from a policy, within an action mask."""

import numpy as np
import torch
from gymnasium import spaces

from ludus.agents.agent import Advice, Extras
from ludus.agents.memory.replay import Staging
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
        device: where the network lives.
        seed: of the sampled actions.
    """

    def __init__(
        self,
        network: Network[PolicyOut],
        kind: ActionKind,
        space: spaces.Box,
        device: torch.device,
        seed: int,
    ) -> None:
        self._network, self._kind, self._space = network, kind, space
        self._staging = Staging(device)
        self.exploration = generator(device, seed, 1)
        self.evaluation = generator(device, seed, 2)

    def _forward(
        self, obs: np.ndarray, state: State, first: np.ndarray
    ) -> tuple[Distribution, PolicyOut, State]:
        """Return the policy, the head's output and the next state for one row [B, ...]."""
        batch, resets = self._staging.upload(obs, first)
        out, state = self._network(batch.unsqueeze(0), state, resets.unsqueeze(0))  # [1, B, ...]
        row = PolicyOut(out.logits[0], out.log_std, out.value[0])
        return self._kind.distribution(row, legal_actions(self._space, batch)), row, state

    @torch.no_grad()
    def act(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, explore: bool
    ) -> tuple[np.ndarray, State, Extras]:
        """Return actions [B, *action] for obs [B, *obs], sampled with `explore`, else the mode.

        The extras are the action as the policy numbers it, its log_prob [B], the value [B], and the
        state before the row.
        """
        policy, out, next_state = self._forward(obs, state, first)
        if explore:
            action = policy.sample(self._kind.noise((len(obs),), self.exploration))
        else:
            action = policy.mode()
        extras = {
            "action": action,
            "log_prob": policy.log_prob(action),
            "value": out.value,
            "state": state,
        }
        return self._kind.env_action(action), next_state, extras

    @torch.no_grad()
    def choose(
        self, obs: np.ndarray, state: State, first: np.ndarray, *, deterministic: bool
    ) -> tuple[np.ndarray, State]:
        """Return actions [B, *action] for evaluation, the mode or sampled, and the next state."""
        policy, _, state = self._forward(obs, state, first)
        if deterministic:
            action = policy.mode()
        else:
            action = policy.sample(self._kind.noise((len(obs),), self.evaluation))
        return self._kind.env_action(action), state

    @torch.no_grad()
    def advice(self, obs: np.ndarray, state: State, first: np.ndarray) -> tuple[Advice, State]:
        """Return the value, the policy of a single discrete action, and the next state."""
        policy, out, state = self._forward(obs, state, first)
        probability = policy.log_p.exp().cpu().numpy() if isinstance(policy, Categorical) else None
        action = self._kind.env_action(policy.mode())
        return Advice(action, out.value.cpu().numpy(), None, probability), state
