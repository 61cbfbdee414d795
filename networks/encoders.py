"""Encoders: map observations to feature vectors, [N, *obs] to [N, dim]."""

import math

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from ludus.envs.dict_observation import PackedDict
from ludus.envs.errors import ConfigError
from ludus.networks.convolutional import (
    DQN2013,
    ConvolutionalEncoder,
    DataEfficientCNN,
    ImpalaResNet,
    MinAtarCNN,
    NatureCNN,
    pixels,
    unscaled,
)
from ludus.networks.layers import with_relu
from ludus.networks.names import (
    Activation,
    EncoderName,
    LayerNormName,
    check_encoder,
    is_own,
)
from ludus.networks.own import OwnEncoder
from ludus.networks.running_stats import Join, Normalise, whole
from ludus.networks.scale import scale_of


class MLP(nn.Module):
    """Fully connected layers over the flattened observation.

    Args:
        space: observation space; pictures and other uint8 arrays are scaled to [0, 1].
        hidden: units of each layer.
        layer_norm: normalisation of each layer before its activation.
        activation: activation after each layer.
    """

    def __init__(
        self,
        space: spaces.Box,
        hidden: tuple[int, ...],
        layer_norm: LayerNormName = "none",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self._scale = scale_of(space)
        size = int(torch.Size(space.shape).numel())
        layers: list[nn.Module] = []
        for units in hidden:
            layers += with_relu(nn.Linear(size, units), layer_norm)
            if activation == "tanh":
                layers[-1] = nn.Tanh()
            size = units
        self.layers, self.dim = nn.Sequential(*layers), size

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, *obs] to [N, dim]."""
        x = obs.flatten(1).to(torch.float32)
        if self._scale.low:
            x = x - self._scale.low
        return self.layers(x if self._scale.span == 1.0 else x * (1 / self._scale.span))


class NormalisedEncoder(nn.Module):
    """Encoder with normalised observations.

    Args:
        encoder: encoder of the normalised observations.
        space: observation space.
        picture: observations are images. They share one deviation, and only some images of a
            rollout update the statistics, because consecutive ones are nearly the same.
    """

    def __init__(self, encoder: "Encoder", space: spaces.Box, picture: bool) -> None:
        super().__init__()
        self.normalise, self.encoder = Normalise(space.shape, shared_variance=picture), encoder
        self.dim: int = encoder.dim
        self._picture, self._scale = picture, scale_of(space)

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, *obs] to [N, dim]."""
        if not self._picture:
            return self.encoder(self.normalise(obs))
        x = unscaled(obs)
        x = x.clone() if x is obs else x
        if self._scale.low:
            x.sub_(self._scale.low)
        return self.encoder(self.normalise.in_place(x, self._scale.span))

    def update_statistics(self, obs: Tensor, join: Join) -> None:
        """Merge observations [N, *obs] into the statistics."""
        rows = obs
        if self._picture:
            rows = pixels(obs[:: -(-len(obs) // _PICTURES)], self._scale)
        self.normalise.update_statistics(rows, join)


class RenormalisedEncoder(nn.Module):
    """Encoder whose features are scaled to [0, 1] by the least and the largest of each observation.

    Schwarzer et al. 2021, https://arxiv.org/abs/2007.05929, after MuZero's hidden states.

    Args:
        encoder: encoder of the observations.
    """

    def __init__(self, encoder: "Encoder") -> None:
        super().__init__()
        self.encoder = encoder
        self.dim: int = encoder.dim

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, *obs] to [N, dim]."""
        return renormalised(self.encoder(obs))


def renormalised(x: Tensor) -> Tensor:
    """Scale each row of x [N, dim] to [0, 1] by its least and its largest number."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    return (x - low) / (high - low + 1e-5)  # as the authors: no division by 0


class ProjectedEncoder(nn.Module):
    """Encoder followed by a linear layer with ReLU.

    Args:
        encoder: encoder of the observations.
        units: output features.
    """

    def __init__(self, encoder: "Encoder", units: int) -> None:
        super().__init__()
        self.encoder, self.layer, self.dim = encoder, nn.Linear(encoder.dim, units), units

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, *obs] to [N, units]."""
        return self.project(self.encoder(obs))

    def project(self, features: Tensor) -> Tensor:
        """Map features [N, dim] to [N, units]."""
        return F.relu(self.layer(features))


class DictEncoder(nn.Module):
    """One encoder per key of a dictionary observation; their features are concatenated.

    Args:
        space: space of the packed dictionaries.
        encoders: encoders by key.
    """

    def __init__(self, space: PackedDict, encoders: "dict[str, Encoder]") -> None:
        super().__init__()
        self.space, self.keys = space, tuple(encoders)
        # not a ModuleDict, whose keys are restricted
        self.encoders = nn.ModuleList(encoders.values())
        self.dim: int = sum(encoder.dim for encoder in encoders.values())

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, size] uint8 to [N, dim]."""
        parts = [self.space.part(obs, key) for key in self.keys]
        features = [encoder(part) for encoder, part in zip(self.encoders, parts, strict=True)]
        return torch.cat(features, dim=-1)


class TwoEncoders(nn.Module):
    """Two encoders of the same observations, for policy and value; their features are concatenated.

    Args:
        first: gives the first half of the features.
        second: gives the second half.
    """

    def __init__(
        self, first: "Encoder | ProjectedEncoder", second: "Encoder | ProjectedEncoder"
    ) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.dim: int = first.dim + second.dim

    def forward(self, obs: Tensor) -> Tensor:
        """Map [N, *obs] to [N, 2 * dim]."""
        return torch.cat([self.first(obs), self.second(obs)], dim=-1)


def update_statistics(encoder: nn.Module, obs: Tensor, join: Join = whole) -> None:
    """Merge observations [N, *obs] into the running statistics of an encoder, if it has any."""
    match encoder:
        case NormalisedEncoder():
            encoder.update_statistics(obs, join)
        case ProjectedEncoder() | RenormalisedEncoder():
            update_statistics(encoder.encoder, obs, join)
        case DictEncoder():
            for key, inner in zip(encoder.keys, encoder.encoders, strict=True):
                update_statistics(inner, encoder.space.part(obs, key), join)
        case TwoEncoders():
            update_statistics(encoder.first, obs, join)
            update_statistics(encoder.second, obs, join)


def latent_shape(encoder: nn.Module) -> tuple[int, ...]:
    """Return the shape of what `Network.latents` returns: (C, H, W) of maps, else (dim,)."""
    match encoder:
        case ProjectedEncoder() | NormalisedEncoder() | RenormalisedEncoder():
            return latent_shape(encoder.encoder)
        case DQN2013() | NatureCNN() | MinAtarCNN() | DataEfficientCNN() | ImpalaResNet():
            return encoder.shape
        case _:
            dim = encoder.dim
            assert isinstance(dim, int)
            return (dim,)


def has_statistics(encoder: nn.Module) -> bool:
    """Return whether all running statistics of an encoder have been updated."""
    layers = [layer for layer in encoder.modules() if isinstance(layer, Normalise)]
    return all(float(layer.count) > 0 for layer in layers)


Encoder = (
    MLP | ConvolutionalEncoder | NormalisedEncoder | DictEncoder | OwnEncoder | RenormalisedEncoder
)
_PICTURES = 256  # images of one rollout that update the statistics, at most
_SMALLEST = {"dqn2013": 20, "nature": 36, "minatar": 3, "impala": 1, "der": 25}  # pixels per side


def make_encoder(
    name: EncoderName,
    space: spaces.Box,
    hidden: tuple[int, ...] = (64, 64),
    width: float = 1.0,
    *,
    pool: int = 0,
    spectral_norm: bool = False,
    layer_norm: LayerNormName = "none",
    activation: Activation = "relu",
    normalise: bool = False,
) -> Encoder:
    """Build an encoder by name.

    A dictionary gets one encoder per key, and an MLP for each key that the named one does not fit.

    Args:
        name: kind of encoder, or a user's own network.
        space: observation space.
        hidden: units of the layers (mlp).
        width: factor of the channels (all but mlp).
        pool: side of the max pooling at the end (impala).
        spectral_norm: normalise the residual convolutions (impala).
        layer_norm: normalisation of each layer, after convolutions over the channels of each
            pixel or over all (all but impala).
        activation: activation after each layer (mlp).
        normalise: normalise observations with running statistics if they are floats or images.

    Raises:
        ConfigError: the observation does not fit the encoder, or a choice is not for it.
    """
    if name != "impala" and (spectral_norm or pool):
        field = "spectral_norm" if spectral_norm else "pool"
        raise ConfigError(f"{field} is for the impala encoder; the encoder is {name}")
    if name == "impala" and layer_norm != "none":
        raise ConfigError("layer_norm is not for the impala encoder; choose another encoder")
    check_encoder(name)
    if isinstance(space, PackedDict):
        if is_own(name) and not any(_fits(name, space.parts[key].space) for key in space.observed):
            raise ConfigError(f"no key of the observations is a picture, which {name} would be for")
        encoders: dict[str, Encoder] = {}
        for key, (_, _, inner) in space.parts.items():
            if key in space.observed:
                of = name if _fits(name, inner) else "mlp"
                encoders[key] = make_encoder(
                    of,
                    inner,
                    hidden,
                    width,
                    pool=pool if of == name else 0,
                    spectral_norm=spectral_norm and of == name,
                    layer_norm=layer_norm,
                    activation=activation,
                    normalise=normalise,
                )
        return DictEncoder(space, encoders)
    if name == "mlp":
        mlp = MLP(space, hidden, layer_norm, activation)
        floats = normalise and space.dtype.kind == "f"
        return NormalisedEncoder(mlp, space, picture=False) if floats else mlp
    if is_own(name):
        own, picture = OwnEncoder(name, space), len(space.shape) == 3
        return NormalisedEncoder(own, space, picture) if normalise else own
    if not _fits(name, space):
        raise ConfigError(
            f"the {name} encoder takes pictures [channels, height, width] of at least "
            f"{_SMALLEST[name]} pixels a side; the observations have shape {list(space.shape)}"
        )
    encoder: Encoder
    # Normalised pictures have no bounds, so the encoder does not scale them a second time.
    seen = spaces.Box(-math.inf, math.inf, space.shape) if normalise else space
    match name:
        case "dqn2013":
            encoder = DQN2013(seen, width, layer_norm)
        case "der":
            encoder = DataEfficientCNN(seen, width, layer_norm)
        case "nature":
            encoder = NatureCNN(seen, width, layer_norm)
        case "minatar":
            return MinAtarCNN(
                space, width, layer_norm
            )  # not normalised: MinAtar's planes are 0 and 1
        case _:
            encoder = ImpalaResNet(seen, width, pool, spectral_norm)
    return NormalisedEncoder(encoder, space, picture=True) if normalise else encoder


def _fits(name: EncoderName, space: spaces.Box) -> bool:
    if name == "mlp":
        return True
    return len(space.shape) == 3 and min(space.shape[1:]) >= _SMALLEST.get(name, 1)
