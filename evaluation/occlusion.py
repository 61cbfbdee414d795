"""Occlusion on boards: how a network's answer changes when a piece is removed from its input.

Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901, section 4.2, with one square of the board
in place of a grey patch. A square is emptied in the planes that the network sees: it gets the
numbers that most squares of the given positions have, which is an empty square in most games. The
legal moves stay those of the position.
"""

from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from ludus.agents.agent import Advice
from ludus.envs.board.game import BOARD
from ludus.envs.dict_observation import PackedDict
from ludus.evaluation.played_states import Explainable, assess


class Occlusion(NamedTuple):
    """What N positions lose by each of their pieces."""

    occupied: np.ndarray  # [N, H, W] bool
    # [N, H, W] total variation between the policies with and without the piece, 0 to 1; of an agent
    # with action values the mean change of these; NaN where there is no piece
    policy: np.ndarray
    value: np.ndarray  # [N, H, W] value without the piece minus that with it; NaN as well
    are_values: bool  # `policy` is of action values

    @property
    def share(self) -> np.ndarray:
        """`policy` as 0 to 1, [N, H, W]: of action values the share of the largest change."""
        if not self.are_values:
            return self.policy
        return self.policy / max(float(np.nanmax(self.policy, initial=0.0)), 1e-12)


def has_planes(space: spaces.Box) -> bool:
    """Return whether observations are positions of a board game whose squares are a grid."""
    if not (isinstance(space, PackedDict) and space.board_game and BOARD in space.parts):
        return False
    return len(space.parts[BOARD].space.shape) == 3


def board_planes(space: PackedDict, obs: np.ndarray) -> np.ndarray:
    """Return the planes [N, C, H, W] in observations [N, size]."""
    start, end, part = space.parts[BOARD]
    return obs[:, start:end].copy().view(part.dtype).reshape(len(obs), *part.shape)


def empty_square(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most frequent square of positions [N, C, H, W].

    Returns:
        Its numbers [C], and which planes [C] bool differ between squares: the others say something
        of the whole position, such as who is to move.
    """
    local = (planes != planes[:, :, :1, :1]).any((0, 2, 3))  # [C]
    squares = planes.transpose(0, 2, 3, 1).reshape(-1, planes.shape[1]) * local
    kinds, counts = np.unique(squares, axis=0, return_counts=True)
    empty: np.ndarray = kinds[counts.argmax()]
    return empty, local


def occupied_squares(planes: np.ndarray, empty: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Return the squares [N, H, W] bool of positions [N, C, H, W] that are not empty.

    Args:
        planes: the positions.
        empty: numbers of an empty square, [C].
        local: which planes differ between squares, [C] bool.
    """
    differs = (planes != empty[:, None, None]) & local[:, None, None]
    return differs.any(1)


def occlude(
    agent: Explainable, space: spaces.Box, obs: np.ndarray, positions: np.ndarray
) -> Occlusion:
    """Remove each piece of some positions in turn.

    Args:
        agent: whose network answers, without a search.
        space: of the observations; see `has_planes`.
        obs: positions from which the empty square is learned, [M, size].
        positions: indices of the positions to occlude, [N].
    """
    assert isinstance(space, PackedDict)
    planes = board_planes(space, obs)
    empty, local = empty_square(planes)
    planes = planes[positions]
    occupied = occupied_squares(planes, empty, local)
    policy, value = (np.full(occupied.shape, np.nan) for _ in range(2))
    are_values = False
    for i, position in enumerate(positions):
        cells = np.argwhere(occupied[i])
        without = np.repeat(planes[i : i + 1], len(cells) + 1, 0)
        for number, (row, column) in enumerate(cells, 1):
            without[number, local, row, column] = empty[local]
        advice = _answers(agent, space, obs[position], without)
        changes, are_values = _changes(advice), advice.probability is None
        for number, (row, column) in enumerate(cells, 1):
            policy[i, row, column] = changes[number]
            value[i, row, column] = advice.value[number] - advice.value[0]
    return Occlusion(occupied, policy, value, are_values)


def _answers(agent: Explainable, space: PackedDict, obs: np.ndarray, planes: np.ndarray) -> Advice:
    """Return what the network says of K boards.

    Args:
        agent: answers.
        space: of the observations.
        obs: the position, [size].
        planes: the boards, [K, C, H, W]; the first is the position's own.
    """
    start, end, _ = space.parts[BOARD]
    changed = np.repeat(obs[None], len(planes), 0)
    changed[:, start:end] = np.ascontiguousarray(planes).reshape(len(planes), -1).view(np.uint8)
    advice, _ = assess(agent, space, changed, None, np.ones(len(planes), bool))
    return advice


def _changes(advice: Advice) -> np.ndarray:
    """Return how far each of K answers is from the first, as in `Occlusion`: [K]."""
    if advice.probability is not None:
        change: np.ndarray = 0.5 * np.abs(advice.probability - advice.probability[0]).sum(1)
        return change
    if advice.q is not None:
        return np.nan_to_num(np.abs(advice.q - advice.q[0])).mean(1)
    return np.full(len(advice.value), np.nan)
