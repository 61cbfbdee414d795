"""Where the commands of a comparison run: as processes of this machine, or of a Ray cluster.

A command is "resume this run folder" or "play with this run", so that one that ended too early can
be started again, on any machine that sees the folder.
"""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ludus.envs.ray_cluster import RayCluster
from ludus.training.provenance import cores

_POLL_SECONDS = 0.5
MOST_LOSSES = 3  # of a command with its machine, after which it is not started again


class Ended(NamedTuple):
    """How a command ended."""

    code: int | None  # of its exit; None if it was lost with its machine
    output: str  # on stdout
    errors: str  # on stderr

    @property
    def problem(self) -> str:
        """Return one sentence on why it failed."""
        lines = self.errors.strip().splitlines()
        last = lines[-1].removeprefix("ludus: ") if lines else None
        return last or f"the process ended with exit code {self.code}"


class Task(Protocol):
    """A command that runs."""

    def ended(self) -> Ended | None:
        """Return how it ended, None while it runs."""

    def terminate(self) -> None:
        """Ask it to save and end."""

    def wait(self) -> None:
        """Wait until it has ended."""


class Executor(Protocol):
    """Starts commands of `ludus`."""

    @property
    def parallel(self) -> int:
        """Number of commands that may run at the same time."""

    def start(self, command: list[str], folder: Path) -> Task:
        """Start a command that works in a run folder."""

    def close(self) -> None:
        """Free what the executor itself holds, once all tasks have ended."""


class _LocalTask:
    def __init__(self, process: "subprocess.Popen[bytes]", files: Path) -> None:
        self._process, self._files = process, files

    def ended(self) -> Ended | None:
        if self._process.poll() is None:
            return None
        out, err = (self._files.with_suffix(end).read_text() for end in (".out", ".err"))
        return Ended(self._process.returncode, out, err)

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> None:
        self._process.wait()


class LocalExecutor:
    """Runs commands as processes of this machine.

    Args:
        parallel: number of commands that may run at the same time.
    """

    def __init__(self, parallel: int) -> None:
        self.parallel, self._started = parallel, 0
        self._folder = tempfile.TemporaryDirectory()

    def start(self, command: list[str], folder: Path) -> Task:
        """Start a command."""
        self._started += 1
        files = Path(self._folder.name, str(self._started))
        threads = max(1, cores() // self.parallel)
        return _LocalTask(start_process(command, files, threads, _paths()), files)

    def close(self) -> None:
        """Remove the files of the outputs."""
        self._folder.cleanup()


def _paths() -> list[str]:
    """Return where this process finds modules, the user's among them."""
    return [str(Path(path or ".").absolute()) for path in sys.path]


def start_process(
    command: list[str], files: Path, threads: int, paths: list[str]
) -> "subprocess.Popen[bytes]":
    """Start `ludus` with a command.

    Args:
        command: its arguments.
        files: path, without suffix, of the files for its standard output and standard error.
        threads: number of threads of torch.
        paths: where it finds modules.
    """
    own = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
    with files.with_suffix(".out").open("wb") as out, files.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(
            # without -P a user's queue.py in the working folder would hide Python's
            [sys.executable, "-P", "-m", "ludus", *command],
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,  # else a Ctrl-C and `terminate` would be two signals for it
            preexec_fn=_terminate_with_parent if sys.platform == "linux" else None,
        )


def _terminate_with_parent() -> None:
    """Request a SIGTERM for this child process when its parent ends, so that it saves and ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG


class CommandRunner:
    """Runs one command on any machine: an actor, whose calls run in threads of their own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._terminated = False

    def ready(self) -> None:
        """Return once there is a place for the command."""

    def run(self, command: list[str], folder: str, paths: list[str], threads: int) -> Ended:
        """Run a command to its end.

        Args:
            command: arguments of `ludus`.
            folder: run folder, which this machine must see.
            paths: where it finds modules.
            threads: number of threads of torch.
        """
        if not Path(folder, "config.json").is_file():
            text = f"the machine {platform.node()} does not see {folder}"
            return Ended(2, "", f"{text}; run folders must be on a disk that all machines share")
        with tempfile.TemporaryDirectory() as own:
            files = Path(own, "command")
            self._process = start_process(command, files, threads, paths)
            if self._terminated:
                self._process.terminate()
            code = self._process.wait()
            out, err = (files.with_suffix(end).read_text() for end in (".out", ".err"))
            return Ended(code, out, err)

    def terminate(self) -> None:
        """Ask the command to save and end."""
        self._terminated = True
        if self._process is not None:
            self._process.terminate()


class _RayTask:
    def __init__(self, ray: Any, actor: Any, ended: Any) -> None:
        self._ray, self._actor, self._ended = ray, actor, ended
        self._ready = actor.ready.remote()
        self._result: Ended | None = None

    def ended(self) -> Ended | None:
        if self._result is None:
            self._look(0.0)
        return self._result

    def _look(self, seconds: float) -> None:
        try:
            self._result = Ended(*self._ray.get(self._ended, timeout=seconds))
        except self._ray.exceptions.GetTimeoutError:
            return
        except self._ray.exceptions.RayError as error:
            self._result = Ended(None, "", " ".join(str(error).split())[:200])
        self._ray.kill(self._actor)

    def terminate(self) -> None:
        if self._ray.wait([self._ready], timeout=0)[0]:
            self._actor.terminate.remote()
        else:  # there is no place for it yet
            self._ray.kill(self._actor)

    def wait(self) -> None:
        while self._result is None:
            self._look(_POLL_SECONDS)


class RayExecutor:
    """Runs commands on the machines of a Ray cluster, each with a CPU, or a CPU and a GPU.

    Args:
        cluster: the cluster.
        parallel: number of commands that may run at the same time; 0 for one on each CPU or GPU.
        gpu: each command has a GPU.
    """

    def __init__(self, cluster: RayCluster, parallel: int, *, gpu: bool) -> None:
        cluster.acquire()
        self._cluster, self._gpus = cluster, int(gpu)
        self.parallel = parallel or max(1, cluster.count("GPU" if gpu else "CPU"))

    def start(self, command: list[str], folder: Path) -> Task:
        """Start a command, as soon as there is a machine for it."""
        ray = self._cluster.ray
        # not by Ray again: whether to start it again is decided where it was started
        kind = ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_concurrency=2)
        actor = kind(CommandRunner).remote()
        return _RayTask(ray, actor, actor.run.remote(command, str(folder), _paths(), 1))

    def close(self) -> None:
        """End the connection."""
        self._cluster.release()
