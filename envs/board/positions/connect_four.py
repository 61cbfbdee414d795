"""Connect four: a click anywhere in a column drops a stone."""

import pyspiel

from ludus.envs.board.positions.grid import CROSSES
from ludus.envs.board.positions.layouts import read_pieces, rows_layout
from ludus.envs.board.positions.position import Board


def read_connect_four(state: pyspiel.State, text: str) -> Board | None:
    """Read a position; return None if its text is no grid."""
    rows = CROSSES.rows(text)
    if not rows or len(set(map(len, rows))) > 1:
        return None
    height, width = len(rows), len(rows[0])
    free = [sum(row[column] == "." for row in rows) for column in range(width)]
    history = state.history()
    return Board(
        layout=rows_layout("square", (width,) * height, "numbers", "columns"),
        pieces=read_pieces("".join(rows), CROSSES.stones),
        cells_of_move=lambda action, player, label: ((free[action] - 1) * width + action,),
        area_of_move=lambda action, label: tuple(row * width + action for row in range(height)),
        last=(free[history[-1]] * width + history[-1],) if history else (),
    )
