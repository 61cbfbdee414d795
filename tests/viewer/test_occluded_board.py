"""Occlusion on the cells that a page draws, against an agent that looks at one move's square."""

import numpy as np
import pytest

from ludus.agents.agent import Advice
from ludus.envs.board import spiel
from ludus.envs.board.positions.read import read_position
from ludus.envs.make import make
from ludus.evaluation.occlusion import board_planes
from ludus.viewer.occluded_board import OccludedBoard


class _OneSquare:
    """Its policy is action 1, or action 0 by 0.25 if a square of the planes has a piece."""

    def __init__(self, space, square):
        self.space, self.square = space, square

    def advise(self, obs, state=None, first=None):
        planes = board_planes(self.space, obs)
        there = planes[:, :2, *self.square].any(1)
        policy = np.tile(np.eye(9)[1], (len(obs), 1))
        policy[there] = 0.25 * np.eye(9)[0] + 0.75 * np.eye(9)[1]
        return Advice(policy.argmax(1), 0.5 * there, None, policy), state


@pytest.mark.parametrize(
    ("game", "moves", "square"),
    [
        ("tic_tac_toe", [4, 0, 2], (0, 2)),
        ("othello", [19, 18], (2, 3)),
        ("connect_four", [3, 3, 0], (0, 0)),  # whose planes begin at the bottom
    ],
)
def test_the_ring_is_drawn_around_the_piece_that_the_network_looks_at(game, moves, square):
    env = make(game, 1, 0)
    state, row = spiel.load(game).new_initial_state(), env.reset()
    for move in moves:
        state.apply_action(move)
        env.send(np.array([move]))
        row = env.recv()
    position = read_position(state)
    board = OccludedBoard(_OneSquare(env.observation_space, square), game)
    assert board.available
    found = {each["cell"]: each for each in board.look(row.obs)}
    assert set(found) == {piece.cell for piece in position.pieces}
    looked_at = [cell for cell, each in found.items() if each["policy"] > 0]
    at = {"tic_tac_toe": (2.5, 0.5), "othello": (3.5, 2.5), "connect_four": (0.5, 5.5)}[game]
    assert [(position.cells[c].x, position.cells[c].y) for c in looked_at] == [at]
    assert found[looked_at[0]] == {
        "cell": looked_at[0],
        "policy": pytest.approx(0.25),
        "share": pytest.approx(0.25),
        "value": -0.5,
    }
    others = [each for cell, each in found.items() if cell not in looked_at]
    assert all(each["policy"] == each["share"] == each["value"] == 0 for each in others)


@pytest.mark.parametrize("game", ["hex", "nim", "clobber", "mancala"])
def test_boards_whose_squares_are_not_drawn_cells_have_none(game):
    assert not OccludedBoard(None, game).available
