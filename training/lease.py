"""Leases of run folders on a disk that several machines share.

The operating system's lock of a file need not reach other machines, and is lost with the connection
to the disk. So who trains in a folder also renews a small file there. Another machine takes the
folder over once that file has not changed for a while; and who was stopped that long finds another
name in it before a checkpoint is renamed, and gives up.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from ludus.envs.deadline import waits
from ludus.envs.errors import RunError
from ludus.training.files import read_json
from ludus.training.lock import FileLock

RENEWAL_SECONDS = 5.0
LEASE_SECONDS = 30.0  # without a renewal, after which another machine takes over
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_machine() -> str:
    """Return a name of this machine, which another one with its host name does not have."""
    with contextlib.suppress(OSError):
        return f"{platform.node()} {_BOOT.read_text().strip()}"
    return platform.node()


class Lease:
    """The right to write into a run folder.

    Args:
        path: its file, which is there while somebody has it.
        machine: name of this machine.
    """

    def __init__(self, path: Path, machine: str | None = None) -> None:
        self._path, self._machine = path, machine or this_machine()
        self._token = uuid.uuid4().hex
        self._renewals = 0
        self._ended = threading.Event()

    def acquire(self, report: Callable[[str], None]) -> None:
        """Take the lease; between processes of this machine a lock has decided before.

        Args:
            report: called with a sentence for the user, if this takes long.

        Raises:
            RunError: another machine renews it.
        """
        last = self._read()
        if last is not None and last["machine"] != self._machine:
            host = last["machine"].split()[0]
            report(
                f"{self._path.parent} was last trained by {host}; waiting up to "
                f"{LEASE_SECONDS:g} s whether it still is"
            )
            for wait in waits(LEASE_SECONDS):
                time.sleep(wait)
                now = self._read()
                if now is None:
                    break
                if now != last:
                    raise RunError(f"{self._path.parent} is being trained by the machine {host}")
        self._write()
        threading.Thread(target=self._renew, daemon=True, name="ludus-lease").start()

    def require(self) -> None:
        """Check that nobody else has taken the folder over.

        Raises:
            OSError: somebody has.
        """
        found = self._read()
        if found is None or found["token"] != self._token:
            by = "" if found is None else f" by the machine {found['machine'].split()[0]}"
            raise OSError(f"the run was taken over{by} while this process did not run")

    def release(self) -> None:
        """Give the lease back, if it still is this one's."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self.require()
            self._path.unlink()

    def held_elsewhere(self) -> bool:
        """Return whether another machine has renewed the lease lately, by the clock of this one."""
        try:
            found = self._read()
            age = time.time() - self._path.stat().st_mtime
        except OSError:
            return False
        return found is not None and found["machine"] != self._machine and age < LEASE_SECONDS

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL_SECONDS):
            try:
                self.require()
                self._write()
            except OSError:  # a checkpoint says so; a disk may be back the next time
                continue

    def _write(self) -> None:
        self._renewals += 1
        content = {"token": self._token, "machine": self._machine, "renewals": self._renewals}
        temporary = self._path.with_name(f"{self._path.name}-{self._token}")
        temporary.write_text(json.dumps(content))
        os.replace(temporary, self._path)

    def _read(self) -> dict[str, str] | None:
        """Return what the file says; None if it is not there or damaged.

        Raises:
            OSError: it cannot be read.
        """
        try:
            found = read_json(self._path)
            return {key: str(found[key]) for key in ("token", "machine", "renewals")}
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None


class RunLock:
    """The right of one process to train in a run folder; it ends at the latest with the process.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._lock, self._lease = FileLock(folder / ".lock"), Lease(folder / ".lease")

    def acquire(self, report: Callable[[str], None]) -> None:
        """Take the lock, and then the lease.

        Args:
            report: called with a sentence for the user, if this takes long.

        Raises:
            RunError: another process has one of them.
        """
        self._lock.acquire()
        try:
            self._lease.acquire(report)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise RunError(f"the run cannot be locked: {error}") from error
            raise

    def require(self) -> None:
        """Check that nobody else has taken the folder over, before a checkpoint is renamed.

        Raises:
            OSError: somebody has.
        """
        self._lease.require()

    def release(self) -> None:
        """Let others train in the folder."""
        self._lease.release()
        self._lock.release()

    def held_by_other(self) -> bool:
        """Return whether another process trains in the folder now."""
        return self._lock.held_by_other() or self._lease.held_elsewhere()
