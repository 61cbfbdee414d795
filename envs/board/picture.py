"""Images of positions, in the shapes and colours of the page (`viewer/page/board.js`)."""

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ludus.envs.board.game import BOARD, Board, Game
from ludus.envs.board.positions.position import BoardPosition, Cell, Piece, Style
from ludus.envs.board.positions.read import read_position

_CELL, _LONGEST = 48, 576  # pixels of a cell, and of the longer side of a board, at most
_SMOOTH = 4  # factor of the supersampling
_NOTE = 28  # pixels of a line below the board
# games whose positions are more than the board
_NOTED = (
    "crazyhouse",
    "cursor_go",
    "nine_mens_morris",
    "quoridor",
    "shogi",
    "ultimate_tic_tac_toe",
)
GROUND_BELOW = ("connect_four",)
"""bit boards whose row 0 is the lowest"""
# the lighter and the darker cells, the lines
_BOARDS: dict[Style, tuple[str, str, str]] = {
    "wood": ("#dec58f", "#cbae72", "#6b5430"),
    "chess": ("#eed9b6", "#b58863", "#8a6544"),
    "columns": ("#2b6cb0", "#2b6cb0", "#1e4e80"),
    "plain": ("#e9ecef", "#d5dade", "#7d8790"),
}
_PIECES: dict[Style, tuple[str, str]] = {
    "wood": ("#1d1d22", "#f7f6f1"),
    "chess": ("#fbfaf6", "#26242a"),
    "columns": ("#d7263d", "#f6c945"),
    "plain": ("#0072b2", "#d55e00"),
}
_COLOUR_NAMES: dict[Style, tuple[str, str]] = {
    "wood": ("black", "white"),
    "chess": ("white", "black"),
    "columns": ("red", "yellow"),
    "plain": ("blue", "orange"),
}
_HOLE, _NEITHER, _LAST, _LAST_POINT = "#123a63", "#777777", "#e8cf4e", "#e69f00"


def render_board(game: Game, board: Board, second: bool) -> np.ndarray:
    """Render one position [1] as an image [height, width, 3] uint8, both sides even.

    Args:
        game: the rules.
        board: the position, from the view of the player to move.
        second: the second player is to move.
    """
    if not isinstance(board, np.ndarray):
        planes = game.observation(board)[BOARD][0].numpy()
        planes = planes[::-1] if second else planes
        falls = game.name in GROUND_BELOW
        return _draw(_position_of(planes, _bit_board_style(game), flipped=falls))
    position = read_position(board[0])
    if not position.cells:
        return _text(position.text)
    picture = _draw(position)
    if game.name.startswith("hive"):  # its board grows with its pieces
        picture = _centred(picture, (_LONGEST, _LONGEST), _BOARDS[position.style][0])
    return _with_note(picture, position.note) if game.name.startswith(_NOTED) else picture


def side_colours(game: Game) -> tuple[str, str] | None:
    """Return the colours of the first and the second player in `render_board`, for a person.

    None if its positions are shown as text.
    """
    board = game.init(1)
    if not isinstance(board, np.ndarray):
        return _COLOUR_NAMES[_bit_board_style(game)]
    position = read_position(board[0])
    return _COLOUR_NAMES[position.style] if position.cells else None


def _bit_board_style(game: Game) -> Style:
    return "columns" if game.name in GROUND_BELOW else "plain"


def _centred(picture: np.ndarray, size: tuple[int, int], ground: str) -> np.ndarray:
    """Put a picture into the middle of a larger one, width by height."""
    whole = Image.new("RGB", size, ground)
    height, width, _ = picture.shape
    whole.paste(Image.fromarray(picture), ((size[0] - width) // 2, (size[1] - height) // 2))
    return np.asarray(whole)


def _with_note(picture: np.ndarray, note: str) -> np.ndarray:
    """Write below a board what it does not show, such as pieces in hand."""
    height, width, _ = picture.shape
    whole = Image.new("RGB", (width, height + _NOTE), "white")
    whole.paste(Image.fromarray(picture))
    at = (_NOTE // 3, height + _NOTE // 2)
    ImageDraw.Draw(whole).text(at, note, "black", _font("DejaVuSans", _NOTE // 2), "lm")
    return np.asarray(whole)


def _position_of(planes: np.ndarray, style: Style, *, flipped: bool) -> BoardPosition:
    """Return the stones of a bit board, planes [2, H, W] of first and second player, to be drawn.

    `flipped` puts row 0 at the bottom.
    """
    _, height, width = planes.shape
    planes = planes[:, ::-1] if flipped else planes
    squares = [(row, column) for row in range(height) for column in range(width)]
    stones = (Piece(int(r * width + c), int(p), "") for p, r, c in np.argwhere(planes))
    return BoardPosition(
        width=width,
        height=height,
        cells=tuple(Cell(c + 0.5, r + 0.5, "square", False, "") for r, c in squares),
        lines=(),
        pieces=tuple(stones),
        moves=(),
        last=(),
        mover=-1,
        note="",
        text="",
        style=style,
    )


def _draw(position: BoardPosition) -> np.ndarray:
    """Draw a position that has cells."""
    pixels = min(_CELL, _LONGEST / max(position.width, position.height))
    size = [2 * round(pixels * side / 2) for side in (position.width, position.height)]
    light, dark, edge = _BOARDS[position.style]
    image = Image.new("RGB", (size[0] * _SMOOTH, size[1] * _SMOOTH), light)
    pen = _Pen(image, pixels * _SMOOTH)
    columns = position.style == "columns"
    for cell in position.cells:
        pen.cell(cell, dark if cell.dark else light, light if columns else edge)
        if columns:
            pen.disc(cell, 0.41, _HOLE)
    marked = [position.cells[at] for at in position.last]
    square = [cell for cell in marked if cell.shape == "square" and not columns]
    for cell in square:
        pen.cell(cell, _LAST, edge)
    for line in position.lines:
        colour = edge if line.player < 0 else _PIECES[position.style][line.player]
        pen.line(position.cells[line.start], position.cells[line.end], colour, line.player < 0)
    for piece in position.pieces:
        pen.piece(position.cells[piece.cell], piece, position.style)
    for cell in marked:
        if cell not in square:
            pen.disc(cell, 0.1, _LAST_POINT)
    return np.asarray(image.reduce(_SMOOTH))


class _Pen:
    """Draws on an image in the coordinates of cells."""

    def __init__(self, image: Image.Image, scale: float) -> None:
        self._pen, self._scale = ImageDraw.Draw(image), scale

    def _at(self, *points: float) -> list[float]:
        return [self._scale * point for point in points]

    def cell(self, cell: Cell, colour: str, edge: str) -> None:
        """Draw a cell without its piece."""
        x, y, width = cell.x, cell.y, max(1, round(0.03 * self._scale))
        if cell.shape == "square":
            corners = self._at(x - 0.5, y - 0.5, x + 0.5, y + 0.5)
            self._pen.rectangle(corners, colour, edge, width)
        elif cell.shape == "hex":
            turns = [math.pi / 6 + k * math.pi / 3 for k in range(6)]
            r = 3**-0.5
            corners = [z for a in turns for z in (x + r * math.cos(a), y + r * math.sin(a))]
            self._pen.polygon(self._at(*corners), colour, edge, width)
        else:
            self.disc(cell, 0.03, edge)

    def disc(self, cell: Cell, radius: float, colour: str, edge: str | None = None) -> None:
        """Draw a disc in the middle of a cell."""
        x, y = cell.x, cell.y
        corners = self._at(x - radius, y - radius, x + radius, y + radius)
        self._pen.ellipse(corners, colour, edge, max(1, round(0.025 * self._scale)))

    def line(self, start: Cell, end: Cell, colour: str, thin: bool) -> None:
        """Draw a line between the middles of two cells."""
        width = round((0.035 if thin else 0.09) * self._scale)
        self._pen.line(self._at(start.x, start.y, end.x, end.y), colour, width)

    def piece(self, cell: Cell, piece: Piece, style: Style) -> None:
        """Draw a stone, a chess figure, or what belongs to neither side."""
        x, y, glyph = cell.x, cell.y, piece.glyph
        if piece.player < 0:
            if glyph:
                self._write(cell, glyph, 0.45, "#222222")
            else:
                corners = self._at(x - 0.3, y - 0.3, x + 0.3, y + 0.3)
                self._pen.rounded_rectangle(corners, 0.08 * self._scale, _NEITHER)
            return
        colour, other = _PIECES[style][piece.player], _PIECES[style][1 - piece.player]
        if "♚" <= glyph <= "♟":
            self._write(cell, glyph, 0.8, colour, edge=other)
            return
        self.disc(cell, 0.41 if style == "columns" else 0.38, colour, "#555555")
        if glyph:
            self._write(cell, glyph, 0.42, other)

    def _write(self, cell: Cell, text: str, size: float, colour: str, edge: str = "") -> None:
        font = _font("DejaVuSans", round(size * self._scale))
        at = (self._scale * cell.x, self._scale * cell.y)
        width = round(0.02 * self._scale) if edge else 0
        self._pen.text(at, text, colour, font, "mm", stroke_width=width, stroke_fill=edge or colour)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font that comes with matplotlib, so that pictures are the same everywhere."""
    spec = find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), size)


def _text(text: str) -> np.ndarray:
    """Return OpenSpiel's own text of a position as an image."""
    font = _font("DejaVuSansMono", 20)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    _, _, right, bottom = measure.multiline_textbbox((16, 16), text, font)
    size = (2 * -(-int(right + 16) // 2), 2 * -(-int(bottom + 16) // 2))  # even, for a video
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).multiline_text((16, 16), text, "black", font)
    return np.asarray(image)
