"""Dots and boxes: a click on the place between two dots draws a line."""

import re

import pyspiel

from ludus.envs.board.positions.layouts import interleaved_layout
from ludus.envs.board.positions.position import Board, Cells, Piece

_NAMES = ("dot", "line to the right", "line downwards", "box")


def read_dots_and_boxes(state: pyspiel.State, text: str) -> Board:
    """Read a position; lines are pieces of neither player, and a box has its owner's number."""
    rows = [line[::2] for line in text.rstrip().split("\n")]
    width = len(rows[0])
    pieces = []
    for row, line in enumerate(rows):
        for column, symbol in enumerate(line):
            if symbol in "12":
                pieces.append(Piece(row * width + column, int(symbol) - 1, symbol))
            elif symbol in "│─" and (row + column) % 2:
                pieces.append(Piece(row * width + column, -1, ""))

    def cells_of_move(action: int, player: int, label: str) -> Cells:
        kind, row, column = re.findall(r"\((.),(\d+),(\d+)\)", label)[0]
        return ((int(row) * 2 + (kind == "v")) * width + int(column) * 2 + (kind == "h"),)

    return Board(interleaved_layout(len(rows), width, _NAMES), pieces, cells_of_move)
