"""Temporal-difference losses, all of one signature; importance weights stay outside.

delta = reward + discount * q'(next_obs, next_action) - q(obs, action)

`discount` is gamma^k, and 0 where the episode terminated, so n-step returns and episode ends are
data and not cases. Watkins and Dayan 1992; the Huber form is the 2015 DQN's error clipping.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ludus.networks.heads import QOut

# (out, action, reward, discount, next_out, next_action) -> loss [N]
TDLoss = Callable[[QOut, Tensor, Tensor, Tensor, QOut, Tensor], Tensor]


def _chosen_and_target(
    out: QOut,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_out: QOut,
    next_action: Tensor,
) -> tuple[Tensor, Tensor]:
    """q of the taken action and its target, both [N]; no gradient through the target."""
    assert out.q.shape[:-1] == next_out.q.shape[:-1] == action.shape, "q [N, A], action [N]"
    assert action.shape == reward.shape == discount.shape == next_action.shape
    chosen = out.q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    following = next_out.q.gather(-1, next_action.unsqueeze(-1)).squeeze(-1)
    return chosen, torch.addcmul(reward, discount, following).detach()


def huber_td(
    out: QOut,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_out: QOut,
    next_action: Tensor,
) -> Tensor:
    """delta^2 / 2 where |delta| <= 1, else |delta| - 1/2; [N]."""
    chosen, target = _chosen_and_target(out, action, reward, discount, next_out, next_action)
    return F.smooth_l1_loss(chosen, target, reduction="none")


def mse_td(
    out: QOut,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_out: QOut,
    next_action: Tensor,
) -> Tensor:
    """delta^2; [N]."""
    chosen, target = _chosen_and_target(out, action, reward, discount, next_out, next_action)
    return F.mse_loss(chosen, target, reduction="none")
