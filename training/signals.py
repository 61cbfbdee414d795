"""SIGINT and SIGTERM as a flag that a training reads between two steps."""

import signal
from types import FrameType
from typing import Any


class Signals:
    """Records SIGINT and SIGTERM while it is entered, in place of their handlers."""

    def __init__(self) -> None:
        self.received: int | None = None  # number of the last signal
        self._handlers: dict[int, Any] = {}

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def __enter__(self) -> "Signals":
        """Install the handlers."""
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._handlers[number] = signal.signal(number, self._record)
            except ValueError:  # only the main thread may; elsewhere its owner handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
