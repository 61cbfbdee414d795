"""Dictionary observations as one array of bytes, so that a memory keeps them like any other.

Two parts are no observations, and no network is shown them: `action_mask` says which choices the
rules allow, `moves` which were made in a board game, so that a search knows the position.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

MASK = "action_mask"
MOVES = "moves"


class Part(NamedTuple):
    """Where one key of the dictionary lies in the bytes."""

    start: int
    end: int
    space: spaces.Box


class PackedDict(spaces.Box):
    """The bytes of a dictionary of arrays, [size] uint8.

    Args:
        parts: a Box of bytes or of float32, of one dimension or more, for each key; `action_mask`
            one of bytes.
    """

    def __init__(self, parts: Mapping[str, spaces.Box]) -> None:
        self.parts: dict[str, Part] = {}
        start = 0
        # widest numbers first, so that each part lies where its numbers may
        for key, space in sorted(parts.items(), key=lambda item: -item[1].dtype.itemsize):
            end = start + int(np.prod(space.shape)) * space.dtype.itemsize
            self.parts[key] = Part(start, end, space)
            start = end
        size = -(-start // 4) * 4  # rows begin where a float may
        super().__init__(0, 255, (size,), np.uint8)

    def pack(self, obs: Mapping[str, Any]) -> np.ndarray:
        """Arrays [*lead, *shape] of each key to bytes [*lead, size].

        Raises:
            ValueError: an array has another shape.
        """
        lead: tuple[int, ...] = ()
        pieces = []
        for key, part in self.parts.items():
            array, shape = np.ascontiguousarray(obs[key], part.space.dtype), part.space.shape
            lead = array.shape[: array.ndim - len(shape)]
            if array.shape[len(lead) :] != shape:
                raise ValueError(
                    f"{key} has shape {list(array.shape)}; the observation has {list(shape)}"
                )
            pieces.append(array.reshape(*lead, -1).view(np.uint8))
        padding = self.shape[0] - sum(piece.shape[-1] for piece in pieces)
        return np.concatenate([*pieces, np.zeros((*lead, padding), np.uint8)], axis=-1)

    def part(self, obs: Tensor, key: str) -> Tensor:
        """Of bytes [*lead, size] one key's array [*lead, *shape], in its own dtype."""
        start, end, space = self.parts[key]
        piece = obs[..., start:end]
        if space.dtype != np.uint8:
            piece = piece.contiguous().view(torch.float32)
        return piece.unflatten(-1, space.shape) if len(space.shape) != 1 else piece

    def legal_actions(self, obs: Tensor) -> Tensor | None:
        """Choices that the rules allow [*lead, P] bool; None where the env does not say."""
        return self.part(obs, MASK).flatten(obs.ndim - 1) > 0 if MASK in self.parts else None


def legal_actions(space: spaces.Box, obs: Tensor) -> Tensor | None:
    """Choices that the rules allow [*lead, P] bool for obs [*lead, *obs]; None for all."""
    return space.legal_actions(obs) if isinstance(space, PackedDict) else None
