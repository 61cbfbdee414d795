"""Shogi, read from SFEN; a move's cells are decoded from its action."""

from functools import lru_cache
from itertools import product

import pyspiel

from ludus.envs.board.positions.layouts import file_name, lettered_stones, read_fen
from ludus.envs.board.positions.position import Board, Cell, Cells, Layout

_STONES = lettered_stones("KRBGSNLP")
_DROPS = 81 * 81 * 2  # the first action that drops a piece; those before go from square to square


@lru_cache(1)
def _layout() -> Layout:
    places = product(range(9), repeat=2)
    cells = (Cell(c + 0.5, r + 0.5, "square", False, f"{9 - c}{file_name(r)}") for r, c in places)
    return Layout(tuple(cells), style="wood")


def _cells_of_move(action: int, player: int, label: str) -> Cells:
    # each pair of squares has two actions: without and with promotion
    squares = divmod(action // 2, 81) if action < _DROPS else ((action - _DROPS) % 81,)
    return tuple((8 - square // 9) * 9 + square % 9 for square in squares)


def read_shogi(state: pyspiel.State, text: str) -> Board:
    """Read a position; the note lists the pieces in hand."""
    position, _, hand = text.split()[:3]
    note = "" if hand == "-" else f"in hand: {hand}"
    return Board(_layout(), read_fen(position, _STONES), _cells_of_move, note=note)
