"""All parameters of a network in one flat tensor, for the optimizer and the target network.

The cost of an optimizer step on a small network is mostly the overhead per tensor, so one tensor of
a million numbers is cheaper than ten that hold as many. Gradients are clipped as one tensor, too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _flat_view(x: Tensor, like: Tensor) -> Tensor:
    """Flatten x, of the shape of `like`, in the memory order of `like`."""
    return (x if like.is_contiguous() else x.permute(0, 2, 3, 1)).reshape(-1)


def flatten_parameters(network: nn.Module) -> Tensor:
    """Move the parameters into one tensor [size] and make each a view of it; return that tensor.

    Parameters must be contiguous or, with four dimensions, channels last; they keep their layout.
    """
    parameters = list(network.parameters())
    flat = torch.cat([_flat_view(p.detach(), p) for p in parameters])
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
    """Return the gradients as one tensor [size], in the order of `flatten_parameters`."""
    return torch.cat([_flat_view(g, p) for g, p in zip(gradients, parameters, strict=True)])
