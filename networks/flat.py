"""All parameters of a network as one tensor, so that the optimizer and the target take one step.

One tensor of a million numbers costs an optimizer less than ten that hold as many: a small
network's step is mostly the overhead of each tensor. Gradients are clipped as one tensor too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _lay(x: Tensor, like: Tensor) -> Tensor:
    """X, of like's shape, as one row in the order of like's memory."""
    return (x if like.is_contiguous() else x.permute(0, 2, 3, 1)).reshape(-1)


def flatten_parameters(network: nn.Module) -> Tensor:
    """Move the parameters into one tensor [size], of which each becomes a view; return it.

    Parameters are contiguous or, with four dimensions, channels last; they keep their layout.
    """
    parameters = list(network.parameters())
    flat = torch.cat([_lay(p.detach(), p) for p in parameters])
    start = 0
    for p in parameters:
        part = flat[start : start + p.numel()]
        if p.is_contiguous():
            p.data = part.view(p.shape)
        else:
            out, channels, height, width = p.shape
            p.data = part.view(out, height, width, channels).permute(0, 3, 1, 2)
        start += p.numel()
    return flat


def flat_gradient(gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The gradients of the parameters as one tensor [size], in the order of the flat parameters."""
    return torch.cat([_lay(g, p) for g, p in zip(gradients, parameters, strict=True)])
