"""Layouts that several boards share, the names of their cells, and pieces read from letters."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from ludus.envs.board.positions.position import (
    Cell,
    Cells,
    CellsOfMove,
    Layout,
    Line,
    Piece,
    Shape,
    Style,
)

Stones = Mapping[str, tuple[int, str]]
"""player and glyph of each letter in OpenSpiel's text"""

_CELL_NAME = re.compile(r"[a-z](?:\d+|[:-Z])")


def extent(cells: tuple[Cell, ...]) -> tuple[float, float]:
    """Return the width and height that cells take; (0, 0) if there are none."""
    if not cells:
        return 0, 0
    half = 3**-0.5 if cells[0].shape == "hex" else 0.5
    return max(c.x for c in cells) + 0.5, round(max(c.y for c in cells) + half, 4)


def hex_cell(column: float, row: int, label: str) -> Cell:
    """Return a hexagonal cell; `column` of 0.5 is half a cell from the left."""
    x, y = round(column + 0.5, 4), round(row * 0.75**0.5 + 3**-0.5, 4)
    return Cell(x, y, "hex", False, label)


def file_name(column: int) -> str:
    """Return the letters of a column: a to z, then aa, ab, ..."""
    if column < 26:
        return chr(97 + column)
    return f"{file_name(column // 26 - 1)}{file_name(column % 26)}"


@lru_cache(256)
def rows_layout(shape: Shape, widths: Cells, naming: str, style: Style) -> Layout:
    """Return a board of rows, from the top.

    Args:
        shape: of all cells. Rows of hexagons slant; where the first is shorter than the longest,
            they form Havannah's hexagon.
        widths: cells in each row.
        naming: "up" (a1 at the bottom), "go" (the same without i), "down" (a1 at the top), or
            "numbers" ("column 1, row 1").
        style: colours of the board.
    """
    height, cells = len(widths), list[Cell]()
    side = (height - 1) // 2 if widths[0] < max(widths) else None  # of Havannah's hexagon
    for row, width in enumerate(widths):
        for column in range(width):
            # below the middle of Havannah's hexagon, rows begin at a later file
            file = column if side is None else column + max(0, row - side)
            letter = file_name(file + (naming == "go" and file > 7))
            label = f"{letter}{height - row if naming in ('up', 'go') else row + 1}"
            if naming == "numbers":
                label = f"column {column + 1}, row {row + 1}"
            if shape == "hex":
                x = file + row / 2 if side is None else file + (side - row) / 2
                cells.append(hex_cell(x, row, label))
            else:
                dark = style == "chess" and (row + column) % 2 == 1
                cells.append(Cell(column + 0.5, row + 0.5, shape, dark, label))
    lines = list[Line]()
    if shape == "point":
        width = widths[0]
        lines += [Line(row * width, row * width + width - 1, -1) for row in range(height)]
        lines += [Line(c, (height - 1) * width + c, -1) for c in range(width)]
    return Layout(tuple(cells), tuple(lines), style)


@lru_cache(32)
def interleaved_layout(height: int, width: int, names: tuple[str, str, str, str]) -> Layout:
    """Return fields with places between them, such as walls.

    Args:
        height: rows, those between fields included.
        width: columns, those between fields included.
        names: of a field, of a place on its right, of one below it, and of one at its corner.
    """
    cells = []
    for row in range(height):
        for column in range(width):
            kind = row % 2 * 2 + column % 2
            label = f"{names[kind]}, column {column // 2 + 1}, row {row // 2 + 1}"
            cells.append(Cell(column + 0.5, row + 0.5, "square", kind == 0, label))
    return Layout(tuple(cells))


@lru_cache(256)
def cells_by_name(layout: Layout) -> dict[str, int]:
    """Return the index of each cell by its label.

    OpenSpiel numbers some rows by characters from "1" on, so that row 10 is ":"; rows 10 to 42 are
    included under that character, too.
    """
    names = {cell.label: i for i, cell in enumerate(layout.cells)}
    for name, i in list(names.items()):
        number = re.search(r"\d+$", name)
        if number and 10 <= int(number[0]) < 43:
            names[name[: number.start()] + chr(48 + int(number[0]))] = i
    return names


def cells_named_in_label(layout: Layout) -> CellsOfMove:
    """Return a function that finds the cells named in a label; () if one of them is unknown."""
    names = cells_by_name(layout)

    def cells_of_move(action: int, player: int, label: str) -> Cells:
        found = _CELL_NAME.findall(label)
        return tuple(names[name] for name in found) if all(n in names for n in found) else ()

    return cells_of_move


def cell_of_action(layout: Layout) -> CellsOfMove:
    """Return a function that finds the cell whose index is the action; () for a pass."""
    count = len(layout.cells)
    return lambda action, player, label: (action,) if action < count else ()


def numbers_in_label(action: int, player: int, label: str) -> Cells:
    """Return the numbers in a label, for boards that number their cells as OpenSpiel does."""
    return tuple(map(int, re.findall(r"\d+", label)))


def stones(first: str, second: str, neither: str = "") -> dict[str, tuple[int, str]]:
    """Return plain stones: the letters of the first player, of the second, and of neither."""
    sides = ((first, 0), (second, 1), (neither, -1))
    return {letter: (player, "") for letters, player in sides for letter in letters}


def lettered_stones(letters: str, glyphs: str = "") -> Stones:
    """Return stones with glyphs: capitals for the first player, small letters for the second."""
    pairs = list(zip(letters, glyphs or letters, strict=True))
    return {a: (0, g) for a, g in pairs} | {a.lower(): (1, g) for a, g in pairs}


def read_pieces(symbols: Iterable[str], stones: Stones) -> tuple[Piece, ...]:
    """Return the pieces of a board whose text has one symbol a cell."""
    return tuple(Piece(i, *stones[s]) for i, s in enumerate(symbols) if s in stones)


def read_fen(board: str, stones: Stones) -> list[Piece]:
    """Return the pieces of a FEN board; "+" before a letter is kept in its glyph."""
    pieces, cell = list[Piece](), 0
    for plus, symbol in re.findall(r"(\+?)(\d|[A-Za-z])", board):
        if symbol.isdigit():  # so many empty squares
            cell += int(symbol)
        else:
            player, glyph = stones[symbol]
            pieces.append(Piece(cell, player, plus + glyph))
            cell += 1
    return pieces
