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
from ludus.envs.board.material import material_games, material_lead
from ludus.envs.board.spiel import load, parameters
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
    red = {cell for cell, (r, g, b) in at.items() if r > 200 and g < 60}
    yellow = {cell for cell, (r, g, b) in at.items() if r > 200 and g > 180}
    assert (red, yellow) == ({(0, 3), (0, 0)}, {(1, 3)})
    other = make("go(board_size=5)", 1, 0)
    other.reset()
    assert other.render(0).shape == (240, 240, 3)


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
    greedy, state = opponents.GreedyOpponent(game, 0), game.new_initial_state()
    for move in (0, 3, 1):  # x has 0 and 1: o must stop 2
        state.apply_action(move)
    assert greedy.choose(state) == 2
    state.apply_action(4)
    assert greedy.choose(state) == 2
    chess = pyspiel.load_game("chess")
    greedy = opponents.GreedyOpponent(chess, 0)
    state = chess.new_initial_state("4k3/8/8/3q4/4P3/8/8/4K3 w - - 0 1")
    assert state.action_to_string(greedy.choose(state)) == "exd5"


def test_perfect_play_never_loses_and_is_a_draw_against_itself():
    game = pyspiel.load_game("tic_tac_toe")
    perfect = opponents.MinimaxOpponent(game)
    assert _game(game, perfect, perfect) == 0
    for seed in range(20):
        chance = opponents.RandomOpponent(seed)
        assert _game(game, perfect, chance) >= 0
        assert _game(game, chance, perfect) <= 0
    assert perfect.value(game.new_initial_state(), 0) == 0


def test_minimax_gives_up_where_a_game_is_too_large(monkeypatch):
    monkeypatch.setattr(opponents, "_POSITIONS", 50)
    game = pyspiel.load_game("connect_four")
    with pytest.raises(EnvError, match="minimax has searched 50 positions"):
        opponents.MinimaxOpponent(game).choose(game.new_initial_state())


@pytest.mark.parametrize("name", ["chess", "go(board_size=9)", "amazons"])
def test_minimax_gives_up_where_a_game_is_too_long(name, monkeypatch):
    monkeypatch.setattr(opponents, "_DEPTH", 30)
    game = pyspiel.load_game(name)
    with pytest.raises(EnvError, match=r"minimax has searched .* without reaching an end"):
        opponents.MinimaxOpponent(game).choose(game.new_initial_state())


def _plain_value(state, player):
    """Minimax without pruning or a table."""
    if state.is_terminal():
        return state.player_return(player)
    values = [_plain_value(state.child(move), player) for move in state.legal_actions()]
    return max(values) if state.current_player() == player else min(values)


@pytest.mark.parametrize(
    "name", ["tic_tac_toe", "nim(pile_sizes=1;2;3)", "dots_and_boxes(num_rows=1,num_cols=2)"]
)
def test_alpha_beta_finds_the_values_of_plain_minimax(name):
    """Also where a player moves twice, and in an order in which the table is used."""
    game, generator = pyspiel.load_game(name), np.random.default_rng(0)
    perfect = opponents.MinimaxOpponent(game)
    for _ in range(6):
        state = game.new_initial_state()
        for _ in range(int(generator.integers(4, 7)) if name == "tic_tac_toe" else 1):
            if not state.is_terminal():
                state.apply_action(int(generator.choice(state.legal_actions())))
        while not state.is_terminal():
            player = state.current_player()
            move = perfect.choose(state)
            assert _plain_value(state.child(move), player) == _plain_value(state, player)
            state.apply_action(int(generator.choice(state.legal_actions())))


@pytest.mark.parametrize("name", material_games())
def test_a_move_of_one_s_own_never_costs_material(name):
    game = load(name)
    for seed in range(2):
        state, generator, gains = game.new_initial_state(), np.random.default_rng(seed), 0
        for _ in range(100):
            if state.is_terminal():
                break
            player = state.current_player()
            before = material_lead(name, state, player)
            assert material_lead(name, state, 1 - player) == -before
            state.apply_action(int(generator.choice(state.legal_actions())))
            gains += material_lead(name, state, player) > before
        assert gains > 0 or name == "oware"


@pytest.mark.parametrize("name", ["dots_and_boxes", "oware", "mancala", "checkers", "breakthrough"])
def test_greedy_is_clearly_better_than_chance(name):
    game, points, games = load(name), 0.0, 10
    for seed in range(games):
        greedy, chance = opponents.GreedyOpponent(game, seed), opponents.RandomOpponent(seed)
        pair = (greedy, chance) if seed % 2 == 0 else (chance, greedy)
        result = np.sign(_game(game, *pair)) * (1 if seed % 2 == 0 else -1)
        points += (result + 1) / 2
    assert points / games >= 0.7


@pytest.mark.parametrize("name", ["chess(chess960=True)", "crazyhouse(chess960=true)"])
def test_a_game_that_starts_with_chance_is_refused(name):
    with pytest.raises(EnvError, match=r"is not supported: it starts with a chance event"):
        load(name)
    assert "chess960" not in parameters(name.partition("(")[0])


@pytest.mark.parametrize(
    "name",
    ["nim(is_misere=False)", "hive(uses_ladybug=False)", "hex(swap=True)", "nim(is_misere=false)"],
)
def test_boolean_parameters_can_be_set_both_ways(name):
    key, value = name.partition("(")[2].rstrip(")").split("=")
    assert load(name).get_parameters()[key] is (value == "True")


@pytest.mark.parametrize(
    "name",
    [
        "hex(board_size=20000)",
        "hex(board_size=999)",
        "gomoku(size=20000)",
        "nim(pile_sizes=1;300000000)",
        "connect_four(rows=900,columns=900)",
        "checkers(rows=20000,columns=20000)",
        "oware(num_houses_per_player=200000000)",
    ],
)
def test_a_board_that_would_take_all_memory_is_refused(name):
    with pytest.raises(EnvError, match=r"too large|or less"):
        load(name)


@pytest.mark.parametrize("name", ["connect_four", "othello", "tic_tac_toe", "breakthrough", "hex"])
def test_each_player_sees_its_own_stones_first(name):
    """Both in PettingZoo's env and, to the end, in Gymnasium's."""
    pytest.importorskip("pettingzoo")

    from ludus.envs.board.pettingzoo_env import BoardAEC

    env, game, generator = BoardAEC(name), load(name), np.random.default_rng(0)
    env.reset()
    state = game.new_initial_state()
    while not all(env.terminations.values()):
        move = int(generator.choice(state.legal_actions()))
        state.apply_action(move)
        env.step(move)
        for player, agent in enumerate(env.possible_agents):
            shown = env.observe(agent)["observation"]
            if name in ("breakthrough", "hex"):
                tensor = np.asarray(state.observation_tensor(player), np.float32)
                np.testing.assert_array_equal(shown[:-1].ravel(), tensor)
                assert (shown[-1] == player).all()
            else:
                stones = str(state)[str(state).index("\n") :] if name == "othello" else str(state)
                own = stones.count("xo"[player])
                assert shown[0].sum() == own
    single = BoardEnv(name)
    _, info = single.reset(seed=3)
    over = False
    while not over:
        move = int(np.flatnonzero(info["action_mask"])[0])
        shown, _, over, _, info = single.step(move)
    if name not in ("breakthrough", "hex"):
        text = str(single._state)
        stones = text[text.index("\n") :] if name == "othello" else text
        assert shown[0].sum() == stones.count("xo"[single._side])


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
