"""The runs that pages may show: found by listing a folder, never by a path from a page."""

import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ludus.comparison.aggregates import smooth
from ludus.envs.board import spiel
from ludus.envs.errors import RunError
from ludus.training.files import read_json
from ludus.training.logger import Episodes
from ludus.training.run import Run, all_runs

_LIST_POINTS, _PAGE_POINTS = 40, 300  # points of a learning curve in the list, and on a run's page
_LIST_SECONDS = 1.0  # for which a listing is reused, because many pages request it
MOST_LISTED = 500  # runs in the list, those that were written to last


class Library:
    """The runs under one folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: tuple[float, dict[str, Run]] = (-np.inf, {})
        self._configs: dict[str, tuple[tuple[int, int], Any]] = {}
        self._curves: dict[tuple[str, int], tuple[tuple[int, int], list[list[float]]]] = {}

    def runs(self) -> dict[str, Run]:
        """Return all runs by name, which is the path below the root.

        Runs that symbolic links place outside the root are left out.
        """
        listed_at, runs = self._listed
        if time.monotonic() - listed_at < _LIST_SECONDS:
            return runs
        root = self.root.resolve()
        runs = {}
        for run in all_runs(self.root):
            if run.path.resolve().is_relative_to(root):
                runs[run.path.relative_to(self.root).as_posix()] = run
        self._listed = (time.monotonic(), runs)
        return runs

    def find(self, name: str) -> Run:
        """Return the run of a name.

        Raises:
            RunError: there is none.
        """
        run = self.runs().get(name)
        if run is None:
            raise RunError(f"there is no run {name!r} under {self.root}")
        return run

    def summaries(self) -> list[dict[str, Any]]:
        """Return what the list shows of the runs that were written to last, the last first."""
        touched = {name: _touched(run) for name, run in self.runs().items()}
        newest = sorted(touched, key=lambda name: -touched[name])[:MOST_LISTED]
        return [self._summary(name, run) for name in newest if (run := self.runs().get(name))]

    def _summary(self, name: str, run: Run) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "name": name,
            **asdict(run.status()),
            "env": None,
            "agent": None,
            "steps": 0,
            "seed": None,
            "board": False,
            "touched": _touched(run),
            "broken": None,
            "curve": self._curve(name, run, _LIST_POINTS),
        }
        try:
            config = self._config(name, run)
            summary |= {"env": str(config["env"]), "agent": str(config["agent"])}
            train = config["train"]
            summary |= {"steps": int(train["steps"]), "seed": int(train["seed"])}
            summary["board"] = spiel.is_game(summary["env"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            summary["broken"] = f"cannot read config.json: {error}"
        return summary

    def details(self, name: str) -> dict[str, Any]:
        """Return what the page of one run shows.

        Raises:
            RunError: there is no run of that name.
        """
        run = self.find(name)
        details = self._summary(name, run)
        if details["broken"] is None:
            config = self._config(name, run)
            details["agent_config"] = config.get("config")
            details["train_options"] = config.get("train")
            for key in ("protocol", "options", "versions", "commit"):
                details[key] = config.get(key)
        details["curve"] = self._curve(name, run, _PAGE_POINTS)
        details["evaluations"] = []
        with contextlib.suppress(TypeError, KeyError, ValueError):
            details["evaluations"] = [
                [evaluation["env_steps"], float(np.mean(evaluation["returns"]))]
                for evaluation in run.evaluations()
                if evaluation["returns"]
            ]
        return details

    def _config(self, name: str, run: Run) -> Any:
        """Return the content of config.json; cached until it changes."""
        path = run.path / "config.json"
        stat = path.lstat()
        version = (stat.st_size, stat.st_mtime_ns)
        cached = self._configs.get(name)
        if cached is None or cached[0] != version:
            cached = self._configs[name] = (version, read_json(path))
        return cached[1]

    def _curve(self, name: str, run: Run, points: int) -> list[list[float]]:
        """Return mean returns of 20 games over env steps, [points, 2]; cached until they change."""
        path = run.path / "episodes.csv"
        try:
            stat = path.stat()
            version = (stat.st_size, stat.st_mtime_ns)
            cached = self._curves.get((name, points))
            if cached is not None and cached[0] == version:
                return cached[1]
            episodes = Episodes.read(path)
        except (OSError, ValueError):  # not written yet, or damaged
            return []
        if not len(episodes):
            return []
        grid = np.linspace(episodes[0, 0], episodes[-1, 0], min(points, len(episodes)))
        curve = np.column_stack([grid, smooth(episodes, grid)]).round(3).tolist()
        self._curves[name, points] = (version, curve)
        return curve


def _touched(run: Run) -> float:
    """Return when the status of a run was last written, in seconds since 1970."""
    with contextlib.suppress(OSError):
        return (run.path / "status.json").stat().st_mtime
    return 0.0
