"""What users' envs do wrong in their workers: one error that names the env, and nothing is left."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bad_envs
import gymnasium
import numpy as np
import psutil
import pytest
from env_fakes import LIMIT, assert_same, chooser, step, through_json

from ludus.envs.errors import EnvError
from ludus.envs.make import make
from ludus.envs.vector import VectorEnv, episode_seed
from ludus.envs.workers import GymnasiumBackend

HERE = Path(__file__).parent
SEED = 11


def begin(fault: str, index: int = 1, episode: int = 0, *, workers: bool = True) -> VectorEnv:
    """3 envs of which one goes wrong in one episode."""
    bad_envs.Bad.victim = episode_seed(SEED, index, episode)
    backend = GymnasiumBackend(partial(bad_envs.Bad, fault), 3, workers, LIMIT)
    return VectorEnv(backend, env_id="bad", protocol={}, seed=SEED, trusted=True)


@pytest.fixture
def expect_to_hang(wait_until: Any) -> Callable[..., None]:
    """Lets the time limit of the workers begin when all but the hung ones have answered."""

    def hangs(env: VectorEnv, *hung: int) -> None:
        backend: Any = env.backend
        vector, backend._timeout = backend._async, 0.1

        def others_first(wait: Callable[..., Any]) -> Callable[..., Any]:
            def answered() -> bool:
                pipes = enumerate(vector.parent_pipes)
                return all(pipe.poll(0) for i, pipe in pipes if i not in hung)

            def waiting(timeout: float) -> Any:
                wait_until(answered, "the others have answered")
                return wait(timeout=timeout)

            return waiting

        for name in ("reset_wait", "step_wait", "call_wait"):
            setattr(vector, name, others_first(getattr(vector, name)))

    return hangs


@pytest.fixture
def close() -> Iterator[Any]:
    """Closes an env at the end, even if it hangs, and checks that its workers are dead."""
    closed: list[VectorEnv] = []
    yield closed.append
    for env in closed:
        backend: Any = env.backend
        workers = list(backend._async.processes) if backend._async else []
        env.close()
        assert not any(worker.is_alive() for worker in workers)


IN_STEP = {
    "raises in step": r"raised ZeroDivisionError: the ball is gone$",
    "NaN observation": r"the observation \[ ?3. nan\]",
    "inf observation": r"the observation \[ ?3. inf\]",
    "NaN reward": r"the reward nan$",
    "inf reward": r"the reward -inf$",
    "reward is text": r"the reward '10', which is not a number",
    "reward is None": r"the reward None, which is not a number",
    "reward is a list": r"the reward \[1.0, 2.0\], which is not a number",
    "wrong shape": r"an observation of shape \(3,\); its space promises \(2,\)",
    "wrong dtype": r"an observation of dtype float64; its space promises float32",
    "no array": r"an observation of type list, not an array",
    "three values": r"raised ValueError: not enough values to unpack",
}
DEATHS = {
    "exits": "died with exit code 7$",
    "sys.exit": "died with exit code 5$",
    "hangs": "gave no answer in time$",
    "hangs, deaf": "gave no answer in time$",
    "spins": "gave no answer in time$",
}


def check_fault_in_step(env: VectorEnv, what: str, expect_to_hang: Any) -> None:
    env.reset()
    for _ in range(2):
        step(env, [1, 2, 3])
    if "gave no answer" in what:
        expect_to_hang(env, 1)
    who = rf"^bad: env 1 \(action 3, seed {episode_seed(SEED, 1, 0)}, step 2\) .*"
    with pytest.raises(EnvError, match=who + what) as info:
        step(env, [2, 3, 1])
    assert info.value.index == 1
    for call in (env.reset, env.recv, env.state_dict):
        with pytest.raises(EnvError, match="bad cannot go on: bad: env 1"):
            call()


@pytest.mark.parametrize("workers", [True, False])
@pytest.mark.parametrize("fault", IN_STEP)
def test_a_fault_in_a_step(
    fault: str, workers: bool, close: Any, capfd: Any, expect_to_hang: Any
) -> None:
    env = begin(fault, workers=workers)
    close(env)
    check_fault_in_step(env, IN_STEP[fault], expect_to_hang)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", DEATHS)
def test_a_worker_that_dies_or_hangs(
    fault: str, close: Any, capfd: Any, expect_to_hang: Any
) -> None:
    env = begin(fault)
    close(env)
    check_fault_in_step(env, DEATHS[fault], expect_to_hang)
    assert capfd.readouterr() == ("", "")


IN_RESET = {
    "raises in reset": "raised KeyError: 'level'",
    "NaN in reset": "holds NaN",
    "hangs in reset": "gave no answer in time",
    "constructor in worker": "could not be made in its worker: it raised RuntimeError: the port",
}


@pytest.mark.parametrize("fault", IN_RESET)
def test_a_fault_in_a_reset(fault: str, close: Any, capfd: Any, expect_to_hang: Any) -> None:
    env = begin(fault)
    close(env)
    if fault == "hangs in reset":
        expect_to_hang(env, 1)
    index = 0 if fault == "constructor in worker" else 1
    seed = episode_seed(SEED, index, 0)
    who = rf"^bad: env {index} \(at its reset, seed {seed}, step 0\) .*"
    with pytest.raises(EnvError, match=who + IN_RESET[fault]) as info:
        env.reset()
    assert info.value.index == index
    assert capfd.readouterr() == ("", "")


def test_a_fault_in_a_later_reset_is_blamed_on_that_episode(close: Any) -> None:
    env = begin("raises in reset", 2, 1)
    close(env)
    env.reset()
    for _ in range(5):
        row = step(env, [1, 1, 1])
    assert row.game_over.all()
    seed = episode_seed(SEED, 2, 1)
    with pytest.raises(EnvError, match=rf"env 2 \(at its reset, seed {seed}, step 0\) raised Key"):
        step(env, [1, 1, 1])


@pytest.mark.parametrize("when", ["before send", "before recv"])
def test_a_worker_that_is_killed(when: str, close: Any, capfd: Any) -> None:
    env = begin("none")
    close(env)
    env.reset()
    if when == "before recv":
        env.send(np.array([1, 1, 1]))
    backend: Any = env.backend
    os.kill(backend._async.processes[2].pid, signal.SIGKILL)
    backend._async.processes[2].join()
    if when == "before recv":  # it may have answered before it was killed

        def go_on() -> None:
            env.recv()
            step(env, [2, 2, 2])

        with pytest.raises(EnvError, match=r"env 2 \(action [12], .*died with exit code -9"):
            go_on()
    else:
        with pytest.raises(EnvError, match=r"env 2 \(action 1, .*died with exit code -9"):
            step(env, [1, 1, 1])
    assert capfd.readouterr() == ("", "")


def test_closing_while_a_step_runs_is_quiet(close: Any, capfd: Any) -> None:
    for fault in ("none", "hangs"):
        env = begin(fault)
        close(env)
        env.reset()
        for _ in range(2):
            step(env, [1, 1, 1])
        env.send(np.array([1, 1, 1]))
        env.close()
    assert capfd.readouterr() == ("", "")


def test_pictures_come_from_the_env_asked_for_and_their_errors_name_it(
    close: Any, expect_to_hang: Any
) -> None:
    for workers in (True, False):
        env = begin("none", workers=workers)
        close(env)
        env.reset()
        step(env, [1, 1, 1])
        assert (env.render(2) == 1).all()
        env = begin("raises in render", workers=workers)
        close(env)
        env.reset()
        with pytest.raises(EnvError, match="the picture of env 2: raised OSError: no display"):
            env.render(2)
        step(env, [1, 1, 1])  # the game goes on
    env = begin("hangs in render")
    close(env)
    env.reset()
    expect_to_hang(env, 0, 1, 2)
    with pytest.raises(EnvError, match="the picture of env 0: gave no answer in time"):
        env.render(0)


@pytest.fixture
def run() -> Iterator[Any]:
    """Starts a trainer in a process of its own; returns once it has printed `until`."""
    children = []

    def start(body: str, *, until: str = "") -> subprocess.Popen[str]:
        script = f"""
        import os, sys, time
        import numpy as np
        from test_workers import begin
        from env_fakes import step
        {textwrap.indent(textwrap.dedent(body), "        ").strip()}
        """
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", textwrap.dedent(script)]
        child = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, cwd=HERE, start_new_session=True
        )
        children.append(child)
        if until:
            assert child.stdout is not None
            while until not in (line := child.stdout.readline()):
                assert line, child.stderr and child.stderr.read()
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("fault", ["none", "hangs"])
def test_an_env_that_is_never_closed_ends_in_silence(fault: str, run: Any) -> None:
    child = run(f"""
    env = begin({fault!r})
    env.reset()
    for _ in range(3):
        env.send(np.ones(3, int))
        if _ < 2: env.recv()
    """)
    assert child.communicate(timeout=LIMIT) == ("", "")
    assert child.returncode == 0


def test_workers_end_with_a_trainer_that_is_killed_even_those_that_hang(
    run: Any, wait_until: Any
) -> None:
    child = run(
        """
    env = begin("spins")
    env.reset()
    for _ in range(3):
        env.send(np.ones(3, int))
        if _ < 2: env.recv()
    print("ready", flush=True)
    time.sleep(10_000)
    """,
        until="ready",
    )
    workers = [p.pid for p in psutil.Process(child.pid).children()]
    assert len(workers) == 3
    child.kill()
    wait_until(
        lambda: all(not psutil.pid_exists(pid) or _is_zombie(pid) for pid in workers),
        "the workers have ended",
    )
    assert child.communicate(timeout=LIMIT)[1] == ""


def test_ctrl_c_reaches_the_trainer_only(run: Any) -> None:
    child = run(
        """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    env = begin("none")
    env.reset()
    try:
        print("ready", flush=True)
        time.sleep(10_000)
    except KeyboardInterrupt:
        print(step(env, [1, 1, 1]).reward.tolist())
        env.close()
    """,
        until="ready",
    )
    os.killpg(child.pid, signal.SIGINT)
    assert child.communicate(timeout=LIMIT) == ("[1.0, 1.0, 1.0]\n", "")


def test_many_envs_leave_nothing_open() -> None:
    process = psutil.Process()
    before = 0
    for turn in range(4):
        env = begin("none")
        env.reset()
        env.close()
        del env
        if turn == 0:
            before = process.num_fds()
    assert process.num_fds() <= before


WALKS = [("bad/Walk-v0", before) for before in (0, 1, 7, 30, 61)]


@pytest.mark.parametrize(
    ("env_id", "before"), [*WALKS, ("bad/Picture-v0", 9), ("FrozenLake-v1", 40)]
)
def test_a_resumed_worker_env_goes_on_as_if_never_stopped(
    env_id: str, before: int, close: Any
) -> None:
    env, resumed = make(env_id, 3, 5), make(env_id, 3, 5)
    close(env)
    close(resumed)
    choose, row = chooser(env), env.reset()
    for _ in range(before):
        row = step(env, choose())
    if env_id == "bad/Walk-v0":
        while before > 1 and not row.game_over.any():  # a reset is due
            row = step(env, choose())
    resumed.load_state_dict(through_json(env.state_dict()), row)
    for t in range(25):
        actions = choose()
        assert_same(step(resumed, actions), step(env, actions), f"{t} rows on")


@pytest.mark.parametrize("workers", [True, False])
def test_workers_and_this_process_play_alike(workers: bool, close: Any) -> None:
    """And as the env alone does, from the episode's seed."""
    backend = GymnasiumBackend(bad_envs.Walk, 2, workers, LIMIT)
    env = VectorEnv(backend, env_id="walk", protocol={}, seed=1, trusted=True)
    close(env)
    alone, choose = bad_envs.Walk(), chooser(env)
    row, number, total, ends = env.reset(), 0, 0.0, 0
    expected, _ = alone.reset(seed=episode_seed(1, 1, 0))
    over = False
    for _ in range(80):
        felt = gymnasium.spaces.flatten(alone.observation_space, expected).astype(np.float32)
        np.testing.assert_array_equal(row.obs[1].view(np.float32), felt)
        actions = choose()
        row = step(env, actions)
        if over:
            number, total, ends = number + 1, 0.0, ends + 1
            expected, _ = alone.reset(seed=episode_seed(1, 1, number))
            reward, over = 0.0, False
        else:
            expected, reward, over, _, _ = alone.step(actions[1])
        assert row.reward[1] == np.float32(reward)
        assert row.game_over[1] == over
        total += float(np.float32(reward))
        assert row.episode_return[1] == total
    assert ends > 2


def test_an_env_that_forgets_its_seed_cannot_be_resumed(close: Any) -> None:
    backends = [GymnasiumBackend(lambda: bad_envs.Double(moody=True), 2, True, LIMIT) for _ in "ab"]
    env, resumed = (
        VectorEnv(b, env_id="moody", protocol={}, seed=1, trusted=True) for b in backends
    )
    close(env)
    close(resumed)
    row = env.reset()
    with pytest.raises(EnvError, match=r"env 0 of moody cannot be resumed.*seed and its actions"):
        resumed.load_state_dict(env.state_dict(), row)


def test_what_was_handed_out_is_not_the_env_s_buffer(close: Any) -> None:
    for workers in (True, False):
        backend = GymnasiumBackend(bad_envs.Picture, 2, workers, LIMIT)
        env = VectorEnv(backend, env_id="picture", protocol={}, seed=1, trusted=True)
        close(env)
        row = env.reset()
        kept = row.obs.copy()
        after = step(env, np.zeros((2, 2), "f4"))
        np.testing.assert_array_equal(row.obs, kept)
        np.testing.assert_array_equal(after.obs, kept + 1)
