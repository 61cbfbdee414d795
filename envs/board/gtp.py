"""Engines of go as players: programs that read the Go Text Protocol, version 2.

https://www.lysator.liu.se/~gunnar/gtp/gtp2-spec-draft2/gtp2-spec.html
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from typing import IO, Any

import pyspiel

from ludus.envs.board.opponent_names import GTP
from ludus.envs.deadline import Deadline
from ludus.envs.errors import EnvError

RESIGN = -1  # in place of a move
COLUMNS = "abcdefghjklmnopqrstuvwxyz"  # of go: without i
COLOURS = ("black", "white")  # of OpenSpiel's players 0 and 1
ANSWER_SECONDS = 300.0  # for an answer; a large network may take minutes to load

_LONGEST_LINE = 1 << 16
_SHOWN = 200  # characters of what an engine wrote, in a message


def vertex_of(action: int, size: int) -> str:
    """Return an action of OpenSpiel as GTP names it: D4, or PASS."""
    if action == size * size:
        return "PASS"
    row, column = divmod(action, size)
    return f"{COLUMNS[column].upper()}{row + 1}"


def action_of(vertex: str, size: int) -> int | None:
    """Invert `vertex_of`, whatever the case; None if there is no such point."""
    if vertex.lower() == "pass":
        return size * size
    match = re.fullmatch(rf"([{COLUMNS}])([1-9]\d?)", vertex.lower(), re.ASCII)
    if match is None:
        return None
    column, row = COLUMNS.index(match[1]), int(match[2]) - 1
    return row * size + column if max(column, row) < size else None


class GtpOpponent:
    """An engine of go in a process of its own, which starts when it is first to move.

    It follows any number of games at once: it is given a position anew, unless that continues the
    one before. Its process ends with this object.

    Args:
        name: `gtp:` and a command, split into words as a shell does.
        game: OpenSpiel's go.

    Raises:
        EnvError: the game is not go, or there is no such program.
    """

    def __init__(self, name: str, game: pyspiel.Game) -> None:
        self._name, self._given = name, game.get_parameters()
        if game.get_type().short_name != "go" or self._given["handicap"] > 1:
            raise EnvError(f"{name} plays go without a handicap; the game is {game}")
        try:
            self._words = shlex.split(name.removeprefix(GTP))
        except ValueError as error:
            raise EnvError(f"{name} is no command: {error}") from error
        if not self._words or shutil.which(self._words[0]) is None:
            program = self._words[0] if self._words else ""
            raise EnvError(f"{name}: there is no program {program!r}; install it or give its path")
        self._process: subprocess.Popen[str] | None = None
        self._at = list[int]()  # moves of the position that the engine has

    def choose(self, state: Any) -> int:
        """Return the engine's move, or `RESIGN`.

        Raises:
            EnvError: the engine has ended, does not answer, or answers what is no legal move.
        """
        if self._process is None:
            self._start()
        size, moves = self._given["board_size"], state.history()
        lines = []
        if moves[: len(self._at)] != self._at:
            lines.append("clear_board")
            self._at = []
        for number in range(len(self._at), len(moves)):
            lines.append(f"play {COLOURS[number % 2]} {vertex_of(moves[number], size)}")
        lines.append(f"genmove {COLOURS[state.current_player()]}")
        answer = self._ask(lines)
        self._at = moves
        if answer.lower() == "resign":
            self._at = [RESIGN]  # what its board is then is not said: begin anew
            return RESIGN
        action = action_of(answer, size)
        if action is None or action not in state.legal_actions():
            position = f"after {' '.join(vertex_of(m, size) for m in moves) or 'no move'}"
            raise EnvError(
                f"{self._name} answered {answer[:_SHOWN]!r}, which is illegal {position}"
            )
        self._at = [*moves, action]
        return action

    def _start(self) -> None:
        errors = tempfile.TemporaryFile()  # noqa: SIM115  `_end` closes it
        try:
            process = subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C ends the game, and the game the engine
            )
        except OSError as error:
            raise EnvError(f"{self._name} cannot be started: {error}") from error
        self._process, self._errors, self._deadline = process, errors, Deadline()
        self._end = weakref.finalize(self, _end, process, errors, self._deadline)
        self._at = []
        size, komi = self._given["board_size"], self._given["komi"]
        self._ask([f"boardsize {size}", f"komi {komi:g}", "clear_board"])

    def _ask(self, lines: Sequence[str]) -> str:
        """Send commands and return the answer to the last one."""
        process, name = self._process, self._name
        assert process is not None
        try:
            answers = self._deadline.run(lambda: _exchange(process, lines), ANSWER_SECONDS)
        except EnvError as error:
            self._end()
            self._process = None
            raise EnvError(f"{name} {error} to {lines[-1]!r} and was ended") from error
        if answers is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)  # it may have closed its output just before its end
            why = _last_line(self._errors)
            self._end()
            self._process = None
            status = f"ended with exit status {process.returncode}"
            raise EnvError(f"{name} {status}: {why}" if why else f"{name} {status}")
        for line, answer in zip(lines, answers, strict=True):
            if not answer.startswith("="):
                said = answer.lstrip("?").strip()[:_SHOWN] or "an error"
                raise EnvError(f"{name} answered {line!r} with: {said}")
        return re.sub(r"^=\d*", "", answers[-1]).strip()


def _exchange(process: subprocess.Popen[str], lines: Sequence[str]) -> list[str] | None:
    """Write commands and read an answer to each; None if the engine has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write("".join(f"{line}\n" for line in lines))
        process.stdin.flush()
        return [_read_answer(process.stdout) for _ in lines]
    except (OSError, EOFError, ValueError):  # a ValueError: the streams have been closed
        return None


def _read_answer(stream: IO[str]) -> str:
    """Read an answer, which ends with an empty line; skip what stands before its mark."""
    answer = list[str]()
    while True:
        line = stream.readline(_LONGEST_LINE)
        if not line:
            raise EOFError
        line = line.strip()
        if not line and answer:
            return " ".join(answer)
        if line and (answer or line[0] in "=?"):
            answer = [*answer, line][:100]


def _last_line(file: IO[bytes]) -> str:
    """Return the last line of text in a file, shortened."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
    lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    return next((line[:_SHOWN] for line in reversed(lines) if line), "")


def _end(process: subprocess.Popen[str], errors: IO[bytes], deadline: Deadline) -> None:
    """End an engine and whatever it has started, which may live on after it."""
    with contextlib.suppress(
        ProcessLookupError, PermissionError
    ):  # macOS: none is left but zombies
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # what was left to write
            process.stdin.close()
    deadline.end()
    errors.close()
