"""Trainings that end by their minutes, on a clock of ten env steps a second, or at `until`."""

from dataclasses import replace

import pytest
import torch

from ludus.agents import registry
from ludus.cli.main import main
from ludus.envs.make import EnvOptions, make
from ludus.training.checkpoint import newest_checkpoint
from ludus.training.logger import Logger
from ludus.training.progress import Bar, Due
from ludus.training.run import Run, TrainOptions
from ludus.training.session import Session
from ludus.training.train import nothing_left, resume_session, start_session


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The seconds of a log are a tenth of the env steps that its session has shown."""
    shown, begin = {}, Session._show

    def show(session, env_steps):
        shown[id(session.log)] = env_steps
        begin(session, env_steps)

    monkeypatch.setattr(Session, "_show", show)
    monkeypatch.setattr(Logger, "seconds", property(lambda log: shown.get(id(log), 0) / 10))


def _session(root, agent="dqn", env_id="CartPole-v1", **options):
    t = TrainOptions(
        **({"steps": 100_000, "minutes": 1.0, "num_envs": 4, "eval_episodes": 2} | options)
    )
    with_env = make(env_id, 1, 0)
    config = registry.preset(agent, with_env).config
    with_env.close()
    if hasattr(config, "learning_starts"):
        config = replace(config, learning_starts=100)
    return start_session(agent, env_id, t, EnvOptions(), config, root, quiet=True)


@pytest.mark.parametrize(
    ("agent", "env_id", "options"),
    [
        ("dqn", "CartPole-v1", {}),
        ("ppo", "CartPole-v1", {}),
        ("dqn", "PongNoFrameskip-v4", {"halves": True, "minutes": 0.1, "eval_episodes": 0}),
        ("sb3:ppo", "CartPole-v1", {}),
    ],
)
def test_it_ends_then_and_has_everything_that_a_finished_training_has(
    tmp_path, agent, env_id, options
):
    session = _session(tmp_path, agent, env_id, **options)
    trained, run = session.run_to_end(), session.run
    steps = trained.env_steps
    least = 60 * 10 * session.config.train.minutes
    # envs in halves play on for the row that their checkpoint needs, and SB3 to its rollout's end
    assert least <= steps <= least + 16
    assert run.status().state == "finished"
    assert run.status().env_steps == steps
    assert run.newest_weights().keys() == trained.weights().keys()
    if options.get("eval_episodes", 2):
        assert [each["env_steps"] for each in run.evaluations()] == [steps]
    if not agent.startswith("sb3:"):
        assert newest_checkpoint(run.checkpoints)[0]["agent"]["env_steps"] == steps


def test_schedules_and_weights_are_those_of_a_training_without_a_limit(tmp_path):
    """Minutes only decide when a training stops: up to there, both are the same."""
    ended = _session(tmp_path / "minutes")
    agent = ended.run_to_end()
    other = _session(tmp_path / "steps", minutes=0.0, steps=100_000)
    after_step = other.after_step

    class Gone(Exception):
        """Stands for the end of the process."""

    def leave(*given, **more):
        due = after_step(*given, **more)
        if other.agent.env_steps >= agent.env_steps:
            raise Gone
        return due

    other.after_step = leave
    with pytest.raises(Gone):
        other.run_to_end()
    assert other.agent.env_steps == agent.env_steps == 600
    assert agent.metrics()["exploration_rate"] == other.agent.metrics()["exploration_rate"] > 0.9
    for name, weight in agent.weights().items():
        assert torch.equal(weight, other.agent.weights()[name])


def test_the_seconds_before_a_resume_count(tmp_path):
    session = _session(tmp_path, checkpoint_seconds=0.0)
    after_step = session.after_step

    class Gone(Exception):
        """Stands for the end of the process."""

    def leave(*given, **more):
        if session.agent.env_steps >= 400:
            raise Gone
        return after_step(*given, **more)

    session.after_step = leave
    with pytest.raises(Gone):
        session.run_to_end()
    resumed = resume_session(Run.open(session.run.path), quiet=True)
    assert resumed.run_to_end().env_steps == 600


def test_a_training_whose_minutes_are_over_does_no_step_more(tmp_path):
    run = _session(tmp_path).run
    steps = resume_session(run, quiet=True).run_to_end().env_steps
    assert resume_session(run, quiet=True).run_to_end().env_steps == steps


@pytest.mark.parametrize(
    ("agent", "env_id", "options"),
    [
        ("dqn", "CartPole-v1", {}),
        ("ppo", "CartPole-v1", {}),
        ("dqn", "FrozenLake-v1", {"halves": True}),
    ],
)
def test_it_ends_at_until_and_a_resume_reaches_what_an_undisturbed_one_does(
    tmp_path, agent, env_id, options
):
    options |= {"steps": 1_600, "minutes": 0.0}
    whole = _session(tmp_path / "whole", agent, env_id, **options)
    session = _session(tmp_path / "parts", agent, env_id, until=400, **options)
    run = session.run
    assert 400 <= session.run_to_end().env_steps < 420
    left = nothing_left(run, run.config())
    assert left.endswith("until above 400, or 0 for no limit, would train it further")
    assert 800 <= resume_session(run, {"until": 800}, quiet=True).run_to_end().env_steps < 820
    parts = resume_session(run, {"until": 0}, quiet=True).run_to_end()
    assert parts.env_steps == whole.run_to_end().env_steps
    for name, weight in parts.weights().items():
        assert torch.equal(weight, whole.agent.weights()[name]), name
    evaluated = [each["env_steps"] for each in run.evaluations()]
    assert [steps // 400 for steps in evaluated] == [1, 2, 4]


def test_a_comparison_at_equal_time_groups_by_it(tmp_path, monkeypatch, capsys):
    """Two agents of another speed: the table is headed by the time, and steps/s are those done."""
    monkeypatch.setattr("ludus.comparison.executor.start_process", _InProcess)
    command = ["compare", "--env", "CartPole-v1", "--agents", "ppo", "random", "--steps", "90000"]
    command += ["--minutes", "1", "--seeds", "1", "--episodes", "2", "--json", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--run-dir", str(tmp_path)])
    assert not ended.value.code
    out = capsys.readouterr().out
    run = next(tmp_path.glob("CartPole-v1/ppo/*"))
    assert Run.open(run).status().env_steps in range(600, 617)
    assert '"minutes": 1.0' in out
    assert '"done": 60' in out or '"done": 61' in out
    report = next(tmp_path.glob("compare/*/report.html")).read_text()
    assert "Protocol:\n1 minute of training" in report


class _InProcess:
    """A job's process, run in this one."""

    def __init__(self, command, files, threads, paths):
        self.returncode = 0
        files.with_suffix(".err").write_text("")
        files.with_suffix(".out").write_text("")
        assert command[:2] == ["train", "--resume"]
        resume_session(Run.open(command[2]), quiet=True).run_to_end()

    def poll(self):
        return self.returncode


def test_the_time_left_is_that_of_the_limit_if_it_comes_first(capsys):
    bar = Bar("x", 1_000, 0, quiet=True)
    assert bar.total(0, 50.0) == 1_000  # no rate is known yet
    bar._rate = 4.0
    assert bar.total(100, 50.0) == 300
    assert bar.total(100, 500.0) == 1_000
    assert bar.total(100, -1.0) == 100
    bar = Bar("x", 1_000, 0, quiet=False)
    bar._since -= 1e6  # an update is due
    bar.update(100, None, lambda done, total: (0.0, f"tasks of {total}"), 0.0)
    assert "100 of 100 steps" in (err := capsys.readouterr().err)
    assert "tasks of 100" in err
    due = Due(TrainOptions(steps=1_000, eval_every=100, video_every=0))
    due.seconds["evaluation"] = 2.0
    assert due.after(100, 1_000) == (18.0, "")
    assert due.after(100, 350) == (6.0, "")  # at 200, at 300 and at the end
