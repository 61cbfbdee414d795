"""Value heads: features to action values. Every output has `.q`; distributions add their own.

The random numbers of a head are an input, `HeadNoise`. Without them a head is deterministic, as an
evaluation needs: it uses the means of noisy layers and evenly spaced quantiles.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ludus.networks.layers import NoisyLinear


class HeadNoise(NamedTuple):
    """Random numbers of one forward pass; None uses means and midpoints."""

    layers: Tensor | None = None  # [..., noise_size] standard normal, broadcast to the features
    taus: Tensor | None = None  # [K, T, B] uniform in [0, 1)


NO_NOISE = HeadNoise()
ILLEGAL = -1e9  # value of an illegal action; finite, because 0 * inf would be NaN in a target


def mask_illegal(q: Tensor, legal: Tensor) -> Tensor:
    """Set values q [..., A] to ILLEGAL where legal [..., A] is false, unless no action is legal."""
    return q.masked_fill(~legal & legal.any(-1, keepdim=True), ILLEGAL)


class QOut(NamedTuple):
    """Action values."""

    q: Tensor  # [..., A]


class CategoricalOut(NamedTuple):
    """Distribution of the return over fixed atoms, for each action."""

    q: Tensor  # [..., A] means
    log_p: Tensor  # [..., A, K] log-probabilities of the atoms
    atoms: Tensor  # [K] returns, evenly spaced


class QuantileOut(NamedTuple):
    """Distribution of the return as quantiles of equal weight, for each action."""

    q: Tensor  # [..., A] means
    quantiles: Tensor  # [..., A, K]
    taus: Tensor  # [..., K] quantile levels in (0, 1), broadcast to the quantiles


def in_float32(layer: nn.Module, x: Tensor, *more: Tensor | None) -> Tensor:
    """Apply a layer in float32, also where mixed precision is on.

    For the last layer of a head: bfloat16 keeps 8 bits of a value, and a temporal-difference error
    is a small difference of two.
    """
    if not torch.is_autocast_enabled(x.device.type):
        return layer(x, *more)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(torch.float32), *more)


class _Stream(nn.Module):
    """Hidden layer with ReLU (none if `hidden` is 0), then a linear layer."""

    def __init__(self, dim: int, hidden: int, out: int, sigma: float, layer_norm: bool) -> None:
        super().__init__()
        sizes = [dim, hidden, out] if hidden else [dim, out]
        self.layers = nn.ModuleList(
            NoisyLinear(a, b, sigma) if sigma else nn.Linear(a, b) for a, b in pairwise(sizes)
        )
        self.norm = nn.LayerNorm(hidden) if hidden and layer_norm else None
        self._split = [a + b for a, b in pairwise(sizes)]
        self.noise_size = sum(self._split) if sigma else 0

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Map [..., dim] to [..., out]; noise [..., noise_size]."""
        parts = [None] * len(self.layers) if noise is None else noise.split(self._split, dim=-1)
        for depth, (layer, part) in enumerate(zip(self.layers, parts, strict=True)):
            if depth:
                x = F.relu(self.norm(x) if self.norm is not None else x)
            more = (part,) if isinstance(layer, NoisyLinear) else ()
            last = depth == len(self.layers) - 1
            x = in_float32(layer, x, *more) if last else layer(x, *more)
        return x


class Streams(nn.Module):
    """Map features to K numbers per action, with one stream or with a value and an advantage one.

    Dueling: y = v + a - mean_a(a), Wang et al. 2016 (https://arxiv.org/abs/1511.06581), equation 9.

    Args:
        dim: input features.
        actions: number of actions, A.
        outputs: numbers per action, K; 1 for plain values.
        hidden: units of the hidden layer of each stream; 0 for none.
        dueling: use two streams.
        rescale_dueling: multiply their common gradient by 1/sqrt(2) (section 4.2).
        sigma: initial scale of the noise of noisy layers; 0 for plain layers.
        layer_norm: normalise the hidden layer before its ReLU.
    """

    def __init__(
        self,
        dim: int,
        actions: int,
        outputs: int = 1,
        *,
        hidden: int = 0,
        dueling: bool = False,
        rescale_dueling: bool = False,
        sigma: float = 0.0,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.actions, self.outputs = dim, actions, outputs
        self._rescale = dueling and rescale_dueling
        self.value = _Stream(dim, hidden, outputs, sigma, layer_norm) if dueling else None
        self.advantage = _Stream(dim, hidden, actions * outputs, sigma, layer_norm)
        self._split = [0 if self.value is None else self.value.noise_size]
        self._split.append(self.advantage.noise_size)
        self.noise_size = sum(self._split)

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Map [..., dim] to [..., A, K], or to [..., A] if K is 1; noise [..., noise_size]."""
        first, second = (None, None) if noise is None else noise.split(self._split, dim=-1)
        if self._rescale:  # the same values with another gradient
            x = x.detach() + 0.5**0.5 * (x - x.detach())
        y = self.advantage(x, second)  # [..., A * K]
        y = y if self.outputs == 1 else y.unflatten(-1, (self.actions, self.outputs))
        if self.value is None:
            return y
        over = -1 if self.outputs == 1 else -2
        value = self.value(x, first)  # [..., K]
        value = value if self.outputs == 1 else value.unsqueeze(-2)
        return value + (y - y.mean(dim=over, keepdim=True))


class QHead(nn.Module):
    """Plain action values."""

    samples = 0

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, x: Tensor, noise: HeadNoise = NO_NOISE) -> QOut:
        """Map [..., dim] to q [..., A]."""
        return QOut(self.streams(x, noise.layers))


class CategoricalHead(nn.Module):
    """C51: a softmax over fixed atoms (https://arxiv.org/abs/1707.06887).

    Args:
        streams: give one output per atom.
        low: return of the first atom.
        high: return of the last atom.
    """

    atoms: Tensor
    samples = 0

    def __init__(self, streams: Streams, low: float, high: float) -> None:
        super().__init__()
        self.streams = streams
        atoms = torch.linspace(low, high, streams.outputs)
        self.register_buffer("atoms", atoms, persistent=False)

    def forward(self, x: Tensor, noise: HeadNoise = NO_NOISE) -> CategoricalOut:
        """Map [..., dim] to log-probabilities [..., A, K]."""
        log_p = F.log_softmax(self.streams(x, noise.layers), dim=-1)
        return CategoricalOut((log_p.exp() * self.atoms).sum(-1), log_p, self.atoms)


class QuantileHead(nn.Module):
    """QR-DQN: quantiles at the midpoints of K equal parts (https://arxiv.org/abs/1710.10044)."""

    taus: Tensor
    samples = 0

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self.streams = streams
        self.register_buffer("taus", _midpoints(streams.outputs), persistent=False)

    def forward(self, x: Tensor, noise: HeadNoise = NO_NOISE) -> QuantileOut:
        """Map [..., dim] to quantiles [..., A, K]."""
        quantiles = self.streams(x, noise.layers)
        return QuantileOut(quantiles.mean(-1), quantiles, self.taus)


class ImplicitQuantileHead(nn.Module):
    """IQN: the quantile at any level tau, from features * relu(linear(cos(pi i tau))), i = 0 .. 63.

    Dabney et al. 2018, https://arxiv.org/abs/1806.06923, equation 4.

    Args:
        streams: give one output per action.
        samples: taus that an update samples for each observation.
        policy_samples: evenly spaced taus that are used without noise.
    """

    midpoints: Tensor
    frequencies: Tensor
    cosines = 64

    def __init__(self, streams: Streams, samples: int, policy_samples: int) -> None:
        super().__init__()
        self.streams, self.samples = streams, samples
        self.embedding = nn.Linear(self.cosines, streams.dim)
        self.register_buffer("midpoints", _midpoints(policy_samples), persistent=False)
        frequencies = torch.pi * torch.arange(self.cosines)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: Tensor, noise: HeadNoise = NO_NOISE) -> QuantileOut:
        """Map [T, B, dim] to quantiles [T, B, A, K] at taus [K, T, B]."""
        # K leads until the end, so that x [T, B, dim] and the noise of noisy layers broadcast.
        taus = self.midpoints[:, None, None] if noise.taus is None else noise.taus  # [K, T, B]
        waves = (taus.unsqueeze(-1) * self.frequencies).cos()  # [K, T, B, cosines]
        mixed = x * F.relu(self.embedding(waves))  # [K, T, B, dim]
        values = self.streams(mixed, noise.layers)  # [K, T, B, A]
        return QuantileOut(values.mean(0), values.movedim(0, -1), taus.movedim(0, -1))


def _midpoints(parts: int) -> Tensor:
    return (torch.arange(parts) + 0.5) / parts


ValueHead = QHead | CategoricalHead | QuantileHead | ImplicitQuantileHead
ValueOut = QOut | CategoricalOut | QuantileOut
