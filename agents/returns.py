"""Returns over a window of steps, with episode ends as data."""

from typing import NamedTuple

import torch
from torch import Tensor


class NStep(NamedTuple):
    """A return of up to n steps."""

    reward: Tensor  # [N] discounted sum of the rewards that count
    discount: Tensor  # [N] gamma^steps, 0 where the window holds a termination
    steps: Tensor  # [N] int64, how far ahead the bootstrap observation lies, 1 to n


def n_step_return(reward: Tensor, terminated: Tensor, stops: Tensor, gamma: float) -> NStep:
    """Sum the rewards of a window up to its first end (Sutton and Barto, equation 7.1).

    Args:
        reward: [n, N], reward of step j.
        terminated: [n, N] bool, step j led to a terminal state: no bootstrap, none beyond.
        stops: [n, N] bool, step j was the episode's last, cut off by a limit: bootstrap there.
        gamma: discount per step.
    """
    if len(reward) == 1:
        steps = torch.ones_like(reward[0], dtype=torch.int64)
        return NStep(reward[0], gamma * (~terminated[0]).to(reward.dtype), steps)
    ends = (terminated | stops)[:-1]
    alive = torch.cat([torch.ones_like(ends[:1]), (~ends).cumprod(0).bool()])  # [n, N]
    powers = gamma ** torch.arange(len(reward), dtype=reward.dtype, device=reward.device)
    total = (reward * alive * powers.unsqueeze(1)).sum(0)
    steps = alive.sum(0)  # [N]
    discount = gamma ** steps.to(reward.dtype) * ~(alive & terminated).any(0)
    return NStep(total, discount, steps)
