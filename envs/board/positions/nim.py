"""Nim: a click on an object takes it and all above it in its pile."""

import re

import pyspiel

from ludus.envs.board.positions.position import Board, Cell, Cells, Layout, Piece


def _piles(state: pyspiel.State) -> list[int]:
    return [int(n) for n in str(state).partition(":")[2].split()]


def read_nim(state: pyspiel.State, text: str) -> Board:
    """Read a position; piles keep the cells of the objects that they had at the start."""
    full, now = _piles(state.get_game().new_initial_state()), _piles(state)
    tallest = max(full)
    cells, indices = list[Cell](), dict[tuple[int, int], int]()  # by pile and level, both from 1
    for pile, count in enumerate(full, 1):
        for level in range(1, count + 1):
            indices[pile, level] = len(cells)
            label = f"pile {pile}, number {level}"
            cells.append(Cell(pile - 0.5, tallest - level + 0.5, "square", False, label))

    def cells_of_move(action: int, player: int, label: str) -> Cells:
        pile, take = map(int, re.findall(r"\d+", label))
        return (indices[pile, now[pile - 1] - take + 1],)

    pieces = [Piece(i, -1, "") for (pile, level), i in indices.items() if level <= now[pile - 1]]
    return Board(Layout(tuple(cells)), pieces, cells_of_move, last=())
