"""Nine men's morris: 24 points on three squares, in OpenSpiel's order."""

import re
from functools import lru_cache

import pyspiel

from ludus.envs.board.positions.layouts import numbers_in_label, read_pieces, stones
from ludus.envs.board.positions.position import Board, Cell, Layout, Line

_COLUMNS = ("036", "135", "234", "012456", "234", "135", "036")  # of the points in each row
_ROWS = ((0, 2), (3, 5), (6, 8), (9, 11), (12, 14), (15, 17), (18, 20), (21, 23))
_FILES = ((0, 21), (3, 18), (6, 15), (1, 7), (16, 22), (8, 17), (5, 20), (2, 23))


@lru_cache(1)
def _layout() -> Layout:
    cells = list[Cell]()
    for row, columns in enumerate(_COLUMNS):
        for column in map(int, columns):
            label = f"point {len(cells)}"
            cells.append(Cell(column + 0.5, row + 0.5, "point", False, label))
    lines = tuple(Line(start, end, -1) for start, end in (*_ROWS, *_FILES))
    return Layout(tuple(cells), lines, "wood")


def read_nine_mens_morris(state: pyspiel.State, text: str) -> Board:
    """Read a position; the note is the number of men that each player may still place."""
    board, _, rest = text.partition("\n\n")
    left = re.search(r"Men to deploy: .*", rest)
    return Board(
        layout=_layout(),
        pieces=read_pieces(re.findall(r"[.WB]", board), stones("W", "B")),
        cells_of_move=numbers_in_label,
        note=left[0] if left else "",
    )
