"""Observations on a GPU of envs that are half of all, see `RowStaging.split`."""

from collections.abc import Callable

import torch
from torch import Tensor


class Half:
    """The observations of N envs that the agent acts on, and those of the row before.

    Args:
        obs: of all envs [B, *obs]; their shape and type alone are used.
        envs: which of them.
        stack: frames in one observation, oldest first.
        acted_on: observations [N, *obs] and `first` [N], which `advance` fills; both halves share
            them, because a captured function reads the same memory each time.
    """

    def __init__(
        self, obs: Tensor, envs: slice, stack: int, acted_on: tuple[Tensor, Tensor]
    ) -> None:
        self.obs, self.before = torch.zeros_like(obs[envs]), torch.zeros_like(obs[envs])
        self._stack, self._acted_on = stack, acted_on
        # `capture` replaces this one by a faster function with the same results.
        self.advance: Callable[[Tensor, Tensor], None] = self._advance

    @torch.no_grad()
    def _advance(self, frame: Tensor, first: Tensor) -> None:
        """Go to the next row.

        Args:
            frame: [N, size], the newest of each observation.
            first: [N] bool, see `stacked`.
        """
        self.before.copy_(self.obs)
        self.obs.copy_(stacked(self.obs, frame, first, self._stack))
        self._acted_on[0].copy_(self.obs)
        self._acted_on[1].copy_(first)

    def changes(self) -> list[Tensor]:
        """Return the tensors that a second call of `advance` would change again."""
        return [self.obs, self.before]


def stacked(obs: Tensor, frame: Tensor, first: Tensor, stack: int) -> Tensor:
    """Return the observations after `obs` [N, *obs].

    Args:
        obs: stacks of frames, oldest first.
        frame: [N, size], the newest of each.
        first: [N] bool, the observation opens an episode: its older frames are zeros.
        stack: frames in one observation.
    """
    if stack > 1:
        older = obs.flatten(1)[:, frame.shape[1] :].masked_fill(first.unsqueeze(1), 0)
        frame = torch.cat([older, frame], dim=1)  # [N, size of the stack]
    return frame.view_as(obs)
