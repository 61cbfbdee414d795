"""A board position as plain data: what the readers produce and what the page renders."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Shape = Literal["square", "hex", "point"]
Style = Literal["wood", "chess", "columns", "plain"]
Cells = tuple[int, ...]
"""indices into the cells of a position"""


@dataclass(frozen=True)
class Cell:
    """A place that can hold one piece."""

    x: float
    y: float
    """of its centre, in cells from the left and from the top"""
    shape: Shape
    """hex: 1 wide, with a corner at the top; point: an intersection of lines"""
    dark: bool
    """whether it has the darker of the board's two colours"""
    label: str
    """its name for a person: e4, or column 3, row 2"""


@dataclass(frozen=True)
class Piece:
    """A piece on a cell; a cell holds at most one."""

    cell: int
    player: int
    """0 for the player who moves first (white in chess), 1 for the other, -1 for neither"""
    glyph: str
    """empty for a plain stone, else a letter, a filled chess figure, or a number of seeds"""


@dataclass(frozen=True)
class Line:
    """A line under the pieces: part of the board, or a player's link between two stones."""

    start: int
    end: int
    """indices of cells"""
    player: int
    """as in `Piece`; -1 for a line of the board"""


@dataclass(frozen=True)
class LegalMove:
    """A legal move and the clicks that choose it."""

    action: int
    label: str
    """OpenSpiel's name of the move"""
    cells: Cells
    """to click in this order: one to place a piece, two to move it, none for a move without a place
    (a pass); several moves may share their cells"""
    area: Cells
    """cells of which one click chooses the move, for example a whole column; `cells` itself for a
    move of one cell, else ()"""


@dataclass(frozen=True)
class BoardPosition:
    """A board position; `dataclasses.asdict` converts it to JSON."""

    width: float
    height: float
    """in cells"""
    cells: tuple[Cell, ...]
    """() if the position is available as text only"""
    lines: tuple[Line, ...]
    pieces: tuple[Piece, ...]
    moves: tuple[LegalMove, ...]
    """() at the end of a game"""
    last: Cells
    """cells of the last move; () if it has none"""
    mover: int
    """the player to move, as in `Piece`; -1 at the end"""
    note: str
    """what the board does not show: pieces in hand, walls left"""
    text: str
    """OpenSpiel's own text, for screen readers and for positions without cells"""
    style: Style


@dataclass(frozen=True, eq=False)
class Layout:
    """A board without its pieces. Compares and hashes by identity, so it can be a cache key."""

    cells: tuple[Cell, ...]
    lines: tuple[Line, ...] = ()
    style: Style = "plain"
    size: tuple[float, float] = (0, 0)
    """width and height in cells; (0, 0) to derive them from the cells"""


CellsOfMove = Callable[[int, int, str], Cells]
"""maps an action, its player and its label to the cells to click"""


@dataclass(frozen=True)
class Board:
    """A position without its legal moves: what the reader of a game returns."""

    layout: Layout
    pieces: Iterable[Piece]
    cells_of_move: CellsOfMove
    area_of_move: Callable[[int, str], Cells] | None = None
    """maps an action and its label to `LegalMove.area`"""
    last: Cells | Literal["from_action", "replay"] = "from_action"
    """cells of the last move. "from_action": apply `cells_of_move` to the last action; "replay":
    the same, with the label that the action had before it was played"""
    note: str = ""
