"""Board games as a stream, as a Gymnasium env and as a PettingZoo one; the fixed players."""

import warnings

import gymnasium
import numpy as np
import pyspiel
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from ludus.envs.board import opponents, spiel
from ludus.envs.board.gym_env import BoardEnv
from ludus.envs.errors import EnvError
from ludus.envs.make import EnvOptions, make

GAMES = ["tic_tac_toe", "connect_four", "othello", "go(board_size=5)", "chess", "mancala"]


def _legal(env, obs):
    return env.observation_space.legal_actions(torch.from_numpy(obs)).numpy()


def _random(env, row, generator):
    legal = _legal(env, row.obs)
    return (generator.random(legal.shape) * legal).argmax(1)


@pytest.mark.parametrize("name", GAMES)
def test_a_stream_is_two_players_in_turn(name):
    """Returns are of who began, and each row's sign says whether the mover changed."""
    env, generator = make(name, 3, 0), np.random.default_rng(0)
    states = [spiel.load(name).new_initial_state() for _ in range(3)]
    began = [state.current_player() for state in states]
    row, games = env.reset(), 0
    for _ in range(300):
        assert (row.discount_sign == 1)[row.first].all()
        action = _random(env, row, generator)
        env.send(action)
        following = env.recv()
        for i, state in enumerate(states):
            if row.game_over[i]:
                states[i] = spiel.load(name).new_initial_state()
                assert following.first[i]
                continue
            mover = state.current_player()
            state.apply_action(int(action[i]))
            assert following.terminated[i] == following.game_over[i] == state.is_terminal()
            assert following.reward[i] == state.rewards()[mover]
            if state.is_terminal():
                games += 1
                assert following.episode_return[i] == state.returns()[began[i]]
                assert following.episode_length[i] == state.move_number()
            else:
                assert following.discount_sign[i] == (1 if state.current_player() == mover else -1)
        row = following
    assert games > 0 or name in ("chess", "othello")
    env.close()


@pytest.mark.parametrize("name", ["connect_four", "mancala"])
def test_a_stream_is_resumed_from_its_moves(name):
    env, generator = make(name, 5, 0), np.random.default_rng(0)
    row = env.reset()
    for _ in range(33):
        env.send(_random(env, row, generator))
        row = env.recv()
    again = make(name, 5, 0)
    again.load_state_dict(env.state_dict(), row)
    for _ in range(40):
        action = _random(env, row, generator)
        env.send(action)
        again.send(action)
        row, same = env.recv(), again.recv()
        for field, other in zip(row, same, strict=True):
            assert (field == other).all()


def test_a_move_against_the_rules_is_refused_and_says_what_is_legal():
    env = make("connect_four", 2, 0)
    env.reset()
    for _ in range(6):
        env.send(np.array([3, 2]))
        env.recv()
    with pytest.raises(
        EnvError, match="action 3 for env 0 is not legal in connect_four; legal are 0, 1, 2, 4"
    ):
        env.send(np.array([3, 1]))


@pytest.mark.parametrize("option", ["stack", "sticky", "frameskip", "full_action_space"])
def test_options_of_other_envs_are_refused(option):
    with pytest.raises(EnvError, match=f"{option} is"):
        make("tic_tac_toe", options=EnvOptions(**{option: 1}))


def test_a_picture_shows_the_stones():
    env = make("connect_four", 1, 0)
    env.reset()
    for action in (3, 3, 0):
        env.send(np.array([action]))
        env.recv()
    picture = env.render(0)
    assert picture.shape == (288, 336, 3)
    at = {
        (row, column): picture[288 - 48 * row - 24, 48 * column + 24]
        for row in (0, 1)
        for column in range(7)
    }
    dark = {cell for cell, colour in at.items() if colour.max() < 60}
    light = {cell for cell, colour in at.items() if colour.min() > 235}
    assert (dark, light) == ({(0, 3), (0, 0)}, {(1, 3)})
    text = make("go(board_size=5)", 1, 0)
    text.reset()
    assert text.render(0).min() < 100


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("opponent", ["random", "mcts:5"])
def test_gymnasium_finds_nothing_wrong(name, opponent):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "precision|.*Inf|.*inf|.*maximum value|.*minimum value")
        warnings.filterwarnings("ignore", ".*render", UserWarning)
        check_env(BoardEnv(name, opponent), skip_render_check=True)


def test_an_env_is_made_by_name_and_plays_both_sides():
    env = gymnasium.make("ludus/connect_four-v0", opponent="greedy", render_mode="ansi")
    begins, results = set(), []
    for seed in range(40):
        obs, info = env.reset(seed=seed)
        begins.add(int(obs.sum()))
        over = False
        while not over:
            moves = np.flatnonzero(info["action_mask"])
            obs, reward, over, cut, info = env.step(moves[seed % len(moves)])
            assert not cut
        results.append(reward)
        assert not info["action_mask"].any() or reward == 0
    assert begins == {0, 1}, "the opponent begins half of the games"
    assert np.mean(results) < -0.5
    assert "x" in env.render()


def test_a_move_against_the_rules_loses():
    env = BoardEnv("tic_tac_toe")
    obs, info = env.reset(seed=1)
    wrong = int(np.flatnonzero(info["action_mask"] == 0)[0]) if obs.any() else 4
    if not obs.any():
        env.step(4)
    _, reward, over, _, info = env.step(wrong)
    assert (reward, over, info["illegal"]) == (-1.0, True, True)


@pytest.mark.parametrize(("made", "said"), [
    (lambda: BoardEnv("tic_tac_toe", "nobody"), "there is no opponent nobody; there are random"),
    (lambda: BoardEnv("tic_tac_toe", "mcts:0"), "there is no opponent mcts:0"),
    (lambda: BoardEnv("backgammon"), "backgammon is not supported: it has chance"),
    (lambda: BoardEnv("go", render_mode="human"), "render_mode is human; use ansi or rgb_array"),
])  # fmt: skip
def test_what_cannot_be_made_is_refused(made, said):
    with pytest.raises(EnvError, match=said):
        made()


@pytest.mark.parametrize("name", GAMES)
def test_pettingzoo_finds_nothing_wrong(name, capsys):
    api_test = pytest.importorskip("pettingzoo.test").api_test
    from ludus.envs.board.pettingzoo_env import BoardAEC

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api_test(BoardAEC(name), num_cycles=200)


def test_an_aec_game_is_played_to_its_end():
    pytest.importorskip("pettingzoo")
    from ludus.envs.board.pettingzoo_env import BoardAEC

    env, generator = BoardAEC("connect_four", render_mode="rgb_array"), np.random.default_rng(0)
    env.reset()
    returns = {agent: 0.0 for agent in env.possible_agents}
    for agent in env.agent_iter(100):
        seen, reward, over, _, _ = env.last()
        returns[agent] += reward
        env.step(None if over else int(generator.choice(np.flatnonzero(seen["action_mask"]))))
    assert sorted(returns.values()) == [-1, 1]
    assert env.render().shape == (288, 336, 3)


def _game(game, first, second):
    state, pair = game.new_initial_state(), (first, second)
    while not state.is_terminal():
        state.apply_action(pair[state.current_player()].choose(state))
    return state.returns()[0]


def test_greedy_wins_stops_and_takes():
    game = pyspiel.load_game("tic_tac_toe")
    greedy, state = opponents.GreedyOpponent(0), game.new_initial_state()
    for move in (0, 3, 1):  # x has 0 and 1: o must stop 2
        state.apply_action(move)
    assert greedy.choose(state) == 2
    state.apply_action(4)
    assert greedy.choose(state) == 2
    chess = pyspiel.load_game("chess")
    state = chess.new_initial_state("4k3/8/8/3q4/4P3/8/8/4K3 w - - 0 1")
    assert state.action_to_string(greedy.choose(state)) == "exd5"


def test_perfect_play_never_loses_and_is_a_draw_against_itself():
    game, perfect = pyspiel.load_game("tic_tac_toe"), opponents.MinimaxOpponent()
    assert _game(game, perfect, perfect) == 0
    for seed in range(20):
        chance = opponents.RandomOpponent(seed)
        assert _game(game, perfect, chance) >= 0
        assert _game(game, chance, perfect) <= 0
    assert perfect.value(game.new_initial_state(), 0) == 0


def test_minimax_gives_up_where_a_game_is_too_large(monkeypatch):
    monkeypatch.setattr(opponents, "_POSITIONS", 50)
    with pytest.raises(EnvError, match="minimax has seen 50 positions"):
        opponents.MinimaxOpponent().choose(pyspiel.load_game("connect_four").new_initial_state())


def test_a_search_beats_chance_and_is_the_same_for_a_seed():
    game = pyspiel.load_game("connect_four")
    scores = [
        _game(game, opponents.make_opponent("mcts:50", game, seed), opponents.RandomOpponent(seed))
        for seed in range(6)
    ]
    assert sum(scores) >= 4
    state = game.new_initial_state()
    picks = [opponents.make_opponent("mcts:50", game, 3).choose(state) for _ in range(2)]
    assert picks[0] == picks[1]
