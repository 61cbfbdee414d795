"""Convolutional encoders: map images [N, C, H, W] to feature vectors, [N, dim].

Images stay uint8 until the first layer; each encoder scales them itself.
"""

import math

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from ludus.networks.layers import SpectralConv2d, with_relu
from ludus.networks.names import LayerNormName
from ludus.networks.scale import ObservationScale, scale_of


def pixels(obs: Tensor, scale: ObservationScale) -> Tensor:
    """Convert [N, C, H, W] to float32 from 0 to 1, channels last."""
    x = unscaled(obs)
    if obs.dtype != torch.uint8:  # x may be the observation itself
        x = x - scale.low if scale.low else x
        return x if scale.span == 1.0 else x / scale.span
    if scale.low:
        x.sub_(scale.low)
    return x if scale.span == 1.0 else x.div_(scale.span)


def unscaled(obs: Tensor) -> Tensor:
    """Convert [N, C, H, W] to float32, channels last, which is twice as fast on a CPU.

    The layout is changed before the type: uint8 has a quarter of the bytes to move.
    """
    return obs.contiguous(memory_format=torch.channels_last).to(torch.float32)


def _channels_last(module: nn.Module) -> None:
    """Store convolution weights channels last, as `pixels` does with images."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _output_shape(layers: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(layers(torch.zeros(1, *shape)).shape[1:])


def _times(width: float, channels: int) -> int:
    return max(1, round(width * channels))


def _convolutions(
    space: spaces.Box,
    layers: tuple[tuple[int, int, int], ...],
    width: float,
    layer_norm: LayerNormName,
) -> nn.Sequential:
    """Return the layers of a network, each of which is (channels, side of the filters, stride)."""
    blocks, channels = list[nn.Module](), space.shape[0]
    for base, side, stride in layers:
        out = _times(width, base)
        blocks += with_relu(nn.Conv2d(channels, out, side, stride), layer_norm)
        channels = out
    return nn.Sequential(*blocks)


class DQN2013(nn.Module):
    """The two convolutions of the first DQN (https://arxiv.org/abs/1312.5602), 2,592 features.

    Args:
        space: observation space, [C, H, W].
        width: factor of the paper's channels, here and in the other networks.
        layer_norm: normalisation of each layer before its activation.
    """

    def __init__(
        self, space: spaces.Box, width: float = 1.0, layer_norm: LayerNormName = "none"
    ) -> None:
        super().__init__()
        self.layers = _convolutions(space, ((16, 8, 4), (32, 4, 2)), width, layer_norm)
        self.shape = _output_shape(self.layers, space.shape)  # of one image's features
        self.dim, self._scale = math.prod(self.shape), scale_of(space)
        _channels_last(self)

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, dim]."""
        return self.layers(pixels(obs, self._scale)).flatten(1)


class NatureCNN(nn.Module):
    """The three convolutions of the 2015 DQN (https://doi.org/10.1038/nature14236)."""

    def __init__(
        self, space: spaces.Box, width: float = 1.0, layer_norm: LayerNormName = "none"
    ) -> None:
        super().__init__()
        layers = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
        self.layers = _convolutions(space, layers, width, layer_norm)
        self.shape = _output_shape(self.layers, space.shape)  # of one image's features
        self.dim, self._scale = math.prod(self.shape), scale_of(space)
        _channels_last(self)

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, dim]."""
        return self.layers(pixels(obs, self._scale)).flatten(1)


class MinAtarCNN(nn.Module):
    """One 3x3 convolution of 16 filters, as in the MinAtar paper (https://arxiv.org/abs/1903.03176)."""

    def __init__(
        self, space: spaces.Box, width: float = 1.0, layer_norm: LayerNormName = "none"
    ) -> None:
        super().__init__()
        self.layers = _convolutions(space, ((16, 3, 1),), width, layer_norm)
        self.shape = _output_shape(self.layers, space.shape)  # of one image's features
        self.dim, self._scale = math.prod(self.shape), scale_of(space)

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, dim]."""
        x = obs.to(torch.float32)
        if self._scale != (0.0, 1.0):  # MinAtar's planes are 0 and 1
            x = (x - self._scale.low) / self._scale.span
        return self.layers(x).flatten(1)


class DataEfficientCNN(nn.Module):
    """Two wide strides of 5, by the data-efficient Rainbow (https://arxiv.org/abs/1906.05243)."""

    def __init__(
        self, space: spaces.Box, width: float = 1.0, layer_norm: LayerNormName = "none"
    ) -> None:
        super().__init__()
        self.layers = _convolutions(space, ((32, 5, 5), (64, 5, 5)), width, layer_norm)
        self.shape = _output_shape(self.layers, space.shape)
        self.dim, self._scale = math.prod(self.shape), scale_of(space)
        _channels_last(self)

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, dim]."""
        return self.layers(pixels(obs, self._scale)).flatten(1)


class _Residual(nn.Module):
    def __init__(self, channels: int, spectral_norm: bool) -> None:
        super().__init__()
        self.first, self.second = (
            SpectralConv2d(channels, channels, 3)
            if spectral_norm
            else nn.Conv2d(channels, channels, 3, padding=1)
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] to the same
        return x + self.second(F.relu(self.first(F.relu(x))))


class ImpalaResNet(nn.Module):
    """Residual network of IMPALA (https://arxiv.org/abs/1802.01561, figure 3) of any width.

    Args:
        space: observation space, [C, H, W] uint8.
        width: factor of the paper's 16, 32 and 32 channels.
        pool: side of an adaptive max pooling at the end, as in https://arxiv.org/abs/2411.03820;
            0 for none.
        spectral_norm: divide the weights of the residual convolutions by their spectral norm.
    """

    def __init__(
        self, space: spaces.Box, width: float = 1.0, pool: int = 0, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels, self._scale = space.shape[0], scale_of(space)
        for base in (16, 32, 32):
            out = _times(width, base)
            blocks += [
                nn.Conv2d(channels, out, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                _Residual(out, spectral_norm),
                _Residual(out, spectral_norm),
            ]
            channels = out
        pooling = (nn.AdaptiveMaxPool2d(pool),) if pool else ()
        self.layers = nn.Sequential(*blocks, nn.ReLU(), *pooling)
        self.shape = _output_shape(self.layers, space.shape)
        self.dim = math.prod(self.shape)
        _channels_last(self)

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, dim]."""
        return self.layers(pixels(obs, self._scale)).flatten(1)


class Tower(nn.Module):
    """Residual blocks of 3x3 convolutions that keep the board's size, as in AlphaGo Zero.

    https://doi.org/10.1038/nature24270. It has no batch normalisation; instead each block is
    initialised to the identity (https://arxiv.org/abs/1901.09321). A 1x1 convolution with 32
    filters follows the blocks.

    Args:
        space: observation space of one position, [C, H, W].
        channels: channels of each block.
        blocks: number of blocks.
    """

    def __init__(self, space: spaces.Box, channels: int, blocks: int) -> None:
        super().__init__()
        residual = [_Residual(channels, spectral_norm=False) for _ in range(blocks)]
        for block in residual:
            nn.init.zeros_(block.second.weight)
        self.layers = nn.Sequential(
            nn.Conv2d(space.shape[0], channels, 3, padding=1),
            *residual,
            nn.ReLU(),
            nn.Conv2d(channels, 32, 1),
            nn.ReLU(),
        )
        self.shape = _output_shape(self.layers, space.shape)
        self.dim = math.prod(self.shape)
        _channels_last(self)

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, 32 * H * W]."""
        return self.layers(unscaled(obs)).flatten(1)


ConvolutionalEncoder = DQN2013 | NatureCNN | MinAtarCNN | DataEfficientCNN | ImpalaResNet | Tower
