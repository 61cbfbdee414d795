"""The games on bits against OpenSpiel, move by move; OpenSpiel's own behind the same contract."""

import numpy as np
import pyspiel
import pytest
import torch

from ludus.envs.board import spiel
from ludus.envs.board.bits import ConnectFour, Othello, TicTacToe
from ludus.envs.board.game import BOARD
from ludus.envs.dict_observation import MOVES
from ludus.envs.errors import EnvError

# where OpenSpiel's planes show the mover's stones and the other's
PLANES = {
    "tic_tac_toe": lambda player: [2 - player, 1 + player],
    "connect_four": lambda player: [player, 1 - player],
    "othello": lambda player: [1, 2],
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize(
    ("name", "games"), [("tic_tac_toe", 3000), ("connect_four", 2000), ("othello", 300)]
)
def test_random_games_are_openspiel_s_move_by_move(name, games):
    rules, generator = pyspiel.load_game(name), np.random.default_rng(0)
    shape = rules.observation_tensor_shape()
    game = spiel.make_game(name)
    assert isinstance(game, TicTacToe | ConnectFour | Othello)
    states = [rules.new_initial_state() for _ in range(games)]
    board, running, ends = game.init(games), np.ones(games, bool), set()
    while running.any():
        legal, seen = game.legal_actions(board).numpy(), game.observation(board)
        assert torch.equal(game.from_observation(seen), board)
        planes, action = seen[BOARD].numpy(), np.zeros(games, np.int64)
        players = np.zeros(games, np.int64)
        for i in np.flatnonzero(running):
            moves, players[i] = states[i].legal_actions(), states[i].current_player()
            assert np.flatnonzero(legal[i]).tolist() == sorted(moves)
            theirs = np.reshape(states[i].observation_tensor(players[i]), shape)
            assert (planes[i] == theirs[PLANES[name](players[i])]).all()
            action[i] = generator.choice(moves)
            states[i].apply_action(action[i])
        board, reward, terminated, sign = game.step(board, torch.from_numpy(action))
        for i in np.flatnonzero(running):
            assert bool(terminated[i]) == states[i].is_terminal()
            assert float(reward[i]) == states[i].rewards()[players[i]]
            assert sign[i] == -1
            if states[i].is_terminal():
                running[i] = False
                ends.add(float(reward[i]))
                assert not game.legal_actions(board[i : i + 1]).any()
    assert ends >= ({0, 1} if name != "othello" else {-1, 1})


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four", "othello"])
@pytest.mark.parametrize("device", DEVICES)
def test_what_a_symmetry_turns_is_the_game_turned(name, device):
    game = spiel.make_game(name, torch.device(device))
    cells, actions = game.symmetries()
    assert cells[0].tolist() == list(range(cells.shape[1]))
    assert len({tuple(c.tolist()) for c in cells}) == len(cells) == {"connect_four": 2}.get(name, 8)
    generator = torch.Generator(device).manual_seed(0)
    board = game.init(64)
    for _ in range(9):
        chance = torch.rand(len(board), game.num_actions, generator=generator, device=device)
        action = (chance * game.legal_actions(board)).argmax(1)
        seen = game.observation(board)[BOARD]
        for cell, turn in zip(cells, actions, strict=True):
            turned = game.from_observation({BOARD: seen.flatten(1)[:, cell].view_as(seen)})
            assert torch.equal(game.legal_actions(turned), game.legal_actions(board)[:, turn])
            there = (turn == action.unsqueeze(1)).to(torch.uint8).argmax(1)
            after, apart = game.step(board, action), game.step(turned, there)
            planes = game.observation(after.board)[BOARD]
            assert torch.equal(
                game.observation(apart.board)[BOARD], planes.flatten(1)[:, cell].view_as(planes)
            )
            assert torch.equal(apart.reward, after.reward)
        board = after.board[~after.terminated]
        if not len(board):
            return


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four", "othello"])
def test_both_ways_to_a_game_agree(name):
    """OpenSpiel's states and our bits behind one contract."""
    fast, slow = spiel.make_game(name), spiel.SpielGame(spiel.load(name))
    assert (fast.num_actions, fast.max_moves) == (slow.num_actions, slow.max_moves)
    here, there = fast.init(20), slow.init(20)
    generator = torch.Generator().manual_seed(1)
    for _ in range(70):
        legal = fast.legal_actions(here)
        assert torch.equal(legal, slow.legal_actions(there))
        action = (torch.rand(legal.shape, generator=generator) * legal).argmax(1)
        one, other = fast.step(here, action), slow.step(there, action)
        for ours, theirs in zip(one[1:], other[1:], strict=True):
            assert torch.equal(ours, theirs)
        goes_on = ~one.terminated
        here, there = one.board[goes_on], other.board[goes_on.numpy()]
        if not len(here):
            return
    raise AssertionError("the games did not end")


@pytest.mark.parametrize("name", spiel.names())
def test_every_game_that_fits_can_be_played_and_recognised(name):
    game = spiel.SpielGame(spiel.load(name))
    generator, board = torch.Generator().manual_seed(0), game.init(2)
    movers = torch.full(
        (2,), board[0].current_player(), dtype=torch.float32
    )  # white has 1 in chess
    for move in range(60):
        legal = game.legal_actions(board)
        if not legal.any(1).all():
            break
        before = [str(state) for state in board]
        seen = game.observation(board)
        assert {key: (2, *space.shape) for key, space in game.parts.items()} == {
            key: tuple(part.shape) for key, part in seen.items()
        }
        assert (seen[MOVES] >= 0).sum(1).tolist() == [move, move]
        assert [str(state) for state in game.from_observation(seen)] == before
        last = seen[BOARD][:, -1].reshape(2, -1)[:, 0]
        assert last.tolist() == movers.tolist() == [s.current_player() for s in board]
        action = (torch.rand(legal.shape, generator=generator) * legal).argmax(1)
        after = game.step(board, action)
        assert [str(state) for state in board] == before
        assert ((after.reward == 0) | after.terminated).all()
        movers = torch.where(after.discount_sign < 0, 1 - movers, movers)
        board = after.board


def test_the_same_player_may_move_again():
    game = spiel.make_game("dots_and_boxes(num_rows=1,num_cols=1)")
    board, signs = game.init(1), []
    for _ in range(4):
        board, reward, terminated, sign = game.step(
            board, game.legal_actions(board).to(torch.uint8).argmax(1)
        )
        signs.append(int(sign))
    assert signs[:3] == [-1, -1, -1]
    assert terminated.all()
    assert float(reward) == 1


def test_a_game_that_never_ends_is_a_draw(monkeypatch):
    monkeypatch.setattr(spiel, "MOST_MOVES", 5)
    game = spiel.make_game("chess")
    board = game.init(1)
    for move in range(5):
        board, reward, terminated, _ = game.step(
            board, game.legal_actions(board).to(torch.uint8).argmax(1)
        )
        assert bool(terminated) == (move == 4)
    assert float(reward) == 0
    assert not game.legal_actions(board).any()
    again = game.step(board, torch.tensor([0]))
    assert str(again.board[0]) == str(board[0])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("conect_four", "there is no game conect_four; did you mean connect_four?"),
        ("", "there is no game ; `ludus list games`"),
        ("leduc_poker", "leduc_poker is not supported: it has chance events"),
        ("matrix_rps", "matrix_rps is not supported: players do not take turns"),
        ("dark_hex", "dark_hex is not supported: information is hidden"),
        ("quoridor(players=4)", "it has 4 players, not two"),
        ("connect_four(rowz=3)", "Unknown parameter 'rowz'; connect_four has the parameters: col"),
        ("hex(board_size=x)", "Wrong type for parameter board_size"),
        ("connect_four(rows=0)", "rows is 0; it must be 1 or more"),
        ("go(board_size=-1)", "board_size is -1; it must be 1 or more"),
        ("go(board_size=99)", "supports board size up to 19"),
        ("go(board_size=9", "Missing closing bracket"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(name, said, capfd):
    with pytest.raises(EnvError) as refused:
        spiel.make_game(name)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    if "quoridor" not in name:  # OpenSpiel warns of it
        assert capfd.readouterr() == ("", "")


def test_other_parameters_are_openspiel_s():
    assert isinstance(spiel.make_game("connect_four(rows=6,columns=7)"), ConnectFour)
    assert isinstance(spiel.make_game("connect_four(rows=5)"), spiel.SpielGame)
    assert spiel.make_game("go(board_size=9)").parts[BOARD].shape == (5, 9, 9)
