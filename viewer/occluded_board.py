"""Which pieces of a board position the policy looks at, on the cells that the page draws."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ludus.envs.board import spiel
from ludus.envs.board.positions.position import BoardPosition
from ludus.envs.board.positions.read import read_position
from ludus.envs.dict_observation import PackedDict
from ludus.envs.make import make
from ludus.evaluation.occlusion import (
    board_planes,
    empty_square,
    has_planes,
    occlude,
    occupied_squares,
)
from ludus.evaluation.played_states import Explainable
from ludus.viewer.messages import finite_or_none

_POSITIONS = 100  # of random games, which teach the empty square and where the squares are drawn

Turn = Callable[[np.ndarray], np.ndarray]
_TURNS: tuple[Turn, ...] = (
    lambda x: x,
    lambda x: x[::-1],
    lambda x: x[:, ::-1],
    lambda x: x[::-1, ::-1],
    lambda x: x.T,
    lambda x: x.T[::-1],
    lambda x: x.T[:, ::-1],
    lambda x: x.T[::-1, ::-1],
)
"""the symmetries of a square, of an array [H, W]"""


class _Position(NamedTuple):
    obs: np.ndarray  # [1, size]
    pieces: np.ndarray  # [rows, columns] bool, of the drawn board


class OccludedBoard:
    """Removes each piece of a position and asks the network again, see `occlude`.

    Args:
        agent: whose network answers, without a search.
        game: OpenSpiel's name and parameters.
    """

    def __init__(self, agent: Explainable, game: str) -> None:
        self._agent = agent
        self._turn: Turn | None = None
        env = make(game, 1, 0)
        self._space = env.observation_space
        env.close()
        if not has_planes(self._space):
            return
        self._cells = _grid(read_position(spiel.load(game).new_initial_state()))
        known = [] if self._cells is None else _random_positions(game, self._cells)
        if known:
            self._known = np.concatenate([each.obs for each in known])
            self._turn = self._drawn_turn([each.pieces for each in known])

    @property
    def available(self) -> bool:
        """Return whether the squares that the network sees are the cells that are drawn."""
        return self._turn is not None

    def _drawn_turn(self, pieces: list[np.ndarray]) -> Turn | None:
        """Return the symmetry by which the network's squares become the drawn ones, if any."""
        assert isinstance(self._space, PackedDict)
        planes = board_planes(self._space, self._known)
        squares = occupied_squares(planes, *empty_square(planes))  # [N, H, W]
        for turn in _TURNS:
            if all(np.array_equal(turn(a), b) for a, b in zip(squares, pieces, strict=True)):
                return turn
        return None

    def look(self, obs: np.ndarray) -> list[dict[str, Any]]:
        """Return what each piece of one position [1, size] is worth.

        Returns:
            Its cell, the change of the policy and its share (see `Occlusion`), and the change of
            the value for the player to move.
        """
        assert self._turn is not None
        assert self._cells is not None
        all_obs = np.concatenate([self._known, obs])
        found = occlude(self._agent, self._space, all_obs, np.array([len(self._known)]))
        policy, share, value = map(self._turn, (found.policy[0], found.share[0], found.value[0]))
        return [
            {
                "cell": int(self._cells[row, column]),
                "policy": finite_or_none(policy[row, column]),
                "share": finite_or_none(share[row, column]),
                "value": finite_or_none(value[row, column]),
            }
            for row, column in np.argwhere(self._turn(found.occupied[0]))
        ]


def _grid(position: BoardPosition) -> np.ndarray | None:
    """Return the cells of a board by row, from the top, and column; None if they are no grid."""
    if not position.cells:
        return None
    x, y = (np.array([getattr(cell, axis) for cell in position.cells]) for axis in "xy")
    columns, rows = (each - each.min() for each in (x, y))
    cells = np.full((round(rows.max()) + 1, round(columns.max()) + 1), -1)
    if cells.size != len(position.cells) or (rows % 1).any() or (columns % 1).any():
        return None
    cells[rows.astype(int), columns.astype(int)] = np.arange(len(position.cells))
    return None if (cells < 0).any() else cells


def _random_positions(game: str, cells: np.ndarray) -> list[_Position]:
    """Return positions of random games."""
    generator = np.random.default_rng(0)
    rules, env = spiel.load(game), make(game, 1, 0)
    state, row, found = rules.new_initial_state(), env.reset(), list[_Position]()
    while len(found) < _POSITIONS:
        if row.game_over[0]:
            state, action = rules.new_initial_state(), 0  # which the env ignores
        else:
            taken = [piece.cell for piece in read_position(state).pieces]
            found.append(_Position(row.obs.copy(), np.isin(cells, taken)))
            action = int(generator.choice(state.legal_actions()))
            state.apply_action(action)
        env.send(np.array([action]))
        row = env.recv()
    env.close()
    return found
