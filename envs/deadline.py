"""Time limits, also for calls that cannot be interrupted, such as an emulator's native code."""

import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from ludus.envs.errors import EnvError

_LONGEST_WAIT = 1.0  # seconds

_Result = TypeVar("_Result")


def waits(seconds: float) -> Iterator[float]:
    """Yield how long to wait next, until this process has run for so many seconds.

    The time for which it was stopped, as by Ctrl-Z, does not count: no wait counts as more than it
    was to last. Else a training that goes on after a pause would take its envs for hung.
    """
    left = seconds
    while left > 0:
        wait, began = min(left, _LONGEST_WAIT), time.monotonic()
        yield wait
        left -= min(time.monotonic() - began, wait)


class Deadline:
    """Run calls on a thread of their own, so that the caller can stop waiting for a hung one.

    The thread is a daemon and survives a hung call: it does not keep the process from exiting. A
    call that returns while the interpreter ends would abort the process, so that the command line
    ends without the interpreter's help after one was given up.
    """

    given_up = False  # on any call in this process

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._results: SimpleQueue[Any] = SimpleQueue()
        Thread(target=self._serve, daemon=True, name="ludus-env").start()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._results.put(call())
            except BaseException as error:  # raised again in the caller's thread
                self._results.put(error)
            del call  # an idle thread must not keep an env alive

    def run(self, call: Callable[[], _Result], seconds: float) -> _Result:
        """Return what the call returns, and raise what it raises.

        Raises:
            EnvError: the call takes longer than `seconds`. No further call may be made then: a late
                result would be taken for that call's own.
        """
        self._calls.put(call)
        for wait in waits(seconds):
            try:
                result = self._results.get(timeout=wait)
                break
            except Empty:
                continue
        else:
            Deadline.given_up = True
            raise EnvError(f"gave no answer after {seconds:g} s")
        if isinstance(result, BaseException):
            raise result
        returned: _Result = result
        return returned

    def end(self) -> None:
        """End the thread once it is idle."""
        self._calls.put(None)
