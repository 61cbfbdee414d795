"""Occlusion of boards, against an agent that looks at one square."""

import numpy as np
import pytest
from gymnasium import spaces

from ludus.agents.agent import Advice
from ludus.envs.board.backend import observation_space, observations
from ludus.envs.board.spiel import make_game
from ludus.evaluation.occlusion import board_planes, empty_square, has_planes, occlude


class _OneSquare:
    """Its policy moves to action 0 by `share` and its value is 0.5 if a square has a piece."""

    def __init__(self, space, row, column, share=1.0):
        self.space, self.at, self.share = space, (row, column), share

    def advise(self, obs, state=None, first=None):
        there = board_planes(self.space, obs)[:, :2, *self.at].any(1)
        policy = np.tile(np.eye(9)[8], (len(obs), 1))
        policy[there] = self.share * np.eye(9)[0] + (1 - self.share) * np.eye(9)[8]
        return Advice(policy.argmax(1), 0.5 * there, None, policy), state


def _positions(name: str, moves: list[list[int]]) -> tuple[spaces.Box, np.ndarray]:
    import torch

    game = make_game(name)
    space = observation_space(game)
    rows = []
    for each in moves:
        board = game.init(1)
        for move in each:
            board = game.step(board, torch.tensor([move])).board
        rows.append(observations(game, space, board)[0])
    return space, np.stack(rows)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_only_the_square_that_the_network_looks_at_matters(share):
    space, obs = _positions("tic_tac_toe", [[4, 0, 8], [4, 0, 8, 2], [3]])
    found = occlude(_OneSquare(space, 0, 0, share), space, obs, np.array([1, 2]))
    assert np.argwhere(found.occupied[0]).tolist() == [[0, 0], [0, 2], [1, 1], [2, 2]]
    assert np.argwhere(found.occupied[1]).tolist() == [[1, 0]]
    assert found.policy[0][found.occupied[0]] == pytest.approx([share, 0, 0, 0])
    assert found.value[0][found.occupied[0]] == pytest.approx([-0.5, 0, 0, 0])
    assert found.policy[1, 1, 0] == 0
    assert np.isnan(found.policy[~found.occupied]).all()


def test_the_legal_moves_stay_those_of_the_position():
    space, obs = _positions("tic_tac_toe", [[4, 0, 8]])
    seen = []

    class _Watching(_OneSquare):
        def advise(self, obs, state=None, first=None):
            seen.append(obs)
            return super().advise(obs, state, first)

    occlude(_Watching(space, 0, 0), space, obs, np.array([0]))
    start, end, _ = space.parts["action_mask"]
    assert (seen[0][:, start:end] == obs[0, start:end]).all()
    assert (board_planes(space, seen[0]).sum((1, 2, 3)) == [3, 2, 2, 2]).all()


def test_the_empty_square_of_openspiels_planes_is_found():
    """Go has a plane of empty points, which a removed stone sets, and one of who is to move."""
    space, obs = _positions("go(board_size=5)", [[6, 7, 12], [6]])
    assert has_planes(space)
    planes = board_planes(space, obs)
    empty, local = empty_square(planes)
    free = np.argwhere(planes[0, 0] + planes[0, 1] == 0)[0]
    assert (planes[0, :, *free] * local == empty).all()
    assert empty.sum() == 1
    assert not local[-1]  # who is to move
    found = occlude(_OneSquare(space, 1, 1), space, obs, np.array([0]))
    assert found.occupied[0].sum() == 3


def test_what_is_no_board_of_squares_has_no_planes():
    assert not has_planes(spaces.Box(0, 1, (4,), np.float32))
    assert not has_planes(_positions("nim", [[]])[0])
