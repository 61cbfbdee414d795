"""The runs that pages may show: found by listing a folder, never by a path from a page.

Any file of a run may be damaged or hostile. Everything that the viewer reads of one passes here
first: regular files of a limited size inside the root only, with every value checked.
"""

import contextlib
import json
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args
from urllib.parse import quote

import numpy as np

from ludus.comparison.aggregates import smooth
from ludus.envs.board import spiel
from ludus.envs.errors import RunError
from ludus.training.distinguish import distinctions, learning_settings
from ludus.training.find_run import RunState
from ludus.training.logger import Episodes
from ludus.training.run import Run, RunConfig, Status
from ludus.viewer.messages import clean_text, one_line, plain

MAX_LISTED = 200  # runs in one listing; the filter of the page finds the others
_LIST_POINTS, _PAGE_POINTS = 40, 300  # points of a learning curve in the list, and on a run's page
_WINDOW = 100  # games in a mean of a learning curve, as in the log, so that its end is that number
_LIST_SECONDS = 1.0  # for which a listing is reused, because many pages request it
_MAX_RECORD, _MAX_DATA = 1 << 20, 1 << 28  # bytes of a file with one record, and of one with games
_MAX_COUNT = 1 << 53  # integers from here on are not exact in JavaScript
_STATES: tuple[RunState, ...] = get_args(RunState)
_DAMAGES = (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError)

_T = TypeVar("_T")


class Listing(NamedTuple):
    """Summaries of runs."""

    runs: list[dict[str, Any]]
    found: int  # runs that match the filter, of which `runs` has the first
    total: int  # runs under the root


class Library:
    """The runs under one folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()  # one thread lists the folder, the others wait for it
        self._listed: tuple[float, dict[str, Run]] = (-np.inf, {})
        # by name, then by kind: the version of a file, and what was read from it
        self._cache: dict[str, dict[str, tuple[tuple[int, ...], Any]]] = {}

    def runs(self) -> dict[str, Run]:
        """Return all runs by name, the most recently written first.

        A name is the path below the root, with escapes for bytes that are not UTF-8. Runs that
        symbolic links place outside the root are left out.
        """
        with self._lock:
            listed_at, runs = self._listed
            if time.monotonic() - listed_at < _LIST_SECONDS:
                return runs
            found = sorted((-_written_at(path), path) for path in _run_folders(self.root))
            start = len(os.path.join(self.root, ""))
            runs = {name_of(path[start:]): Run(Path(path)) for _, path in found}
            self._cache = {name: kept for name, kept in self._cache.items() if name in runs}
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

    def open(self, name: str) -> tuple[Run, RunConfig]:
        """Return the run of a name, and its configuration.

        Raises:
            RunError: there is none, or its configuration is damaged.
        """
        run = self.find(name)
        broken = self._summary(name, run)["broken"]
        if broken is not None:
            raise RunError(broken)
        return run, run.config()

    def summaries(self, wanted: str = "") -> Listing:
        """Return what the list shows of the runs that were written last, at most `MAX_LISTED`.

        Args:
            wanted: only runs with this text in their name or state.
        """
        wanted = wanted.lower()
        # The state is in a file of each run, so it is read only where the text may be in a state.
        states = {state for state in _STATES if wanted in state} if wanted else set()
        runs = self.runs()
        found = [
            (name, run)
            for name, run in runs.items()
            if wanted in name.lower() or (states and self._status(name, run).state in states)
        ]
        shown = found[:MAX_LISTED]
        differences = distinctions([self._settings(name, run) for name, run in shown])
        summaries = [
            self._summary(name, run) | {"distinction": difference}
            for (name, run), difference in zip(shown, differences, strict=True)
        ]
        return Listing(summaries, len(found), len(runs))

    def _settings(self, name: str, run: Run) -> dict[str, Any]:
        """Return the settings that matter to what was learned; none if config.json is damaged."""
        try:
            return self._cached(name, "summary", run.path / "config.json", _read_summary)[1]
        except _DAMAGES:
            return {}

    def _summary(self, name: str, run: Run) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "name": name,
            **asdict(self._status(name, run)),
            "env": None,
            "agent": None,
            "steps": 0,
            "seed": None,
            "board": False,
            "broken": None,
            "thumbnail": False,
            "curve": self._curve(name, run, _LIST_POINTS),
        }
        try:
            summary |= self._cached(name, "summary", run.path / "config.json", _read_summary)[0]
        except _DAMAGES as error:
            text = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
            summary["broken"] = f"cannot read config.json: {text}"
        with contextlib.suppress(*_DAMAGES):
            summary["thumbnail"] = bool(_version(run.thumbnail, self.root))
        return summary

    def thumbnail(self, name: str) -> bytes:
        """Return the picture of a run, PNG.

        Raises:
            RunError: there is none that can be read.
        """
        path = self.find(name).thumbnail
        try:
            _version(path, self.root)
            data = path.read_bytes()
        except _DAMAGES as error:
            raise RunError(f"cannot read the picture of {name}: {one_line(error)}") from error
        if not data.startswith(b"\x89PNG\r\n"):
            raise RunError(f"the picture of {name} is no PNG")
        return data

    def details(self, name: str) -> dict[str, Any]:
        """Return what the page of one run shows.

        Raises:
            RunError: there is no run of that name.
        """
        run = self.find(name)
        details = self._summary(name, run)
        if details["broken"] is None:
            config = self._cached(name, "config", run.path / "config.json", _read_record)
            details["agent_config"] = config.get("config")
            details["train_options"] = config.get("train")
            for key in ("protocol", "options", "versions", "commit"):
                details[key] = config.get(key)
        details["curve"] = self._curve(name, run, _PAGE_POINTS)
        details["evaluations"], details["games"] = [], None
        with contextlib.suppress(*_DAMAGES):
            path = run.path / "evaluations.json"
            points, games = self._cached(name, "evaluations", path, _read_evaluations)
            details["evaluations"], details["games"] = points, games
        return details

    def _status(self, name: str, run: Run) -> Status:
        """Return the status; as `Run.status`, but "unknown" for whatever is damaged."""
        try:
            status = self._cached(name, "status", run.path / "status.json", _read_status)
            # The lock changes without its file, so it is tried each time.
            if status.state == "running" and not _is_locked(run):
                return Status(**asdict(status) | {"state": "stopped"})
        except _DAMAGES:
            return Status("unknown")
        return status

    def _curve(self, name: str, run: Run, points: int) -> list[list[float]]:
        """Return mean returns of `_WINDOW` games over env steps, [points, 2]."""
        try:
            kind = f"curve of {points}"
            return self._cached(
                name, kind, run.path / "episodes.csv", lambda path: _read_curve(path, points)
            )
        except _DAMAGES:  # not written yet, or damaged
            return []

    def _cached(self, name: str, kind: str, path: Path, read: Callable[[Path], _T]) -> _T:
        """Return what `read` returns, or raises, of a file; cached until the file changes."""
        version = _version(path, self.root)
        kept = self._cache.setdefault(name, {})
        cached = kept.get(kind)
        if cached is None or cached[0] != version:
            try:
                value: Any = read(path)
            except _DAMAGES as error:
                value = error
            cached = kept[kind] = (version, value)
        if isinstance(cached[1], Exception):
            raise cached[1].with_traceback(None)  # each raise would make it longer
        return cached[1]


def link_to(run: Path | str, page: str) -> tuple[Path, str]:
    """Return the root folder of a run and the URL fragment that opens the run on a page."""
    where = Run.open(run).path.resolve()
    root = where.parents[2]
    return root, f"#/{page}/{quote(where.relative_to(root).as_posix(), safe='')}"


def name_of(path: str) -> str:
    """Return the name of the run at a path below the root: bytes that are not UTF-8 are escaped.

    A page's address can hold nothing but UTF-8.
    """
    return clean_text(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _run_folders(root: Path) -> Iterator[str]:
    """Yield the folders root/*/*/* with a config.json, without links that lead out of the root."""
    real = os.path.realpath(root)
    folders = [str(root)]
    for _ in range(3):
        folders = [inner for folder in folders for inner in _subfolders(folder, real)]
    for folder in folders:
        if os.path.lexists(f"{folder}/config.json"):
            yield folder


def _subfolders(folder: str, root: str) -> list[str]:
    found = []
    # A folder that cannot be read hides only itself.
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir() and (not entry.is_symlink() or _is_inside(entry.path, root)):
                    found.append(entry.path)
    return found


def _is_inside(path: str | Path, root: str) -> bool:
    return os.path.join(os.path.realpath(path), "").startswith(os.path.join(root, ""))


def _written_at(folder: str) -> float:
    try:
        return os.stat(f"{folder}/status.json").st_mtime
    except OSError:
        return 0.0


def _version(path: Path, root: Path) -> tuple[int, ...]:
    """Return numbers that change with a file.

    Raises:
        OSError: it is no regular file, is too large, or is a link that leads out of the root.
            Reading a FIFO or a device might never end.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        if not _is_inside(path, os.path.realpath(root)):
            raise OSError("it is a link that leads out of the folder of runs")
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file")
    limit = _MAX_DATA if path.name in ("episodes.csv", "evaluations.json") else _MAX_RECORD
    if found.st_size > limit:
        raise OSError(f"it has {found.st_size} bytes; at most {limit} are read")
    return found.st_mtime_ns, found.st_size, found.st_ino


def _is_locked(run: Run) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISREG((run.path / ".lock").stat().st_mode) and run.is_locked()
    return False


def _read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object, with its values made plain."""
    record = plain(json.loads(path.read_text("utf-8")))
    if not isinstance(record, dict):
        raise ValueError("it holds no JSON object")
    return record


def _read_summary(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a summary has of a configuration, and its `learning_settings`, as far as known.

    Raises one of `_DAMAGES` if there is no summary.
    """
    record = _read_record(path)
    settings = dict[str, Any]()
    with contextlib.suppress(*_DAMAGES):
        settings = learning_settings(record)
    env, agent = _typed(record, "env", str), _typed(record, "agent", str)
    train = _typed(record, "train", dict)
    summary = {
        "env": env,
        "agent": agent,
        "steps": _count(train, "steps"),
        "seed": _count(train, "seed"),
        "board": spiel.is_game(env),
    }
    return summary, settings


def _typed(record: dict[str, Any], key: str, kind: type) -> Any:
    if not isinstance(record[key], kind):
        raise ValueError(f"{key} is {_short(record[key])}")
    return record[key]


def _count(record: dict[str, Any], key: str) -> int:
    value = record[key]
    if type(value) is not int or not 0 <= value < _MAX_COUNT:
        raise ValueError(f"{key} is {_short(value)}")
    return value


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) else None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _read_status(path: Path) -> Status:
    record = _read_record(path)
    if record["state"] not in _STATES:
        raise ValueError(f"state is {_short(record['state'])}")
    return Status(
        record["state"],
        _count(record, "env_steps"),
        _number(record.get("score")),
        _number(record.get("mean_return")),
        _number(record.get("seconds")),
    )


def _read_evaluations(path: Path) -> tuple[list[list[float]], int | None]:
    """Return env steps and mean return of each evaluation that has both, and the last's games."""
    points, games = [], None
    for evaluation in json.loads(path.read_text("utf-8")):
        with contextlib.suppress(*_DAMAGES):
            mean = math.fsum(evaluation["returns"]) / len(evaluation["returns"])
            if math.isfinite(mean):
                points.append([_count(evaluation, "env_steps"), mean])
                games = len(evaluation["returns"])
    return points, games


def _read_curve(path: Path, points: int) -> list[list[float]]:
    episodes = Episodes.read(path)
    episodes = episodes[np.isfinite(episodes[:, 0])]
    if not len(episodes):
        return []
    with np.errstate(all="ignore"):  # of numbers near the largest
        grid = np.linspace(episodes[0, 0], episodes[-1, 0], min(points, len(episodes)))
        curve = np.column_stack([grid, smooth(episodes, grid, _WINDOW)]).round(3)
    return plain(curve.tolist())
