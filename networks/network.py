"""A network is encoder, core and head; observations are [T, B, *obs], with T = 1 for acting."""

import copy
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from ludus.envs.dict_observation import MASK, PackedDict, legal_actions
from ludus.networks.auxiliary import AuxiliaryNetwork
from ludus.networks.cores import Core, NoCore, State
from ludus.networks.encoders import ProjectedEncoder
from ludus.networks.heads import NO_NOISE, HeadNoise, mask_illegal
from ludus.networks.layers import SpectralConv2d

Out = TypeVar("Out")


class Network(nn.Module, Generic[Out]):
    """Composition of an independently chosen encoder, core and head.

    Args:
        encoder: maps [N, *obs] to [N, dim].
        core: maps [T, B, dim] to [T, B, units], with a state.
        head: maps [T, B, units] to the network's output.
        mask_space: observation space of a network with a value head. If its observations hold an
            `action_mask`, the values of illegal actions become `ILLEGAL`.
        auxiliary: what only an auxiliary loss of the latents uses.
    """

    def __init__(
        self,
        encoder: nn.Module,
        core: Core,
        head: nn.Module,
        mask_space: spaces.Box | None = None,
        auxiliary: AuxiliaryNetwork | None = None,
    ) -> None:
        super().__init__()
        has_mask = isinstance(mask_space, PackedDict) and MASK in mask_space.parts
        self.mask_space = mask_space if has_mask else None
        self.encoder, self.core, self.head, self.auxiliary = encoder, core, head, auxiliary
        self._recurrent = not isinstance(core, NoCore)
        self._spectral = [m for m in encoder.modules() if isinstance(m, SpectralConv2d)]

    def initial_state(self, batch: int) -> State:
        """Return the core's state before an episode."""
        return self.core.initial_state(batch) if self._recurrent else ()

    def power_iteration(self) -> None:
        """Update the singular vectors of spectrally normalised layers to the current weights."""
        for layer in self._spectral:
            layer.power_iteration()

    def forward(
        self, obs: Tensor, state: State, first: Tensor, noise: HeadNoise = NO_NOISE
    ) -> tuple[Out, State]:
        """Return the head's output for obs [T, B, *obs], and the core's state after them.

        Args:
            obs: observations, uint8 or float32.
            state: state of the core before row 0.
            first: [T, B] bool, the row begins an episode.
            noise: random input of the head.
        """
        steps, batch = obs.shape[:2]
        x = self.encoder(obs.flatten(0, 1)).unflatten(0, (steps, batch))  # [T, B, dim]
        return self._decide(x, obs, state, first, noise)

    def forward_with_latents(
        self, obs: Tensor, state: State, first: Tensor, noise: HeadNoise = NO_NOISE
    ) -> tuple[Out, State, Tensor]:
        """Return what `forward` returns, and the latents [T * B, dim] of the observations."""
        steps, batch = obs.shape[:2]
        latents = self.latents(obs.flatten(0, 1))
        x = self.project(latents).unflatten(0, (steps, batch))
        out, state = self._decide(x, obs, state, first, noise)
        return out, state, latents

    def latents(self, obs: Tensor) -> Tensor:
        """Map observations [N, *obs] to what the encoder makes of them, [N, dim].

        They are its features, unless a layer projects these: then they are what it projects.
        """
        encoder = self.encoder
        latents: Tensor = (
            encoder.encoder(obs) if isinstance(encoder, ProjectedEncoder) else encoder(obs)
        )
        return latents

    def project(self, latents: Tensor) -> Tensor:
        """Map latents [N, dim] to the features that core and head get."""
        encoder = self.encoder
        return encoder.project(latents) if isinstance(encoder, ProjectedEncoder) else latents

    def _decide(
        self, x: Tensor, obs: Tensor, state: State, first: Tensor, noise: HeadNoise
    ) -> tuple[Out, State]:
        """Return core and head's answer to features x [T, B, dim]."""
        if self._recurrent:
            x, state = self.core(x, state, first)  # [T, B, units]
        out: Any = self.head(x, noise)
        if self.mask_space is not None:
            allowed = legal_actions(self.mask_space, obs)
            out = out if allowed is None else out._replace(q=mask_illegal(out.q, allowed))
        return out, state


def _flat_view(x: Tensor, like: Tensor) -> Tensor:
    """Flatten x, of the shape of `like`, in the memory order of `like`."""
    return (x if like.is_contiguous() else x.permute(0, 2, 3, 1)).reshape(-1)


def flatten_parameters(network: nn.Module) -> Tensor:
    """Move the parameters into one tensor [size] and make each a view of it; return that tensor.

    The cost of an optimizer step on a small network is mostly the overhead per tensor, so one
    tensor of a million numbers is cheaper than ten that hold as many.

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


class TargetNetwork(Generic[Out]):
    """A copy of the online network that follows it (Mnih et al. 2015).

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
