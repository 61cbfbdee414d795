"""n-step, lambda, GAE and V-trace returns; the ends of episodes are part of the data."""

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
    carry = discount * next_goes_on * lam  # [T, B], the weight of G_{t+1}
    own = torch.addcmul(reward, discount - carry, next_value)
    own[-1].addcmul_(carry[-1], next_value[-1])
    return _recurrence(own, carry)


def _recurrence(own: Tensor, carry: Tensor) -> Tensor:
    """Return x_t = own_t + carry_t x_{t+1} [T, B], with x_T = 0, in log2(T) passes over all rows.

    After each pass a row holds its own sum over twice as many rows (Hillis and Steele 1986). A loop
    over the rows takes 4 to 25 times as long for 5 to 128 rows, and hundreds of kernels on a GPU.
    """
    step = 1
    while step < len(own):
        summed = torch.addcmul(own[:-step], carry[:-step], own[step:])
        own = torch.cat([summed, own[-step:]])
        carry = torch.cat([carry[:-step] * carry[step:], carry[-step:]])
        step *= 2
    return own


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


def vtrace(
    reward: Tensor,
    discount: Tensor,
    value: Tensor,
    next_value: Tensor,
    next_goes_on: Tensor,
    ratio: Tensor,
    lam: float,
) -> Tensor:
    """Return V-trace advantages [T, B] of actions that another policy chose (arXiv 1802.01561).

    A_t = rho_t (delta_t + discount_t lambda A_{t+1}), with rho the ratio cut off at 1: generalised
    advantage estimates for ratios of 1. As the paper's rho and c are cut off at the same number,
    this is both v_t - V_t of its equation 1 and the advantage of its section 4.2.

    Args:
        reward: [T, B].
        discount: [T, B], gamma, or 0 where step t led to a terminal state.
        value: [T, B], of each row, by the policy that learns.
        next_value: [T, B], of the next row, by the policy that learns.
        next_goes_on: [T, B] bool, the next row is a step of the same episode.
        ratio: [T, B], probability of the action by the policy that learns, over that of the policy
            that chose it.
        lam: lambda, 0 to 1; 1 in the paper.
    """
    rho = ratio.clamp(max=1.0)
    delta = reward + discount * next_value - value
    return _recurrence(rho * delta, rho * discount * next_goes_on * lam)
