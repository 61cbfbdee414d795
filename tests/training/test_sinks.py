"""Where curves go besides TensorBoard: files, and trackers of experiments."""

import csv
import json
import sqlite3
import sys
from types import ModuleType

import numpy as np
import pytest

import ludus
from ludus.envs.errors import RunError
from ludus.training.run import Run
from ludus.training.sinks import CsvFile, JsonLines, check_sinks, run_id, run_name
from ludus.training.train import resume_session

STEPS = 600


def _train(root, log, **settings):
    settings = {"steps": STEPS, "num_envs": 2, "log_every": 100, "video_every": 0} | settings
    ludus.train("dqn", "CartPole-v1", root=root, log=log, quiet=True, eval_episodes=2, **settings)
    (config,) = root.glob("*/*/*/config.json")
    return Run.open(config.parent)


def test_the_files_hold_what_tensorboard_does(tmp_path):
    run = _train(tmp_path, ("csv", "json"))
    expected = {
        (int(step), tag, float(np.float32(value)))
        for tag, curve in ludus.scalars(run).items()
        for step, value in zip(curve.env_steps, curve.values, strict=True)
        if "/" in tag and not tag.startswith("_")
    }
    with (run.path / "scalars.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(int(r["env_steps"]), r["tag"], float(np.float32(float(r["value"])))) for r in rows}
    assert found == expected
    lines = [json.loads(line) for line in (run.path / "scalars.jsonl").read_text().splitlines()]
    of_json = {
        (line["env_steps"], tag, float(np.float32(value)))
        for line in lines
        for tag, value in line.items()
        if tag != "env_steps"
    }
    assert of_json == expected
    assert any(tag == "eval/mean_reward" for _, tag, _ in expected)


@pytest.mark.parametrize(("make", "name"), [(CsvFile, "a.csv"), (JsonLines, "a.jsonl")])
def test_a_resume_drops_what_came_after_its_checkpoint(tmp_path, make, name):
    def write(sink, steps):
        for step in steps:
            sink.scalars({"train/loss": step / 2, "a, b": 1.5}, step)
        sink.close()

    write(make(tmp_path / name, 0), range(1, 6))
    before = (tmp_path / name).read_text()
    with (tmp_path / name).open("a") as file:
        file.write("6,train/lo")  # a killed process
    write(make(tmp_path / name, 3), [4, 5])
    assert (tmp_path / name).read_text() == before
    (tmp_path / name).write_text("env_steps\nwhat is this,\n")
    with pytest.raises(RunError, match=f"{name} is damaged; move it away to go on without it"):
        make(tmp_path / name, 3)


def test_what_is_not_finite_is_null(tmp_path):
    sink = JsonLines(tmp_path / "a.jsonl", 0)
    sink.scalars({"a": float("nan"), "b": float("inf"), "c": 1.0}, 3)
    sink.close()
    assert (
        tmp_path / "a.jsonl"
    ).read_text() == '{"env_steps": 3, "a": null, "b": null, "c": 1.0}\n'


def test_a_missing_package_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunError, match="--log wandb needs the package wandb: pip install wandb"):
        _train(tmp_path, ("csv", "wandb"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "trackio").mkdir()  # as wandb leaves one of its name
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(RunError, match="--log trackio needs the package trackio"):
        check_sinks(("trackio",))
    with pytest.raises(RunError, match="--log is csv csv, which names one twice"):
        check_sinks(("csv", "csv"))


class _Run:
    """A run of a tracker that fails at its third call."""

    def __init__(self):
        self.config, self.logged, self.ended = {}, [], False

    def log(self, points, step):
        if len(self.logged) == 2:
            raise ConnectionError("no network")
        self.logged.append((step, points))

    def finish(self):
        self.ended = True


@pytest.fixture
def tracker(monkeypatch):
    """A module in place of trackio; its `runs` are those that began."""
    module, runs = ModuleType("trackio"), []

    def init(**named):
        runs.append((named, _Run()))
        return runs[-1][1]

    module.init, module.runs = init, runs
    module.__spec__ = json.__spec__  # any: it is looked for
    monkeypatch.setitem(sys.modules, "trackio", module)
    return module


def test_a_tracker_that_fails_costs_no_training(tmp_path, tracker, capsys):
    run = _train(tmp_path, ("trackio",))
    assert run.status().state == "finished"
    assert run.evaluations()
    ((named, tracked),) = tracker.runs
    assert named["name"] == run_id(run.path)
    assert tracked.config["agent"] == "dqn"
    assert [step for step, _ in tracked.logged] == [101, 201]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "trackio failed and is left out, the training goes on" in error
    assert "no network" in error


def test_a_tracker_that_does_not_begin_is_one_sentence(tmp_path, tracker):
    def refuse(**named):
        raise PermissionError("not logged in")

    tracker.init = refuse
    with pytest.raises(RunError, match=r"trackio does not begin a run: .*not logged in"):
        _train(tmp_path, ("trackio",))


def test_a_run_has_one_name_wherever_its_root_is(tmp_path):
    folder = tmp_path / "MinAtar-Breakout-v1" / "sb3-dqn" / "0-20261129-103807"
    assert run_name(folder) == "sb3-dqn MinAtar-Breakout-v1 0-20261129-103807"
    assert run_id(folder) == "MinAtar-Breakout-v1-sb3-dqn-0-20261129-103807"


@pytest.mark.parametrize("store", ["file", "sqlite"])
def test_mlflow_has_a_run_with_its_curves_which_a_resume_goes_on_with(tmp_path, monkeypatch, store):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/m.db" if store == "sqlite" else f"file:{tmp_path}/mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    run = _train(tmp_path / "runs", ("mlflow",), until=300)
    resume_session(run, {"until": 0}, quiet=True).run_to_end()
    client = mlflow.MlflowClient(uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "ludus")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == run_name(run.path)
    assert kept.data.params["agent"] == "dqn"
    assert kept.data.params["learning_rate"] == str(run.config().config.learning_rate)
    assert "# dqn on CartPole-v1" in kept.data.tags["mlflow.note.content"]
    for tag, curve in ludus.scalars(run).items():
        if "/" in tag and not tag.startswith("_"):
            history = client.get_metric_history(kept.info.run_id, tag)
            points = sorted((m.step, float(np.float32(m.value))) for m in history)
            ours = zip(curve.env_steps.tolist(), curve.values.tolist(), strict=True)
            assert points == sorted((step, float(np.float32(value))) for step, value in ours)


def test_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    run = _train(tmp_path / "runs", ("wandb",), until=300)
    resume_session(run, {"until": 0}, quiet=True).run_to_end()
    files = sorted(run.path.glob("wandb/offline-run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{run_id(run.path)}.wandb"] * 2
    first, second = (path.read_bytes() for path in files)
    for kept in (first, second):
        assert b"rollout/ep_rew_mean" in kept
        assert run_name(run.path).encode() in kept
    assert b"learning_rate" in first
    assert b"eval/mean_reward" in second


def test_trackio_keeps_a_run_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "tracked"))  # which its import reads
    pytest.importorskip("trackio")
    run = _train(tmp_path / "runs", ("trackio",))
    (path,) = (tmp_path / "tracked").glob("ludus*.db")
    with sqlite3.connect(path) as kept:
        rows = kept.execute(
            "select step, metrics from metrics where run_name = ?", [run_id(run.path)]
        )
        found = {step: json.loads(metrics) for step, metrics in rows}
    assert found[101]["rollout/ep_rew_mean"] > 0
