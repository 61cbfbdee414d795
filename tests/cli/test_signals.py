"""The first signal saves and ends, the second ends at once; a disk that fails is one sentence."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ludus.cli.main import main
from ludus.envs.errors import CheckpointError, RunError
from ludus.envs.make import EnvOptions
from ludus.training.console import LossyStream
from ludus.training.run import Run, TrainOptions, all_runs
from ludus.training.signals import Interrupted, Signals, hangup_as_sigterm
from ludus.training.train import start_session

# An env that runs in a worker and signals its trainer once, if there is a file `signal` beside the
# module with the number of the signal, of the step and of the trainer's process.
_MODULE = """
import os
from pathlib import Path
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

FILE = Path(__file__).with_name("signal")

class Cart(CartPoleEnv):
    taken = 0

    def step(self, action):
        self.taken += 1
        try:
            number, step, trainer = FILE.read_text().split()
            if self.taken == int(step):
                FILE.unlink()  # of several workers, one gets here
                os.kill(int(trainer), int(number))
        except FileNotFoundError:
            pass
        return super().step(action)

gymnasium.register("SignallingCart-v0", entry_point="signalling_carts:Cart", max_episode_steps=100)
"""
_ENV = "signalling_carts:SignallingCart-v0"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with the module of the env, from which it can be imported."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "signalling_carts.py").write_text(_MODULE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def ludus(home, monkeypatch, capsys, tmp_path):
    """Run a command in this process while its env sends a signal: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(line, *more, number=None, step=30):
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        if number is not None:
            (home / "signal").write_text(f"{int(number)} {step} {os.getpid()}")
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                main([*line.split(), *map(str, more)])
        finally:
            (home / "signal").unlink(missing_ok=True)
        now = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        assert now == handlers
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture(scope="module")
def run(home, tmp_path_factory) -> Path:
    options = TrainOptions(steps=40, eval_episodes=0, num_envs=1)
    root = tmp_path_factory.mktemp("runs")
    session = start_session("random", _ENV, options, EnvOptions(), None, root, quiet=True)
    session.run_to_end()
    return session.run.path


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("line", "out", "saved"),
    [
        ("evaluate --episodes 1000 --json", None, "nothing was saved; the same command starts"),
        ("record --out game.gif", None, "nothing was saved; the same command starts"),
        ("collect --episodes 1000 --num-envs 2 --quiet", "set", "set has the games that had ended"),
    ],
)
def test_a_signal_ends_a_command_and_says_what_is_saved(
    ludus, run, tmp_path, line, out, saved, number
):
    verb, _, more = line.partition(" ")
    words = f"{verb} {run} {more}" + (f" --out {out}" if out else "")
    # in its 150th step, an env has ended a game of at most 100
    code, printed, err = ludus(words, number=number, step=150 if out else 5)
    assert (code, printed) == (128 + number, "")
    assert err.startswith(f"ludus: stopped by {number.name}; {saved}")
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ([out] if out else [])


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("agent", "advice"),
    [("ppo", "is saved; go on with: ludus train --resume 'my "), ("sb3:a2c", "cannot be resumed")],
)
def test_a_signal_saves_a_training(ludus, agent, advice, number):
    line = f"train {agent} {_ENV} --steps 1000000 --num-envs 2 --run-dir"
    code, out, err = ludus(line, "my runs", number=number)
    assert (code, out) == (128 + number, "")
    assert f"\nludus: stopped by {number.name} at " in err
    assert advice in err.splitlines()[-1]
    (found,) = all_runs(Path("my runs"))
    assert found.status().state == "stopped"
    assert len(list(found.checkpoints.glob("0*"))) == (agent == "ppo")
    assert len(found.newest_weights()) > 0


def test_a_signal_ends_the_evaluation_after_a_training(ludus):
    number = signal.SIGHUP
    words = "--steps 4 --num-envs 1 --eval-episodes 3 --video-every 0 --quiet"
    code, out, err = ludus(f"train random {_ENV} {words}", number=number, step=8)
    assert (code, out) == (128 + number, ""), err
    assert "everything up to 4 steps is saved; go on with: ludus train --resume runs/" in err
    (found,) = all_runs(Path("runs"))
    code, out, err = ludus(f"train --resume {found.path} --json")
    assert code == 0, err
    assert len(json.loads(out)["evaluations"][0]["returns"]) == 3


_SAVING = """
import os, signal, sys, time
from ludus.training.signals import Signals

with Signals(announcement="saving") as signals:
    mask = {signal.SIGINT, signal.SIGTERM}
    if sys.argv[1] == "twice":  # as `timeout` sends it: to the process and to its group
        signal.pthread_sigmask(signal.SIG_BLOCK, mask)
        for number in mask:
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, mask)
    else:
        os.kill(os.getpid(), int(sys.argv[1]))
    while signals.received is None:
        time.sleep(0.01)
    sys.stdin.read()  # a save that takes as long as the test wants
print("saved")
"""


def _saving(first):
    process = subprocess.Popen(
        [sys.executable, "-c", _SAVING, str(first)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    while "saving" not in (line := process.stderr.readline()):
        assert line or process.poll() is None, process.communicate()
    return process


@pytest.mark.parametrize(
    ("first", "second"),
    [(int(signal.SIGHUP), signal.SIGINT), (int(signal.SIGINT), signal.SIGTERM)],
)
def test_a_second_signal_ends_it_at_once(first, second, wait_until):
    process = _saving(first)
    process.send_signal(second)
    assert process.wait(wait_until.seconds) == -second
    assert process.communicate()[0] == ""


def test_duplicates_of_a_signal_and_of_a_hangup_are_no_second_signal(wait_until):
    process = _saving("twice")
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate("", timeout=wait_until.seconds)
    assert (process.returncode, out) == (0, "saved\n")


def test_a_hangup_ends_a_server_as_sigterm_does():
    with pytest.raises(Interrupted) as raised, Signals(raises=True), hangup_as_sigterm():
        signal.raise_signal(signal.SIGHUP)
    assert raised.value.number == signal.SIGTERM


def test_nohup_stays_in_force():
    script = (
        "import signal; from ludus.training.signals import Signals\n"
        "with Signals(): print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    )
    command = [sys.executable, "-c", script]
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731  as short as it is
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=ignore)
    assert done.stdout == "True\n", done.stderr


def _full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fault", ["full", "full for checkpoints", "deleted", "deleted at the end"])
def test_a_disk_that_fails_is_one_sentence(tmp_path, monkeypatch, fault):
    options = TrainOptions(steps=24, eval_episodes=0, num_envs=1, checkpoint_seconds=0)
    session = start_session(
        "random", "CartPole-v1", options, EnvOptions(), None, tmp_path, quiet=True
    )
    after, run, rows = session.after_step, session.run, 0

    def fail(**when):
        nonlocal rows
        rows += 1
        if rows == 12:
            if fault == "full":
                monkeypatch.setattr("ludus.training.checkpoint.os.fsync", _full)
                session._status_at = 0.0  # a status is due
            elif fault == "full for checkpoints":
                monkeypatch.setattr("ludus.training.checkpoint_part._write", _full)
        if rows == (12 if fault == "deleted" else 24) and fault.startswith("deleted"):
            session._writer.finish()  # it would rename what `rmtree` is about to delete
            shutil.rmtree(run.path)
        return after(**when)

    session.after_step = fail
    with pytest.raises((RunError, CheckpointError)) as raised:
        session.run_to_end()
    text = str(raised.value)
    assert "\n" not in text
    if fault.startswith("deleted"):
        assert text.endswith(f"{run.path} does not exist any more, nor do its checkpoints")
    else:
        assert "No space left on device" in text
        saved = max(int(path.name) for path in run.checkpoints.glob("0*"))
        assert text.endswith(
            f"everything up to {saved} steps is saved; go on with: ludus train --resume {run.path}"
        )
        assert Run.open(run.path).status().state in ("failed", "stopped")


def test_a_terminal_that_is_gone_does_not_matter(monkeypatch, tmp_path):
    """Neither to progress nor to the checkpoint: each write to it fails with EIO."""

    class Gone:
        encoding = "utf-8"

        def write(self, text):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def flush(self):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", LossyStream(Gone()))
    options = TrainOptions(steps=100, eval_episodes=1, num_envs=1)
    session = start_session("random", "CartPole-v1", options, EnvOptions(), None, tmp_path)
    session.run_to_end()
    assert session.run.status().state == "finished"
