"""Dictionary observations packed into one array of bytes, so that memories store them as arrays.

Networks do not get the key `action_mask`, which holds the legal actions. In a board game they do
not get `moves` either, the moves so far, from which a search reconstructs the position.

torch is imported where it is needed: the processes of the envs do without it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium import spaces

if TYPE_CHECKING:
    from torch import Tensor

MASK = "action_mask"
MOVES = "moves"


class Part(NamedTuple):
    """Position of one key of the dictionary within the bytes."""

    start: int
    end: int
    space: spaces.Box


class PackedDict(spaces.Box):
    """Space of a dictionary of arrays packed into bytes, [size] uint8.

    Args:
        parts: a Box of uint8 or float32 with at least one dimension for each key; `action_mask` is
            uint8.
        board_game: the dictionaries are positions of a board game of Ludus.
    """

    def __init__(self, parts: Mapping[str, spaces.Box], board_game: bool = False) -> None:
        self.parts: dict[str, Part] = {}
        self.board_game = board_game
        hidden = (MASK, MOVES) if board_game else (MASK,)
        self.observed = tuple(key for key in parts if key not in hidden)
        """keys that networks get"""
        start = 0
        # The widest numbers come first, so that each part is aligned to its item size.
        for key, space in sorted(parts.items(), key=lambda item: -item[1].dtype.itemsize):
            end = start + int(np.prod(space.shape)) * space.dtype.itemsize
            self.parts[key] = Part(start, end, space)
            start = end
        size = -(-start // 4) * 4  # rows stay aligned to float32
        super().__init__(0, 255, (size,), np.uint8)

    def pack(self, obs: Mapping[str, Any]) -> np.ndarray:
        """Pack arrays [*lead, *shape] by key into bytes [*lead, size].

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

    def part(self, obs: "Tensor", key: str) -> "Tensor":
        """Return one key's array [*lead, *shape] from bytes [*lead, size], in its own dtype."""
        start, end, space = self.parts[key]
        piece = obs[..., start:end]
        if space.dtype != np.uint8:
            import torch

            piece = piece.contiguous().view(torch.float32)
        return piece.unflatten(-1, space.shape) if len(space.shape) != 1 else piece

    def legal_actions(self, obs: "Tensor") -> "Tensor | None":
        """Return the legal actions [*lead, P] bool; None without an `action_mask`."""
        return self.part(obs, MASK).flatten(obs.ndim - 1) > 0 if MASK in self.parts else None


def legal_actions(space: spaces.Box, obs: "Tensor") -> "Tensor | None":
    """Return the legal actions [*lead, P] bool in obs [*lead, *obs]; None if all are legal."""
    return space.legal_actions(obs) if isinstance(space, PackedDict) else None
