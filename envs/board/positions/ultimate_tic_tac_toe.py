"""Ultimate tic-tac-toe: nine boards of nine cells, one of which is chosen first."""

import re
from functools import lru_cache
from itertools import product

import pyspiel

from ludus.envs.board.positions.grid import CROSSES
from ludus.envs.board.positions.layouts import read_pieces
from ludus.envs.board.positions.position import Board, Cell, Cells, Layout


@lru_cache(1)
def _layout() -> Layout:
    cells = []
    for r, c in product(range(9), repeat=2):
        board = r // 3 * 3 + c // 3
        label = f"board {board}, column {c % 3 + 1}, row {r % 3 + 1}"
        cells.append(Cell(c + 0.5, r + 0.5, "square", board % 2 == 1, label))
    return Layout(tuple(cells))


def _cells_of_board(board: int) -> Cells:
    top = board // 3 * 27 + board % 3 * 3
    return tuple(top + r * 9 + c for r in range(3) for c in range(3))


def _cells_of_move(action: int, player: int, label: str) -> Cells:
    board = int(label.partition("board ")[2][0])
    # a choice of a board is shown at its centre
    return (_cells_of_board(board)[4 if label.startswith("Choose") else action],)


def _area_of_move(action: int, label: str) -> Cells:
    return _cells_of_board(action) if label.startswith("Choose") else ()


def read_ultimate_tic_tac_toe(state: pyspiel.State, text: str) -> Board:
    """Read a position; the note is the board in which the next move must be."""
    forced = re.search(r"Forced board: .*", text)
    return Board(
        layout=_layout(),
        pieces=read_pieces("".join(CROSSES.rows(text)), CROSSES.stones),
        cells_of_move=_cells_of_move,
        area_of_move=_area_of_move,
        last="replay",
        note=forced[0] if forced else "",
    )
