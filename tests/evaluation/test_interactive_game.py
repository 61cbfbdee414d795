"""Games between a person and an agent: whose turn it is, who won, and what the agent has seen."""

import numpy as np
import pytest

from ludus.agents.agent import Advice
from ludus.envs.board import spiel
from ludus.envs.dict_observation import MASK
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.interactive_game import InteractiveGame
from ludus.evaluation.playback import Playback
from ludus.training.api import train
from ludus.training.run import TrainOptions

# games, the names of their moves, and the side that wins: 0 for the one that moved first
FINISHED = [
    ("chess", "f3 e5 g4 Qh4#", 1),
    ("chess", "e4 e5 Qh5 Nc6 Bc4 Nf6 Qxf7#", 0),
    ("tic_tac_toe", "x(0,0) o(1,0) x(0,1) o(1,1) x(0,2)", 0),
    ("tic_tac_toe", "x(0,0) o(1,0) x(0,1) o(1,1) x(2,2) o(1,2)", 1),
]


class Remembering:
    """An agent whose value is the number of rows that it has seen since the game's start."""

    def __init__(self):
        self.asked = 0

    def advise(self, observation, state=None, episode_start=None):
        self.asked += 1
        seen = 1 if state is None or episode_start[0] else state + 1
        return Advice(np.array([0]), np.array([float(seen)]), None, None), seen


def _play(game, names):
    for name in names:
        (move,) = [m for m in game.legal_moves() if game.move_name(m) == name]
        game.play(move)


@pytest.mark.parametrize(("name", "moves", "winner"), FINISHED)
def test_sides_are_in_the_order_of_their_first_moves(name, moves, winner):
    """In chess, OpenSpiel's player 0 is black."""
    game = InteractiveGame(Remembering(), name)
    assert game.side_to_move == 0
    _play(game, moves.split())
    assert game.over
    assert [move.side for move in game.moves] == [i % 2 for i in range(len(game.moves))]
    assert [move.name for move in game.moves] == moves.split()
    assert (game.result(winner), game.result(1 - winner)) == (1, -1)


def test_undo_takes_back_the_last_move_of_a_side():
    game = InteractiveGame(Remembering(), "chess")
    assert not game.undo(0)
    _play(game, ["e4", "e5", "Nf3"])
    assert game.undo(1)
    assert [move.name for move in game.moves] == ["e4"]
    assert not game.undo(1)
    assert game.undo(0)
    assert game.moves == []


def test_a_move_does_not_wait_for_the_agent_which_sees_every_row_all_the_same():
    agent = Remembering()
    game = InteractiveGame(agent, "connect_four")
    rng = np.random.default_rng(0)
    for _ in range(6):
        before = agent.asked
        game.play(int(rng.choice(game.legal_moves())))
        assert agent.asked == before
        if rng.random() < 0.5:
            assert game.advice.value[0] == len(game.moves) + 1
            assert game.advice.value[0] == len(game.moves) + 1  # asked once
    assert game.advice.value[0] == 7
    assert agent.asked == 7
    game.replay([3, 3])
    assert game.advice.value[0] == 3


def test_an_agent_without_a_state_sees_the_position_only(tmp_path, monkeypatch):
    options = TrainOptions(eval_episodes=0, num_envs=8)
    agent = train("alphazero", "tic_tac_toe", steps=16, train_options=options, root=tmp_path)
    asked = []
    advise = agent.algorithm.advise
    monkeypatch.setattr(agent.algorithm, "advise", lambda *a: asked.append(1) or advise(*a))
    game = InteractiveGame(agent.algorithm, "tic_tac_toe")
    game.play(0)
    game.play(1)
    here = game.advice
    assert len(asked) == 1
    env = make("tic_tac_toe", 1, 0)
    env.reset()
    for move in (0, 1):
        env.send(np.array([move]))
        row = env.recv()
    there, _ = advise(row.obs, None, row.first)
    np.testing.assert_array_equal(here.visits, there.visits)
    mask = env.observation_space.parts[MASK]
    assert np.flatnonzero(row.obs[0, mask.start : mask.end]).tolist() == game.legal_moves()


def test_the_value_of_a_film_is_the_first_player_s():
    playback = Playback(Remembering(), "chess", EnvOptions())
    assert playback.value_sign == 1
    playback.step(playback.legal_actions()[0])
    assert playback.value_sign == -1
    playback.close()


@pytest.mark.parametrize("name", spiel.names())
def test_the_side_that_begins_is_0(name):
    state = spiel.load(name).new_initial_state()
    assert spiel.side_of(state, state.current_player()) == 0
