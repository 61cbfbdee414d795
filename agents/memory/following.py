"""The rows after a row, for losses that look ahead."""

from typing import NamedTuple

import torch
from torch import Tensor


class Following(NamedTuple):
    """The K rows after each of M rows."""

    obs: Tensor  # [R, *obs] of distinct rows
    place: Tensor  # [K, M] int64, which of them it is
    action: Tensor  # [K, M, *action], that led to the row
    reached: Tensor  # [K, M] bool, the episode went on up to the row


def following_rows(
    obs: Tensor, action: Tensor, valid: Tensor, starts: int, steps: int
) -> Following:
    """Return the K rows after each of the first L rows of sequences.

    Args:
        obs: [T, N, *obs].
        action: [T, N, *action] or more rows.
        valid: [T, N] bool, the action was used.
        starts: L, at most T; M is L * N.
        steps: K.
    """
    rows, batch = obs.shape[:2]
    ahead = torch.arange(1, steps + 1, device=obs.device).unsqueeze(1)  # [K, 1]
    row = torch.arange(starts, device=obs.device) + ahead  # [K, L]
    inside = (row < rows).unsqueeze(2)  # [K, L, 1]
    row = row.clamp(max=rows - 1)
    before = row - 1
    place = row.unsqueeze(2) * batch + torch.arange(batch, device=obs.device)  # [K, L, N]
    reached = (valid[before] & inside).cumprod(0).to(torch.bool)
    taken = action[before].flatten(1, 2)
    return Following(obs.flatten(0, 1), place.flatten(1), taken, reached.flatten(1))
