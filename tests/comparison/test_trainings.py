"""The queue of trainings in benchmarks/."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ludus.cli import train
from tests.forked import Forked

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "trainings.py"


def _module(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, PROGRAM.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """The program, with one experiment of two short trainings and folders of its own."""
    monkeypatch.syspath_prepend(PROGRAM.parent)
    program = _module("trainings", monkeypatch)
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(program, "RUNS", tmp_path / "runs")

    def short():
        options = ("--num-envs", "2", "--eval-every", "100", "--eval-episodes", "3")
        for seed in range(2):
            yield program.Training("short", "CartPole-v1", "dqn", "plain", options, 200, seed)

    monkeypatch.setattr(program, "EXPERIMENTS", {"short": short})
    return program


@pytest.fixture
def forking(queue, monkeypatch):
    """The same, whose trainings are forked, with the priority of the test."""

    def start(command, **_):
        return Forked(*command[command.index("ludus") + 1 :])

    monkeypatch.setattr(queue, "subprocess", SimpleNamespace(Popen=start, DEVNULL=None))
    monkeypatch.setattr(queue, "_yield_to_others", lambda pid: None)
    return queue


def test_a_point_of_a_curve_is_an_evaluation_at_its_time(queue):
    evaluations = [{"env_steps": 50, "returns": [1, 3]}, {"env_steps": 100, "returns": [4, 6]}]
    line = {"env_steps": 100, "training_seconds": [1, 2, 4, 8], "evaluations": evaluations}
    assert np.array_equal(queue.curve_of(line), [[50, 2, 2], [100, 8, 5]])


@pytest.mark.parametrize(("options", "score"), [([], "0.5"), (["--opponent", "mcts:9"], "75.0%")])
def test_an_evaluation_is_printed_with_its_minutes(queue, capsys, options, score):
    """Of four games 3 are won and 1 is lost: a mean of 0.5, and 3 of 4 points."""
    won = {"env_steps": 1_500, "returns": [1.0, 1.0, 1.0, -1.0]}
    line = {"env_steps": 2_000, "training_seconds": [60, 120], "evaluations": [won]}
    line |= {"key": "E a 0", "options": options}
    queue.RESULTS.mkdir()
    (queue.RESULTS / "s.jsonl").write_text(json.dumps(line) + "\n")
    queue.evaluations("s")
    assert capsys.readouterr().out.splitlines()[2:] == [f"| E a 0 | 1,500 | 1.5 | {score} |"]


class Understood(Exception):
    """Raised in place of a training."""


def test_the_command_of_every_training_is_understood(monkeypatch):
    def started(*_, **__):
        raise Understood

    monkeypatch.syspath_prepend(PROGRAM.parent)
    monkeypatch.setattr("ludus.training.train.start_session", started)
    experiments = _module("experiments", monkeypatch).EXPERIMENTS
    trainings = [training for make in experiments.values() for training in make()]
    names = {t: tuple(word for word in t.options if word.startswith("--")) for t in trainings}
    unlike = {(t.agent, names[t]): t for t in trainings}
    assert len(unlike) > 30
    for t in unlike.values():
        with pytest.raises(Understood):
            train.run([t.agent, t.env, "--steps", str(t.steps), *t.options, "--quiet"])


@pytest.mark.skipif(shutil.which("nice") is None, reason="trainings run with nice")
def test_each_training_is_done_once_and_its_result_kept(queue, capsys, monkeypatch, tmp_path):
    queue.run(["short"], jobs=2, commit=False)
    lines = (queue.RESULTS / "short.jsonl").read_text().splitlines()
    results = {line["key"]: line for line in map(json.loads, lines)}
    assert set(results) == {"CartPole-v1 plain 0", "CartPole-v1 plain 1"}
    first = results["CartPole-v1 plain 0"]
    assert [e["env_steps"] for e in first["evaluations"]][-1] >= 200
    assert [len(e["returns"]) for e in first["evaluations"]] == [3, 3]
    assert first["training_returns"][-1] > 0
    assert first["env_steps"] >= 200
    assert len(first["training_seconds"]) == len(first["training_returns"]) == 20
    assert first["training_seconds"] == sorted(first["training_seconds"])
    capsys.readouterr()
    queue.run(["short"], jobs=2, commit=False)
    assert capsys.readouterr().out == "", "nothing is left to do"
    queue.status()
    queue.table("short")
    printed = capsys.readouterr().out
    assert "short: 2 of 2" in printed
    curves = _module("curves", monkeypatch)
    monkeypatch.setattr(curves, "PICTURES", tmp_path)
    assert curves.draw("short").read_bytes().startswith(b"\x89PNG")
    scores = _module("scores", monkeypatch).draw("short")
    assert scores.name == "short_scores.png"
    assert scores.read_bytes().startswith(b"\x89PNG")
    assert "| plain | " in printed


def test_a_finished_run_without_a_result_is_not_trained_again(forking):
    queue = forking
    queue.run(["short"], jobs=1, commit=False)
    path = queue.RESULTS / "short.jsonl"
    whole = path.read_text()
    path.write_text(whole.splitlines(keepends=True)[0])  # as if killed before the second line
    runs = sorted(queue.RUNS.rglob("config.json"))
    queue.run(["short"], jobs=1, commit=False)
    assert path.read_text() == whole
    assert sorted(queue.RUNS.rglob("config.json")) == runs


def test_a_training_begins_with_the_network_of_another(forking, monkeypatch, capsys):
    queue = forking
    options = ("--num-envs", "2", "--eval-episodes", "1")

    def started():
        first = queue.Training("s", "CartPole-v1", "dqn", "first", options, 100, 0)
        yield queue.Training("s", "CartPole-v1", "dqn", "second", options, 100, 0, first)
        yield first

    monkeypatch.setitem(queue.EXPERIMENTS, "s", started)
    queue.run(["s"], jobs=2, commit=False)
    assert "has no finished run" not in capsys.readouterr().out
    lines = (queue.RESULTS / "s.jsonl").read_text().splitlines()
    results = [json.loads(line) for line in lines]
    assert [line["key"] for line in results] == ["CartPole-v1 first 0", "CartPole-v1 second 0"]
    assert [line["start"] for line in results] == [None, "CartPole-v1 first 0"]
    first, second = (queue._finished(training) for training in reversed(list(started())))
    assert str(first.path) in (second.path / "config.json").read_text()

    (queue.RESULTS / "s.jsonl").write_text(f"{lines[0]}\n")
    shutil.rmtree(queue.RUNS)  # as in a fresh clone, which has results but no runs
    queue.run(["s"], jobs=2, commit=False)
    again = (queue.RESULTS / "s.jsonl").read_text().splitlines()
    assert again[0] == lines[0]
    assert [json.loads(line)["key"] for line in again] == [line["key"] for line in results]


def _results(queue, monkeypatch, envs, scores):
    """Make an experiment s with these scores of each variant in each env; an env G has none."""
    trainings = [
        queue.Training("s", env, "dqn", variant, (), 1, seed)
        for env in (*envs, "G")
        for variant, of in scores.items()
        for seed in range(len(of))
    ]
    monkeypatch.setitem(queue.EXPERIMENTS, "s", lambda: trainings)
    queue.RESULTS.mkdir()
    lines = [
        {
            "key": t.key,
            "env": t.env,
            "variant": t.variant,
            "seed": t.seed,
            "evaluations": [{"returns": [scores[t.variant][t.seed] + d for d in (-1, 1)]}],
        }
        for t in trainings
        if t.env != "G"
    ]
    (queue.RESULTS / "s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("envs", ["E", "EF"])
def test_a_row_of_a_table_by_hand(queue, capsys, monkeypatch, envs):
    """Of 25 pairs of a new and an old training, the new one is better in 17, and 4 are equal.

    An env without results has no column, and one env needs none over all.
    """
    _results(queue, monkeypatch, envs, {"new": [2, 4, 2, 4, 3], "old": [1, 3, 1, 3, 2]})
    queue.table("s")
    header, _, new, old = capsys.readouterr().out.splitlines()
    several = len(envs) > 1
    assert header == "| | " + " | ".join(envs) + (" | all |" if several else " |")
    assert new.startswith("| new | 3.0 (2.0 to 4.0) [0.76, ")
    assert new.count("[0.76, ") == len(envs)
    assert ("| 0.76 (" in new) == several
    assert old == "| old |" + " 2.0 (1.0 to 3.0) |" * len(envs) + ("  |" if several else "")


def test_few_trainings_have_no_interval(queue, capsys, monkeypatch):
    _results(queue, monkeypatch, "EF", {"new": [2, 4.25], "old": [1, 3, 1, 3]})
    queue.table("s")
    _, _, new, old = capsys.readouterr().out.splitlines()
    assert new == "| new | 2.0, 4.2 | 2.0, 4.2 |  |"
    assert old == "| old | 1.0, 3.0, 1.0, 3.0 | 1.0, 3.0, 1.0, 3.0 |  |"


def test_a_last_row_without_results_is_left_out(queue, capsys, monkeypatch):
    _results(queue, monkeypatch, "EF", {"new": [2, 4, 2, 4, 3], "old": [1]})
    path = queue.RESULTS / "s.jsonl"
    kept = [line for line in path.read_text().splitlines() if '"new"' in line]
    path.write_text("\n".join(kept) + "\n")
    queue.table("s")
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header == "| | E | F |"
    assert rows == ["| new | 3.0 (2.0 to 4.0) | 3.0 (2.0 to 4.0) |"]


@pytest.fixture
def nightly(queue, monkeypatch):
    return _module("nightly", monkeypatch)


def test_how_probable_low_scores_are_by_hand(nightly):
    """Of the 10 ways to draw 2 of 5 scores, so many have a rank sum as low."""
    before = np.array([3.0, 4.0, 5.0])
    for now, ways in ([1.0, 2.0], 1), ([1.0, 3.5], 2), ([2.0, 4.5], 4), ([6.0, 7.0], 10):
        assert nightly.fallen(before, np.array(now)) == pytest.approx(ways / 10, abs=0.005)
    assert nightly.fallen(np.full(12, 500.0), np.full(6, 500.0)) == 1.0


def test_a_night_without_a_change_is_rarely_an_alarm(nightly):
    generator = np.random.default_rng(1)
    p = [nightly.fallen(*np.split(generator.normal(size=18), [12])) for _ in range(60)]
    assert 0.3 < np.mean(p) < 0.7
    worse = generator.normal(size=12), generator.normal(size=6) - 3
    assert nightly.fallen(*worse) < nightly.FALSE_ALARMS / 8


def test_a_training_in_which_no_game_ends_has_a_result(forking):
    options = ("--num-envs", "2", "--eval-episodes", "1")  # a game has up to 200 steps
    queue = forking
    queue.Queue(
        [queue.Training("short", "MountainCar-v0", "dqn", "dqn", options, 100, 0)],
        queue.RESULTS,
        commit=False,
    ).run(1)
    (line,) = queue.results("short").values()
    assert line["training_returns"] == [None] * 20
    seconds = np.array(line["training_seconds"])  # in steps of 0.1
    assert np.abs(np.diff(seconds, 2)).max() < 0.25
    assert seconds[-1] > 0


def test_a_night_says_whether_a_score_has_fallen(nightly, forking, monkeypatch, capsys):
    queue = forking

    def short(name, seeds):
        for seed in seeds:
            yield queue.Training(name, "CartPole-v1", "dqn", "dqn", ("--num-envs", "2"), 100, seed)

    monkeypatch.setattr(nightly, "nightly", short)
    monkeypatch.setattr(nightly, "RUNS", queue.RUNS)
    monkeypatch.setattr(nightly, "results", queue.results)
    monkeypatch.setattr(nightly, "Queue", queue.Queue)
    monkeypatch.setattr(sys, "argv", ["nightly.py", "--seeds", "2"])
    assert nightly.main() == 1
    assert "0 before, 2 now; not all trained" in capsys.readouterr().out
    queue.RESULTS.mkdir(exist_ok=True)
    for level, code in ((0.0, 0), (1000.0, 1)):
        monkeypatch.setattr(nightly, "FALSE_ALARMS", 0.05)
        lines = [
            {
                "key": str(i),
                "seed": i,
                "env": "CartPole-v1",
                "variant": "dqn",
                "evaluations": [{"returns": [level]}],
            }
            for i in range(12)
        ]
        (queue.RESULTS / "nightly.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        shutil.rmtree(queue.RUNS)
        assert nightly.main() == code
        assert ("HAS FALLEN" in capsys.readouterr().out) == bool(code)
