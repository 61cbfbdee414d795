"""Logging of a training: curves with SB3's tags, episodes.csv and progress."""

import csv
import io
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ludus.envs.vector import Row
from ludus.training.files import open_new, open_plain
from ludus.training.progress import Bar, Due
from ludus.training.sinks import LogName, make_sinks

_WINDOW = 100  # finished games in a mean, as in SB3
_ROLLOUT = ("exploration_rate",)

_MAX_CSV_BYTES = 1 << 30


class Episodes:
    """The finished games of a run: env steps and seconds at their end, unclipped return, length."""

    columns = ("env_steps", "seconds", "return", "length")

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, int]] = []

    def array(self) -> np.ndarray:
        """Return the games as an array, [games, 4] float64."""
        return np.array(self.rows, np.float64).reshape(-1, 4)

    @classmethod
    def read(cls, path: Path) -> np.ndarray:
        """Read an episodes.csv, [games, 4] float64; an incomplete last line is ignored."""
        with os.fdopen(open_plain(path, os.O_RDONLY)) as file:
            whole, _, _ = file.read(_MAX_CSV_BYTES).rpartition("\n")
        lines = whole.splitlines()[1:]
        return np.array([line.split(",") for line in lines], np.float64).reshape(-1, 4)


class Logger:
    """Log of one run.

    Args:
        path: the run's folder.
        name: label of the progress bar.
        total: env steps of the whole training.
        every: env steps between two points of a curve.
        quiet: show no progress.
        state: what `state_dict` returned, to resume.
        done: env steps already done.
        unit: name of what is counted.
        sinks: where the curves go besides TensorBoard.

    Raises:
        RunError: a sink cannot begin.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        total: int,
        every: int,
        quiet: bool,
        state: dict[str, Any] | None = None,
        done: int = 0,
        unit: str = "steps",
        sinks: Sequence[LogName] = (),
    ) -> None:
        self.episodes = Episodes()
        self.latest = dict[str, float]()  # points by tag, of this process
        self._window: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._seconds_before, self._started = 0.0, time.monotonic()
        self._every, self._next = every, done + every
        if state is not None:
            self.episodes.rows = [
                (int(at), seconds, score, int(length))
                for at, seconds, score, length in state["episodes"].tolist()
            ]
            self._window.extend((row[2], row[3]) for row in self.episodes.rows[-_WINDOW:])
            self._seconds_before = state["seconds"]
            self._next = state["next"]
        self._sinks = make_sinks(sinks, path, done, resumed=state is not None)
        self._file: TextIO = _open_csv(path / "episodes.csv")
        self._csv = csv.writer(self._file)
        self._csv.writerow(Episodes.columns)
        self._csv.writerows(self.episodes.rows)
        self._fps = (time.monotonic(), done)
        self._ended: float | None = None
        self.bar = Bar(name, total, done, quiet, unit)

    @property
    def seconds(self) -> float:
        """Return the wall-clock seconds of training, over all resumes, without evaluations."""
        return self._seconds_before + (self._ended or time.monotonic()) - self._started

    @property
    def mean_return(self) -> float | None:
        """Return the mean unclipped return of the last 100 finished games, or None."""
        return float(np.mean([r for r, _ in self._window])) if self._window else None

    def exclude(self, seconds: float) -> None:
        """Exclude a time from `seconds` and from the speed, such as that of an evaluation."""
        self._started += seconds
        then, steps = self._fps
        self._fps = (then + seconds, steps)
        self.bar.exclude(seconds)

    def add_row(self, row: Row, env_steps: int) -> None:
        """Record the games that ended in this row."""
        if not row.game_over.any():
            return
        for i in np.flatnonzero(row.game_over):
            score, length = float(row.episode_return[i]), int(row.episode_length[i])
            self._window.append((score, length))
            self.episodes.rows.append((env_steps, round(self.seconds, 3), score, length))
            self._csv.writerow(self.episodes.rows[-1])
        self._file.flush()

    def due(self, env_steps: int) -> bool:
        """Return whether a point of every curve is due, once for each interval."""
        if env_steps < self._next:
            return False
        self._next += self._every * (1 + (env_steps - self._next) // self._every)
        return True

    def progress(self, env_steps: int, due: Due, seconds: float) -> None:
        """Update the progress bar, whose time left includes what is due; see `Bar.update`."""
        self.bar.update(env_steps, self.mean_return, due.after, seconds)

    def write(self, metrics: dict[str, float], env_steps: int, updates: int) -> None:
        """Write one point of every curve."""
        now = time.monotonic()
        then, steps = self._fps
        self._fps = (now, env_steps)
        points = {_tag(name): value for name, value in metrics.items()}
        points["train/n_updates"] = updates
        points["time/fps"] = (env_steps - steps) / max(now - then, 1e-9)
        if self._window:
            points["rollout/ep_rew_mean"] = float(np.mean([r for r, _ in self._window]))
            points["rollout/ep_len_mean"] = float(np.mean([n for _, n in self._window]))
        self.scalars(points, env_steps)

    def scalars(self, points: dict[str, float], env_steps: int) -> None:
        """Write points under their full tags."""
        self.latest |= points
        for sink in self._sinks:
            sink.scalars(points, env_steps)

    def card(self, text: str, settings: dict[str, Any]) -> None:
        """Write what the run is.

        Args:
            text: in Markdown.
            settings: of the run by name.
        """
        for sink in self._sinks:
            sink.card(text, settings)

    def video(self, tag: str, gif: bytes, env_steps: int) -> None:
        """Write a GIF."""
        for sink in self._sinks:
            sink.video(tag, gif, env_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the state to resume from."""
        return {
            "episodes": self.episodes.array(),
            "seconds": self.seconds,
            "next": self._next,
        }

    def close(self) -> None:
        """Flush and close all files."""
        self._ended = time.monotonic()
        self.bar.close()
        for sink in self._sinks:
            sink.close()
        self._file.close()


def _tag(name: str) -> str:
    if "/" in name:
        return name
    return f"rollout/{name}" if name in _ROLLOUT else f"train/{name}"


def _open_csv(path: Path) -> TextIO:
    """Open a CSV file for writing, in place of one of that name."""
    return io.TextIOWrapper(open_new(path), encoding="utf-8", newline="")
