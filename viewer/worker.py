"""A thread that plays, and what pages ask of it."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

_WAITING = 100  # commands at most; older ones are forgotten


class Worker:
    """A thread with a queue of commands.

    Args:
        work: what the thread does, given this; it ends soon after `closed` is true.
        name: of the thread.
    """

    def __init__(self, work: Callable[["Worker"], None], name: str) -> None:
        self._commands, self._wake = deque[dict[str, Any]](maxlen=_WAITING), threading.Condition()
        self.closed = False
        self._thread = threading.Thread(target=work, args=(self,), daemon=True, name=name)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it works still."""
        return self._thread.is_alive()

    def command(self, told: dict[str, Any]) -> None:
        """Ask for something; called by other threads."""
        with self._wake:
            self._commands.append(told)
            self._wake.notify()

    def close(self, seconds: float = 10.0) -> None:
        """End the thread, and wait for it for so long at most."""
        with self._wake:
            self.closed = True
            self._wake.notify()
        self._thread.join(timeout=seconds)

    def commands(self) -> Iterator[dict[str, Any]]:
        """What has been asked for since; called by the thread."""
        while self._commands:
            yield self._commands.popleft()

    def wait(self, seconds: float) -> None:
        """Until something is asked for, but not longer; called by the thread."""
        with self._wake:
            if not self._commands and not self.closed and seconds > 0:
                self._wake.wait(seconds)
