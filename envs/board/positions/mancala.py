"""Mancala and oware: numbers of seeds in two rows of houses, between two stores."""

import re
from functools import lru_cache

import pyspiel

from ludus.envs.board.positions.position import Board, Cell, CellsOfMove, Layout, Piece


@lru_cache(16)
def _layout(houses: int) -> Layout:
    """Return the left store, houses below from the left, right store, houses above from the right.

    This is the order in which seeds are sown, and the numbering of mancala's actions.
    """
    below = [Cell(i + 1.5, 1.5, "square", False, f"house {i + 1} below") for i in range(houses)]
    above = [
        Cell(houses - i + 0.5, 0.5, "square", False, f"house {i + 1} above") for i in range(houses)
    ]
    left = Cell(0.5, 1, "square", True, "left store")
    right = Cell(houses + 1.5, 1, "square", True, "right store")
    return Layout((left, *below, right, *above), style="wood", size=(houses + 2, 2))


def _board(
    left: int, below: list[int], right: int, above: list[int], cells_of_move: CellsOfMove
) -> Board:
    seeds = (left, *below, right, *above)
    players = (1, *[0] * len(below), 0, *[1] * len(above))
    pieces = [Piece(i, p, str(n)) for i, (p, n) in enumerate(zip(players, seeds, strict=True)) if n]
    return Board(_layout(len(below)), pieces, cells_of_move)


def read_mancala(state: pyspiel.State, text: str) -> Board:
    """Read a position of mancala; an action is the index of its house."""
    above, (left, right), below = (
        [int(n) for n in re.findall(r"\d+", line)] for line in text.split("\n")[:3]
    )
    return _board(left, below, right, above[::-1], lambda action, player, label: (action,))


def read_oware(state: pyspiel.State, text: str) -> Board:
    """Read a position of oware; an action is a house of the player to move."""
    above, below = (
        [int(n) for n in line.split()] for line in re.findall(r"^[ \d]+$", text, re.MULTILINE)
    )
    left, right = map(int, re.findall(r"score = (\d+)", text))
    first_house = (1, len(below) + 2)  # of each player
    return _board(
        left,
        below,
        right,
        above[::-1],
        lambda action, player, label: (first_house[player] + action,),
    )
