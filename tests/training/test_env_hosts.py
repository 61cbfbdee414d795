"""Trainings with their envs on a real Ray cluster of two machines, which lose hosts and machines.

Ray gives its processes 30 s to start, however slow the machine is. So all tests of a pytest process
share one cluster, no two start at once, and where it does not come up they are skipped.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from filelock import FileLock

import ludus
from ludus.envs.errors import EnvError, TrainingStopped
from ludus.training.callbacks import Callback, RunningTraining
from ludus.training.checkpoint import newest_checkpoint
from ludus.training.run import Run

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


def _host_pids() -> list[int]:
    """Return the processes of the hosts, all of which this one has started."""
    running = psutil.Process().children(recursive=True)
    return [p.pid for p in running if p.cmdline()[:1] and p.cmdline()[0].startswith("ray::EnvHost")]


@pytest.mark.parametrize("env_id", TRAININGS)
def test_weights_are_those_of_local_envs(cluster: Any, tmp_path: Path, env_id: str) -> None:
    far = _train(env_id, tmp_path, ray=cluster.address, hosts=2)
    _assert_equal(far, _train(env_id, tmp_path))


def test_a_host_that_is_killed_or_hangs_costs_time_only(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    killed = list[int]()

    def kill() -> None:
        pid = _host_pids()[len(killed)]
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
    cluster: Any, tmp_path: Path
) -> None:
    """Four hosts on four CPUs, of which two are lost; then two hosts, and none."""
    second = cluster.worker_nodes.copy().pop()
    lose = At(600, lambda: cluster.remove_node(second, allow_graceful=False))
    with pytest.raises(EnvError, match=r"no env host could be had for 3 s; .*; go on with: ludus"):
        _train("CartPole-v1", tmp_path, lose, ray=cluster.address, hosts=4, patience=3.0)
    run = Run.open(next(tmp_path.glob("*/*/*")))
    assert 600 <= run.saved_steps[-1] < 700
    stop = At(1_000, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingStopped):
        ludus.resume(run.path, hosts=2, quiet=True, callbacks=[stop])
    assert 1_000 <= run.saved_steps[-1] < 1_100
    ludus.resume(run.path, ray=None, quiet=True)
    _assert_equal(run.path, _train("CartPole-v1", tmp_path))
