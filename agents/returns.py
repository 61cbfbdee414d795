"""Returns over a window of steps, with episode ends as data."""

from typing import NamedTuple

import torch
from torch import Tensor


class NStep(NamedTuple):
    """A return of up to n steps."""

    reward: Tensor  # [N] discounted sum of the rewards that count
    discount: Tensor  # [N] product over the steps that count: 0 where one terminated
    steps: Tensor  # [N] int64, how far ahead the bootstrap observation lies, 1 to n


def n_step_return(reward: Tensor, discount: Tensor, stops: Tensor) -> NStep:
    """Sum the rewards of a window up to its first end (Sutton and Barto, equation 7.1).

    Args:
        reward: [n, N], reward of step j.
        discount: [n, N], gamma, or 0 where step j led to a terminal state.
        stops: [n, N] bool, step j was the episode's last, cut off by a limit: bootstrap there.
    """
    ends = stops | (discount == 0)  # [n, N]
    ended = ends.cumsum(0) > 0
    alive = torch.cat([torch.ones_like(ended[:1]), ~ended[:-1]])  # up to and with the end
    factors = torch.where(alive, discount, 1.0).cumprod(0)  # [n, N] discount after step j
    before = torch.cat([torch.ones_like(factors[:1]), factors[:-1]])
    return NStep((reward * alive * before).sum(0), factors[-1], alive.sum(0))
