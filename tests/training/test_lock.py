"""The lock of a run folder: between two holders, two processes, and after a kill."""

import signal
import subprocess
import sys

import pytest

from ludus.envs.errors import RunError
from ludus.training.lock import FileLock

HOLD = """
import sys
from pathlib import Path
from ludus.training.lock import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_one_holder_at_a_time(tmp_path):
    one, other = FileLock(tmp_path / ".lock"), FileLock(tmp_path / ".lock")
    assert not other.held_by_other(), "a lock that nobody has made is free"
    one.release()  # does nothing
    one.acquire()
    assert (one.held_by_other(), other.held_by_other()) == (False, True)
    with pytest.raises(RunError, match=f"^{tmp_path} is being trained by another process$"):
        other.acquire()
    one.release()
    assert not other.held_by_other()
    other.acquire()
    assert one.held_by_other()
    other.release()


def test_a_killed_process_holds_it_no_longer(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    lock = FileLock(tmp_path / ".lock")
    assert lock.held_by_other()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not lock.held_by_other()
    lock.acquire()
    lock.release()
