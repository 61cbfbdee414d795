"""`ludus` in processes that are forked from one that has imported everything.

Imports take seconds. Tests of what happens before, of signals to groups and of pipes start real
processes.
"""

import multiprocessing
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_PRELOAD = ("pytest", "tyro", "torch._dynamo", "torch.utils.tensorboard")
_COMMANDS = ("train", "evaluate", "record", "compare", "list", "collect")
_FORKS.set_forkserver_preload([*_PRELOAD, *(f"ludus.cli.{name}" for name in _COMMANDS)])
_CHILD = """
import os, sys
from ludus.cli.main import main
os.environ.clear()
os.environ.update(environment)
os.chdir(folder)
sys.path.insert(0, folder)  # as python -m does
sys.argv = ["ludus", *words]
for number, path in enumerate(paths, 1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
if threads:
    import torch
    torch.set_num_threads(threads)
main(words)
"""


class Forked:
    """A command that was started, with what tests need of `subprocess.Popen`.

    Args:
        words: of the command, without `ludus`.
        cwd: its working folder; that of the test without one.
        environment: changes of the test's.
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
            self._folder = tempfile.TemporaryDirectory()
            output = Path(self._folder.name, "output")
        self._outputs = [output.with_suffix(suffix) for suffix in (".out", ".err")]
        given = {
            "words": [str(word) for word in words],
            "paths": [str(path) for path in self._outputs],
            "folder": str(cwd or Path.cwd()),
            "environment": os.environ | (environment or {}),
            "threads": threads,
        }
        self.process = _FORKS.Process(target=exec, args=(_CHILD, given))
        self.process.start()
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
        """Wait until the command ends."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("ludus", timeout or 0.0)
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until the command ends, and return what it printed on stdout and stderr."""
        self.wait(timeout)
        out, err = (path.read_text() if path.exists() else "" for path in self._outputs)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal to a command that runs."""
        if self.process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM to a command that runs."""
        self.send_signal(signal.SIGTERM)


def run_forked(
    *words: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` does."""
    process = Forked(*words, cwd=cwd, environment=environment)
    out, err = process.communicate(timeout=600)
    assert process.returncode is not None
    return subprocess.CompletedProcess([*map(str, words)], process.returncode, out, err)
