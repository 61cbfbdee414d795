"""A person against an agent, in text."""

import io

import pytest

from ludus.cli.main import main
from ludus.envs.make import EnvOptions
from ludus.training.run import TrainOptions
from ludus.training.train import start_session


def _trained(root, agent, env_id):
    options = TrainOptions(steps=40, eval_episodes=0, num_envs=8)
    session = start_session(agent, env_id, options, EnvOptions(), None, root, quiet=True)
    session.run_to_end()
    return session.run.path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    names = ("alphazero", "dqn", "recurrent_ppo", "random")
    return {name: _trained(root, name, "tic_tac_toe") for name in names}


@pytest.fixture
def play(monkeypatch, capsys):
    def go(words, *arguments):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(words) + "\n"))
        with pytest.raises(SystemExit) as ended:
            main(["play", *map(str, arguments)])
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return go


@pytest.mark.parametrize("agent", ["alphazero", "dqn", "recurrent_ppo"])
@pytest.mark.parametrize("side", ["first", "second"])
def test_a_whole_game(runs, play, agent, side):
    """Cells in order, and again those that were taken: the game comes to its end."""
    words = [str(cell) for cell in range(9)] * 2
    code, out, err = play(words, runs[agent], "--side", side)
    assert (code, err) == (0, "")
    assert out.rstrip().endswith(("you won", "you lost", "a draw"))
    assert "the agent plays" in out
    assert "value" in out
    assert "best: " in out
    if side == "second":
        assert out.index("the agent plays") < out.index("your move")


def test_what_is_not_understood_is_explained_and_asked_again(runs, play):
    code, out, _ = play(["12", "middle", "", "x(1,1)", "4", "quit"], runs["alphazero"])
    assert code == 0
    assert "12 is not a legal move; legal moves: x(0,0) (0), x(0,1) (1)" in out
    assert "middle is not a legal move" in out
    assert "4 is not a legal move; legal moves: x(" in out  # it has been taken by x(1,1)
    assert out.rstrip().endswith("you left the game")


def test_hint_moves_help_and_undo(runs, play):
    words = ["undo", "hint", "moves", "help", "X(0,0)", "undo", "moves", "quit"]
    code, out, _ = play(words, runs["dqn"])
    assert code == 0
    assert "you have made no move yet" in out
    assert "the agent would play x(" in out
    assert out.count("legal moves: x(0,0) (0), x(0,1) (1), x(0,2) (2), x(1,0) (3)") == 2
    assert out.count("hint, moves, undo, help or quit") == 2


def test_a_recurrent_agent_sees_the_game_again_after_a_move_is_taken_back(runs, play):
    """What it thinks then is what it thought before."""
    straight = play(["0", "quit"], runs["recurrent_ppo"])[1]
    taken_back = play(["3", "undo", "0", "quit"], runs["recurrent_ppo"])[1]

    def last(out):
        return [line for line in out.splitlines() if "the agent plays" in line][-1]

    assert last(straight) == last(taken_back)


def test_the_end_of_the_input_is_the_end_of_the_game(runs, play):
    code, out, err = play(["0"], runs["dqn"])
    assert (code, err) == (0, "")
    assert "you left the game" in out


def test_simulations_are_for_agents_that_search(runs, play):
    assert play(["quit"], runs["alphazero"], "--simulations", 3)[0] == 0
    code, _, err = play(["quit"], runs["dqn"], "--simulations", 3)
    assert code == 2
    assert err.startswith("ludus: dqn does not search; leave simulations out")
    assert play(["quit"], runs["alphazero"], "--simulations", -3)[0] == 2


def test_only_board_games_and_agents_with_an_opinion(runs, play, tmp_path):
    code, _, err = play([], runs["random"])
    assert (code, err) == (
        2,
        "ludus: random cannot choose a move by search, policy or value; choose another run\n",
    )
    cartpole = _trained(tmp_path, "random", "CartPole-v1")
    code, _, err = play([], cartpole)
    assert code == 2
    assert err.strip().endswith("plays CartPole-v1, which is shown in the browser only; add --web")
