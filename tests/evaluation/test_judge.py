"""Openings of matches, perfect play of connect four, and moves held against it."""

import numpy as np
import pyspiel
import pytest

from ludus.envs.board import spiel
from ludus.envs.board.opponents import MinimaxOpponent, make_opponent
from ludus.envs.errors import EnvError, UsageError
from ludus.evaluation.judge import JudgedMove, judge, share
from ludus.evaluation.match import FixedSide, Match, play_match
from ludus.evaluation.openings import random_openings, read_openings

GAME = "connect_four"


@pytest.fixture
def solver():
    pytest.importorskip("bitbully")
    from ludus.envs.board.perfect import make_solver

    return make_solver(GAME)


def _state(moves):
    state = spiel.load(GAME).new_initial_state()
    for move in moves:
        state.apply_action(move)
    return state


@pytest.mark.parametrize("games", [5, 8])
def test_each_two_games_begin_with_an_opening_from_both_sides(games):
    openings = [[3, 3], [0, 1, 2], []]
    sides = (FixedSide("random", GAME, games, 1), FixedSide("greedy", GAME, games, 2))
    match = play_match(sides, GAME, games, seed=0, openings=openings)
    expected = [openings[i // 2 % 3] for i in range(games)]
    assert [
        moves[: len(opening)] for moves, opening in zip(match.games, expected, strict=True)
    ] == (expected)
    assert match.openings == [len(opening) for opening in expected]
    assert [len(moves) for moves in match.games] == match.lengths
    assert sum(match.moves) == sum(match.lengths) - sum(match.openings)
    for number, (moves, result) in enumerate(zip(match.games, match.returns, strict=True)):
        sign = 1 if number % 2 == 0 else -1
        assert result == sign * _state(moves).player_return(0)


def test_a_match_without_openings_is_what_it_was():
    sides = [(FixedSide("random", GAME, 6, 1), FixedSide("random", GAME, 6, 2)) for _ in range(2)]
    plain = play_match(sides[0], GAME, 6, seed=0)
    assert plain.games == play_match(sides[1], GAME, 6, seed=0, openings=[[]]).games
    assert plain.openings == [0] * 6


def test_random_openings_differ_and_leave_moves_to_play():
    openings = random_openings(GAME, 60, 4, seed=1)
    assert len({tuple(moves) for moves in openings}) == 60
    assert {len(moves) for moves in openings} == {4}
    assert openings == random_openings(GAME, 60, 4, seed=1)
    assert openings != random_openings(GAME, 60, 4, seed=2)
    assert sorted(random_openings(GAME, 60, 1, seed=0)) == [[column] for column in range(7)]
    with pytest.raises(UsageError, match="is over after 9 random moves"):
        random_openings("tic_tac_toe", 2, 9, seed=0)


def test_openings_are_read_from_a_file(tmp_path):
    path = tmp_path / "openings.txt"
    path.write_text("# two of them\n3 3\n\n0 1 2  # three moves\n")
    assert read_openings(GAME, path) == [[3, 3], [0, 1, 2]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3 3\n3 7\n", r"line 2 of .* has the move 7, which is not legal there"),
        ("3 -1", "the move -1, which is not legal"),
        ("3 3 3 3 3 3 3", "the move 3, which is not legal"),
        ("0 1 0 1 0 1 0", "is a whole game"),
        ("0 1 0 1 0 1 0 2", "the move 2, which is not legal"),
        ("# none", "contains no opening"),
    ],
)
def test_a_file_that_has_no_openings_is_refused(tmp_path, text, said):
    path = tmp_path / "openings.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_openings(GAME, path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_openings(GAME, tmp_path / "nothing.txt")


def test_the_first_move_of_connect_four(solver):
    """The middle wins, the columns beside it draw, all others lose (Allis 1988)."""
    scores = solver.scores(_state([]))
    assert [np.sign(scores[column]) for column in range(7)] == [-1, -1, 0, 1, 0, -1, -1]


def test_the_solver_agrees_with_minimax_near_the_end(solver):
    """A search of the whole rest of the game by OpenSpiel's own rules."""
    generator, seen = np.random.default_rng(0), 0
    while seen < 40:
        state = _state([])
        while not state.is_terminal() and len(state.history()) < 30:
            state.apply_action(int(generator.choice(state.legal_actions())))
        if state.is_terminal():
            continue
        seen += 1
        player, minimax = state.current_player(), MinimaxOpponent(spiel.load(GAME))
        values = {move: minimax.value(state.child(move), player) for move in state.legal_actions()}
        scores = solver.scores(state)
        assert {move: np.sign(score) for move, score in scores.items()} == values


def test_perfect_play_wins_soon_and_loses_late(solver):
    perfect = make_opponent("perfect", spiel.load(GAME), seed=0)
    assert perfect.choose(_state([0, 1, 0, 1, 0, 1])) == 0  # four at once
    assert perfect.choose(_state([0, 1, 0, 1, 0])) == 0  # the only move that does not lose at once


def test_perfect_play_is_known_of_connect_four_only(solver):
    with pytest.raises(EnvError, match="known of connect_four only; the game is tic_tac_toe"):
        make_opponent("perfect", spiel.load("tic_tac_toe"), seed=0)
    other = pyspiel.load_game("connect_four(rows=5)")
    with pytest.raises(EnvError, match="known of connect_four only"):
        make_opponent("perfect", other, seed=0)


def test_moves_are_judged_by_what_they_leave(solver):
    column = [0, 1, 0, 1, 0, 1]  # both have three in a row, the first is to move
    match = Match(games=[[*column, 0], [*column, 6]], openings=[0, 6])
    moves = judge(match, 0, GAME)
    assert [(m.game, m.ply) for m in moves] == [(0, 0), (0, 2), (0, 4), (0, 6)]
    assert not moves[0].kept  # the corner loses what the middle wins
    assert moves[-1] == JudgedMove(0, 6, kept=True, free=False)
    # side 1 moves second in game 0 and first in game 1, of which six moves are an opening
    other = judge(match, 1, GAME)
    assert [(m.game, m.ply) for m in other] == [(0, 1), (0, 3), (0, 5), (1, 6)]
    assert other[-1] == JudgedMove(1, 6, kept=False, free=False)  # four in a row was there
    for m in moves:
        values = {move: np.sign(s) for move, s in solver.scores(_state(column[: m.ply])).items()}
        played = match.games[0][m.ply]
        assert m.kept == (values[played] == max(values.values()))
        assert m.free == (len(set(values.values())) == 1)


def test_a_share_is_of_the_moves_that_could_lose_something():
    moves = [JudgedMove(0, 0, True, False), JudgedMove(0, 2, True, True)]
    moves += [JudgedMove(1, 0, False, False), JudgedMove(1, 2, True, False)]
    found = share(moves)
    assert (found.moves, found.chances, found.kept) == (4, 3, 2)
    assert found.value == pytest.approx(2 / 3)
    assert (found.low, found.high) == (0.5, 1.0)  # game 1 alone, game 0 alone
    nothing = share([JudgedMove(0, 0, True, True)])
    assert (nothing.moves, nothing.chances) == (1, 0)
    assert (nothing.value, nothing.low, nothing.high) == (None, None, None)
