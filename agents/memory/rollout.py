"""The last T rows of B envs, for agents that learn from what they have just played.

One row more than T is kept: its observation is what the last step is bootstrapped from, and it is
the first row of the next rollout, so that no step is lost and none is used twice.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ludus.agents.agent import Step
from ludus.networks.cores import State


class Rollout:
    """Rows in preallocated tensors.

    Args:
        length: T.
        num_envs: B.
        obs_shape: of one observation.
        obs_dtype: of one observation.
        gamma: discount per step.
        state: of the core for all envs, [B, units] each.
        device: where the rows live.
    """

    def __init__(
        self,
        length: int,
        num_envs: int,
        obs_shape: tuple[int, ...],
        obs_dtype: np.dtype[Any],
        *,
        gamma: float,
        state: State,
        device: torch.device,
    ) -> None:
        self.length, self.num_envs, self._gamma = length, num_envs, np.float32(gamma)
        rows = (length + 1, num_envs)
        kind = torch.from_numpy(np.empty(0, obs_dtype)).dtype
        self.obs = torch.zeros(*rows, *obs_shape, dtype=kind, device=device)
        self.first = torch.zeros(rows, dtype=torch.bool, device=device)
        self.valid = torch.zeros(rows, dtype=torch.bool, device=device)
        self.action = torch.zeros(rows, dtype=torch.int64, device=device)
        self.reward = torch.zeros(rows, device=device)
        self.discount = torch.zeros(rows, device=device)  # gamma, or 0 before a terminal row
        self.states = tuple(torch.stack([s, s]) for s in state)  # before row 0 and before row T
        self.filled = 0

    @property
    def full(self) -> bool:
        """All T rows are there, and the one that they are bootstrapped from."""
        return self.filled == self.length + 1

    def add(self, step: Step, state: State) -> None:
        """Append one row; `state` is the core's before it, [B, units] each."""
        at = self.filled
        if at in (0, self.length):
            for kept, now in zip(self.states, state, strict=True):
                kept[min(at, 1)] = now
        discount = np.where(step.terminated, np.float32(0), self._gamma)
        row = (step.obs, step.first, step.valid, step.action, step.reward, discount)
        for rows, new in zip(self._rows(), row, strict=True):
            rows[at].copy_(torch.from_numpy(np.ascontiguousarray(new)), non_blocking=True)
        self.filled += 1

    def restart(self) -> None:
        """Begin the next rollout with the row that this one was bootstrapped from."""
        for kept in self._rows():
            kept[0] = kept[-1]
        for kept in self.states:
            kept[0] = kept[1]
        self.filled = 1

    def _rows(self) -> tuple[Tensor, ...]:
        return self.obs, self.first, self.valid, self.action, self.reward, self.discount

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        rows = [kept[: self.filled].cpu().numpy() for kept in self._rows()]
        return {"rows": rows, "states": [s.cpu().numpy() for s in self.states]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.filled = len(state["rows"][0])
        for kept, saved in zip(self._rows(), state["rows"], strict=True):
            kept[: self.filled].copy_(torch.from_numpy(saved))
        for kept, saved in zip(self.states, state["states"], strict=True):
            kept.copy_(torch.from_numpy(saved))
