"""Tuning with trainings whose scores are a known function of the configuration."""

import contextlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ludus.cli import tune as cli_tune
from ludus.cli.main import main
from ludus.comparison import tune, tune_report
from ludus.comparison.executor import Ended
from ludus.comparison.figure import figure_at
from ludus.comparison.search_space import Dimension
from ludus.comparison.tune import TunePlan, Tuning
from ludus.comparison.tune_report import TrialRow, plot_slices, trial_rows
from ludus.envs.errors import ConfigError, RunError
from ludus.envs.make import EnvOptions
from ludus.training import progress
from ludus.training.lock import FileLock
from ludus.training.run import Run, Status, all_runs

pytest.importorskip("optuna", reason="needs optuna: pip install -e '.[cluster]'")


class Trained:
    """A training that has ended already, see `Fake`."""

    def __init__(self, ended: Ended) -> None:
        self._ended = ended

    def ended(self) -> Ended:
        return self._ended

    def terminate(self) -> None:
        pass

    def wait(self) -> None:
        pass


class Fake:
    """An executor whose trainings score by their learning rate, best at 1e-3, and by their steps.

    Args:
        parallel: trainings at once.
        stop_at: number of the training at which a signal comes.
        fails: takes the learning rate and the number of the try of a run; returns whether it fails.
    """

    def __init__(self, parallel: int = 1, stop_at: int = -1, fails: Any = None) -> None:
        self.parallel, self._stop_at = parallel, stop_at
        self._fails = fails or (lambda rate, number: False)
        self.commands: list[list[str]] = []
        self.closed = False

    def start(self, command: list[str], folder: Path) -> Trained:
        if len(self.commands) == self._stop_at:
            raise KeyboardInterrupt
        self.commands.append(command)
        run = Run(folder)
        config = run.config()
        until = int(command[command.index("--until") + 1]) or config.train.steps
        rate = config.config.learning_rate
        number = sum(str(folder) in words for words in self.commands)
        if self._fails(rate, number):
            return Trained(Ended(1, "", "ludus: the loss became nan"))
        score = 100 - 30 * abs(math.log10(rate) + 3) + until / 1e4 + config.train.seed
        games = {"env_steps": until, "returns": [score] * 2, "lengths": [1, 1]}
        run.write_evaluations([*run.evaluations(), games])
        run.write_status(Status("finished", until, score))
        return Trained(Ended(0, "", ""))

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "_POLL_SECONDS", 0)


def _plan(folder: Path, **changes: Any) -> TunePlan:
    plan = TunePlan(
        agent="dqn",
        env="CartPole-v1",
        options=EnvOptions(),
        steps=4_000,
        trials=14,
        seeds=2,
        first_seed=5,
        rungs=3,
        episodes=2,
        pruner="median",
        space=("learning_rate=1e-5..1e-1",),
        fix=(),
        seed=0,
        folder=folder,
        storage=None,
        device="cpu",
        jobs=1,
        ray=None,
        quiet=True,
    )
    return replace(plan, **changes)


def _tune(plan: TunePlan, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> tuple[Tuning, list[str]]:
    said = list[str]()
    monkeypatch.setattr(TunePlan, "executor", lambda plan: fake)
    tuning = Tuning(plan, said.append)
    tuning.run()
    assert fake.closed
    return tuning, said


def _values(tuning: Tuning) -> list[tuple[str, float, float | None]]:
    return [(row.state, row.values["learning_rate"], row.score) for row in trial_rows(tuning.study)]


def test_the_preset_is_first_and_the_best_is_near_the_optimum(tmp_path, monkeypatch):
    fake = Fake()
    tuning, said = _tune(_plan(tmp_path), fake, monkeypatch)
    rows = trial_rows(tuning.study)
    assert len(rows) == 14 == len(said)
    assert rows[0].values["learning_rate"] == pytest.approx(tuning.preset.learning_rate)
    best = tuning.best()
    assert abs(math.log10(tuning.config_of(best).learning_rate) + 3) < 0.3
    # two seeds of 105 and 106 at most, and the bonus of all steps
    rate = tuning.config_of(best).learning_rate
    assert best.value == pytest.approx(100 - 30 * abs(math.log10(rate) + 3) + 0.4 + 5.5)
    assert {run.config().train.seed for run in all_runs(tmp_path)} == {5, 6}
    settings = tuning.settings_of(best)
    assert (settings["agent"], settings["steps"], settings["learning_rate"]) == ("dqn", 4_000, rate)
    json.dumps(settings)


def test_trials_that_are_pruned_train_no_further(tmp_path, monkeypatch):
    fake = Fake()
    tuning, said = _tune(_plan(tmp_path), fake, monkeypatch)
    pruned = [row for row in trial_rows(tuning.study) if row.state == "pruned"]
    assert pruned
    for row in pruned:
        assert row.env_steps in (1_000, 2_000)
        for name in row.runs:
            run = Run(tmp_path / name)
            assert run.status().state == "pruned"
            assert run.status().env_steps == row.env_steps
    assert any("pruned" in line for line in said)
    finished = [row for row in trial_rows(tuning.study) if row.state == "finished"]
    segments = sum(2 * {1_000: 1, 2_000: 2, 4_000: 3}[row.env_steps] for row in pruned + finished)
    assert len(fake.commands) == segments
    last = [words for words in fake.commands if words[words.index("--until") + 1] == "0"]
    assert len(last) == 2 * len(finished)


def test_one_seed_leads_to_the_same_trials_also_after_interruptions(tmp_path, monkeypatch):
    undisturbed, _ = _tune(_plan(tmp_path / "a"), Fake(), monkeypatch)
    for stop_at in (3, 8, 5):
        fake = Fake(stop_at=stop_at)
        monkeypatch.setattr(TunePlan, "executor", lambda plan, fake=fake: fake)
        with pytest.raises(KeyboardInterrupt):
            Tuning(_plan(tmp_path / "b"), lambda line: None).run()
        assert fake.closed
    disturbed, _ = _tune(_plan(tmp_path / "b"), Fake(), monkeypatch)
    assert _values(disturbed) == _values(undisturbed)
    other, _ = _tune(_plan(tmp_path / "c", seed=1), Fake(), monkeypatch)
    assert _values(other) != _values(undisturbed)


def test_a_finished_study_can_be_given_more_trials(tmp_path, monkeypatch):
    _tune(_plan(tmp_path, trials=3), Fake(), monkeypatch)
    again = Fake()
    tuning, _ = _tune(_plan(tmp_path, trials=5), again, monkeypatch)
    assert len(trial_rows(tuning.study)) == 5
    assert {Run(Path(words[2])).path for words in again.commands} <= set(
        run.path for run in all_runs(tmp_path)[-4:]
    ) | {tmp_path / name for row in trial_rows(tuning.study)[3:] for name in row.runs}


def test_its_progress_counts_what_was_done_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0)
    total = 8 * 2 * 4_000
    shown = list[int]()
    for stop_at in (5, 100):
        plan = _plan(tmp_path, trials=8, quiet=False)
        monkeypatch.setattr(TunePlan, "executor", lambda plan, at=stop_at: Fake(stop_at=at))
        with contextlib.suppress(KeyboardInterrupt):
            Tuning(plan, lambda line: None).run()
        err = capsys.readouterr().err
        lines = re.findall(rf"tuning: ([\d,]+) of {total:,} env steps, trial \d of 8", err)
        shown += [int(line.replace(",", "")) for line in lines]
    assert shown == sorted(shown)
    assert 0 < shown[0] <= 4_000
    assert shown[-1] == total


def test_a_failure_is_tried_once_more(tmp_path, monkeypatch):
    fake = Fake(fails=lambda rate, number: number == 1 and rate > 1e-3)
    tuning, said = _tune(_plan(tmp_path, trials=4, pruner="none"), fake, monkeypatch)
    assert {row.state for row in trial_rows(tuning.study)} == {"finished"}
    assert any("the loss became nan; trying" in line for line in said)


def test_a_trial_that_fails_twice_is_failed_and_the_others_go_on(tmp_path, monkeypatch):
    fake = Fake(fails=lambda rate, number: rate > 3e-3)
    tuning, said = _tune(_plan(tmp_path, trials=8, pruner="none"), fake, monkeypatch)
    rows = trial_rows(tuning.study)
    failed = [row for row in rows if row.state == "failed"]
    assert failed
    assert {row.error for row in failed} == {"the loss became nan"}
    assert all(row.values["learning_rate"] > 3e-3 for row in failed)
    assert len(rows) == 8
    assert any("failed: the loss became nan" in line for line in said)


def test_values_that_cannot_work_together_are_a_failed_trial(tmp_path, monkeypatch):
    plan = _plan(tmp_path, agent="ppo", space=("desired_kl=0.01,0",), trials=6, pruner="none")
    tuning, _ = _tune(plan, Fake(), monkeypatch)
    errors = {row.error for row in trial_rows(tuning.study) if row.state == "failed"}
    assert all("desired_kl and anneal_learning_rate both change" in error for error in errors)
    assert errors


def test_several_trainings_at_once_keep_all_slots_busy(tmp_path, monkeypatch):
    tuning, _ = _tune(_plan(tmp_path, trials=6), Fake(parallel=5), monkeypatch)
    assert len(trial_rows(tuning.study)) == 6


def test_other_settings_of_a_study_are_refused(tmp_path, monkeypatch):
    _tune(_plan(tmp_path, trials=1), Fake(), monkeypatch)
    with pytest.raises(RunError, match=r"was begun with another steps; use the same, or another"):
        Tuning(_plan(tmp_path, steps=5_000), print)
    with pytest.raises(RunError, match="begun with another space"):
        Tuning(_plan(tmp_path, space=("learning_rate=1e-4..1e-3",)), print)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"storage": "redis://x"}, RunError, "storage is redis://x; it must be sqlite:///FILE or"),
        ({"storage": "sqlite:////nowhere/x.db"}, RunError, "cannot be used"),
        ({"agent": "sb3:dqn"}, RunError, "sb3:dqn cannot be resumed from rung to rung"),
        ({"space": ("x=1..2",)}, ConfigError, "there is no field x"),
        ({"rungs": 20}, ConfigError, "rungs is 20; 4000 steps are too few to halve them"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        Tuning(_plan(tmp_path, **changes), print)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"the folder .*file/tune cannot be made: Not a directory"):
        Tuning(_plan(tmp_path / "file" / "tune"), print)


def test_two_commands_do_not_run_one_study(tmp_path, monkeypatch):
    lock = FileLock(tmp_path / ".lock")
    lock.acquire()
    with pytest.raises(RunError, match="by another process"):
        _tune(_plan(tmp_path), Fake(), monkeypatch)
    lock.release()


def test_sqlite_keeps_a_study_too(tmp_path, monkeypatch):
    plan = _plan(tmp_path, storage=f"sqlite:///{tmp_path}/study.db", trials=2)
    _tune(plan, Fake(), monkeypatch)
    tuning, said = _tune(plan, Fake(), monkeypatch)
    assert len(trial_rows(tuning.study)) == 2
    assert said == []


def test_the_command_writes_what_train_takes_and_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TunePlan, "executor", lambda plan: Fake(parallel=2))
    words = ["dqn", "CartPole-v1", "--steps", "4000", "--trials", "12", "--final-seeds", "0"]
    words += ["--space", "learning_rate=1e-5..1e-1", "dueling=true,false", "--fix", "gamma=0.9"]
    assert cli_tune.run(words) == 0
    shown = capsys.readouterr()
    assert "trial 12 of 12" in shown.err
    folder = tmp_path / "runs" / "tune" / "dqn-CartPole-v1"
    assert "runs/tune/dqn-CartPole-v1/best.json" in shown.out
    page = (folder / "tune.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<img src=") == 3
    for name in ("learning_rate", "dueling", "true", "pruned", "PED-ANOVA"):
        assert name.lower() in page.lower()
    best = json.loads((folder / "best.json").read_text())
    assert (best["gamma"], best["agent"]) == (0.9, "dqn")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", str(folder / "best.json"), "--steps", "64", "--json", "--quiet"])
    assert ended.value.code == 0
    trained = json.loads(capsys.readouterr().out)
    config = Run.open(trained["run"]).config()
    assert config.config.learning_rate == best["learning_rate"]
    assert cli_tune.run([*words, "--json", "--quiet"]) == 0  # it has all trials already
    again = json.loads(capsys.readouterr().out)
    assert again["best"] == best
    assert len(again["trials"]) == 12


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((0.25, 0.4), {"0.25", "0.3", "0.35", "0.4"}),
        ((5.0, 20.0), {"5", "10", "20"}),
        ((1.1e-4, 5e-3), {"3e-4", "0.001", "0.003"}),
        ((1e-6, 1.0), {"1e-6", "1e-4", "0.01", "1"}),
    ],
)
def test_a_logarithmic_axis_has_labels_that_can_be_read(values, labels, monkeypatch):
    seen = []

    @contextlib.contextmanager
    def looked_at(path, rows, columns, height):
        with figure_at(path, rows, columns, height) as (figure, axes):
            yield figure, axes
            figure.canvas.draw()
            (axis,) = figure.axes
            low, high = axis.get_xlim()
            ticks = zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
            seen.extend(text.get_text() for at, text in ticks if low <= at <= high)

    monkeypatch.setattr(tune_report, "figure_at", looked_at)
    trials = [TrialRow(i, "finished", 1.0 * i, 9, {"x": x}, []) for i, x in enumerate(values)]
    plot_slices(trials, {"x": Dimension("float", 1e-9, 1e9)}, None)
    assert labels <= set(seen)
    assert len(seen) <= 5
