"""Env hosts and comparisons on a Ray cluster of two machines, which lose processes and machines.

Ray gives its processes 30 s to start, however slow the machine is. So all tests of a pytest process
share one cluster, no two start at once, and where it does not come up they are skipped.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from filelock import FileLock

import ludus
from ludus.comparison.compare import Plan, compare
from ludus.comparison.executor import CommandRunner
from ludus.envs import remote
from ludus.envs.deadline import waits
from ludus.envs.errors import EnvError, TrainingStopped
from ludus.envs.make import EnvOptions
from ludus.training.callbacks import Callback, RunningTraining
from ludus.training.checkpoint import newest_checkpoint
from ludus.training.run import Run, all_runs

ray = pytest.importorskip("ray", reason="needs ray: pip install -e '.[cluster]'")

# one env of each kind: arrays, arrays with pictures, an emulator
TRAININGS = {
    "CartPole-v1": ("dqn", 1_500, {"learning_starts": 200}),
    "MinAtar/Breakout-v1": ("ppo", 1_000, {"rollout_length": 16}),
    "PongNoFrameskip-v4": ("pqn", 700, {"screen_size": 36, "rollout_length": 8}),
}
NUM_ENVS = 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a `ray.cluster_utils.Cluster` of two machines with two CPUs each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 2, "object_store_memory": 100 << 20, "include_dashboard": False}
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with FileLock(shared / "ray.lock"):
        try:
            started = Cluster(initialize_head=True, head_node_args=node)
            started.add_node(**node)
        except Exception as error:
            pytest.skip(f"no Ray cluster comes up here: {' '.join(str(error).split())[:200]}")
        yield started
        ray.shutdown()
        started.shutdown()


def _weights(run: Path) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in newest_checkpoint(run / "weights")[0].items()}


def _train(env_id: str, root: Path, callback: Callback | None = None, **settings: Any) -> Path:
    agent, steps, config = TRAININGS[env_id]
    trained = ludus.train(
        agent,
        env_id,
        steps=steps,
        root=root,
        quiet=True,
        num_envs=NUM_ENVS,
        eval_episodes=0,
        video_every=0,
        callbacks=[] if callback is None else [callback],
        **config,
        **settings,
    )
    assert trained.run is not None
    return trained.run.path


def _assert_equal(one: Path, other: Path) -> None:
    ours, theirs = _weights(one), _weights(other)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert np.array_equal(weight, theirs[name]), name
    assert np.array_equal(ludus.episodes(one).returns, ludus.episodes(other).returns)


class At(Callback):
    """Calls a function once, at a number of env steps."""

    def __init__(self, steps: int, call: Callable[[], None]) -> None:
        self._steps, self._call, self.called = steps, call, False

    def on_step(self, training: RunningTraining) -> bool | None:
        if training.env_steps >= self._steps and not self.called:
            self.called = True
            self._call()
        return None


def _actors(kind: str) -> list[int]:
    """Return the processes of actors, all of which this one has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith(f"ray::{kind}"):
                found.append(process.pid)
    return found


@pytest.mark.parametrize(
    "env_id", [pytest.param(x, marks=[pytest.mark.slow] * (x[0] == "M")) for x in TRAININGS]
)
def test_weights_are_those_of_local_envs(cluster: Any, tmp_path: Path, env_id: str) -> None:
    far = _train(env_id, tmp_path, ray=cluster.address, hosts=2)
    _assert_equal(far, _train(env_id, tmp_path))


def test_a_host_that_is_killed_or_hangs_costs_time_only(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    killed = list[int]()

    def kill() -> None:
        pid = _actors("EnvHost")[len(killed)]
        os.kill(pid, signal.SIGSTOP if killed else signal.SIGKILL)
        killed.append(pid)

    class Twice(Callback):
        def on_step(self, training: RunningTraining) -> bool | None:
            if training.env_steps >= 500 * (1 + len(killed)) and len(killed) < 2:
                kill()
            return None

    far = _train("CartPole-v1", tmp_path, Twice(), ray=cluster.address, hosts=2, timeout=1.0)
    said = " ".join(capfd.readouterr().err.split())
    assert "is lost: it died; another repeats" in said
    assert "is lost: it gave no answer in time" in said
    assert said.count("another host goes on with envs") == 2
    _assert_equal(far, _train("CartPole-v1", tmp_path))


def test_a_machine_that_is_lost_costs_time_only(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    second = cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    lose = At(800, lambda: cluster.remove_node(second, allow_graceful=False))
    far = _train("CartPole-v1", tmp_path, lose, ray=cluster.address, hosts=4)
    assert lose.called
    assert "another host goes on with envs" in " ".join(capfd.readouterr().err.split())
    _assert_equal(far, _train("CartPole-v1", tmp_path))


def test_without_another_machine_it_saves_and_a_resume_goes_on(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four hosts on four CPUs, of which two are lost; then two hosts, and none."""
    second = cluster.worker_nodes.copy().pop()

    def lose() -> None:
        cluster.remove_node(second, allow_graceful=False)
        brief = {300.0: 2.0}  # once they run, the patience of the training is tried less
        monkeypatch.setattr(remote, "waits", lambda seconds: waits(brief.get(seconds, seconds)))

    message = r"no env host could be had for 300 s; everything up to .*; go on with: ludus"
    with pytest.raises(EnvError, match=message):
        _train("CartPole-v1", tmp_path, At(600, lose), ray=cluster.address, hosts=4)
    monkeypatch.undo()
    run = Run.open(next(tmp_path.glob("*/*/*")))
    saved = run.saved_steps[-1]
    assert 600 <= saved < 1_400
    stop = At(saved + 40, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingStopped):
        ludus.resume(run.path, hosts=2, quiet=True, callbacks=[stop])
    assert saved < run.saved_steps[-1] < 1_500
    ludus.resume(run.path, ray=None, quiet=True)
    _assert_equal(run.path, _train("CartPole-v1", tmp_path))


SLOW = """
import time
from pathlib import Path

import gymnasium


class Slow(gymnasium.Wrapper):
    def step(self, action):
        if not Path({gate!r}).exists():
            time.sleep(0.05)
        return super().step(action)
"""


def _plan(root: Path, ray: str | None = None) -> Plan:
    return Plan(
        envs=["CartPole-v1"],
        agents=["dqn", "ppo"],
        steps=12_000,
        minutes=0.0,
        seeds=1,
        first_seed=0,
        episodes=2,
        epsilon=0.0,
        options=EnvOptions(wrapper=("ludus_test_slow:Slow",)),
        runs=(),
        root=root,
        device="cpu",
        jobs=0,
        quiet=True,
        ray=ray,
    )


def _scores(root: Path) -> dict[str, tuple[list[float], int]]:
    """Return the games of each agent's only run, and how many there were in its training."""
    runs = all_runs(root)
    assert len(runs) == 2
    assert {run.status().state for run in runs} == {"finished"}
    return {
        run.config().agent: (run.evaluations()[-1]["returns"], len(ludus.episodes(run).returns))
        for run in runs
    }


def _training(root: Path) -> bool:
    return any(run.status().state == "running" for run in all_runs(root))


@pytest.fixture
def _sigint() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, also in tests that a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint")
def test_a_comparison_whose_processes_die_and_that_is_interrupted(
    cluster: Any, tmp_path: Path, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results are those of this machine, and nothing that has finished is done again.

    As long as there is no gate, the trainings are too slow to end before they are disturbed.
    """
    local, far, gate = tmp_path / "local", tmp_path / "far", tmp_path / "gate"
    killed = list[int]()
    (tmp_path / "ludus_test_slow.py").write_text(SLOW.format(gate=str(gate)))
    monkeypatch.syspath_prepend(tmp_path)

    def disturb() -> None:
        wait_until(lambda: _training(far), "a training runs")
        killed.append(_actors("CommandRunner")[0])
        os.kill(killed[0], signal.SIGKILL)
        wait_until(lambda: set(_actors("CommandRunner")) - set(killed), "another one runs")
        os.kill(os.getpid(), signal.SIGINT)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    with pytest.raises(KeyboardInterrupt):
        compare(_plan(far, cluster.address))
    disturber.join()
    assert not set(_actors("CommandRunner")) - set(killed)
    wait_until(lambda: not any(run.is_locked() for run in all_runs(far)), "the orphan has saved")
    gate.touch()
    trainings, failures = compare(_plan(far, cluster.address))
    assert (len(trainings), failures) == (2, [])
    compare(_plan(local))
    assert _scores(far) == _scores(local)
    written = {run.path: (run.path / "status.json").stat().st_mtime_ns for run in all_runs(far)}
    compare(_plan(far, cluster.address))
    assert written == {path: (path / "status.json").stat().st_mtime_ns for path in written}


def test_a_machine_that_does_not_see_the_run_folder_is_one_sentence(tmp_path: Path) -> None:
    ended = CommandRunner().run(["train"], str(tmp_path / "runs"), [], 1)
    assert ended.code == 2
    assert f"does not see {tmp_path}/runs; run folders must be on a disk that" in ended.errors
