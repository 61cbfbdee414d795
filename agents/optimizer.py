"""One optimizer step for all parameters at once, in a form that a CUDA graph may hold."""

from typing import Literal

import torch
from torch import Tensor

OptimizerName = Literal["adam", "radam", "rmsprop", "plain_rmsprop", "sgd", "adagrad"]


def make_optimizer(
    name: OptimizerName, flat: Tensor, rate: float, eps: float, momentum: float = 0.0
) -> torch.optim.Optimizer:
    """The optimizer of that name, its moments already made, at zero, for a captured update to find.

    Args:
        name: rmsprop is centred as the 2015 DQN's, with eps outside the root; plain_rmsprop is not,
            and remembers longer, as in A3C.
        flat: all parameters, [size].
        rate: learning rate.
        eps: added to the denominator (all but sgd).
        momentum: of sgd and rmsprop.
    """
    cuda = flat.is_cuda
    made: torch.optim.Optimizer
    match name:
        case "adam":
            made = torch.optim.Adam([flat], rate, eps=eps, fused=True, capturable=cuda)
        case "radam":
            made = torch.optim.RAdam([flat], rate, eps=eps, capturable=cuda)
        case "rmsprop":
            made = torch.optim.RMSprop(
                [flat],
                rate,
                alpha=0.95,
                eps=eps,
                momentum=momentum,
                centered=True,
                capturable=cuda,
            )
        case "plain_rmsprop":
            made = torch.optim.RMSprop([flat], rate, alpha=0.99, eps=eps, capturable=cuda)
        case "sgd":
            made = torch.optim.SGD([flat], rate, momentum=momentum, fused=True)
        case "adagrad":
            made = torch.optim.Adagrad([flat], rate, eps=eps, fused=not cuda)
    flat.grad = torch.zeros_like(flat)
    made.step()
    for moment in made.state[flat].values():
        moment.zero_()
    return made


@torch.no_grad()
def take_step(optimizer: torch.optim.Optimizer, flat: Tensor, gradient: Tensor) -> None:
    """One step of an optimizer from `make_optimizer`; asks for no tensor's value on a GPU.

    On a CPU Adam's one operation is called without the Python that torch has around it: of 450
    microseconds of a small network's update that was 140.

    Args:
        optimizer: of `flat`.
        flat: all parameters, [size].
        gradient: of them, [size].
    """
    if flat.is_cuda or not isinstance(optimizer, torch.optim.Adam):
        flat.grad = gradient
        optimizer.step()
        return
    group, state = optimizer.param_groups[0], optimizer.state[flat]
    state["step"].add_(1)
    torch._fused_adam_(
        *([flat], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]]),
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=0.0,
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def clip_norm(gradient: Tensor, limit: float) -> Tensor:
    """Scale the gradient [size] down in place to an L2 norm of `limit` (0: none); its norm."""
    norm = torch.linalg.vector_norm(gradient)
    gradient.mul_(((limit or float("inf")) / (norm + 1e-6)).clamp(max=1.0))
    return norm
