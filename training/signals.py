"""SIGINT, SIGTERM and SIGHUP: the first saves and ends, a second one ends at once."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
_HANDLED = (signal.SIGINT, signal.SIGTERM, *([] if _HANGUP is None else [_HANGUP]))
_DUPLICATES_SECONDS = 0.05  # `timeout` sends its signal twice, to the process and to its group
_SHOW_CURSOR = "\x1b[?25h"


class Interrupted(KeyboardInterrupt):
    """Raised by the first signal where no training defers it.

    Notes (`add_note`) say what was saved and how to go on.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Signals:
    """Handles the first signal while it is entered; a second one ends the process at once.

    After the first signal, the operating system's own handling is restored, so that a second one
    ends the process also where no Python code runs, such as in a long write. A further SIGHUP is
    ignored: a terminal that closes sends several. SIGHUP stays ignored under `nohup`.

    Args:
        raises: raise `Interrupted`; else only record the signal.
        announcement: written to stderr at the first signal, after its name; "" for nothing.
        ignores_others: a second signal does nothing. `torchrun` passes on to its processes a signal
            that a terminal has sent to all of them, and kills them 30 s later.
    """

    def __init__(
        self, *, raises: bool = False, announcement: str = "", ignores_others: bool = False
    ) -> None:
        self.received: int | None = None  # number of the first signal
        self._raises, self._announcement = raises, announcement
        self._ignores_others = ignores_others
        self._handlers: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            return
        self.received = number
        time.sleep(_DUPLICATES_SECONDS)
        for handled in self._handlers:
            ignored = self._ignores_others or handled == _HANGUP
            again = signal.SIG_IGN if ignored else signal.SIG_DFL
            signal.signal(handled, again)
        if self._announcement:
            with contextlib.suppress(OSError):  # the terminal is gone
                cursor = _SHOW_CURSOR if os.isatty(2) else ""  # a bar hides it until it ends
                text = f"{cursor}\nludus: {signal_name(number)}; {self._announcement}\n"
                os.write(2, text.encode())  # `print` is not reentrant: this may be within one
        if self._raises:
            raise Interrupted(number)

    def __enter__(self) -> "Signals":
        """Install the handlers."""
        # SDL, which renders Gymnasium's envs, takes SIGINT and SIGTERM otherwise
        os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
        for number in _HANDLED:
            if number == _HANGUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self._handlers[number] = signal.signal(number, self._handle)
            except ValueError:  # only the main thread may; elsewhere its owner handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


@contextlib.contextmanager
def hangup_as_sigterm() -> Iterator[None]:
    """Treat SIGHUP as SIGTERM, for a server that ends at SIGINT and SIGTERM by itself."""
    previous = signal.SIG_IGN if _HANGUP is None else signal.getsignal(_HANGUP)
    if _HANGUP is None or previous == signal.SIG_IGN:
        yield
        return
    signal.signal(_HANGUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(_HANGUP, previous)


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGTERM."""
    return signal.Signals(number).name
