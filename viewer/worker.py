"""A thread with a queue of commands from pages."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from ludus.viewer import priority

_QUEUE_SIZE = 100  # commands; when the queue is full, the oldest are dropped


class Worker:
    """A thread with a queue of commands.

    Args:
        target: runs in the thread with this worker as its argument, and must return soon after
            `closed` becomes true. It sets `closed` itself before it publishes an error that ends
            it, so that a page that comes after the error does not join a session that is over.
        name: of the thread.
        waited_for: a person waits for what it does, so that it comes before what is only watched.
    """

    def __init__(
        self, target: Callable[["Worker"], None], name: str, *, waited_for: bool = False
    ) -> None:
        self._commands = deque[dict[str, Any]](maxlen=_QUEUE_SIZE)
        self._wake = threading.Condition()
        self.closed = False
        self._thread = threading.Thread(target=target, args=(self,), daemon=True, name=name)
        if waited_for:
            priority.starter.submit(self._thread.start).result()
        else:
            self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    @property
    def ending(self) -> bool:
        """Whether the thread has ended, or will soon."""
        return self.closed or not self.alive

    def submit(self, command: dict[str, Any]) -> None:
        """Add a command to the queue; call it from other threads."""
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def close(self, timeout: float = 10.0) -> None:
        """End the thread, and wait for its end up to `timeout` seconds."""
        with self._wake:
            self.closed = True
            self._wake.notify()
        self._thread.join(timeout=timeout)

    def take_commands(self) -> Iterator[dict[str, Any]]:
        """Yield and remove the queued commands; call it from the worker's thread."""
        while self._commands:
            yield self._commands.popleft()

    def wait(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for a command; call it from the worker's thread."""
        with self._wake:
            if not self._commands and not self.closed and timeout > 0:
                self._wake.wait(timeout)
