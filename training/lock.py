"""A lock that keeps two processes of one machine from training in one run folder."""

import os
import time
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ludus.envs.errors import RunError
from ludus.training.files import open_plain

# `held_by_other` of another process takes the lock for a moment.
_ATTEMPTS, _PAUSE_SECONDS = 5, 0.05


class FileLock:
    """The operating system's lock on a file.

    The operating system releases it when the process ends, however it ends.

    Args:
        path: the lock file; made by `acquire`, never removed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunError: another holder has it.
        """
        try:
            file = os.fdopen(open_plain(self._path, os.O_RDWR | os.O_CREAT), "r+")
        except OSError as error:
            raise RunError(f"{self._path.parent} cannot be locked: {error}") from error
        if _lock(file, _ATTEMPTS, _PAUSE_SECONDS):
            self._file = file
            return
        file.close()
        raise RunError(f"{self._path.parent} is being trained by another process")

    def release(self) -> None:
        """Release the lock; do nothing if it is not held."""
        if self._file is not None:
            self._file.close()  # the lock belongs to the open file
            self._file = None

    def held_by_other(self) -> bool:
        """Return whether another holder has the lock now."""
        if self._file is not None:
            return False
        try:
            descriptor = open_plain(self._path, os.O_RDONLY)
        except OSError:  # there is none, or it is none
            return False
        with os.fdopen(descriptor) as file:
            if fcntl is None:
                return not _lock(file, _ATTEMPTS, _PAUSE_SECONDS)
            try:  # a shared lock: those who look do not see each other
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False


def _lock(file: IO[str], attempts: int, pause: float) -> bool:
    """Try to lock an open file, with a pause in seconds between attempts; return whether it is."""
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause)
        try:
            if lock_descriptor(file.fileno(), blocking=False):
                return True
        except OSError:  # of a disk that has no locks
            return False
    return False
