"""What a comparison found, in files: results.json and scores.csv."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ludus.training.checkpoint import write_atomically


@dataclass(frozen=True)
class Training:
    """One training of one agent on one env, and the held-out games after it."""

    env: str
    agent: str  # preset's name, "sb3:dqn", "random"
    seed: int
    run: str | None  # folder of the run; None for an agent that does not train
    steps: int  # env steps trained for; 0 where it does not train
    returns: list[float]  # unclipped, of the held-out games
    lengths: list[int]  # env steps
    episodes: np.ndarray  # [games, 4] env_steps, seconds, return, length of games in training
    seconds: float | None  # of training, evaluations left out
    protocol: dict[str, Any]  # what fixes the score
    settings: dict[str, Any]  # the agent's config
    versions: dict[str, str]
    commit: str | None
    reused: bool  # finished before this comparison began


@dataclass(frozen=True)
class About:
    """What a report says of itself."""

    title: str
    command: str  # repeats the comparison
    hardware: dict[str, str]
    versions: dict[str, str]
    commit: str | None
    date: str


def write(out: Path, trainings: Sequence[Training], about: About) -> list[Path]:
    """Write what was found; the paths."""
    out.mkdir(parents=True, exist_ok=True)
    told = {**asdict(about), "trainings": [_told(t) for t in trainings]}
    write_atomically(out / "results.json", json.dumps(told, indent=1))
    lines = io.StringIO()
    table = csv.writer(lines)
    table.writerow(("env", "agent", "seed", "game", "return", "length"))
    for t in trainings:
        for game, (score, length) in enumerate(zip(t.returns, t.lengths, strict=True)):
            table.writerow((t.env, t.agent, t.seed, game, score, length))
    write_atomically(out / "scores.csv", lines.getvalue())
    return [out / "results.json", out / "scores.csv"]


def _told(training: Training) -> dict[str, Any]:
    told = asdict(training)
    del told["episodes"]
    return told
