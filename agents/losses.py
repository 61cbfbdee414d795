"""Temporal-difference losses of one signature, and policy losses.

delta = backup(reward, discount, q'(next_obs, next_action)) - q(obs, action)

`discount` is gamma^k, and 0 where the episode terminated, so n-step returns and episode ends need
no special case. The next action is an action, or a policy whose mean is used. Leading dimensions
`...` may be [N] or [T, B]. Importance weights are applied by the caller.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ludus.networks.heads import CategoricalOut, QOut, QuantileOut, ValueOut


class TD(NamedTuple):
    """Loss and priority of each element."""

    loss: Tensor  # [...]
    priority: Tensor  # [...] >= 0, without gradient


# (out, action, reward, discount, next_out, next_action) -> TD
TDLoss = Callable[[ValueOut, Tensor, Tensor, Tensor, ValueOut, Tensor], TD]
# (reward, discount, value of the next state) -> target
Backup = Callable[[Tensor, Tensor, Tensor], Tensor]


def bellman(reward: Tensor, discount: Tensor, value: Tensor) -> Tensor:
    """Return reward + discount * value."""
    return torch.addcmul(reward, discount, value)


_SLOPE = 1e-3


def squash(x: Tensor) -> Tensor:
    """Return h(x) = sign(x) (sqrt(|x| + 1) - 1) + x / 1000 (arXiv 1805.11593)."""
    # x / (sqrt(|x| + 1) + 1) equals the first term without cancellation near 0.
    return x / ((x.abs() + 1).sqrt() + 1) + _SLOPE * x


def unsquash(x: Tensor) -> Tensor:
    """Return h^-1(x) = sign(x) (((sqrt(1 + 4 e (|x| + 1 + e)) - 1) / (2 e))^2 - 1)."""
    root = (1 + 4 * _SLOPE * (x.abs() + 1 + _SLOPE)).sqrt()
    y = 2 * x / (root + 1 + 2 * _SLOPE)  # the squared term minus 1, without cancellation
    return y * (y.abs() + 2)


def rescaled(reward: Tensor, discount: Tensor, value: Tensor) -> Tensor:
    """Return h(reward + discount * h^-1(value)): values on the scale of `squash`."""
    return squash(bellman(reward, discount, unsquash(value)))


def chosen(values: Tensor, choice: Tensor, rest: int = 0) -> Tensor:
    """Return values [..., A, *rest] at actions [...], or their mean under a policy [..., A].

    Args:
        values: of all actions.
        choice: actions as int64 [...], or a policy as float32 [..., A].
        rest: dimensions after A, 0 or 1.
    """
    weighted, actions = choice.is_floating_point(), values.ndim - rest
    leading = values.shape[: actions if weighted else actions - 1]
    assert choice.shape == leading, "action [...] or policy [..., A], values [..., A]"
    if weighted:
        weights = choice.unsqueeze(-1) if rest else choice
        return (values * weights).sum(-1 - rest)
    if not rest:
        return values.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
    index = choice[..., None, None].expand(*choice.shape, 1, values.shape[-1])
    return values.gather(-2, index).squeeze(-2)


def _scalar(
    out: ValueOut,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_out: ValueOut,
    next_action: Tensor,
    backup: Backup,
) -> tuple[Tensor, Tensor]:
    """Return q of the taken action and its target without gradient, [...] each."""
    assert action.shape == reward.shape == discount.shape == out.q.shape[:-1]
    target = backup(reward, discount, chosen(next_out.q, next_action))
    return chosen(out.q, action), target.detach()


def huber_td(
    out: QOut,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_out: QOut,
    next_action: Tensor,
    *,
    backup: Backup = bellman,
) -> TD:
    """Return the Huber loss, delta^2 / 2 if |delta| <= 1, else |delta| - 1/2: error clipping."""
    value, target = _scalar(out, action, reward, discount, next_out, next_action, backup)
    loss = F.smooth_l1_loss(value, target, reduction="none")
    return TD(loss, (target - value.detach()).abs())


def mse_td(
    out: QOut,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_out: QOut,
    next_action: Tensor,
    *,
    backup: Backup = bellman,
) -> TD:
    """Return delta^2."""
    value, target = _scalar(out, action, reward, discount, next_out, next_action, backup)
    loss = F.mse_loss(value, target, reduction="none")
    return TD(loss, (target - value.detach()).abs())


def project(returns: Tensor, p: Tensor, atoms: Tensor) -> Tensor:
    """Project a distribution p [..., K] over returns [..., K] onto the atoms [K]; [..., K].

    Each return splits its mass between its two neighbouring atoms; returns beyond the ends go to
    the last atom (https://arxiv.org/abs/1707.06887, equation 7, as a sum of triangular kernels).
    """
    low, high = atoms[0], atoms[-1]
    inside = torch.minimum(torch.maximum(returns, low), high)
    gap = (high - low) / (atoms.shape[0] - 1)
    distance = (inside.unsqueeze(-2) - atoms.unsqueeze(-1)).abs() / gap  # [..., atom, return]
    return ((1 - distance).clamp(min=0) * p.unsqueeze(-2)).sum(-1)


def categorical_td(
    out: CategoricalOut,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_out: CategoricalOut,
    next_action: Tensor,
    *,
    backup: Backup = bellman,
) -> TD:
    """Return C51's cross-entropy with the projected target; the priority is the KL divergence.

    Bellemare et al. 2017, https://arxiv.org/abs/1707.06887, algorithm 1.
    """
    assert action.shape == reward.shape == discount.shape == out.q.shape[:-1]
    with torch.no_grad():
        p = chosen(next_out.log_p.exp(), next_action, rest=1)  # [..., K]
        returns = backup(reward.unsqueeze(-1), discount.unsqueeze(-1), out.atoms)  # [..., K]
        target = project(returns, p, out.atoms)
        entropy = torch.special.entr(target).sum(-1)
    loss = -(target * chosen(out.log_p, action, rest=1)).sum(-1)
    return TD(loss, (loss.detach() - entropy).clamp(min=0))


def quantile_td(
    out: QuantileOut,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_out: QuantileOut,
    next_action: Tensor,
    *,
    backup: Backup = bellman,
    priority: Literal["loss", "error"] = "loss",
) -> TD:
    """Return the quantile Huber loss of QR-DQN and IQN.

    It is summed over the quantiles and averaged over the target's:

    |tau - (delta < 0)| * huber(delta), for each pair of a quantile and a target quantile.
    https://arxiv.org/abs/1710.10044 equation 10, https://arxiv.org/abs/1806.06923 equation 3; the
    Huber threshold is 1. The priority is the loss, or |delta| summed and averaged in the same way,
    as in the code of https://arxiv.org/abs/2411.03820.
    """
    assert action.shape == reward.shape == discount.shape == out.q.shape[:-1]
    with torch.no_grad():
        following = chosen(next_out.quantiles, next_action, rest=1)  # [..., K']
        target = backup(reward.unsqueeze(-1), discount.unsqueeze(-1), following)
    value = chosen(out.quantiles, action, rest=1)  # [..., K]
    pairs = (*value.shape, target.shape[-1])  # [..., K, K']
    value, target = value.unsqueeze(-1).expand(pairs), target.unsqueeze(-2).expand(pairs)
    huber = F.smooth_l1_loss(value, target, reduction="none")
    slope = (out.taus.unsqueeze(-1) - (target < value).to(value.dtype)).abs()
    loss = (slope * huber).mean(-1).sum(-1)
    if priority == "loss":
        return TD(loss, loss.detach())
    return TD(loss, (target - value.detach()).abs().mean(-1).sum(-1))


class Munchausen(NamedTuple):
    """A reward and a next policy that turn any loss here into a Munchausen loss."""

    reward: Tensor  # [...]
    policy: Tensor  # [..., A]


def munchausen(
    q: Tensor,
    next_q: Tensor,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    *,
    scale: float,
    temperature: float,
    floor: float,
) -> Munchausen:
    """Return reward and policy of Munchausen Q-learning (arXiv 2007.14430, equation 3).

    With pi = softmax(q / t), the reward is

    reward + scale * clip(t log pi(action), floor, 0) - discount * sum_a pi'(a) t log pi'(a)

    The rest of the target, discount * sum_a pi'(a) q'(a), is what a loss computes with the policy
    pi' as next action.

    Args:
        q: [..., A], of the observation by the target network; by the online one in BTR.
        next_q: [..., A], of the next one.
        action: [...] int64.
        reward: [...].
        discount: [...].
        scale: alpha of the paper.
        temperature: tau of the paper.
        floor: l_0 of the paper, below 0.
    """
    log_policy = temperature * F.log_softmax(q / temperature, dim=-1)
    bonus = scale * chosen(log_policy, action).clamp(floor, 0)
    next_log = F.log_softmax(next_q / temperature, dim=-1)
    policy = next_log.exp()
    entropy = -(policy * next_log).sum(-1)
    return Munchausen(reward + bonus + discount * temperature * entropy, policy)


def conservative(q: Tensor, action: Tensor) -> Tensor:
    """Return CQL's penalty, logsumexp_a q(a) - q(action), [...] (arXiv 2006.04779, equation 4)."""
    return q.logsumexp(-1) - chosen(q, action)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: Tensor) -> Tensor:
    """Return -min(r A, clip(r, 1 - clip, 1 + clip) A), elementwise.

    PPO, https://arxiv.org/abs/1707.06347, equation 7.

    Args:
        ratio: probability of the action now, divided by that when it was taken.
        advantage: of the action, without gradient.
        clip: largest distance of the ratio from 1, a scalar.
    """
    assert ratio.shape == advantage.shape
    free = ratio * advantage
    within = torch.maximum(torch.minimum(ratio.detach(), 1 + clip), 1 - clip) * advantage
    return -torch.where(
        free <= within, free, within
    )  # where they are equal, the gradient is that of r A


def clipped_value(value: Tensor, before: Tensor, target: Tensor, clip: float) -> Tensor:
    """Return half the squared error of the value or of the clipped value, whichever is larger.

    The value loss of the authors' PPO code (https://arxiv.org/abs/2006.05990, appendix B.1).
    """
    assert value.shape == before.shape == target.shape
    near = before + (value - before).clamp(-clip, clip)
    return 0.5 * torch.maximum((value - target).square(), (near - target).square())
