"""Quoridor: fields with places for walls between them."""

import re

import pyspiel

from ludus.envs.board.positions.layouts import interleaved_layout, read_pieces
from ludus.envs.board.positions.position import Board, Cells

_NAMES = ("field", "wall on the right", "wall below", "corner")
_STONES = {"0": (0, ""), "@": (1, ""), "|": (-1, ""), "-": (-1, ""), "+": (-1, "")}


def read_quoridor(state: pyspiel.State, text: str) -> Board:
    """Read a position; the note is the number of walls that each player has left."""
    lines = text.split("\n")
    walls_left = lines[0].partition("walls")[2]
    size = 2 * int(re.findall(r"\d+", lines[0])[0]) - 1
    # a row has a label of three characters, then two for each cell
    symbols = "".join(
        line.ljust(2 * size + 3)[3 : 2 * size + 3 : 2] for line in lines[2 : size + 2]
    )

    def cells_of_move(action: int, player: int, label: str) -> Cells:
        letter, row, wall = re.findall(r"^([a-z])(\d+)([hv]?)$", label)[0]
        cell = (int(row) - 1) * 2 * size + (ord(letter) - 97) * 2
        return (cell + {"": 0, "v": 1, "h": size}[wall],)

    return Board(
        layout=interleaved_layout(size, size, _NAMES),
        pieces=read_pieces(symbols, _STONES),
        cells_of_move=cells_of_move,
        last="replay",
        note=f"walls left{walls_left}",
    )
