"""Text for the terminal: only printable characters reach it, and it may go away at any time."""

from typing import Any, TextIO

from rich.console import Console


def printable(value: object) -> str:
    """Return a value as one line in which control characters and lone surrogates are escaped.

    Names and messages of files and envs may contain terminal commands (ANSI escapes), line breaks
    or bytes that are no text.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Terminal:
    """Prints text as it is: escaped by `printable`, without rich's markup.

    In a notebook it prints plain lines to stdout: stderr has the colour of errors there.

    Args:
        stderr: print to stderr; else to `file`.
        file: stream to print to; None for stdout.
    """

    def __init__(self, *, stderr: bool = False, file: TextIO | None = None) -> None:
        notebook = Console().is_jupyter
        self.rich = Console(
            stderr=stderr and not notebook,
            file=file,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
            force_jupyter=False,
            force_terminal=False if notebook else None,  # its streams claim to be terminals
        )

    def print(self, text: str, *, style: str | None = None, end: str = "\n") -> None:
        """Print one or more lines."""
        lines = "\n".join(printable(line) for line in text.split("\n"))
        self.rich.print(lines, style=style, end=end)


class LossyStream:
    """A text stream that drops what cannot be written, as when the terminal is closed.

    A training must not end because nobody reads its progress.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, if that is possible."""
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flush the stream, if that is possible."""
        try:
            self._stream.flush()
        except OSError:
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
