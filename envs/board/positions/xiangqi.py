"""Xiangqi: pieces on the points of a board with a river and two palaces."""

import re
from functools import lru_cache

import pyspiel

from ludus.envs.board.positions.layouts import lettered_stones, read_pieces, rows_layout
from ludus.envs.board.positions.position import Board, Layout, Line

_STONES = lettered_stones("GAEHRCS")


@lru_cache(1)
def _layout() -> Layout:
    grid = rows_layout("point", (9,) * 10, "numbers", "wood")
    rows = [line for line in grid.lines if line.end - line.start == 8]
    # only the outer files cross the river between the fifth and the sixth row
    files = [Line(c, c + (81 if c in (0, 8) else 36), -1) for c in range(9)]
    files += [Line(c + 45, c + 81, -1) for c in range(1, 8)]
    palaces = [Line(top + a, top + b, -1) for top in (0, 63) for a, b in ((3, 23), (5, 21))]
    return Layout(grid.cells, (*rows, *files, *palaces), "wood")


def read_xiangqi(state: pyspiel.State, text: str) -> Board:
    """Read a position; an action is its start times 90 plus its end."""
    pieces = read_pieces(re.sub(r"\s", "", text)[:90], _STONES)
    return Board(_layout(), pieces, lambda action, player, label: divmod(action, 90))
