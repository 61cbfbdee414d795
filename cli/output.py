"""Stdout carries the result of a command only; what envs print goes to stderr."""

import contextlib
import errno
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from ludus.training.console import printable

if TYPE_CHECKING:
    from rich.table import Table

_kept: TextIO | None = None  # stdout, while `sys.stdout` and file descriptor 1 are stderr


@contextlib.contextmanager
def stdout_for_results() -> Iterator[None]:
    """Keep stdout for the functions of this module; send everything else to stderr.

    File descriptor 1 is redirected, too, which native code and the envs' processes inherit.
    """
    global _kept
    stdout, descriptor = sys.stdout, -1
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or no file
        descriptor = stdout.fileno()
    if descriptor == 1:
        stdout.flush()
        own = os.dup(1)
        _kept = os.fdopen(own, "w", encoding=stdout.encoding, errors="backslashreplace")
        with contextlib.suppress(OSError):  # stderr is closed
            os.dup2(2, 1)
    else:
        _kept = stdout
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        kept, _kept, sys.stdout = _kept, None, stdout
        if descriptor == 1:
            os.dup2(kept.fileno(), 1)
            with contextlib.suppress(OSError):  # its reader is gone, which a print has reported
                kept.close()


def results() -> TextIO:
    """Return the stream of a command's result."""
    return sys.stdout if _kept is None else _kept


def print_result(text: str) -> None:
    """Print lines of a command's result.

    Raises:
        BrokenPipeError: nobody reads stdout: a pipe whose reader has exited, or a closed terminal.
    """
    lines = "\n".join(printable(line) for line in text.split("\n"))
    try:
        print(lines, file=results(), flush=True)
    except OSError as error:
        if error.errno == errno.EIO:
            raise BrokenPipeError(*error.args) from error
        raise


def print_json(value: Any) -> None:
    """Print one JSON object as a command's result."""
    print_result(json.dumps(value))


def print_table(table: "Table") -> None:
    """Print a table as a command's result, or a part of it."""
    from rich.console import Console
    from rich.segment import Segment, Segments

    console = Console(file=results(), markup=False, emoji=False)
    shown = [
        Segment(
            segment.text if segment.text == "\n" else printable(segment.text),
            segment.style,
            segment.control,
        )
        for segment in console.render(table)
    ]
    console.print(Segments(shown), end="")


@contextlib.contextmanager
def named_while_slow(text: str) -> Iterator[None]:
    """Show a line in the terminal from one second on, until what is within ends."""
    shown = threading.Event()

    def show() -> None:
        shown.set()
        print(printable(text), end="", file=sys.stderr, flush=True)

    timer = threading.Timer(1.0, show)
    timer.daemon = True
    terminal = sys.stderr.isatty()
    if terminal:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if terminal:
            timer.join()
        if shown.is_set():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # erases the line


def print_message(text: str) -> None:
    """Print a line on stderr."""
    print(printable(text), file=sys.stderr)
