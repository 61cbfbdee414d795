"""Cursor go: moves of a cursor on a board of go, and stones placed at it."""

import re
from dataclasses import replace

import pyspiel

from ludus.envs.board.positions.grid import GO
from ludus.envs.board.positions.layouts import cells_by_name
from ludus.envs.board.positions.position import Board, Cells


def read_cursor_go(state: pyspiel.State, text: str) -> Board | None:
    """Read a position; return None if its text is no grid. The note is the cursor's cell."""
    board = GO(state, text)
    cursor = re.search(r"Cursor: ([a-z]\d+)", text)
    if board is None or cursor is None:  # the text shows no cursor at the end of a game
        return board and replace(board, last=())
    size = int(len(board.layout.cells) ** 0.5)
    cell = cells_by_name(board.layout)[cursor[1]]
    steps = {"Up": -size, "Down": size, "Left": -1, "Right": 1, "Place Stone": 0}

    def cells_of_move(action: int, player: int, label: str) -> Cells:
        return (cell + steps[label],) if label in steps else ()

    return replace(board, cells_of_move=cells_of_move, last=(), note=cursor[0])
