"""Optimizers of one flat tensor of parameters, made so that a step can be captured."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ludus.agents.preset import AnyOptimizerName


def make_optimizer(
    name: AnyOptimizerName,
    flat: Tensor,
    rate: float,
    eps: float,
    momentum: float = 0.0,
    decay: Tensor | None = None,
) -> torch.optim.Optimizer:
    """Return an optimizer whose moments exist already, at zero, so that a step can be captured.

    Args:
        name: rmsprop is centred as the 2015 DQN's, with eps outside the root; plain_rmsprop is not
            centred and averages over more steps, as in A3C; adamw is adam with `decay`.
        flat: parameters, [size].
        rate: learning rate.
        eps: added to the denominator (all but sgd).
        momentum: of sgd and rmsprop.
        decay: adamw: factors of the parameters before each step, see `decay_factors`.
    """
    cuda = flat.is_cuda
    optimizer: torch.optim.Optimizer
    match name:
        case "adam" | "adamw":
            optimizer = torch.optim.Adam([flat], rate, eps=eps, fused=True, capturable=cuda)
        case "radam":
            optimizer = torch.optim.RAdam([flat], rate, eps=eps, capturable=cuda)
        case "rmsprop":
            optimizer = torch.optim.RMSprop(
                [flat],
                rate,
                alpha=0.95,
                eps=eps,
                momentum=momentum,
                centered=True,
                capturable=cuda,
            )
        case "plain_rmsprop":
            optimizer = torch.optim.RMSprop([flat], rate, alpha=0.99, eps=eps, capturable=cuda)
        case "sgd":
            optimizer = torch.optim.SGD([flat], rate, momentum=momentum, fused=True)
        case "adagrad":
            optimizer = torch.optim.Adagrad([flat], rate, eps=eps, fused=flat.device.type == "cpu")
    flat.grad = torch.zeros_like(flat)
    optimizer.step()
    for moment in optimizer.state[flat].values():
        moment.zero_()
    optimizer.param_groups[0]["decay"] = decay  # after the step, which must not move anything
    return optimizer


def decay_factors(parameters: Sequence[Tensor], share: float) -> Tensor:
    """Return the factors [size] of decoupled weight decay (https://arxiv.org/abs/1711.05101).

    Weights decay, biases and the scales of normalisation do not, as in the code of BBF.

    Args:
        parameters: in the order of the flat tensor.
        share: learning rate times weight decay.
    """
    return torch.cat(
        [p.new_full((p.numel(),), 1.0 - share if p.ndim > 1 else 1.0) for p in parameters]
    ).detach()
