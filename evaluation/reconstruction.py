"""Frames as a network sees them, beside what its decoder makes of its features.

The decoder is that of `--auxiliary reconstruction` or `variational` (`networks/auxiliary.py`). The
share of the variance that the features explain is 1 - error / variance, the coefficient of
determination (https://en.wikipedia.org/wiki/Coefficient_of_determination).
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeGuard

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import HasNetwork
from ludus.networks.auxiliary import NewestFrame, Reconstruction, Variational
from ludus.networks.scale import ObservationScale, scale_of

_BATCH = 256  # states in one forward pass

FrameKind = Literal["image", "planes", "numbers"]
"""one or three channels, another number of them, or no image"""

# of planes, on black; the palette of https://doi.org/10.1038/nmeth.1618 and three more
PLANE_COLOURS = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (213, 94, 0),
        (204, 121, 167),
        (70, 110, 230),
        (255, 255, 255),
        (160, 110, 60),
        (140, 140, 140),
    ],
    np.float32,
)


class DecodedFrames(NamedTuple):
    """The newest frames of N states, in numbers of the observation space."""

    seen: np.ndarray  # [N, *frame] float32
    decoded: np.ndarray  # [N, *frame] float32
    error: np.ndarray  # [N] mean squared, on the scale on which the encoder sees frames


class ReconstructionError(NamedTuple):
    """How far decoded frames are from those of N states, on the encoder's scale."""

    error: np.ndarray  # [N] mean squared
    by_number: np.ndarray  # [*frame] squared error of each number of a frame, mean over the states
    variance: np.ndarray  # [*frame] the same of the mean frame: the variance of each number
    of_decoded: float  # the variance of the decoder's frames, mean over their numbers

    @property
    def mean(self) -> float:
        """Return the mean squared error over all states."""
        return float(self.error.mean())

    @property
    def of_mean_frame(self) -> float:
        """Return the mean squared error of the mean frame, which needs no features."""
        return float(self.variance.mean())

    @property
    def explained(self) -> float:
        """Return the share of the variance that the features explain, see `explained_share`."""
        return explained_share(self.by_number, self.variance)


def explained_share(error: np.ndarray, variance: np.ndarray) -> float:
    """Return 1 - error / variance, of sums over all numbers given; NaN without any variance."""
    whole = float(variance.sum())
    return 1 - float(error.sum()) / whole if whole > 0 else math.nan


def has_decoder(agent: object) -> TypeGuard[HasNetwork]:
    """Return whether an agent's network was trained to reconstruct frames."""
    return isinstance(agent, HasNetwork) and isinstance(
        agent.network.auxiliary, Reconstruction | Variational
    )


class FrameDecoder:
    """Shows what the decoder of an agent's network makes of observations.

    Args:
        agent: one of which `has_decoder` is true.
        space: of the observations.
        stack: frames in one observation.
    """

    def __init__(self, agent: HasNetwork, space: spaces.Box, stack: int) -> None:
        network = agent.network
        part = network.auxiliary
        assert isinstance(part, Reconstruction | Variational)
        self._network, self._part = network, part
        self._frame = NewestFrame(network.encoder, space, stack)
        self._space = space
        self.shape = self._frame.shape
        """of a frame"""
        self.kind: FrameKind = frame_kind(self.shape)
        """how frames are drawn"""

    @torch.no_grad()
    def show(self, obs: np.ndarray) -> DecodedFrames:
        """Return the newest frames of observations [N, *obs], and the decoder's."""
        parts = []
        for seen, decoded in self._pairs(obs):
            error = (decoded - seen).square().flatten(1).mean(1)
            shown = (self._frame.shown(seen), self._frame.shown(decoded), error)
            parts.append([x.float().cpu().numpy() for x in shown])
        return DecodedFrames(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    @torch.no_grad()
    def measure(self, obs: np.ndarray) -> ReconstructionError:
        """Return the errors over observations [N, *obs], without keeping their frames."""
        mean = torch.zeros(self.shape, dtype=torch.float64)
        for batch in self._batches(obs):
            mean += self._frame.seen(batch).double().sum(0).cpu() / len(obs)
        variance, by_number, errors = torch.zeros_like(mean), torch.zeros_like(mean), []
        total, squares = torch.zeros_like(mean), torch.zeros_like(mean)  # of the decoder's frames
        for seen, decoded in self._pairs(obs):
            variance += (seen.double().cpu() - mean).square().sum(0) / len(obs)
            squared = (decoded.double() - seen.double()).square().cpu()
            by_number += squared.sum(0) / len(obs)
            errors.append(squared.flatten(1).mean(1).numpy())
            total += decoded.double().sum(0).cpu() / len(obs)
            squares += decoded.double().square().sum(0).cpu() / len(obs)
        return ReconstructionError(
            error=np.concatenate(errors),
            by_number=by_number.numpy(),
            variance=variance.numpy(),
            of_decoded=float((squares - total.square()).mean()),
        )

    def pictures(self, frames: DecodedFrames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw frames that are no numbers, each [N, height, width, 3] uint8.

        Returns:
            The frames as the network sees them, the decoder's, and their absolute difference, as
            grey from black for 0 to white for the whole scale; of several channels the largest.
        """
        scale = _drawn_scale(self._space, frames.seen)
        seen, decoded = ((x - scale.low) / scale.span for x in (frames.seen, frames.decoded))
        difference = np.abs(seen - decoded).max(1, keepdims=True)
        draw = draw_planes if self.kind == "planes" else _draw_image
        return draw(seen), draw(decoded), _draw_image(difference)

    def _batches(self, obs: np.ndarray) -> Iterator[Tensor]:
        device = next(self._network.parameters()).device
        for start in range(0, len(obs), _BATCH):
            yield torch.from_numpy(obs[start : start + _BATCH]).to(device)

    def _pairs(self, obs: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the frames seen and decoded of each batch, on the encoder's scale."""
        for batch in self._batches(obs):
            yield self._frame.seen(batch), self._part(self._network.latents(batch))


def frame_kind(shape: tuple[int, ...]) -> FrameKind:
    """Return how frames of a shape are drawn."""
    if len(shape) != 3:
        return "numbers"
    return "image" if shape[0] in (1, 3) else "planes"


def draw_newest_frames(obs: np.ndarray, space: spaces.Box, stack: int) -> np.ndarray:
    """Draw the newest frames of images [N, stack * C, H, W], [N, H, W, 3] uint8."""
    frames = obs[:, -(obs.shape[1] // stack) :].astype(np.float32)  # [N, C, H, W]
    scale = _drawn_scale(space, frames)
    draw = draw_planes if frame_kind(frames.shape[1:]) == "planes" else _draw_image
    return draw((frames - scale.low) / scale.span)


def _drawn_scale(space: spaces.Box, frames: np.ndarray) -> ObservationScale:
    """Return the scale of the observations, or that of frames if they have no bounds."""
    if np.isfinite(space.low).all() and np.isfinite(space.high).all():
        return scale_of(space)
    low, high = float(frames.min()), float(frames.max())
    return ObservationScale(low, max(high - low, 1e-12))


def draw_planes(frames: np.ndarray) -> np.ndarray:
    """Draw planes from 0 to 1 in one colour each, [N, C, H, W] to [N, H, W, 3] uint8.

    Where several planes overlap their colours are mixed.
    """
    colours = PLANE_COLOURS[np.arange(frames.shape[1]) % len(PLANE_COLOURS)]  # [C, 3]
    weights = np.clip(frames, 0, 1)
    whole = np.maximum(weights.sum(1), 1)[..., None]  # [N, H, W, 1]
    mixed = np.einsum("nchw,cd->nhwd", weights, colours) / whole
    return mixed.round().astype(np.uint8)


def _draw_image(frames: np.ndarray) -> np.ndarray:
    """Draw channels from 0 to 1, [N, 1 or 3, H, W] to [N, H, W, 3] uint8."""
    pixels = (np.clip(frames, 0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels if pixels.shape[-1] == 3 else pixels.repeat(3, -1)
