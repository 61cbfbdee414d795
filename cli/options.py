"""Command lines from dataclasses: every field an option, every mistake a sentence."""

import contextlib
import difflib
import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from ludus.envs.errors import UsageError

_T = TypeVar("_T")


def parse(
    kind: type[_T], argv: Sequence[str], *, verb: str, about: str, default: _T | None = None
) -> _T:
    """The dataclass that the arguments describe; prints help and exits 0 where it is asked for.

    Raises:
        UsageError: an unknown option or a value that does not fit.
    """
    cli: Any = tyro.cli  # its overloads do not say that a default may be None
    if "--help" in argv or "-h" in argv:
        cli(kind, args=["--help"], prog=f"ludus {verb}", description=about, default=default)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return cli(
                kind, args=list(argv), prog=f"ludus {verb}", description=about, default=default
            )
    except SystemExit:
        raise UsageError(_sentence(said.getvalue(), verb)) from None


def _sentence(said: str, verb: str) -> str:
    """The one line that matters in tyro's box, with its suggestion."""
    lines = [line.strip(" │─╭╮╰╯|") for line in said.splitlines()]
    parts = [part.strip() for part in "\n".join(lines).split("---")]
    parts = [" ".join(part.strip("- \n").split()) for part in parts if part.strip("- \n")]
    message = parts[1] if len(parts) > 1 else " ".join(parts)
    _, _, hint = " ".join(parts).partition("Perhaps you meant:")
    flags = [word.rstrip(",") for word in hint.split() if word.startswith("--")]
    suggestion = f"; did you mean {flags[0]}?" if flags else ""
    return f"{message.rstrip('.')}{suggestion or f'; ludus {verb} --help shows every option'}"


def closest(word: str, known: Sequence[str], what: str) -> str:
    """A sentence on an unknown word, with the nearest known one."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return f"there is no {what} {word}; {hint}"


def tensorboard() -> str:
    """How to call TensorBoard: by its path where it is not on the PATH."""
    beside = Path(sys.executable).with_name("tensorboard")
    return "tensorboard" if shutil.which("tensorboard") or not beside.exists() else str(beside)


def print_json(told: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(told))
