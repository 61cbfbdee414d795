"""Boards whose text is a grid of one letter a cell: one reader, and a table of the games."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pyspiel

from ludus.envs.board.positions.layouts import (
    Stones,
    cell_of_action,
    cells_named_in_label,
    read_pieces,
    rows_layout,
    stones,
)
from ludus.envs.board.positions.position import Board, CellsOfMove, Layout, Shape, Style


@dataclass(frozen=True)
class GridReader:
    """Reads a board from text with one letter for each cell."""

    stones: Stones
    empty: str = "."
    """letters of empty cells"""
    shape: Shape = "square"
    naming: str = "up"
    """of the cells, as in `rows_layout`"""
    style: Style = "plain"
    cells_of_move: Callable[[Layout], CellsOfMove] = cells_named_in_label
    row_label: str = r"[^a-z%s]{0,2}"
    """pattern of what stands before the cells of a row; %s stands for all letters of cells"""

    def rows(self, text: str) -> list[str]:
        """Return the letters of each row."""
        symbols = re.escape("".join(self.stones) + self.empty)
        label = self.row_label.replace("%s", symbols)
        # a row may end with its number and, in Havannah and Y, with a mark of the last move
        row = re.compile(rf"(?:{label}?)([{symbols}]+)\d{{0,2}}[a-z^]?")
        found = (row.fullmatch(re.sub(r"[][ ]", "", line)) for line in text.split("\n"))
        return [match[1] for match in found if match]

    def __call__(self, state: pyspiel.State, text: str) -> Board | None:
        """Read a state; return None if its text is no grid, as with three dimensions."""
        rows = self.rows(text)
        widths = tuple(map(len, rows))
        if not rows or (self.shape != "hex" and len(set(widths)) > 1):
            return None
        layout = rows_layout(self.shape, widths, self.naming, self.style)
        pieces = read_pieces("".join(rows), self.stones)
        return Board(layout, pieces, self.cells_of_move(layout))


CROSSES = GridReader(stones("x", "o"), naming="numbers", cells_of_move=cell_of_action)
GO = GridReader(stones("X", "O"), empty="+", shape="point", naming="go", style="wood")
_ROUND = GridReader(stones("O", "@"), shape="hex", naming="down")

GRIDS = {
    "tic_tac_toe": CROSSES,
    "mnk": CROSSES,
    "othello": GridReader(stones("x", "o"), empty="-", naming="down", cells_of_move=cell_of_action),
    "go": GO,
    "gomoku": GridReader(
        stones("b", "w"),
        shape="point",
        naming="numbers",
        style="wood",
        cells_of_move=cell_of_action,
        row_label=r"\d*",
    ),
    "pentago": GridReader(stones("O", "@"), naming="down", row_label=r"[svz^]?\d"),
    "hex": GridReader(
        stones("xyzX", "opqO"), shape="hex", naming="down", cells_of_move=cell_of_action
    ),
    "havannah": _ROUND,
    "y": _ROUND,
    "amazons": GridReader(
        stones("X", "O", "#"), naming="numbers", style="chess", cells_of_move=cell_of_action
    ),
    "breakthrough": GridReader(stones("b", "w"), style="chess"),
    "clobber": GridReader(stones("o", "x"), style="chess"),
    "lines_of_action": GridReader(stones("x", "o"), style="chess"),
    "checkers": GridReader(
        stones("o", "+") | {"8": (0, "K"), "*": (1, "K")}, style="chess", row_label=r"\d{1,2}"
    ),
}
"""readers by OpenSpiel's short name of a game"""
