"""An online network with its target network, each in one flat tensor (Mnih et al. 2015)."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ludus.networks.flat import flat_gradient, flatten_parameters
from ludus.networks.network import Network

Out = TypeVar("Out")


class OnlineAndTarget(Generic[Out]):
    """Two networks of one shape; the target follows the online one.

    Args:
        network: the online network; the target starts as its copy.
        frozen_encoder: the encoder keeps the weights that it has.
    """

    def __init__(self, network: Network[Out], frozen_encoder: bool) -> None:
        self.network, self.target = network, copy.deepcopy(network)
        self.target.requires_grad_(False)
        self.flat, self._flat_target = flatten_parameters(network), flatten_parameters(self.target)
        frozen = list(network.encoder.parameters()) if frozen_encoder else []
        self._parameters = list(network.parameters())[len(frozen) :]  # the encoder's come first
        self.trained = self.flat[sum(p.numel() for p in frozen) :]  # [size], what updates change
        self._buffers = list(zip(network.buffers(), self.target.buffers(), strict=True))

    def gradient(self, loss: Tensor) -> Tensor:
        """Of the loss, for all that is trained, [size]."""
        gradients = torch.autograd.grad(loss, self._parameters)
        return flat_gradient(gradients, self._parameters)

    @torch.no_grad()
    def move(self, polyak: float) -> None:
        """Move the target a share of the way to the online network; 1 is a copy."""
        if polyak == 1.0:
            self._flat_target.copy_(self.flat)
        else:
            self._flat_target.lerp_(self.flat, polyak)
        for online, target in self._buffers:
            target.copy_(online)

    def state_dict(self) -> dict[str, Any]:
        """The weights of both."""
        return {
            "network": dict(self.network.state_dict()),
            "target": dict(self.target.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
