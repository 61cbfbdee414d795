"""The queue of trainings in benchmarks/."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "trainings.py"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """The program, with one experiment of two short trainings and folders of its own."""
    monkeypatch.syspath_prepend(PROGRAM.parent)
    spec = importlib.util.spec_from_file_location("trainings", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "trainings", program)  # its dataclass looks there
    spec.loader.exec_module(program)
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(program, "RUNS", tmp_path / "runs")

    def short():
        options = ("--num-envs", "2", "--eval-every", "100", "--eval-episodes", "3")
        for seed in range(2):
            yield program.Training("short", "CartPole-v1", "dqn", "plain", options, 200, seed)

    monkeypatch.setattr(program, "EXPERIMENTS", {"short": short})
    return program


@pytest.mark.skipif(shutil.which("nice") is None, reason="trainings run with nice")
def test_each_training_is_done_once_and_its_result_kept(queue, capsys):
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
    assert "| plain | " in printed


@pytest.mark.skipif(shutil.which("nice") is None, reason="trainings run with nice")
def test_a_finished_run_without_a_result_is_not_trained_again(queue):
    queue.run(["short"], jobs=1, commit=False)
    path = queue.RESULTS / "short.jsonl"
    whole = path.read_text()
    path.write_text(whole.splitlines(keepends=True)[0])  # as if killed before the second line
    runs = sorted(queue.RUNS.rglob("config.json"))
    queue.run(["short"], jobs=1, commit=False)
    assert path.read_text() == whole
    assert sorted(queue.RUNS.rglob("config.json")) == runs
