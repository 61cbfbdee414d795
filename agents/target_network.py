"""The target network: a copy of the online network that follows it (Mnih et al. 2015)."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ludus.networks.flat import flatten_parameters
from ludus.networks.network import Network

Out = TypeVar("Out")


class TargetNetwork(Generic[Out]):
    """A copy of the online network, both with their parameters in one flat tensor.

    Args:
        online: the online network.
        flat: its parameters [size], see `flatten_parameters`.
    """

    def __init__(self, online: Network[Out], flat: Tensor) -> None:
        self.network = copy.deepcopy(online).requires_grad_(False)
        self._online_flat, self.flat = flat, flatten_parameters(self.network)
        self._buffers = list(zip(online.buffers(), self.network.buffers(), strict=True))

    @torch.no_grad()
    def update(self, polyak: float) -> None:
        """Move the target a fraction of the way to the online network; 1 copies it."""
        if polyak == 1.0:
            self.flat.copy_(self._online_flat)
        else:
            self.flat.lerp_(self._online_flat, polyak)
        for source, target in self._buffers:
            target.copy_(source)
