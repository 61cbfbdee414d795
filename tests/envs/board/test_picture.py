"""Pictures of positions: every piece is where it stands, in the colours of the page."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageColor

import ludus
from ludus.envs.board import picture, spiel
from ludus.envs.board.picture import render_board
from ludus.envs.board.positions.read import read_position


def _board(state):
    board = np.empty(1, object)
    board[0] = state
    return board


def _near(pixel, colour):
    return np.abs(pixel.astype(int) - ImageColor.getrgb(colour)).max() < 12


@pytest.mark.parametrize("name", spiel.names())
def test_every_piece_is_drawn_where_it_stands(name):
    game = spiel.SpielGame(spiel.load(name))
    generator, state = np.random.default_rng(0), spiel.load(name).new_initial_state()
    for _ in range(12):
        if state.is_terminal():
            break
        state.apply_action(generator.choice(state.legal_actions()))
    position, image = read_position(state), render_board(game, _board(state), second=False)
    height, width, _ = image.shape
    assert (height % 2, width % 2) == (0, 0)
    assert max(height, width) <= 576
    stones = {piece.cell: piece for piece in position.pieces}
    for at, cell in enumerate(position.cells):
        # below the middle, where a letter or the mark of the last move may be
        x, y = (cell.x * width / position.width, (cell.y + 0.26) * height / position.height)
        pixel = image[min(round(y), height - 1), min(round(x), width - 1)]
        colours = picture._PIECES[position.style]
        piece = stones.get(at)
        if piece is None:
            assert not any(_near(pixel, colour) for colour in colours), cell
        elif piece.player >= 0 and not "♚" <= piece.glyph <= "♟":
            assert _near(pixel, colours[piece.player]), (cell, piece)
        elif piece.player < 0 and not piece.glyph:
            assert _near(pixel, "#777777"), cell


def test_chess_is_drawn_with_figures_in_both_colours():
    state = spiel.load("chess").new_initial_state()
    image = render_board(spiel.SpielGame(spiel.load("chess")), _board(state), second=False)
    assert image.shape == (384, 384, 3)
    white, black = (ImageColor.getrgb(colour) for colour in picture._PIECES["chess"])
    for row in range(8):
        for column in range(8):
            square = image[48 * row : 48 * row + 48, 48 * column : 48 * column + 48]
            pale, dark = (
                int((np.abs(square - np.array(c)).max(2) < 12).sum()) for c in (white, black)
            )
            # the edge of a figure has the other colour
            expected = "black" if row < 2 else "white" if row > 5 else "none"
            shown = "none" if pale + dark < 100 else "black" if dark > pale else "white"
            assert shown == expected, (row, column)


def test_a_position_without_cells_is_openspiel_s_text():
    name = "gomoku(size=3,connect=3,dims=3)"
    state = spiel.load(name).new_initial_state()
    image = render_board(spiel.SpielGame(spiel.load(name)), _board(state), second=False)
    assert (image.max(), image.min() < 100) == (255, True)


def test_the_colours_are_those_of_the_page():
    page = (Path(ludus.__file__).parent / "viewer" / "page" / "board.js").read_text()
    colours = [
        c for table in (picture._BOARDS, picture._PIECES) for each in table.values() for c in each
    ]
    assert all(f'"{colour}"' in page for colour in colours)
