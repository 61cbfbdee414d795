"""Images of positions: stones on a board for bit boards, else OpenSpiel's text."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ludus.envs.board.game import BOARD, Board, Game

_CELL, _SMOOTH = 48, 4  # pixels per cell; factor of the supersampling
_GROUND, _LINE = (222, 205, 170), (120, 95, 60)
_STONES = ((30, 30, 36), (245, 245, 240))  # first and second player


def render_board(game: Game, board: Board, second: bool) -> np.ndarray:
    """Render one position [1] as an image [height, width, 3] uint8.

    Args:
        game: the rules.
        board: the position, from the view of the player to move.
        second: the second player is to move.
    """
    if not isinstance(board, np.ndarray):
        planes = game.observation(board)[BOARD][0].numpy()
        return _stones(planes[::-1] if second else planes, flipped=game.name == "connect_four")
    return _text(str(board[0]))


def _stones(planes: np.ndarray, flipped: bool) -> np.ndarray:
    """Render planes [2, H, W] of first and second player; `flipped` puts row 0 at the bottom."""
    planes = planes[:, ::-1] if flipped else planes
    side = _CELL * _SMOOTH
    height, width = (n * side for n in planes.shape[1:])
    image = Image.new("RGB", (width + 1, height + 1), _GROUND)
    pen = ImageDraw.Draw(image)
    for at in range(0, height + 1, side):
        pen.line((0, at, width, at), _LINE, _SMOOTH)
    for at in range(0, width + 1, side):
        pen.line((at, 0, at, height), _LINE, _SMOOTH)
    for plane, colour in zip(planes, _STONES, strict=True):
        for row, column in np.argwhere(plane):
            left, top = column * side + side // 8, row * side + side // 8
            corner = (left, top, left + side * 3 // 4, top + side * 3 // 4)
            pen.ellipse(corner, colour, _LINE, _SMOOTH)
    size = (width // _SMOOTH, height // _SMOOTH)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _text(text: str) -> np.ndarray:
    font = ImageFont.load_default(20)
    try:
        font = ImageFont.truetype("DejaVuSansMono.ttf", 20)
    except OSError:  # the default font is proportional
        text = text.replace(" ", "  ")
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    _, _, right, bottom = measure.multiline_textbbox((16, 16), text, font)
    size = (2 * -(-int(right + 16) // 2), 2 * -(-int(bottom + 16) // 2))  # even, for a video
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).multiline_text((16, 16), text, "black", font)
    return np.asarray(image)
