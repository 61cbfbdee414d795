"""Packed runs: run folders without what only a training needs, small enough to be handed on.

A packed run holds config.json, status.json, evaluations.json, some games of episodes.csv, the
thumbnail and the newest weights. It can be watched, evaluated and started from, as any run.
"""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ludus.agents.agent import AnyAgent, HasNetwork
from ludus.envs.errors import RunError
from ludus.training.checkpoint import save_checkpoint, write_atomically
from ludus.training.files import read_json
from ludus.training.logger import Episodes
from ludus.training.run import PACKED, Run
from ludus.training.train import load_saved

MOST_GAMES = 3_000  # of episodes.csv that are kept, evenly spaced
_FOLDER_OPTIONS = ("--run-dir", "--resume", "--config")  # of a command, with the folder after them


def pack(run: Run, folder: Path, *, half: bool = False) -> Run:
    """Write a packed copy of a run into an empty or a new folder.

    Args:
        run: a run that has finished or stopped.
        folder: of the copy.
        half: store weights as float16; statistics and other buffers keep float32.

    Raises:
        RunError: the run has no weights yet, is being trained, or the folder is not empty.
    """
    status = run.status()
    if status.state == "running":
        raise RunError(f"{run.path} is being trained; wait for its end")
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"the folder {folder} is not empty; choose another")
    loaded = load_saved(run.path)
    weights = loaded.agent.weights()
    if not weights:
        raise RunError(f"{run.path} has no weights to hand on: its agent is {loaded.config.agent}")
    folder.mkdir(parents=True, exist_ok=True)
    record = _clean(read_json(run.path / "config.json"))
    write_atomically(folder / "config.json", json.dumps(record, indent=2))
    copy = Run(folder)
    copy.write_status(status)
    copy.write_evaluations(run.evaluations())
    write_atomically(folder / "episodes.csv", _some_games(run))
    if run.thumbnail.is_file() and not run.thumbnail.is_symlink():
        write_atomically(copy.thumbnail, run.thumbnail.read_bytes())
    stored = _halved(loaded.agent, weights) if half else weights
    save_checkpoint(copy.weights, loaded.env_steps, stored, keep=1)
    return copy


def output_folder(run: Run) -> Path:
    """Return the folder for what a command makes of a run: its own, or the current one if packed.

    Packed runs are of the installed package or of the cache of the hub, which nothing changes.
    """
    return Path() if run.packed else run.path


def command_of(record: dict[str, Any]) -> list[str]:
    """Return the command that made a run, without this machine's folders; [] if it is unknown.

    Args:
        record: the content of config.json.
    """
    given = record.get("command")
    words = list(map(str, given)) if isinstance(given, list) else []
    if len(words) < 2 or Path(words[0]).name not in ("ludus", "__main__.py"):
        return []  # of a program of the user's own
    rest, command = iter(words[1:]), ["ludus"]
    for word in rest:
        option, equals, _ = word.partition("=")
        if option.replace("_", "-") not in _FOLDER_OPTIONS:
            command.append(str(_last(word)))
        elif not equals:
            next(rest, None)
    return command


def _clean(record: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of config.json, marked as packed, without this machine's folders."""
    cleaned = record | {"command": command_of(record), PACKED: True}
    cleaned.pop("launch", None)
    train = record.get("train")
    if isinstance(train, dict):
        local = {"init_from": _last(train.get("init_from")), "dataset": _last(train.get("dataset"))}
        cleaned["train"] = train | {k: v for k, v in local.items() if k in train}
    history = record.get("history")
    if isinstance(history, list):
        kept = [entry for entry in history if isinstance(entry, dict)]
        cleaned["history"] = [entry | {"command": command_of(entry)} for entry in kept]
    return cleaned


def _last(place: Any) -> Any:
    """Return the last part of a path on this machine; any other name is as it was."""
    on_disk = isinstance(place, str) and (Path(place).is_absolute() or Path(place).exists())
    return Path(place).name if on_disk else place


def _some_games(run: Run) -> str:
    """Return episodes.csv with at most `MOST_GAMES` games, evenly spaced."""
    try:
        games = Episodes.read(run.path / "episodes.csv")
        games = games[np.isfinite(games).all(1)]
    except (OSError, ValueError):
        games = np.zeros((0, 4))
    chosen = games[np.linspace(0, len(games) - 1, min(len(games), MOST_GAMES)).astype(int)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Episodes.columns)
    writer.writerows((int(a), round(b, 2), round(c, 4), int(d)) for a, b, c, d in chosen)
    return text.getvalue()


def _halved(agent: AnyAgent, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with the network's parameters as float16.

    Raises:
        RunError: one is too large for float16.
    """
    assert isinstance(agent, HasNetwork)
    parameters = {name for name, _ in agent.network.named_parameters()}
    stored = {}
    for name, weight in weights.items():
        smaller = name in parameters and weight.dtype == torch.float32
        stored[name] = weight.to(torch.float16) if smaller else weight
        if smaller and not bool(stored[name].isfinite().all()):
            raise RunError(f"{name} has numbers that are too large for float16; leave half out")
    return stored
