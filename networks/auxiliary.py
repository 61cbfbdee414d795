"""Parts of a network that only an auxiliary loss uses; `agents/auxiliary.py` has the losses.

They are trained with the network and stored with its weights, and no action depends on them.
"""

import math

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from ludus.envs.dict_observation import PackedDict
from ludus.envs.errors import ConfigError
from ludus.networks.encoders import renormalised
from ludus.networks.policies import ActionKind
from ludus.networks.running_stats import CLIP, Normalise
from ludus.networks.scale import scale_of

_SMALLEST_IMAGE = 20  # pixels a side, from which a decoder is convolutional
_CHANNELS = 32  # of a convolutional decoder
_UNITS = 256  # of hidden layers: of the inverse model in https://arxiv.org/abs/1705.05363, and here


class NewestFrame:
    """The newest frame of a stack, on the scale on which the encoder sees it.

    Args:
        encoder: its running statistics, if it has any, are those of the scale.
        space: of one observation, [stack * C, *frame] or of one frame.
        stack: frames in one observation, oldest first.

    Raises:
        ConfigError: the observations are dictionaries.
    """

    def __init__(self, encoder: nn.Module, space: spaces.Box, stack: int) -> None:
        if isinstance(space, PackedDict):
            raise ConfigError(
                "reconstruction and variational are for arrays, and the observations are "
                "dictionaries; choose spr or inverse"
            )
        self.shape = (space.shape[0] // stack, *space.shape[1:]) if stack > 1 else space.shape
        self._size = math.prod(self.shape)
        self._scale = scale_of(space)
        self._normalise = next((m for m in encoder.modules() if isinstance(m, Normalise)), None)

    def seen(self, obs: Tensor) -> Tensor:
        """Map observations [N, *obs] to float32 [N, *frame]."""
        x = self._newest(obs).to(torch.float32)
        if self._scale != (0.0, 1.0):
            x = (x - self._scale.low) / self._scale.span
        if self._normalise is not None:
            x = ((x - self._mean()) / self._deviation()).clamp(-CLIP, CLIP)
        return x

    def shown(self, frame: Tensor) -> Tensor:
        """Map what `seen` returns, or a decoder, to numbers of the observation space."""
        x = frame
        if self._normalise is not None:
            x = x * self._deviation() + self._mean()
        return x * self._scale.span + self._scale.low

    def _newest(self, x: Tensor) -> Tensor:  # [N, *obs] to [N, *frame]
        return x.flatten(1)[:, -self._size :].unflatten(1, self.shape)

    def _mean(self) -> Tensor:
        assert self._normalise is not None
        return self._newest(self._normalise.mean.unsqueeze(0))

    def _deviation(self) -> Tensor:
        assert self._normalise is not None
        variance = self._normalise.variance
        deviation = (variance + 1e-8).sqrt()
        return deviation if not variance.ndim else self._newest(deviation.unsqueeze(0))


class Decoder(nn.Module):
    """Map features to a frame: convolutions for images, two layers for all else.

    Images: from maps of features, or from one layer, over two convolutions to the grid of an
    encoder's filters of 8 x 8 pixels in steps of 4, and by their transpose to pixels.

    Args:
        latents: shape of the features, (dim,) or (C, H, W).
        frame: shape of a frame.
    """

    def __init__(self, latents: tuple[int, ...], frame: tuple[int, ...]) -> None:
        super().__init__()
        self._latents, self._frame = latents, frame
        dim = math.prod(latents)
        self._grid = [-(-(side - 8) // 4) + 1 for side in frame[1:]]
        self._image = len(frame) == 3 and min(frame[1:]) >= _SMALLEST_IMAGE
        if not self._image:
            self.layers = nn.Sequential(
                nn.Linear(dim, _UNITS), nn.ReLU(), nn.Linear(_UNITS, math.prod(frame))
            )
            return
        self._maps = latents if len(latents) == 3 else (_CHANNELS, *(g // 2 for g in self._grid))
        self.first = nn.Linear(dim, math.prod(self._maps)) if len(latents) == 1 else nn.Identity()
        self.second = nn.Conv2d(self._maps[0], _CHANNELS, 3, padding=1)
        self.third = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1)
        self.last = nn.ConvTranspose2d(_CHANNELS, frame[0], 8, stride=4)

    def forward(self, latents: Tensor) -> Tensor:
        """Map [N, dim] to [N, *frame]."""
        if not self._image:
            return self.layers(latents).unflatten(1, self._frame)
        x = F.relu(self.first(latents)).unflatten(1, self._maps)
        x = F.interpolate(F.relu(self.second(x)), self._grid)
        x = self.last(F.relu(self.third(x)))  # at most 3 pixels too many
        return x[..., : self._frame[1], : self._frame[2]]


class Reconstruction(nn.Module):
    """An autoencoder's second half (Hinton and Salakhutdinov 2006).

    Args:
        latents: shape of the features.
        frame: shape of a frame.
    """

    def __init__(self, latents: tuple[int, ...], frame: tuple[int, ...]) -> None:
        super().__init__()
        self.decoder = Decoder(latents, frame)

    def forward(self, latents: Tensor) -> Tensor:
        """Map features [N, dim] to frames [N, *frame]."""
        return self.decoder(latents)


class Variational(nn.Module):
    """The code and the decoder of a variational autoencoder (https://arxiv.org/abs/1312.6114).

    Args:
        latents: shape of the features, of which a normal distribution of codes is computed.
        frame: shape of a frame.
        units: of the code.
    """

    def __init__(self, latents: tuple[int, ...], frame: tuple[int, ...], units: int) -> None:
        super().__init__()
        self.units, dim = units, math.prod(latents)
        self.mean, self.log_variance = nn.Linear(dim, units), nn.Linear(dim, units)
        self.decoder = Decoder((units,), frame)

    def forward(self, latents: Tensor) -> Tensor:
        """Map features [N, dim] to the frames [N, *frame] of their mean codes."""
        return self.decoder(self.mean(latents))


class SelfPrediction(nn.Module):
    """The transition model, the projection and the predictor of self-predictive representations.

    https://arxiv.org/abs/2007.05929, section 2.2. Maps of features keep their shape, by two
    convolutions; a vector gets two linear layers.

    Args:
        latents: shape of the features.
        actions: kind of the actions.
        units: of the projection.
        shared: output units of a layer of the network that projects; 0 for a layer of its own.
        renormalise: scale predicted features as `RenormalisedEncoder` scales those of observations.
    """

    def __init__(
        self,
        latents: tuple[int, ...],
        actions: ActionKind,
        units: int,
        *,
        shared: int = 0,
        renormalise: bool = False,
    ) -> None:
        super().__init__()
        self._renormalise = renormalise
        self._latents, self._actions = latents, actions
        dim, channels, inputs = math.prod(latents), latents[0], actions.outputs
        self._maps = len(latents) == 3
        self.transition = (
            nn.Sequential(
                nn.Conv2d(channels + inputs, channels, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(),
            )
            if self._maps
            else nn.Sequential(nn.Linear(dim + inputs, dim), nn.ReLU(), nn.Linear(dim, dim))
        )
        self.projection = None if shared else nn.Linear(dim, units)
        self.predictor = nn.Linear(shared or units, shared or units)

    def next(self, latents: Tensor, action: Tensor) -> Tensor:
        """Return the predicted features [N, dim] after actions [N, *action] in latents [N, dim]."""
        given = encoded(self._actions, action)  # [N, A]
        if self._maps:
            maps = latents.unflatten(1, self._latents)
            planes = given[:, :, None, None].expand(-1, -1, *self._latents[1:])
            after = self.transition(torch.cat([maps, planes], 1)).flatten(1)
        else:
            after = self.transition(torch.cat([latents, given], 1))
        return renormalised(after) if self._renormalise else after


class InverseModel(nn.Module):
    """Predict the action between two observations (https://arxiv.org/abs/1705.05363, equation 2).

    Args:
        latents: shape of the features.
        actions: kind of the actions.
    """

    def __init__(self, latents: tuple[int, ...], actions: ActionKind) -> None:
        super().__init__()
        dim = math.prod(latents)
        self.layers = nn.Sequential(
            nn.Linear(2 * dim, _UNITS), nn.ReLU(), nn.Linear(_UNITS, actions.outputs)
        )

    def forward(self, latents: Tensor, following: Tensor) -> Tensor:
        """Map features [N, dim] of both observations to logits [N, A], or to means [N, A]."""
        return self.layers(torch.cat([latents, following], 1))


AuxiliaryNetwork = Reconstruction | Variational | SelfPrediction | InverseModel


def encoded(kind: ActionKind, action: Tensor) -> Tensor:
    """Return actions [N, *action], numbered from 0, as float32 [N, A]: one-hot, or as they are."""
    if kind.continuous:
        return action
    choices = action.unsqueeze(1) if action.ndim == 1 else action  # [N, K]
    numbers = [torch.arange(size, device=action.device) for size in kind.sizes]
    parts = [c.unsqueeze(1) == n for c, n in zip(choices.unbind(1), numbers, strict=True)]
    return torch.cat(parts, 1).to(torch.float32)
