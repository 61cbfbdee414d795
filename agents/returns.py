"""n-step, lambda and GAE returns; the ends of episodes are part of the data."""

from typing import NamedTuple

import torch
from torch import Tensor


class NStep(NamedTuple):
    """n-step returns."""

    reward: Tensor  # [N] discounted sum of the rewards up to the end
    discount: Tensor  # [N] product over those steps, 0 if one terminated
    steps: Tensor  # [N] int64, distance to the bootstrap observation, 1 to n


def n_step_return(reward: Tensor, discount: Tensor, stops: Tensor) -> NStep:
    """Sum the rewards of each window up to its first end (Sutton and Barto, equation 7.1).

    Args:
        reward: [n, N], reward of step j.
        discount: [n, N], gamma, or 0 where step j led to a terminal state.
        stops: [n, N] bool, step j was truncated by a limit: the return bootstraps there.
    """
    ends = stops | (discount == 0)  # [n, N]
    ended = ends.cumsum(0) > 0
    # A step counts up to and including the first end: shift `ended` by one step.
    alive = torch.cat([torch.ones_like(ended[:1]), ~ended[:-1]])
    factors = torch.where(alive, discount, 1.0).cumprod(0)  # [n, N] discount after step j
    before = torch.cat([torch.ones_like(factors[:1]), factors[:-1]])
    return NStep((reward * alive * before).sum(0), factors[-1], alive.sum(0))


def lambda_return(
    reward: Tensor, discount: Tensor, next_value: Tensor, next_goes_on: Tensor, lam: float
) -> Tensor:
    """Return G_t = r_t + discount_t ((1 - lambda) v_{t+1} + lambda G_{t+1}), [T, B].

    Sutton and Barto, equation 12.20, with v = max_a q for Q(lambda) (arXiv 2407.04811).

    Args:
        reward: [T, B].
        discount: [T, B], gamma, or 0 where step t led to a terminal state.
        next_value: [T, B], value of the next row.
        next_goes_on: [T, B] bool, the next row is a step of the same episode; elsewhere, and at the
            last row, the return bootstraps from next_value alone.
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
    """Return generalised advantage estimates [T, B] (arXiv 1506.02438, equation 16).

    A_t = delta_t + discount_t lambda A_{t+1}, with delta_t = r_t + discount_t v_{t+1} - v_t: the
    lambda-return minus the value.

    Args:
        reward: [T, B].
        discount: [T, B], gamma, or 0 where step t led to a terminal state.
        value: [T, B], of each row.
        next_value: [T, B], of the next row.
        next_goes_on: [T, B] bool, the next row is a step of the same episode.
        lam: lambda, 0 to 1.
    """
    return lambda_return(reward, discount, next_value, next_goes_on, lam) - value
