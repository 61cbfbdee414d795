"""Twixt: pegs, and the links between them, which are read from the observation's planes."""

import re
from functools import lru_cache
from itertools import product

import pyspiel

from ludus.envs.board.positions.layouts import (
    cells_by_name,
    cells_named_in_label,
    file_name,
    read_pieces,
    stones,
)
from ludus.envs.board.positions.position import Board, Cell, Layout, Line

_LINKS = ((1, -2), (2, -1), (2, 1), (1, 2))  # columns and rows, of planes 1 to 4 of a player
_PLANES = 6  # of each player


@lru_cache(16)
def _layout(size: int) -> Layout:
    edges = (0, size - 1)  # the four corners are no cells
    places = [p for p in product(range(size), repeat=2) if p[0] not in edges or p[1] not in edges]
    cells = (Cell(c + 0.5, r + 0.5, "point", False, f"{file_name(c)}{r + 1}") for r, c in places)
    return Layout(tuple(cells), style="wood")


def _links(state: pyspiel.State, size: int, names: dict[str, int]) -> list[Line]:
    planes = state.observation_tensor(0)
    links, width = list[Line](), size - 2
    for player in (0, 1):
        for kind, (right, down) in enumerate(_LINKS, 1):
            plane = (player * _PLANES + kind) * size * width
            for at in range(size * width):
                if not planes[plane + at]:
                    continue
                row, column = at // width, at % width + 1
                if player:  # the second player's planes are rotated
                    row, column = column, size - 1 - row
                start = f"{file_name(column)}{row + 1}"
                end = f"{file_name(column + right)}{row + 1 + down}"
                links.append(Line(names[start], names[end], player))
    return links


def read_twixt(state: pyspiel.State, text: str) -> Board:
    """Read a position."""
    rows = [line for line in text.split("\n") if re.match(r"\s*\d", line)]
    size = len(rows)
    pegs = _layout(size)
    symbols = [row[5 + 3 * c] for row in rows for c in range(size) if row[5 + 3 * c] != " "]
    links = _links(state, size, cells_by_name(pegs))
    return Board(
        layout=Layout(pegs.cells, tuple(links), pegs.style),
        pieces=read_pieces(symbols, stones("x", "o")),
        cells_of_move=cells_named_in_label(pegs),
    )
