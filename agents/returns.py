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


def lambda_return(
    reward: Tensor, discount: Tensor, next_value: Tensor, next_goes_on: Tensor, lam: float
) -> Tensor:
    """G_t = r_t + discount_t ((1 - lambda) v_{t+1} + lambda G_{t+1}), [T, B].

    Sutton and Barto, equation 12.20, with v = max_a q for Q(lambda) (arXiv 2407.04811).

    Args:
        reward: [T, B].
        discount: [T, B], gamma, or 0 where step t led to a terminal state.
        next_value: [T, B], value of the row after each.
        next_goes_on: [T, B] bool, the row after is a step of the same episode; where it is not,
            or the rows end, the return takes next_value alone.
        lam: lambda, 0 to 1.
    """
    returns = torch.empty_like(reward)
    following = next_value[-1]
    for t in range(len(reward) - 1, -1, -1):
        mixed = torch.where(next_goes_on[t], next_value[t].lerp(following, lam), next_value[t])
        following = reward[t] + discount[t] * mixed
        returns[t] = following
    return returns


def gae(
    reward: Tensor,
    discount: Tensor,
    value: Tensor,
    next_value: Tensor,
    next_goes_on: Tensor,
    lam: float,
) -> Tensor:
    """Generalised advantage estimation, [T, B] (https://arxiv.org/abs/1506.02438, equation 16).

    A_t = delta_t + discount_t lambda A_{t+1}, with delta_t = r_t + discount_t v_{t+1} - v_t: the
    lambda-return less the value.

    Args:
        reward: [T, B].
        discount: [T, B], gamma, or 0 where step t led to a terminal state.
        value: [T, B], of each row.
        next_value: [T, B], of the row after each.
        next_goes_on: [T, B] bool, the row after is a step of the same episode.
        lam: lambda, 0 to 1.
    """
    return lambda_return(reward, discount, next_value, next_goes_on, lam) - value
