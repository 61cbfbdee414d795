"""The runs that a page may show: found by listing a folder, never by a path that a page names."""

import contextlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ludus.comparison.aggregates import smooth
from ludus.envs.board import spiel
from ludus.envs.errors import RunError
from ludus.training.logger import Episodes
from ludus.training.run import Run, all_runs

_SMALL, _LARGE = 40, 300  # points of a curve, in the list and on a run's own page
_LIST_SECONDS = 1.0  # a listing is good for so long: many pages ask at once


class Library:
    """The runs below one folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: tuple[float, dict[str, Run]] = (-np.inf, {})
        self._curves: dict[tuple[str, int], tuple[tuple[int, int], list[list[float]]]] = {}

    def runs(self) -> dict[str, Run]:
        """Every run by its name, which is its path below the root; links out of it are left out."""
        at, found = self._listed
        if time.monotonic() - at < _LIST_SECONDS:
            return found
        home = self.root.resolve()
        found = {}
        for run in all_runs(self.root):
            if run.path.resolve().is_relative_to(home):
                found[run.path.relative_to(self.root).as_posix()] = run
        self._listed = (time.monotonic(), found)
        return found

    def find(self, name: str) -> Run:
        """One of them.

        Raises:
            RunError: there is none of that name.
        """
        run = self.runs().get(name)
        if run is None:
            raise RunError(f"there is no run {name!r} here")
        return run

    def listing(self) -> list[dict[str, Any]]:
        """What the list of runs shows, those that were written to last first."""
        told = [self._line(name, run) for name, run in self.runs().items()]
        return sorted(told, key=lambda line: -line["touched"])

    def _line(self, name: str, run: Run) -> dict[str, Any]:
        status = run.status()
        line: dict[str, Any] = {"name": name, **asdict(status), "env": None, "agent": None}
        line |= {"steps": 0, "touched": 0.0, "seed": None, "board": False, "broken": None}
        with contextlib.suppress(OSError):
            line["touched"] = (run.path / "status.json").stat().st_mtime
        try:
            told = json.loads((run.path / "config.json").read_text())
            line |= {"env": str(told["env"]), "agent": str(told["agent"])}
            line |= {"steps": int(told["train"]["steps"]), "seed": int(told["train"]["seed"])}
            line["board"] = spiel.is_game(line["env"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            line["broken"] = f"its config.json cannot be read: {error}"
        line["curve"] = self._curve(name, run, _SMALL)
        return line

    def details(self, name: str) -> dict[str, Any]:
        """What a run's own page shows."""
        run = self.find(name)
        told: dict[str, Any] = self._line(name, run)
        if told["broken"] is None:
            config = json.loads((run.path / "config.json").read_text())
            for key in ("config", "protocol", "train", "options", "versions", "commit"):
                told[f"its_{key}"] = config.get(key)
        told["curve"] = self._curve(name, run, _LARGE)
        told["evaluations"] = []
        with contextlib.suppress(TypeError, KeyError, ValueError):
            told["evaluations"] = [
                [e["env_steps"], float(np.mean(e["returns"]))]
                for e in run.evaluations()
                if e["returns"]
            ]
        return told

    def _curve(self, name: str, run: Run, points: int) -> list[list[float]]:
        """Mean returns of 20 games over env steps, [points, 2]; read again where the file grew."""
        path = run.path / "episodes.csv"
        try:
            stat = path.stat()
            stamp = (stat.st_size, stat.st_mtime_ns)
            kept = self._curves.get((name, points))
            if kept is not None and kept[0] == stamp:
                return kept[1]
            episodes = Episodes.read(path)
        except (OSError, ValueError):  # none yet, or damaged
            return []
        if not len(episodes):
            return []
        grid = np.linspace(episodes[0, 0], episodes[-1, 0], min(points, len(episodes)))
        curve = np.column_stack([grid, smooth(episodes, grid)]).round(3).tolist()
        self._curves[name, points] = (stamp, curve)
        return curve
