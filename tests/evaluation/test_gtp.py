"""The Go Text Protocol: agents as engines for other programs, and other engines as players."""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from ludus.agents.agent import Advice
from ludus.cli.main import main
from ludus.comparison.arena import contender, round_robin
from ludus.envs.board import gtp, spiel
from ludus.envs.board.gtp import RESIGN, GtpOpponent, action_of, vertex_of
from ludus.envs.board.opponents import make_opponent
from ludus.envs.errors import EnvError
from ludus.envs.make import EnvOptions, make
from ludus.envs.trust import trust_programs
from ludus.evaluation.gtp import GtpEngine, black_lead, handicap_points
from ludus.evaluation.interactive_game import AgentOpponent
from ludus.evaluation.match import FixedSide, play_match
from ludus.training.run import TrainOptions
from ludus.training.train import start_session

GAME = "go(board_size=5)"
GNUGO = shutil.which("gnugo") or shutil.which("gnugo", path="/usr/games")
LUDUS = shlex.join([sys.executable, "-m", "ludus", "gtp"])


def _engine(name="random", game=GAME, remake=True):
    def make(rules):
        return make_opponent(name, rules, 0)

    return GtpEngine("Test", game, make(spiel.load(game)), make if remake else None)


def _said(engine, *lines):
    return [engine.answer(line) for line in lines]


@pytest.mark.parametrize("size", [5, 9, 19])
def test_points_have_the_names_that_openspiel_gives_them(size):
    state = spiel.load(f"go(board_size={size})").new_initial_state()
    for action in state.legal_actions():
        name = state.action_to_string(0, action).split()[1]
        assert vertex_of(action, size) == name.upper()
        assert action_of(name, size) == action
    for wrong in ("i5", "a0", "a99", "z1", "5a", "", "a٣", "resign"):
        assert action_of(wrong, size) is None


def test_an_answer_has_the_mark_and_the_number_of_its_command():
    engine = _engine()
    assert _said(engine, "protocol_version", "7 name", "  12\tname\t# a comment\r\n") == [
        "= 2",
        "=7 Test",
        "=12 Test",
    ]
    assert _said(engine, "", "   ", "# only a comment", "\x07\n") == [None] * 4
    assert _said(engine, "3 nothing", "7", "na\x01me") == [
        "?3 unknown command",
        "?7 unknown command",
        "= Test",
    ]
    assert _said(engine, "known_command play", "known_command nothing", "known_command") == [
        "= true",
        "= false",
        "= false",
    ]
    commands = engine.answer("list_commands")[2:].split("\n")
    assert {"boardsize", "clear_board", "komi", "play", "genmove", "quit"} <= set(commands)
    assert all(engine.answer(f"known_command {command}") == "= true" for command in commands)
    assert not engine.ended
    assert engine.answer("9 quit") == "=9 "
    assert engine.ended


def test_moves_are_made_and_taken_back():
    engine = _engine()
    assert _said(engine, "play b c3", "play White D3", "play b c3", "play w i3", "play x a1") == [
        "= ",
        "= ",
        "? illegal move",
        "? invalid color or coordinate",
        "? invalid color or coordinate",
    ]
    assert engine.answer("showboard").splitlines()[3].split()[:2] == ["3", "++XO+"]
    assert "\n\n" not in engine.answer("showboard")
    assert _said(engine, "undo", "undo", "undo") == ["= ", "= ", "? cannot undo"]
    assert "X" not in engine.answer("showboard").partition("1 ")[0]


def test_two_moves_of_one_colour_have_a_pass_between_them():
    engine = _engine()
    assert _said(engine, "play w c3", "play w d3", "play w a1") == ["= "] * 3
    assert engine._state.history() == [25, 12, 25, 13, 25, 0]
    assert engine.answer("undo") == "= "
    assert engine._state.history() == [25, 12, 25, 13], "the move and its pass"
    move = engine.answer("genmove w")
    assert move.startswith("= ")
    assert engine._state.history()[4:] == [25, action_of(move[2:], 5)]
    # a pass between two passes would end the game
    assert _said(engine, "clear_board", "play b pass", "play b c3")[2].startswith("? illegal move:")
    assert engine.answer("play w c3") == "= "


def test_a_game_ends_by_two_passes_and_is_counted():
    engine = _engine()
    assert _said(engine, "komi 0.5", "final_score", "play b c3", "final_score") == [
        "= ",
        "= W+0.5",
        "= ",
        "= B+24.5",
    ]
    assert _said(engine, "komi 25", "final_score", "komi 3", "showboard")[1:3] == ["= 0", "= "]
    assert _said(engine, "play w pass", "play b pass", "final_score") == ["= ", "= ", "= B+22"]
    assert _said(engine, "genmove w", "reg_genmove b") == ["= PASS"] * 2
    assert engine.answer("play w a1") == "? illegal move: the game is over"
    assert _said(engine, "undo", "play b a1") == ["= ", "= "]


def test_the_score_agrees_with_openspiel():
    for komi in (0.5, 7.5, -3.5):
        rules = spiel.load(f"go(board_size=4,komi={komi})")
        results = set()
        for seed in range(40):
            state, generator = rules.new_initial_state(), np.random.default_rng(seed)
            while not state.is_terminal():
                state.apply_action(int(generator.choice(state.legal_actions())))
            if any(state.returns()):  # else a position was repeated
                assert np.sign(black_lead(state)) == state.returns()[0]
                results.add(state.returns()[0])
        assert results == {-1.0, 1.0}


def test_a_repeated_position_is_a_draw():
    engine = _engine(game="go(board_size=2)")
    generator = np.random.default_rng(0)
    while not (engine._state.is_terminal() and not any(engine._state.returns())):
        if engine._state.is_terminal():
            engine.answer("clear_board")
        player = engine._state.current_player()
        point = vertex_of(int(generator.choice(engine._state.legal_actions())), 2)
        assert engine.answer(f"play {'bw'[player]} {point}") == "= "
    assert engine.answer("final_score") == "= 0"
    assert engine.answer("genmove b") == "? illegal move: the game is over"


def test_a_player_plays_on_any_board_and_an_agent_on_its_own():
    engine = _engine()
    assert _said(engine, "play b c3", "boardsize 9", "komi 6.5") == ["= "] * 3
    assert engine.answer("showboard").count("+") == 81
    assert _said(engine, "boardsize 25", "boardsize x", "boardsize", "komi x", "komi nan") == [
        "? unacceptable size",
        "? not an integer",
        "? not an integer",
        "? komi not a float",
        "? unacceptable komi",
    ]
    agent = _engine(remake=False)
    assert _said(agent, "boardsize 5", "komi 7.5") == ["= ", "= "]
    only = "this agent was trained for 5x5 with komi 7.5"
    assert _said(agent, "boardsize 9", "komi 6.5") == [
        f"? unacceptable size: {only}",
        f"? unacceptable komi: {only}",
    ]
    assert (
        _said(agent, "play b c3", "time_settings 60 5 1", "time_left b 9 0", "undo") == ["= "] * 4
    )


def test_handicap_stones_stand_where_the_protocol_says():
    named = [vertex_of(point, 19) for point in handicap_points(19, 9)]
    assert named == ["D4", "Q16", "D16", "Q4", "D10", "Q10", "K4", "K16", "K10"]
    assert [vertex_of(p, 19) for p in handicap_points(19, 5)] == ["D4", "Q16", "D16", "Q4", "K10"]
    assert [vertex_of(p, 9) for p in handicap_points(9, 2)] == ["C3", "G7"]
    engine = _engine(game="go(board_size=9)")
    assert engine.answer("fixed_handicap 3") == "= C3 G7 C7"
    assert engine._state.current_player() == 1
    assert engine.answer("showboard").count("X") == 3
    assert engine.answer("fixed_handicap 2") == "? board not empty"
    assert _said(engine, "clear_board", "set_free_handicap a1 b2", "clear_board") == [
        "= ",
        "= A1 B2",
        "= ",
    ]
    for wrong in ("set_free_handicap a1", "set_free_handicap a1 a1", "set_free_handicap a1 pass"):
        assert engine.answer(wrong) == "? bad vertex list"
    assert engine.answer("fixed_handicap 10") == "? invalid number of stones"
    assert _engine().answer("fixed_handicap 2") == "? invalid number of stones"


class _Counter:
    """An adviser that plays the first legal move and counts its calls."""

    def __init__(self):
        self.calls, self.space = 0, make(GAME, 1).observation_space

    def advise(self, observation, state=None, episode_start=None):
        self.calls += 1
        legal = self.space.legal_actions(torch.from_numpy(observation)).numpy()
        return Advice(legal.argmax(1), np.zeros(1), None, None), (state or 0) + 1


def test_an_agent_sees_the_game_up_to_its_move():
    agent = _Counter()
    engine = GtpEngine("Test", GAME, AgentOpponent(agent, GAME))
    assert _said(engine, "genmove b", "play w e5", "genmove b") == ["= A1", "= ", "= B1"]
    assert _said(engine, "undo", "undo", "play w a2", "reg_genmove b", "genmove b")[3:] == [
        "= B1",
        "= B1",
    ]
    assert agent.calls > 3, "an adviser with a state sees the moves between, too"


def test_the_command_line_speaks_the_protocol_and_nothing_else():
    lines = "1 boardsize 5\n2 genmove b\n3 play w a\xc3\n4 genmove b\n\n5 quit\n6 name\n"
    command = [*shlex.split(LUDUS), "mcts:5"]
    done = subprocess.run(command, input=lines.encode(), capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.decode().split("\n\n")
    assert [answer[:2] for answer in answers] == ["=1", "=2", "?3", "=4", "=5", ""]


def test_a_run_plays_by_the_protocol(tmp_path, capsys, monkeypatch):
    options = TrainOptions(steps=64, num_envs=4, eval_episodes=0)
    session = start_session("ppo", GAME, options, EnvOptions(), None, tmp_path, quiet=True)
    session.run_to_end()
    monkeypatch.setattr(sys, "stdin", io.StringIO("name\nboardsize 9\ngenmove b\nplay b c3\n"))
    with pytest.raises(SystemExit) as ended:
        main(["gtp", str(session.run.path)])
    assert not ended.value.code
    said = capsys.readouterr().out.split("\n\n")
    assert said[0] == "= Ludus ppo"
    assert said[1] == "? unacceptable size: this agent was trained for 5x5 with komi 7.5"
    assert action_of(said[2][2:], 5) is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["random", "--game", "othello"], "GTP is a protocol of go; random plays othello"),
        (["random", "--game", "go(handicap=2)"], "GTP sets a handicap itself"),
        (["gtp:gnugo --mode gtp"], "gtp:gnugo --mode gtp is a program, which only `ludus arena`"),
        (["nowhere"], "nowhere"),
    ],
)
def test_what_cannot_play_by_the_protocol_is_one_sentence(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["gtp", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("ludus: ")
    assert said in error
    assert error.count("\n") == 1


def _script(tmp_path, body, name="engine.py"):
    """A player whose program logs its commands and answers `genmove` as the body says."""
    path = tmp_path / name
    path.write_text(
        "import sys\n"
        f"log = open({str(path.with_suffix('.log'))!r}, 'a')\n"
        "for line in sys.stdin:\n"
        "    words, answer = line.split(), '='\n"
        "    print(line, end='', file=log, flush=True)\n"
        "    if words[0] == 'genmove':\n"
        f"        {body}\n"
        "    print(answer + '\\n', flush=True)\n"
    )
    player = f"gtp:{shlex.join([sys.executable, str(path)])}"
    trust_programs([player])
    return player


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('out of memory')", "ended with exit status 1: out of memory"),
        ("answer = '= c3'", "answered 'c3', which is illegal after E5 C3"),
        ("answer = '= 3-3'", "answered '3-3', which is illegal after E5 C3"),
        ("answer = '? no\\nidea'", "answered 'genmove black' with: no idea"),
        ("answer = 'hello\\n=12 zz'", "answered 'zz', which is illegal after E5 C3"),
    ],
)
def test_an_engine_that_fails_is_one_sentence(tmp_path, body, said):
    player = GtpOpponent(_script(tmp_path, body), spiel.load(GAME))
    state = spiel.load(GAME).new_initial_state()
    for move in (24, 12):
        state.apply_action(move)
    with pytest.raises(EnvError) as error:
        player.choose(state)
    assert str(error.value).endswith(said)


def test_an_engine_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(gtp, "ANSWER_SECONDS", 0.2)
    rules = spiel.load(GAME)
    program = shlex.join([sys.executable, "-c", "import signal; signal.pause()"])
    player = GtpOpponent(f"gtp:{program}", rules)
    with pytest.raises(EnvError, match=r"gave no answer after 0\.2 s to 'clear_board' and was end"):
        player.choose(rules.new_initial_state())
    assert not player._end.alive
    assert player._process is None


def test_the_process_of_an_engine_ends_with_its_player(tmp_path):
    rules = spiel.load(GAME)
    player = GtpOpponent(_script(tmp_path, "answer = '= a1'"), rules)
    assert player.choose(rules.new_initial_state()) == 0
    process = player._process
    assert process.poll() is None
    del player
    assert process.poll() is not None


def test_what_an_engine_has_started_ends_with_it(tmp_path, wait_until):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    child = [sys.executable, "-c", "import signal; signal.pause()"]
    body = (
        f"import subprocess; pipe = open({str(pipe)!r}, 'w'); pipe.write('open'); pipe.flush(); "
        f"subprocess.Popen({child!r}, stdout=pipe, stderr=pipe); sys.exit('ended')"
    )
    rules = spiel.load(GAME)
    with pytest.raises(EnvError, match="exit status 1: ended"):
        GtpOpponent(_script(tmp_path, body), rules).choose(rules.new_initial_state())
    assert os.read(reader, 4) == b"open"

    def is_closed():
        with contextlib.suppress(BlockingIOError):
            return os.read(reader, 1) == b""

    wait_until(is_closed, "nobody holds the pipe")
    os.close(reader)


def test_an_engine_gets_only_the_moves_that_it_does_not_have(tmp_path):
    answer = "answer = '= c3' if words[1] == 'black' else '= d3'"
    rules = spiel.load(GAME)
    player = GtpOpponent(_script(tmp_path, answer), rules)
    state = rules.new_initial_state()
    for move in (player.choose(state), 24, 0):
        state.apply_action(move)
    assert player.choose(state) == 13
    other = rules.new_initial_state()
    other.apply_action(1)
    assert player.choose(other) == 13
    assert (tmp_path / "engine.log").read_text().splitlines() == [
        *("boardsize 5", "komi 7.5", "clear_board", "genmove black"),
        *("play white E5", "play black A1", "genmove white"),
        *("clear_board", "play black B1", "genmove white"),
    ]


def test_who_resigns_has_lost(tmp_path):
    answer = "answer = '= resign'"
    name = _script(tmp_path, answer)
    sides = FixedSide(name, GAME, 4, 0), FixedSide("random", GAME, 4, 0)
    match = play_match(sides, GAME, 4, seed=0)
    assert match.returns == [-1.0] * 4
    assert match.lengths == [0, 1, 0, 1]
    assert [len(moves) for moves in match.games] == [0, 1, 0, 1]
    match = play_match(sides[::-1], GAME, 4, seed=0)
    assert match.returns == [1.0] * 4
    player = make_opponent(name, spiel.load(GAME), 0)
    assert player.choose(spiel.load(GAME).new_initial_state()) == RESIGN


def test_an_engine_of_its_own_protocol_plays_in_the_arena(tmp_path, capsys):
    """Both halves against each other: the bridge is the program that the player starts."""
    name = f"gtp:{LUDUS} random"
    words = ["arena", name, "random", "--game", GAME, "--games", "6", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    results = json.loads(capsys.readouterr().out)
    assert sum(s["wins"] + s["draws"] + s["losses"] for s in results["standings"]) == 12
    assert {s["name"] for s in results["standings"]} == {name, "random"}


@pytest.mark.skipif(GNUGO is None, reason="gnugo is not installed")
def test_gnu_go_beats_a_random_player():
    name = f"gtp:{GNUGO} --mode gtp --level 0 --chinese-rules --capture-all-dead"
    trust_programs([name])
    everyone = [contender(each, GAME, epsilon=0.0) for each in (name, "random")]
    (played,) = round_robin(everyone, GAME, 6, 0)
    assert played.match.points >= 5 / 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gtp:no-such-program", "--game", GAME], "there is no program 'no-such-program'"),
        (["gtp:", "--game", GAME], "there is no program ''"),
        (["gtp:a 'b", "--game", GAME], "is no command: No closing quotation"),
        (["gtp:gnugo"], "gtp:gnugo plays go without a handicap; the game is connect_four"),
        (["gtp:false", "--game", GAME], "gtp:false ended with exit status 1"),
    ],
)
def test_an_engine_that_cannot_be_started_is_one_sentence(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["arena", "random", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("ludus: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_file_cannot_start_a_program(tmp_path, capsys):
    """The opponent of a stranger's run would be a program of the stranger's."""
    made = tmp_path / "made"
    name = f"gtp:touch {made}"
    with pytest.raises(EnvError, match="which only `ludus arena` and `ludus evaluate --opponent`"):
        make_opponent(name, spiel.load(GAME), 0)
    options = TrainOptions(steps=64, num_envs=4, eval_episodes=0)
    session = start_session("ppo", GAME, options, EnvOptions(), None, tmp_path, quiet=True)
    session.run_to_end()
    path = session.run.path / "config.json"
    config = json.loads(path.read_text())
    config["options"]["opponent"] = name
    path.write_text(json.dumps(config))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(session.run.path), "--episodes", "2"])
    assert ended.value.code == 2
    assert "is a program, which only" in capsys.readouterr().err
    assert not made.exists()
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(session.run.path), "--episodes", "2", "--opponent", name])
    assert ended.value.code == 2
    assert "ended with exit status 0" in capsys.readouterr().err
    assert made.exists()
