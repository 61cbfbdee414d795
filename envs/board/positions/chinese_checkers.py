"""Chinese checkers: hexagons in a star, numbered in the order of OpenSpiel's text."""

import re
from functools import lru_cache

import pyspiel

from ludus.envs.board.positions.layouts import hex_cell, numbers_in_label, read_pieces, stones
from ludus.envs.board.positions.position import Board, Layout


@lru_cache(4)
def _layout(text: str) -> Layout:
    places = [
        (r, c) for r, line in enumerate(text.split("\n")) for c, s in enumerate(line) if s > " "
    ]
    return Layout(tuple(hex_cell(c / 2, r, f"point {i}") for i, (r, c) in enumerate(places)))


def read_chinese_checkers(state: pyspiel.State, text: str) -> Board:
    """Read a position."""
    board = text.partition("Player")[0].rstrip()
    return Board(
        layout=_layout(re.sub(r"\d", ".", board)),
        pieces=read_pieces(re.findall(r"\S", board), stones("1", "2")),
        cells_of_move=numbers_in_label,
        last="replay",
    )
