"""The command line as a user meets it: every verb, and every mistake in one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ludus
from ludus.cli.main import main
from tests.forked import run_forked

LUDUS = [sys.executable, "-m", "ludus"]
LIMIT = 600.0  # seconds; for a process that hangs, far above what a busy machine needs


def _in_a_real_process(*words, cwd=None):
    return subprocess.run(
        [*LUDUS, *map(str, words)], capture_output=True, text=True, timeout=LIMIT, cwd=cwd
    )


def test_a_reader_that_goes_away_ends_it_without_a_word(tmp_path):
    """As `| head` does."""
    reading, writing = os.pipe()
    os.close(reading)
    options = ("--steps", "50", "--eval-episodes", "0", "--quiet", "--run-dir", str(tmp_path))
    command = [*LUDUS, "train", "random", "CartPole-v1", *options]
    done = subprocess.run(
        command,
        stdout=writing,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        timeout=LIMIT,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short training of a DQN on CartPole."""
    root = tmp_path_factory.mktemp("runs")
    done = run_forked(
        "train",
        "dqn",
        "CartPole-v1",
        "--steps",
        1500,
        "--run-dir",
        root,
        "--json",
        "--eval-episodes",
        2,
        "--eval-every",
        1000,
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["state"] == "finished"
    assert output["env_steps"] >= 1500
    assert [e["env_steps"] // 1000 for e in output["evaluations"]] == [1, 1]
    return Path(output["run"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--version", f"ludus {ludus.__version__}\n"),
        ("help list", "usage: ludus list"),
        ("help", "usage: ludus COMMAND"),
    ],
)
def test_what_is_asked_for_is_printed(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("trian dqn CartPole-v1", "did you mean train?"),
        ("train", "needs an agent and an env"),
        ("train dqn", "needs an agent and an env"),
        ("train dqm CartPole-v1", "did you mean dqn?"),
        ("train DQN CartPole-v1", "did you mean dqn?"),
        ("train sac Pendulum-v1", "ppo takes continuous actions"),
        ("train CartPole-v1 ppo", "the agent comes first: ludus train ppo CartPole-v1"),
        ("help trian", "did you mean train?"),
        ("train dqn CartPol-v1", "did you mean CartPole-v1?"),
        ("train dqn ALE/Pog-v5", "did you mean ALE/Pong-v5?"),
        ("train dqn nowhere:Env-v0", "could not be imported"),
        ("train dqn CartPole-v1 --learing-rate 1", "did you mean --learning-rate?"),
        ("train dqn CartPole-v1 --steps many", "--steps"),
        ("train dqn CartPole-v1 --steps 0", "steps is 0"),
        ("train dqn CartPole-v1 --gamma 1.5", "gamma is 1.5"),
        ("train dqn CartPole-v1 --loss hubber", "hubber"),
        ("train dqn CartPole-v1 --num-envs 0", "num_envs is 0"),
        ("train dqn CartPole-v1 --encoder nature", "nature encoder takes pictures"),
        ("train dqn CartPole-v1 --sticky 0.2", "does not have it"),
        ("train dqn ALE/Pong-v5 --sticky 5", "sticky is 5.0"),
        ("train dqn ALE/Pong-v5 --replay-size 1000000000 --steps 1000000000", "GB are free"),
        ("train dqn Pendulum-v1", "ppo takes it"),
        ("train dqn2013 CartPole-v1", "dqn2013 needs images of 36 pixels"),
        ("train sb3:pppo CartPole-v1", "did you mean sb3:ppo?"),
        ("train --resume nowhere", "is not a run"),
        ("evaluate nowhere", "is not a run"),
        ("evaluate", "evaluate needs: folder of the run"),
        ("record nowhere", "is not a run"),
        ("compare --env CartPole-v1 --agents dqn dqm", "did you mean dqn?"),
        ("compare --env CartPole-v1 --seeds 0", "must be 1 or more"),
        ("bench --rounds 0", "rounds is 0"),
        ("bench --only search --game bridge", "bridge is not supported"),
        ("bench --only ppo --pong-steps 5", "--only ppo does not depend on --pong-steps"),
        ("bench --only replay --no-peers", "--only replay does not depend on --peers"),
        ("train dqn CartPole-v1 --total-timesteps 5", "Ludus has steps"),
        ("train dqn CartPole-v1 --encoder mpl", "did you mean mlp?"),
        ("train alphazero CartPole-v1", "alphazero is for board games"),
        ("train alphazero conect_four", "did you mean connect_four?"),
        ("train alphazero go(size=9)", "go has the parameters"),
        ("list agnets", "did you mean agents?"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(arguments, said, tmp_path):
    done = run_forked(*arguments.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("ludus: ")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.rglob("config.json")), "a refused training leaves no run behind"


def test_help_shows_every_field_with_its_docstring():
    done = run_forked("train", "dqn", "CartPole-v1", "--help")
    assert done.returncode == 0
    for words in ("--learning-rate", "step size of the optimizer", "--stack", "--run-dir"):
        assert words in done.stdout
    assert run_forked("--help").stdout.count("\n") > 6


def test_evaluate_prints_one_json_object_and_repeats(run):
    words = ("evaluate", run, "--episodes", 5, "--json")
    first, second = run_forked(*words), _in_a_real_process(*words)
    assert first.returncode == 0, first.stderr
    output = json.loads(first.stdout)
    assert len(output["returns"]) == 5
    assert output["protocol"]["kind"] == "gymnasium"
    assert first.stdout == second.stdout
    fewer = json.loads(
        run_forked("evaluate", run, "--episodes", 3, "--num-envs", 2, "--json").stdout
    )
    assert len(fewer["returns"]) == 3
    assert "mean" in run_forked("evaluate", run, "--episodes", 2).stdout


def test_record_writes_a_film_of_the_whole_game(run, tmp_path):
    import av

    done = run_forked("record", run, "--out", tmp_path / "game.mp4", "--json")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    with av.open(output["video"]) as film:
        stream = film.streams.video[0]
        pictures = sum(1 for _ in film.decode(stream))
        assert stream.codec_context.name == "h264"
        assert stream.height >= 400
    assert pictures == output["length"] + 1
    assert run_forked("record", run, "--out", "game.avi").returncode == 2
    assert "does not exist" in run_forked("record", run, "--out", "no/where.mp4").stderr


@pytest.mark.parametrize("words", ["record RUN", "export RUN --format onnx", "collect RUN --quiet"])
def test_the_interpreter_ends_in_order_and_without_a_word(words, run, tmp_path):
    """With nothing left that would hold its pipes."""
    done = _in_a_real_process(*words.replace("RUN", str(run)).split(), "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)


def test_list(run):
    listed = json.loads(run_forked("list", "runs", "--run-dir", run.parents[2], "--json").stdout)
    assert [row["run"] for row in listed["runs"]] == [str(run)]
    envs = json.loads(run_forked("list", "envs", "--json").stdout)["envs"]
    names = {row["env"] for row in envs}
    assert {"CartPole-v1", "ALE/Pong-v5", "MinAtar/Breakout-v1", "ludus/Recall-v0"} <= names
    assert "sb3:dqn" in run_forked("list", "agents").stdout


def test_an_empty_list_says_what_to_do(tmp_path):
    done = run_forked("list", cwd=tmp_path)
    assert done.returncode == 0
    assert "ludus train" in done.stdout


def test_compare_end_to_end(tmp_path):
    done = run_forked(
        "compare",
        "--env",
        "CartPole-v1",
        "--agents",
        "dqn",
        "sb3:dqn",
        "random",
        "--steps",
        600,
        "--seeds",
        2,
        "--episodes",
        4,
        "--out",
        tmp_path / "out",
        "--run-dir",
        tmp_path / "runs",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    agents = ["dqn", "sb3:dqn"] * 2 + ["random"] * 2
    assert [t["agent"] for t in output["trainings"]] == agents
    for training in output["trainings"]:
        assert len(training["returns"]) == len(training["lengths"]) == 4
        assert (training["seconds"] is None) == (training["agent"] == "random")
    assert len((tmp_path / "out" / "scores.csv").read_text().splitlines()) == 1 + 6 * 4


def test_a_resumed_training_that_had_finished_changes_nothing(run):
    before = sorted(p.name for p in run.glob("weights/*"))
    done = run_forked("train", "--resume", run, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "finished"
    assert sorted(p.name for p in run.glob("weights/*")) == before
