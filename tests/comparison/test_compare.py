"""Comparisons that are repeated, extended, interrupted, shared between processes, and that fail.

The processes of a comparison are forked here; tests of signals use real ones. No test measures
time: tests wait for events, and a file holds the carts of a training at a chosen step for as long
as a test needs them there.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ludus.agents import registry
from ludus.cli import main
from ludus.comparison import executor, jobs
from ludus.comparison.compare import Plan, compare
from ludus.envs.errors import RunError
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.evaluate import evaluate
from ludus.training.run import Run, TrainOptions, all_runs
from ludus.training.train import load, start_session
from tests.forked import Forked

# Each cart takes at most as many steps as the file `limit` beside the module says, and waits while
# there is such a file. Carts are broken while there is a file `broken`.
_CART = """
import math
import time
from pathlib import Path
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

HERE = Path(__file__).parent

def limit():
    try:
        return int((HERE / "limit").read_text())
    except FileNotFoundError:
        return math.inf

class Cart(CartPoleEnv):
    steps = 0

    def step(self, action):
        self.steps += 1
        while self.steps > limit():
            time.sleep(0.02)
        if (HERE / "broken").exists() and abs(self.state[2]) > 0.1:
            raise RuntimeError("a wheel came off")
        return super().step(action)

gymnasium.register("Cart-v0", entry_point=Cart, max_episode_steps=100)
"""
_CARTS = "carts_of_the_test:Cart-v0"
_START = executor.start_process


# `ludus compare` that creates a file in the folder of the first argument for each SIGTERM that it
# has sent.
_COMPARE = """
import subprocess, sys
from pathlib import Path
from ludus.cli.main import main

terminate = subprocess.Popen.terminate

def recorded(process):
    terminate(process)
    Path(sys.argv[1], f"terminated-{process.pid}").touch()

subprocess.Popen.terminate = recorded
main(["compare", *sys.argv[2:]])
"""


class _Starts:
    """Commands that comparisons have started."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def start(self, command, files, threads, paths) -> Forked:
        self.commands.append(command)
        return Forked(*command, output=files, threads=threads)

    @property
    def trained(self) -> set[Path]:
        return {Path(words[2]) for words in self.commands if words[0] == "train"}

    @property
    def played(self) -> set[Path]:
        return {Path(words[1]) for words in self.commands if words[0] == "evaluate"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The working folder, where the module of the carts lies."""
    folder, before = tmp_path_factory.mktemp("home"), Path.cwd()
    (folder / "carts_of_the_test.py").write_text(_CART)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        os.chdir(folder)
        yield folder
        os.chdir(before)


@pytest.fixture(scope="module")
def all_starts(home):
    found = _Starts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "start_process", found.start)
        yield found


@pytest.fixture
def starts(all_starts):
    all_starts.commands.clear()
    return all_starts


@pytest.fixture
def ludus(monkeypatch, starts):
    """The command line in this process; returns the exit code."""
    monkeypatch.setattr(main, "flush_denormals", lambda: None)  # it would outlast the test
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("GOMP_SPINCOUNT", "2000")

    def call(*words) -> int:
        with pytest.raises(SystemExit) as ended:
            main.main([*map(str, words)])
        return ended.value.code

    return call


def _plan(root, **changes) -> Plan:
    plan = Plan(
        envs=["CartPole-v1"],
        agents=["dqn"],
        steps=600,
        minutes=0.0,
        seeds=1,
        first_seed=0,
        episodes=2,
        epsilon=0.0,
        options=EnvOptions(),
        runs=(),
        root=root,
        device="cpu",
        jobs=2,
        quiet=True,
    )
    return replace(plan, **changes)


@contextlib.contextmanager
def _held(run):
    """Hold the lock of a run, as a process that trains it."""
    lock = run.lock(print)
    try:
        yield
    finally:
        lock.release()


def _returns(trainings) -> dict:
    return {(t.env, t.agent, t.seed): t.returns for t in trainings}


def _files(root) -> dict[Path, int]:
    """When each config and all weights were written."""
    found = [*root.glob("*/*/*/config.json"), *root.glob("*/*/*/weights/*/*")]
    return {path: path.stat().st_mtime_ns for path in found}


def _weights(run) -> bytes:
    return sorted(Path(run).glob("weights/*/rank-0/tensors.safetensors"))[-1].read_bytes()


def _games(run) -> list[list[str]]:
    """The games of a training without their wall-clock column."""
    rows = [line.split(",") for line in (Path(run) / "episodes.csv").read_text().splitlines()]
    return [[row[0], *row[2:]] for row in rows]


_BOTH = {"envs": ["CartPole-v1", "ludus/Identity-v0"], "agents": ["dqn", "sb3:dqn", "random"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, all_starts):
    """A comparison on two envs: its plan, its trainings, and what was started."""
    all_starts.commands.clear()
    plan = _plan(tmp_path_factory.mktemp("whole"), **_BOTH)
    trainings, failed = compare(plan)
    assert failed == []
    return plan, trainings, list(all_starts.commands)


def test_each_agent_is_trained_once_on_each_env(whole):
    plan, trainings, commands = whole
    assert [(t.env, t.agent) for t in trainings] == [
        *((env, agent) for env in plan.envs for agent in ("dqn", "sb3:dqn")),
        *((env, "random") for env in plan.envs),
    ]
    runs = [run.path for run in all_runs(plan.root)]
    assert sorted(Path(words[2]) for words in commands) == sorted(runs)
    for t in trainings:
        assert len(t.returns) == len(t.lengths) == 2
        assert not t.reused
        assert (t.steps, t.run is None) == ((0, True) if t.agent == "random" else (600, False))
        assert len(t.episodes) > 0 or t.agent == "random"
        assert t.protocol["episodes"] == 2


def test_a_finished_comparison_trains_nothing_again(whole, starts):
    plan, trainings, _ = whole
    before = _files(plan.root)
    again, failed = compare(plan)
    assert (starts.commands, failed) == ([], [])
    assert _files(plan.root) == before
    assert _returns(again) == _returns(trainings)
    assert [t.reused for t in again] == [t.run is not None for t in again]


def _copy(whole, tmp_path, agent="dqn") -> Run:
    """A finished run on CartPole under a root of its own."""
    (run,) = whole[0].root.glob(f"CartPole-v1/{agent}/*")
    return Run(Path(shutil.copytree(run, tmp_path / run.relative_to(whole[0].root))))


def test_more_seeds_train_only_the_new_ones(whole, starts, tmp_path):
    _copy(whole, tmp_path)
    before = _files(tmp_path)
    more, _ = compare(_plan(tmp_path, seeds=2))
    (new,) = starts.trained
    assert (more[1].run, starts.played) == (str(new), set())
    assert [(t.seed, t.reused) for t in more] == [(0, True), (1, False)]
    assert more[0].returns == whole[1][0].returns
    assert before.items() <= _files(tmp_path).items()


def test_a_module_in_the_working_folder_hides_none_of_python(tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "start_process", _START)
    (tmp_path / "queue.py").write_text("raise RuntimeError('not the one of Python')")
    monkeypatch.chdir(tmp_path)
    trainings, failed = compare(_plan(tmp_path / "runs", steps=50))
    assert (len(trainings), failed) == (1, [])


def test_the_seeds_begin_at_the_first_seed(tmp_path, starts):
    plan = _plan(tmp_path, agents=["dqn", "random"], steps=50, seeds=2, first_seed=3)
    trainings, _ = compare(plan)
    assert [(t.agent, t.seed) for t in trainings] == [
        (agent, seed) for agent in ("dqn", "random") for seed in (3, 4)
    ]
    assert {Run.open(run).config().train.seed for run in starts.trained} == {3, 4}


def test_each_combination_of_a_grid_is_an_agent(whole, starts, tmp_path):
    of_preset = _copy(whole, tmp_path)
    plan = _plan(tmp_path, agents=["dqn", "random"], grid=["n_step=1,2", "gamma=0.99,0.9"])
    trainings, failed = compare(plan)
    assert failed == []
    assert [t.agent for t in trainings] == [
        "dqn (gamma 0.99, n_step 1)",
        "dqn (gamma 0.9, n_step 1)",
        "dqn (gamma 0.99, n_step 2)",
        "dqn (gamma 0.9, n_step 2)",
        "random",
    ]
    assert trainings[0].run == str(of_preset.path)
    assert len(starts.trained) == 3


@pytest.mark.parametrize("change", [{"episodes": 3}, {"epsilon": 0.5}], ids=str)
def test_other_games_are_played_with_the_weights_there_are(whole, starts, tmp_path, change):
    run = _copy(whole, tmp_path)
    before = _files(tmp_path)
    (training,), _ = compare(_plan(tmp_path, **change))
    assert (starts.trained, starts.played) == (set(), {run.path})
    assert _files(tmp_path) == before
    wanted = {"episodes": 2, "epsilon": 0.0} | change
    options = EnvOptions()
    assert training.returns == evaluate(load(run.path), "CartPole-v1", options, **wanted).returns
    assert training.protocol.items() >= wanted.items()
    assert training.reused


class _Process:
    """A process that ends at its third poll."""

    def __init__(self) -> None:
        self.polls, self.returncode = 0, None

    def poll(self) -> int | None:
        self.polls += 1
        self.returncode = 0 if self.polls == 3 else None
        return self.returncode


def test_no_more_jobs_run_in_parallel_than_asked_for(whole, monkeypatch, tmp_path):
    config = _copy(whole, tmp_path / "old").config()
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0)
    for parallel in (1, 3):
        started, most = [], 0

        def start(command, files, threads, paths, started=started):
            nonlocal most
            for suffix in (".out", ".err"):
                files.with_suffix(suffix).write_text(command[0])
            started.append(_Process())
            most = max(most, sum(process.returncode is None for process in started))
            return started[-1]

        monkeypatch.setattr(executor, "start_process", start)
        work = [
            jobs.Job(Run.create(tmp_path / f"new{parallel}", config), config, [str(i)], trains=True)
            for i in range(7)
        ]
        jobs.run_jobs(work, executor.LocalExecutor(parallel), len(work), quiet=True)
        assert (len(started), most) == (7, parallel)
        assert [job.output for job in work] == list("0123456")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Run:
    """A finished DQN of another learning rate, of another number of steps."""
    env = make("CartPole-v1", 1, 0)
    config = replace(registry.preset("dqn", env).config, learning_rate=0.125)
    env.close()
    options = TrainOptions(steps=400, device="cpu", eval_episodes=2)
    root = tmp_path_factory.mktemp("other")
    session = start_session("dqn", "CartPole-v1", options, EnvOptions(), config, root, quiet=True)
    session.run_to_end()
    return session.run


def test_runs_of_other_settings_are_taken_as_they_are(whole, other, starts, tmp_path):
    run = _copy(whole, tmp_path)
    trainings, _ = compare(_plan(tmp_path, runs=[other.path]))
    assert starts.commands == []
    usual = run.config().config.learning_rate
    envs = [one.config().train.num_envs for one in (run, other)]
    names = [
        f"dqn (learning_rate {x}, num_envs {n})" for x, n in zip((usual, 0.125), envs, strict=True)
    ]
    assert [t.agent for t in trainings] == names
    assert [t.run for t in trainings] == [str(run.path), str(other.path)]
    assert [t.steps for t in trainings] == [600, 400]
    assert trainings[1].returns == other.evaluations()[-1]["returns"]


def test_runs_that_differ_in_much_are_named_by_a_run(whole, starts, tmp_path):
    """By its folder's name, or by its path where two have the same."""
    ours, theirs = _copy(whole, tmp_path / "ours"), _copy(whole, tmp_path / "theirs")
    path = theirs.path / "config.json"
    record = json.loads(path.read_text())
    changes = {"learning_rate": 0.123456789, "gamma": 0.9, "batch_size": 8, "n_step": 3}
    path.write_text(json.dumps(record | {"config": record["config"] | changes}))
    trainings, _ = compare(_plan(tmp_path / "ours", runs=[theirs.path]))
    assert [t.agent for t in trainings] == [f"dqn (as {run.path})" for run in (ours, theirs)]
    other = Run(theirs.path.rename(theirs.path.with_name("1-20261129-120000")))
    trainings, _ = compare(_plan(tmp_path / "ours", runs=[other.path]))
    assert [t.agent for t in trainings] == [f"dqn (as {run.path.name})" for run in (ours, other)]


def test_a_run_given_by_hand_that_is_compared_anyway_counts_once(whole, starts, tmp_path):
    run = _copy(whole, tmp_path)
    relative = Path(os.path.relpath(run.path))
    trainings, _ = compare(_plan(tmp_path, runs=[relative]))
    assert [t.run for t in trainings] == [str(run.path)]


def test_an_unfinished_run_is_refused_before_any_work(ludus, whole, tmp_path, capsys):
    run = _copy(whole, tmp_path / "other")
    run.write_status(replace(run.status(), state="stopped"))
    given = ("--runs", run.path, "--run-dir", tmp_path / "new")
    assert ludus("compare", "--env", "CartPole-v1", "--agents", "dqn", *given) == 2
    assert capsys.readouterr().err == f"ludus: {run.path} is not finished; " + (
        "resume it or leave it out\n"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "other"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--env CartPole-v1 CartPol-v1 --agents dqn", "did you mean CartPole-v1?"),
        ("--env CartPole-v1 --agents dqn sb3:dqm", "did you mean sb3:dqn?"),
        ("--env CartPole-v1 --agents dqn dqn2013", "dqn2013 needs images of 36 pixels"),
        ("--env CartPole-v1 --agents dqn dqn", "contains a name twice"),
        ("--env CartPole-v1 --agents dqn ppo --grid n_step=1,3", "ppo: there is no field n_step"),
        ("--env CartPole-v1 --jobs -1", "jobs is -1"),
        ("--env CartPole-v1 --epsilon 2", "epsilon is 2"),
        ("--runs nowhere", "nowhere is not a run"),
        ("", "needs --env"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(ludus, starts, tmp_path, capsys, words, said):
    assert ludus("compare", *words.split(), "--run-dir", tmp_path / "runs") == 2
    out, err = capsys.readouterr()
    assert said in err
    assert (out, err.count("\n"), err.startswith("ludus: ")) == ("", 1, True)
    assert starts.commands == []
    assert not (tmp_path / "runs").exists()


def test_a_training_that_fails_is_one_sentence_and_the_others_are_reported(
    ludus, home, starts, tmp_path, capsys
):
    (home / "broken").touch()
    try:
        code = ludus(
            "compare",
            "--env",
            "CartPole-v1",
            _CARTS,
            "--agents",
            "dqn",
            "random",
            "--quiet",
            "--steps",
            300,
            "--seeds",
            1,
            "--episodes",
            2,
            "--run-dir",
            tmp_path,
            "--json",
            "--out",
            tmp_path / "out",
            "--device",
            "cpu",
            "--jobs",
            2,
        )
    finally:
        (home / "broken").unlink()
    out, err = capsys.readouterr()
    assert code == 1, err
    first, second = err.splitlines()
    assert first.startswith(f"ludus: dqn on {_CARTS}, seed 0: ")
    assert second.startswith(f"ludus: random on {_CARTS}: ")
    assert "a wheel came off" in first
    assert "a wheel came off" in second
    printed = json.loads(out)["trainings"]
    found = [(t["env"], t["agent"]) for t in printed]
    assert found == [("CartPole-v1", "dqn"), ("CartPole-v1", "random")]
    states = {run.config().env: run.status().state for run in all_runs(tmp_path)}
    assert states == {"CartPole-v1": "finished", _CARTS: "failed"}


def test_where_all_fail_there_is_nothing_to_report(ludus, home, tmp_path, capsys):
    (home / "broken").touch()
    try:
        words = ("--env", _CARTS, "--agents", "random", "--run-dir", tmp_path, "--quiet")
        assert ludus("compare", *words) == 2
    finally:
        (home / "broken").unlink()
    assert "nothing to report" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_quiet_says_nothing_and_json_is_one_object(ludus, whole, tmp_path, capsys):
    plan, trainings, _ = whole
    words = ["compare", "--env", *plan.envs, "--agents", *plan.agents, "--steps", 600]
    words += ["--seeds", 1, "--episodes", 2, "--run-dir", plan.root, "--device", "cpu"]
    assert ludus(*words, "--out", tmp_path, "--quiet", "--json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    printed = json.loads(out)
    assert {(t["env"], t["agent"], t["seed"]): t["returns"] for t in printed["trainings"]} == (
        _returns(trainings)
    )
    assert printed["out"] == str(tmp_path)


@pytest.fixture
def polls(monkeypatch) -> list[Run]:
    """The runs that comparisons in other threads have found locked or free, in order."""
    found, is_locked = [], Run.is_locked

    def recorded(run):
        if threading.current_thread() is not threading.main_thread():
            found.append(run)
        return is_locked(run)

    monkeypatch.setattr(Run, "is_locked", recorded)
    return found


@pytest.mark.parametrize("agent", ["dqn", "sb3-dqn"])
def test_a_run_that_another_process_ends_is_taken_from_it(
    whole, starts, polls, tmp_path, agent, wait_until
):
    run = _copy(whole, tmp_path, agent)
    before, status = _files(tmp_path), run.status()
    plan = _plan(tmp_path, agents=[agent.replace("-", ":")])
    with ThreadPoolExecutor() as pool:
        with _held(run):
            run.write_status(replace(status, state="running"))
            waits = pool.submit(compare, plan)
            wait_until(lambda: len(polls) > 5 or waits.done(), "it has looked several times")
            assert not waits.done()
            run.write_status(status)
        (training,), failed = waits.result(timeout=wait_until.seconds)
    assert (starts.commands, failed) == ([], [])
    assert training.returns == run.evaluations()[-1]["returns"]
    assert _files(tmp_path) == before


def test_a_run_that_another_process_leaves_unfinished_is_resumed(
    whole, starts, polls, tmp_path, wait_until
):
    config = _copy(whole, tmp_path / "old").config()
    run = Run.create(tmp_path / "new", config)
    with ThreadPoolExecutor() as pool:
        with _held(run):
            run.write_status(replace(run.status(), state="running"))
            assert run.is_locked()
            with pytest.raises(RunError, match="being trained by another process"):
                run.lock(print)
            waits = pool.submit(compare, _plan(tmp_path / "new"))
            wait_until(lambda: len(polls) > 5 or waits.done(), "it has looked several times")
            assert (starts.commands, waits.done()) == ([], False)
        (training,), failed = waits.result(timeout=wait_until.seconds)
    assert (starts.trained, failed) == ({run.path}, [])
    assert training.returns == whole[1][0].returns
    assert [r.path for r in all_runs(tmp_path / "new")] == [run.path]


_STEPS = 1_000  # of a training, by 16 carts
_HELD_AT = 40  # steps of each cart, of 62 or 63: after its first game, before its last step
_AGENTS = ["ppo", "sb3:ppo"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, all_starts):
    """The trainings of a comparison on carts that was not interrupted."""
    root = tmp_path_factory.mktemp("reference")
    plan = _plan(root, envs=[_CARTS], agents=_AGENTS, steps=_STEPS, seeds=2)
    trainings, failed = compare(plan)
    assert failed == []
    assert len({(*t.returns, *t.lengths, *t.episodes[:, 2]) for t in trainings}) == 4
    return {(t.agent, t.seed): t for t in trainings}


def _set_limit(path: Path, steps: int) -> None:
    path.with_suffix(".new").write_text(str(steps))
    path.with_suffix(".new").replace(path)


@pytest.fixture
def limit(home):
    """The file that holds each cart at a step."""
    _set_limit(home / "limit", _HELD_AT)
    yield home / "limit"
    (home / "limit").unlink(missing_ok=True)


def _has_episodes(run) -> bool:
    """Return whether a game of a training has ended."""
    file = run.path / "episodes.csv"
    return file.exists() and file.read_text().count("\n") > 1


def _trainings(pid: int) -> list[psutil.Process]:
    """Return the trainings of a comparison; it also has a server for its own envs."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):
            if "train" in child.cmdline():
                found.append(child)
    return found


def _restore_sigint() -> None:
    """A shell's background job ignores SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupted(root, agents, seeds, number, limit, wait_until) -> list[Run]:
    """Signal a comparison while two trainings, or its only one, run; return their runs."""
    words = ["--env", _CARTS, "--agents", *agents, "--steps", str(_STEPS), "--seeds", str(seeds)]
    words += ["--episodes", "2", "--jobs", "2", "--device", "cpu", "--run-dir", str(root)]
    for earlier in limit.parent.glob("terminated-*"):  # of another test
        earlier.unlink()
    process = subprocess.Popen(
        [sys.executable, "-c", _COMPARE, str(limit.parent), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_restore_sigint,
    )
    wanted, children = min(2, len(agents) * seeds), []

    def running() -> list[Run]:
        nonlocal children
        assert process.poll() is None, process.communicate()
        found = [
            run for run in all_runs(root) if run.status().state == "running" and _has_episodes(run)
        ]
        children = _trainings(process.pid)
        assert len(children) <= 2, "more trainings at once than --jobs"
        return found

    try:
        wait_until(lambda: len(running()) == wanted, "all trainings play")
        runs = running()
        family = psutil.Process(process.pid).children(recursive=True)
        # The carts may go on once every training has received its signal.
        if number == signal.SIGINT:  # as a terminal sends it: to all processes
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        if number != signal.SIGKILL:
            wait_until(
                lambda: len(list(limit.parent.glob("terminated-*"))) == wanted, "all are signalled"
            )
        if number == signal.SIGKILL:
            wait_until(
                lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, "it is dead"
            )
        limit.unlink()
        out, err = process.communicate(timeout=wait_until.seconds)
        _, alive = psutil.wait_procs(family, timeout=wait_until.seconds)
    finally:
        limit.unlink(missing_ok=True)
        process.kill()
    assert alive == []
    assert len(children) == wanted
    code = -9 if number == signal.SIGKILL else 128 + number
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    said = f"ludus: stopped by {number.name}; the trainings have saved; the same command goes on\n"
    assert err.endswith(said) == (number != signal.SIGKILL)
    assert [run.status().state for run in runs] == ["stopped"] * wanted
    return runs


def test_an_interrupted_comparison_goes_on_where_it_stood(
    reference, limit, starts, tmp_path, wait_until
):
    for agent in _AGENTS:  # those of the first seed have finished
        folder = Path(reference[agent, 0].run)
        shutil.copytree(folder, tmp_path.joinpath(*folder.parts[-3:]))
    finished = _files(tmp_path)
    runs = _interrupted(tmp_path, _AGENTS, 3, signal.SIGTERM, limit, wait_until)
    ours, theirs = sorted(runs, key=lambda run: run.config().agent)
    assert [run.config().train.seed for run in runs] == [1, 1]
    assert len(list(ours.checkpoints.iterdir())) == 1
    waiting = {run.path for run in all_runs(tmp_path) if run.status().state == "waiting"}
    assert len(waiting) == 2  # of the third seed: no more run in parallel than --jobs
    for path in waiting:
        shutil.rmtree(path)
    plan = _plan(tmp_path, envs=[_CARTS], agents=_AGENTS, steps=_STEPS, seeds=2)
    trainings, failed = compare(plan)
    assert failed == []
    assert finished.items() <= _files(tmp_path).items()
    assert [(t.agent, t.seed) for t in trainings] == [(a, s) for s in (0, 1) for a in _AGENTS]
    assert [t.reused for t in trainings] == [True, True, False, False]
    assert [Path(t.run) == ours.path for t in trainings] == [False, False, True, False]
    assert theirs.path not in starts.trained
    assert starts.trained == {Path(t.run) for t in trainings[2:]}
    for t in trainings:
        whole = reference[t.agent, t.seed]
        assert (t.returns, t.lengths) == (whole.returns, whole.lengths)
        assert _weights(t.run) == _weights(whole.run)
        assert _games(t.run) == _games(whole.run)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(
            signal.SIGKILL,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's"),
        ),
    ],
)
def test_no_training_outlives_its_comparison_and_it_goes_on(
    reference, limit, starts, tmp_path, number, wait_until
):
    (run,) = _interrupted(tmp_path, ["ppo"], 1, number, limit, wait_until)
    plan = _plan(tmp_path, envs=[_CARTS], agents=["ppo"], steps=_STEPS)
    (training,), _ = compare(plan)
    assert (training.run, training.reused) == (str(run.path), False)
    assert starts.trained == {run.path}
    assert training.returns == reference["ppo", 0].returns
    assert _weights(run.path) == _weights(reference["ppo", 0].run)


@pytest.mark.parametrize("begun_with", [0, 2])
def test_a_resumed_training_plays_the_games_that_are_asked_for_now(
    whole, starts, tmp_path, begun_with
):
    config = _copy(whole, tmp_path / "old").config()
    before = replace(config, train=replace(config.train, eval_episodes=begun_with))
    run = Run.create(tmp_path / "new", before)
    (training,), _ = compare(_plan(tmp_path / "new", episodes=3))
    assert (starts.trained, starts.played) == ({run.path}, {run.path})
    assert training.returns[:2] == whole[1][0].returns
    assert len(training.returns) == training.protocol["episodes"] == 3


def test_a_training_killed_before_its_first_checkpoint_starts_from_its_beginning(
    reference, limit, tmp_path, wait_until
):
    whole = Path(reference["ppo", 0].run)
    config = Run(whole).config()
    config = replace(config, train=replace(config.train, checkpoint_seconds=1e9))
    run = Run.create(tmp_path / "runs", config)
    assert (run.status().state, run.is_locked()) == ("waiting", False)
    words = ["train", "--resume", str(run.path), "--quiet", "--modules", "carts_of_the_test"]
    _set_limit(limit, 1)
    first = Forked(*words, output=tmp_path / "first", threads=1)
    wait_until(lambda: run.status().state == "running", "the training runs")
    assert run.is_locked()
    # The status is renewed between checkpoints too: at the first step a few seconds after the last
    # renewal. The last of these steps is allowed 9 seconds after that, and it is not a training's
    # last one.
    for steps in range(2, _HELD_AT + 1):
        if run.status().env_steps > 0:
            break
        _set_limit(limit, steps)
        time.sleep(0.25)
    wait_until(lambda: run.status().env_steps > 0, "the status is renewed")
    status = run.status()
    assert (status.state, status.seconds > 0) == ("running", True)
    assert 0 < status.env_steps < _STEPS
    first.send_signal(signal.SIGKILL)
    first.wait()
    limit.unlink()
    wait_until(lambda: not run.is_locked(), "the lock is gone")
    assert (run.status().state, run.status().env_steps) == ("stopped", status.env_steps)
    assert not run.checkpoints.exists()
    second = Forked(*words, output=tmp_path / "second", threads=1)
    second.wait()
    assert second.returncode == 0, (tmp_path / "second.err").read_text()
    assert run.status().state == "finished"
    assert _weights(run.path) == _weights(whole)
    assert _games(run.path) == _games(whole)
    assert run.evaluations() == Run(whole).evaluations()
