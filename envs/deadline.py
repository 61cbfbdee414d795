"""A time limit for calls that cannot be interrupted, such as an emulator's native code."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from ludus.envs.errors import EnvError

_Result = TypeVar("_Result")


class Deadline:
    """Run calls on a thread of their own, so that the caller can stop waiting for a hung one.

    The thread is a daemon and survives a hung call: it does not keep the process from exiting.
    """

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
        try:
            result = self._results.get(timeout=seconds)
        except Empty:
            raise EnvError(f"gave no answer after {seconds:g} s") from None
        if isinstance(result, BaseException):
            raise result
        returned: _Result = result
        return returned

    def end(self) -> None:
        """End the thread once it is idle."""
        self._calls.put(None)
