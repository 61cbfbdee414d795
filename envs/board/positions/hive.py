"""Hive: piles of pieces on hexagons, replayed from the moves in the game's text.

A hexagon has axial coordinates (q, r): q goes to the right, r down and to the right.
"""

import re

import pyspiel

from ludus.envs.board.positions.layouts import hex_cell
from ludus.envs.board.positions.position import Board, Cell, Cells, Layout, Piece

Place = tuple[int, int]

# steps by the mark before and the mark after the neighbour's name: "/wS1" is below it to the left
_NEIGHBOURS = {
    ("", "/"): (1, -1),
    ("", "-"): (1, 0),
    ("", "\\"): (0, 1),
    ("/", ""): (-1, 1),
    ("-", ""): (-1, 0),
    ("\\", ""): (0, -1),
}


def _target(move: str, places: dict[str, Place]) -> Place:
    """Return where a move puts its piece, given the places of all pieces."""
    if " " not in move:  # the first move of a game names no neighbour
        return 0, 0
    match = re.fullmatch(r"([/\\-]?)(\w+)([/\\-]?)", move.split()[1])
    assert match, move
    q, r = places[match[2]]
    step = _NEIGHBOURS.get((match[1], match[3]), (0, 0))  # without a mark, on top of the piece
    return q + step[0], r + step[1]


def _replay(moves: list[str]) -> tuple[dict[str, Place], dict[Place, list[str]], list[Place]]:
    """Return the place of each piece, the piles from bottom to top, and the last move's places."""
    places, piles, last = dict[str, Place](), dict[Place, list[str]](), list[Place]()
    for move in moves:
        last = []
        if move == "pass":
            continue
        piece, target = move.split()[0], _target(move, places)
        if piece in places:
            piles[places[piece]].remove(piece)
            last.append(places[piece])
        places[piece] = target
        piles.setdefault(target, []).append(piece)
        last.append(target)
    return places, piles, last


def read_hive(state: pyspiel.State, text: str) -> Board:
    """Read a position; its cells are the occupied hexagons and all next to them."""
    places, piles, last = _replay([move for move in text.split(";")[3:] if move])
    around = {(q + x, r + y) for q, r in places.values() for x, y in _NEIGHBOURS.values()}
    hexagons = sorted(around | set(places.values()) | {(0, 0)}, key=lambda place: place[::-1])
    index = {place: i for i, place in enumerate(hexagons)}
    top, left = min(r for _, r in hexagons), min(q + r / 2 for q, r in hexagons)
    cells = list[Cell]()
    for q, r in hexagons:
        pile = piles.get((q, r), [])
        label = " on ".join(pile[::-1]) or f"free {q}, {r}"
        cells.append(hex_cell(q + r / 2 - left, r - top, label))
    pieces = [
        Piece(index[place], "wb".index(pile[-1][0]), pile[-1][1])
        for place, pile in piles.items()
        if pile
    ]

    def cells_of_move(action: int, player: int, label: str) -> Cells:
        if label == "pass":
            return ()
        piece = label.split()[0]
        start = (index[places[piece]],) if piece in places else ()
        return (*start, index[_target(label, places)])

    shown = tuple(index[place] for place in last if place in index)
    return Board(Layout(tuple(cells)), pieces, cells_of_move, last=shown)
