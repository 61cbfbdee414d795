"""`ludus` in processes that are forked from one that has imported torch and the common commands.

Imports take seconds. What depends on them, on the end of the interpreter, on pipes, leftover
children or the seed of hashes needs a real process.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.util  # its function at exit waits for all processes, so ours must run first
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import FILM_STEPS

_FORKS = multiprocessing.get_context("forkserver")
_PRELOAD = ("pytest", "tyro", "torch._dynamo", "torch.utils.tensorboard")
_COMMANDS = ("train", "evaluate", "record", "compare", "list", "collect")
_FORKS.set_forkserver_preload([*_PRELOAD, *(f"ludus.cli.{name}" for name in _COMMANDS)])
_CHILD = """
import os, sys
import numpy, torch
from ludus.cli.main import main
from ludus.training import film
numpy.random.seed()  # else all forks would draw the same numbers
torch.seed()
film._STEPS = film_steps
os.environ.clear()
os.environ.update(environment)
os.chdir(folder)
sys.path.insert(0, folder)
sys.argv = ["ludus", *words]
for number, path in enumerate(paths, 1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
if threads:
    torch.set_num_threads(threads)
main(words)
"""
_running = set[multiprocessing.process.BaseProcess]()
_folders = list[str]()


@atexit.register
def _clean_up() -> None:
    """Kill what a test has left, for which the exit would wait, and remove what was printed."""
    for process in _running:
        process.kill()
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)


class Forked:
    """A command that was started, with what tests need of `subprocess.Popen`.

    Args:
        words: of the command, without `ludus`.
        cwd: its working folder; that of the test without one.
        environment: variables besides the test's; those that imports read come too late.
        output: its output goes to this path with the suffixes .out and .err.
        threads: of torch; 0 for its default.
    """

    def __init__(
        self,
        *words: object,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
        threads: int = 0,
    ) -> None:
        if output is None:
            _folders.append(tempfile.mkdtemp(prefix="forked-"))
            output = Path(_folders[-1], "output")
        self._outputs = [output.with_suffix(suffix) for suffix in (".out", ".err")]
        given = {
            "words": [str(word) for word in words],
            "paths": [str(path) for path in self._outputs],
            "folder": str(cwd or Path.cwd()),
            "environment": os.environ | (environment or {}),
            "threads": threads,
            "film_steps": FILM_STEPS,
        }
        self.process = _FORKS.Process(target=exec, args=(_CHILD, given))
        self.process.start()
        _running.add(self.process)
        assert self.process.pid is not None
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while the command runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """Return the exit code; None while the command runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the command ends.

        Raises:
            subprocess.TimeoutExpired: it has not ended after `timeout` seconds.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("ludus", timeout or 0.0)
        _running.discard(self.process)
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until the command ends, and return what it printed on stdout and stderr."""
        self.wait(timeout)
        out, err = (path.read_text() if path.exists() else "" for path in self._outputs)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal to a command that runs."""
        if self.process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # it ends now
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM to a command that runs."""
        self.send_signal(signal.SIGTERM)


def run_forked(
    *words: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` does."""
    process = Forked(*words, cwd=cwd, environment=environment)
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.returncode is not None
    return subprocess.CompletedProcess([*map(str, words)], process.returncode, out, err)
