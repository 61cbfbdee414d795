"""What users' envs do wrong in their workers: one error that names the env, and nothing is left."""

import os
import random
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
import torch
from env_fakes import LIMIT, assert_same, chooser, step, through_json

from ludus.envs.errors import EnvError
from ludus.envs.global_generators import GlobalGenerators
from ludus.envs.guarded_env import GuardedEnv
from ludus.envs.local import LocalBackend
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import VectorEnv, episode_seed
from ludus.envs.workers import WorkerBackend

HERE = Path(__file__).parent
SEED = 11


def begin(fault: str, index: int = 1, episode: int = 0, *, workers: bool = True) -> VectorEnv:
    """3 envs of which one goes wrong in one episode."""
    bad = partial(bad_envs.Bad, fault, episode_seed(SEED, index, episode))
    backend = (
        WorkerBackend(bad, 3, LIMIT)
        if workers
        else LocalBackend([GuardedEnv(bad) for _ in range(3)])
    )
    return VectorEnv(backend, env_id="bad", protocol={}, seed=SEED, trusted=True)


def worker_pids(env: VectorEnv) -> list[int]:
    backend: Any = env.backend
    return [pid for pid, _ in backend._workers] if isinstance(backend, WorkerBackend) else []


@pytest.fixture
def expect_to_hang(wait_until: Any) -> Callable[..., None]:
    """Lets the time limit of the workers begin when all but the hung ones have answered."""

    def hangs(env: VectorEnv, *hung: int) -> None:
        backend: Any = env.backend
        gather, backend._timeout = backend._gather, 0.1

        def gather_when_answered() -> Any:
            others = [backend._workers[i][1] for i in backend._waiting if i not in hung]
            wait_until(lambda: all(each.poll(0) for each in others), "the others have answered")
            return gather()

        backend._gather = gather_when_answered

    return hangs


@pytest.fixture
def close() -> Iterator[Any]:
    """Closes an env at the end, even if it hangs, and checks that its workers are dead."""
    closed: list[VectorEnv] = []
    yield closed.append
    for env in closed:
        pids = worker_pids(env)
        env.close()
        assert not any(psutil.pid_exists(pid) for pid in pids)


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
    "three values": r"returned 3 values from step; Gymnasium's are observation",
    "terminated is text": r"returned 'no' for terminated, which is neither True nor False",
    "truncated is None": r"returned None for truncated, which is neither True nor False",
    "terminated is 2": r"returned 2 for terminated, which is neither True nor False",
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
    "old Gym reset": r"returned no \(observation, info\) from reset; it seems to follow the old",
}


@pytest.mark.parametrize("fault", IN_RESET)
def test_a_fault_in_a_reset(fault: str, close: Any, capfd: Any, expect_to_hang: Any) -> None:
    env = begin(fault)
    close(env)
    if fault == "hangs in reset":
        expect_to_hang(env, 1)
    seed = episode_seed(SEED, 1, 0)
    who = rf"^bad: env 1 \(at its reset, seed {seed}, step 0\) .*"
    with pytest.raises(EnvError, match=who + IN_RESET[fault]) as info:
        env.reset()
    assert info.value.index == 1
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
def test_a_worker_that_is_killed(when: str, close: Any, capfd: Any, wait_until: Any) -> None:
    env = begin("none")
    close(env)
    env.reset()
    if when == "before recv":
        env.send(np.array([1, 1, 1]))
    victim = worker_pids(env)[2]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: _is_zombie(victim), "the worker has ended")
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
    pids = [p.pid for p in psutil.Process(child.pid).children(recursive=True)]
    assert len(pids) == 4  # with their server
    child.kill()
    wait_until(
        lambda: all(not psutil.pid_exists(pid) or _is_zombie(pid) for pid in pids),
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
    make_env = bad_envs.Walk
    backend = (
        WorkerBackend(make_env, 2, LIMIT)
        if workers
        else LocalBackend([GuardedEnv(make_env) for _ in range(2)])
    )
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
    backends = [WorkerBackend(lambda: bad_envs.Double(moody=True), 2, LIMIT) for _ in "ab"]
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
        make_env = bad_envs.Picture
        backend = (
            WorkerBackend(make_env, 2, LIMIT)
            if workers
            else LocalBackend([GuardedEnv(make_env) for _ in range(2)])
        )
        env = VectorEnv(backend, env_id="picture", protocol={}, seed=1, trusted=True)
        close(env)
        row = env.reset()
        kept = row.obs.copy()
        after = step(env, np.zeros((2, 2), "f4"))
        np.testing.assert_array_equal(row.obs, kept)
        np.testing.assert_array_equal(after.obs, kept + 1)


IN_CONSTRUCTOR = {
    "constructor": "could not be made: it raised RuntimeError: no licence$",
    "constructor exits": "could not be made: it died with exit code 3$",
    "constructor hangs": "could not be made: it gave no answer in time$",
}


@pytest.mark.parametrize("fault", IN_CONSTRUCTOR)
def test_a_fault_in_a_constructor(fault: str, capfd: Any) -> None:
    gymnasium.register("bad/Built-v0", entry_point=bad_envs.Bad, kwargs={"fault": fault})
    before = psutil.Process().children(recursive=True)
    limit = 0.5 if "hangs" in fault else LIMIT
    try:
        with pytest.raises(
            EnvError, match=r"^bad/Built-v0 \(env \d of 2\) " + IN_CONSTRUCTOR[fault]
        ):
            make("bad/Built-v0", 2, options=EnvOptions(timeout=limit))
    finally:
        del gymnasium.registry["bad/Built-v0"]
    servers = set(psutil.Process().children(recursive=True)) - set(before)
    assert len(servers) <= 1  # one waits for the next env of this kind
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("raise OSError('no display')", "raised OSError: no display"),
        ("import os; os._exit(4)", "died with exit code 4 while its modules were imported"),
        ("raise SystemExit('no licence')", "raised SystemExit: no licence"),
        ("import time; time.sleep(10_000)", "gave no answer in time while its modules were"),
    ],
)
def test_a_fault_in_an_import(
    line: str, what: str, tmp_path: Path, monkeypatch: Any, request: Any
) -> None:
    """The trainer has imported the module before, where nothing was wrong."""
    name = f"stranger_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    gymnasium.register("bad/Imported-v0", entry_point=f"{name}:Env")
    limit = 0.5 if "sleep" in line else LIMIT
    try:
        with pytest.raises(EnvError, match=f"^bad/Imported-v0 could not be made: it {what}"):
            make("bad/Imported-v0", 2, options=EnvOptions(timeout=limit))
    finally:
        del gymnasium.registry["bad/Imported-v0"]


def test_global_generators_are_each_env_s_own(close: Any) -> None:
    def episode(env: VectorEnv) -> np.ndarray:
        return np.stack([env.reset().obs, *(step(env, [1] * env.num_envs).obs for _ in range(4))])

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    envs = [make("bad_envs:bad/Dice-v0", 3, seed) for seed in (5, 5, 6)]
    for env in envs:
        close(env)
    first, again, other = (episode(env) for env in envs)  # [T, B, 4]
    np.testing.assert_array_equal(first, again)
    drawn = np.concatenate([first, other], axis=1)[:, :, :3]  # torch is not imported there
    for column in range(3):
        values = drawn[-1, :, column]
        assert len(set(values.tolist())) == 6, "an env repeats another's numbers"
    assert (random.random(), np.random.rand()) == (0.13436424411240122, 0.417022004702574)  # noqa: NPY002


def test_an_env_with_global_generators_resumes_exactly_and_may_be_rendered(close: Any) -> None:
    env, resumed = (make("bad_envs:bad/Dice-v0", 2, 5, render=True) for _ in "ab")
    close(env)
    close(resumed)
    row = env.reset()
    for _ in range(13):
        env.render(1)
        row = step(env, [0, 1])
    resumed.load_state_dict(through_json(env.state_dict()), row)
    for t in range(12):
        assert_same(step(resumed, [1, 0]), step(env, [1, 0]), f"{t} rows on")


def test_generators_in_this_process_are_given_back() -> None:
    generators = [GlobalGenerators(seed) for seed in (1, 1, 2)]
    random.seed(3)
    torch.manual_seed(3)
    expected = random.Random(3)
    drawn = []
    for _ in range(3):
        for own in generators:
            with own:
                drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))  # noqa: NPY002
        assert random.random() == expected.random()
    assert drawn[0::3] == drawn[1::3]
    assert not set(drawn[0::3]) & set(drawn[2::3])
    assert float(torch.rand(())) == float(torch.rand((), generator=torch.manual_seed(3)))


@pytest.mark.parametrize("deaf", [False, True])
def test_closing_ends_what_the_env_started(deaf: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("ludus.envs.workers._CLOSE_SECONDS", 0.1 if deaf else LIMIT)
    log = tmp_path / "log"
    backend = WorkerBackend(partial(bad_envs.Simulated, str(log), deaf), 2, LIMIT)
    backend.close()
    lines = log.read_text().splitlines()
    assert lines.count("closed") == (0 if deaf else 2)
    programs = [int(line.split()[1]) for line in lines if line.startswith("started")]
    assert len(programs) == 2
    assert all(not psutil.pid_exists(pid) or _is_zombie(pid) for pid in programs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_only_the_trainer_gets_the_signals_of_its_group(
    number: int, run: Any, tmp_path: Path, wait_until: Any
) -> None:
    log = tmp_path / "log"
    child = run(
        f"""
    import signal
    from ludus.envs.workers import WorkerBackend
    from ludus.envs.vector import VectorEnv
    import bad_envs
    from functools import partial
    stopped = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: stopped.append(number))
    backend = WorkerBackend(partial(bad_envs.Simulated, {str(log)!r}), 2, 600.0)
    env = VectorEnv(backend, env_id="x", protocol={{}}, seed=0, trusted=True)
    env.reset()
    print("ready", flush=True)
    while not stopped:
        time.sleep(0.01)
    print(step(env, [0, 0]).episode_length.tolist())
    env.close()
    """,
        until="ready",
    )
    processes = psutil.Process(child.pid).children(recursive=True)
    assert len(processes) == 5  # a server, two workers, and what they started
    if number != signal.SIGKILL:
        for process in processes[:3]:  # as systemd and Slurm do
            process.send_signal(number)
    os.killpg(child.pid, number)
    out = child.communicate(timeout=LIMIT)
    assert out == ("" if number == signal.SIGKILL else "[1, 1]\n", "")
    wait_until(lambda: not any(map(psutil.Process.is_running, processes)), "all have ended")


def test_an_env_that_computes_with_torch_does_not_wait_for_threads_of_the_trainer() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.nn.Conv2d(3, 16, 8)(torch.ones(4, 3, 84, 84)).sum().backward()  # starts threads
        env = make("bad_envs:bad/Matrix-v0", 2)
        env.reset()
        assert step(env, [0, 0]).episode_length.tolist() == [1, 1]
        env.close()
    finally:
        torch.set_num_threads(before)


def test_what_an_env_prints_goes_to_stderr(run: Any) -> None:
    child = run("""
    import gymnasium
    class Loud(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)
        def reset(self, *, seed=None, options=None):
            print("hello from reset")
            os.system("echo hello from a program")
            return np.zeros(1, np.float32), {}
    from ludus.envs.workers import WorkerBackend
    backend = WorkerBackend(Loud, 1, 600.0)
    backend.reset(np.ones(1, bool), np.zeros(1, np.int64))
    backend.close()
    print("result")
    """)
    out, err = child.communicate(timeout=LIMIT)
    assert out == "result\n"
    assert "hello from reset" in err
    assert "hello from a program" in err
