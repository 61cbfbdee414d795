"""Pictures of positions: every piece is where it stands, in the colours of the page."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageColor

import ludus
from ludus.envs.board import picture, spiel
from ludus.envs.board.picture import render_board, side_colours
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
    assert max(height, width) <= 576 + 28
    side = max(position.width, position.height)
    board = [
        2 * round(min(48, 576 / side) * length / 2) for length in (position.width, position.height)
    ]
    left, top = ((576 - side) // 2 for side in board) if name == "hive" else (0, 0)
    stones = {piece.cell: piece for piece in position.pieces}
    for at, cell in enumerate(position.cells):
        # below the middle, where a letter or the mark of the last move may be
        x = left + cell.x * board[0] / position.width
        y = top + (cell.y + 0.26) * board[1] / position.height
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


def test_a_picture_keeps_its_size_for_a_whole_game():
    """Which a video needs."""
    for name in ("hive", "crazyhouse", "quoridor"):
        game, state = spiel.SpielGame(spiel.load(name)), spiel.load(name).new_initial_state()
        generator, sizes = np.random.default_rng(0), set()
        for _ in range(20):
            sizes.add(render_board(game, _board(state), second=False).shape)
            state.apply_action(generator.choice(state.legal_actions()))
        assert len(sizes) == 1, name


def test_pieces_in_hand_are_written_below_the_board():
    state = spiel.load("crazyhouse").new_initial_state()
    game = spiel.SpielGame(spiel.load("crazyhouse"))
    empty = render_board(game, _board(state), second=False)[384:]
    for move in ("e4", "d5", "exd5"):
        legal = {
            state.action_to_string(state.current_player(), a): a for a in state.legal_actions()
        }
        state.apply_action(legal[move])
    held = render_board(game, _board(state), second=False)[384:]
    assert empty.min() == 255
    assert held.min() < 100


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


@pytest.mark.parametrize(
    ("name", "colours", "shades"),
    [
        ("tic_tac_toe", ("blue", "orange"), ("#0072b2", "#d55e00")),
        ("connect_four", ("red", "yellow"), ("#d7263d", "#f6c945")),
        ("go(board_size=5)", ("black", "white"), ("#1d1d22", "#f7f6f1")),
        ("breakthrough", ("white", "black"), ("#fbfaf6", "#26242a")),
    ],
)
def test_the_sides_have_the_colours_that_are_said(name, colours, shades):
    game = spiel.make_game(name)
    assert side_colours(game) == colours
    board, second = game.init(1), name == "breakthrough"  # where both begin with pieces
    for shade in () if second else shades:
        before = _share(render_board(game, board, second), shade)
        action = game.legal_actions(board).int().argmax(1)
        board, second = game.step(board, action).board, not second
        assert _share(render_board(game, board, second), shade) > before


def _share(image, colour):
    return (np.abs(image.astype(int) - ImageColor.getrgb(colour)).max(2) < 12).mean()


def test_sides_of_a_position_in_text_have_no_colours():
    assert side_colours(spiel.make_game("gomoku(size=3,connect=3,dims=3)")) is None
