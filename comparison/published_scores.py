"""Compare scores on Atari and MinAtar with published scores of the same algorithms.

`published_scores.csv` holds the published scores; what a source does not say is empty. Sources:

- sb3-zoo: rl-baselines3-zoo's `benchmark.md` (one training each, evaluated in separate games)
- dopamine: `baselines/atari/data/*.json` (training returns, mean over the last 5 iterations up to a
  frame count)
- cleanrl: `docs/rl-algorithms/*.md` (training returns)
- btr: `results.csv` of VIPTankz/BeyondTheRainbowICML (mean of 100 games)
- rllib: README of ray-project/rl-experiments (training returns)
- atari-100k: `results/data/*.json` of eloialonso/iris at 24326aa, of which these are the mean and
  the standard deviation over trainings: 100 of SPR and DrQ(eps), 5 of SimPLe and IRIS
- bbf: `bigger_better_faster/scores/*.csv` of google-research/google-research, of which these are
  the mean and the standard deviation over trainings: `RR8_BBF.csv` at 5e78683, 52 to 60 of BBF by
  game, with the paper's replay ratio of 8, and `RR2_BBF.csv` at 82124ce, 14 with a ratio of 2
- mila-iqia/spr: `atari_der_scores` in `analysis/DER Data Analysis.ipynb` at 5d13480, the scores of
  DER after 100,000 env steps, quoted by a third party; trainings, protocol and sticky actions are
  not said there
- arXiv:2508.07452: DQN and double DQN on MinAtar, IQM of 30 trainings, quoted by a third party; env
  steps and sticky actions are not said there
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from ludus.comparison.aggregates import human_normalised
from ludus.comparison.groups import Group, mean_return

PUBLISHED_NAMES: Mapping[str, tuple[str, ...]] = {
    "dqn": ("DQN", "DQN (Adam + MSE in JAX)", "dqn"),
    "c51": ("C51", "c51"),
    "qrdqn": ("Quantile (JAX)", "qrdqn"),
    "iqn": ("IQN",),
    "rainbow": ("Rainbow", "rainbow"),
    "btr": ("BTR",),
    "der": ("DER",),
    "spr": ("SPR",),
    "bbf": ("BBF (replay ratio 2)", "BBF (replay ratio 8)"),
    "ddqn": ("DDQN",),
    "ppo": ("ppo", "PPO"),
    "recurrent_ppo": ("ppo_lstm",),
    "a2c": ("a2c", "A2C"),
    "impala": ("IMPALA",),
    "pqn": ("pqn",),
}
"""Names in the table of the algorithms that our agents implement, by our agent's name."""


@dataclass(frozen=True)
class PublishedScore:
    """A published score beside one of ours."""

    agent: str
    """our agent"""
    mean: float
    """our mean return"""
    source: str
    name: str
    """of the agent in the source"""
    score: float
    """published mean return"""
    std: float | None
    """published standard deviation"""
    human: float | None
    """human-normalised published score"""
    differences: list[str]
    """known differences of the protocols, in words"""


@cache
def published_table() -> dict[str, list[dict[str, str]]]:
    """Read the rows of published_scores.csv by game: a ROM of Atari, or an env of MinAtar."""
    text = files("ludus.comparison").joinpath("published_scores.csv").read_text()
    by_game: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(text.splitlines()):
        by_game.setdefault(row["game"], []).append(row)
    return by_game


def published_scores(group: Group) -> list[PublishedScore]:
    """Find the published scores of the agents of a group on its game.

    Of several scores of one algorithm in one source, the one with the frame count nearest to ours
    is taken.
    """
    rom = group.protocol.get("rom", "")
    game = rom or group.env
    done = [t.done for trainings in group.agents.values() for t in trainings if t.steps]
    steps = float(np.mean(done or [0])) if group.minutes else group.steps
    frames = int(steps * int(group.protocol.get("frameskip", 4 if rom else 1)))
    scores = []
    for agent, trainings in group.agents.items():
        for row in _nearest_rows(game, agent, frames):
            score = float(row["score"])
            scores.append(
                PublishedScore(
                    agent=agent,
                    mean=float(np.mean([mean_return(t) for t in trainings])),
                    source=row["source"],
                    name=row["agent"],
                    score=score,
                    std=float(row["std"]) if row["std"] else None,
                    human=human_normalised(rom, score),
                    differences=_differences(row, frames, group.protocol, len(trainings)),
                )
            )
    return scores


def _nearest_rows(game: str, agent: str, frames: int) -> list[dict[str, str]]:
    """Return one row of each source and published agent, the nearest in frames."""
    names = PUBLISHED_NAMES.get(agent.removeprefix("sb3:"), ())
    nearest: dict[tuple[str, str], dict[str, str]] = {}
    for row in published_table().get(game, []):
        key = (row["source"], row["agent"])
        if row["agent"] in names and (
            key not in nearest or _log_ratio(row, frames) < _log_ratio(nearest[key], frames)
        ):
            nearest[key] = row
    return list(nearest.values())


def _log_ratio(row: dict[str, str], frames: int) -> float:
    return abs(math.log(float(row["frames"]) / max(frames, 1))) if row["frames"] else math.inf


def _differences(
    row: dict[str, str], frames: int, protocol: dict[str, Any], trainings: int
) -> list[str]:
    """Describe how the protocol of a published score differs: theirs against ours."""
    differences = []
    if not row["frames"]:
        differences.append(f"an unknown number of frames against {_millions(frames)}")
    elif int(row["frames"]) != frames:
        differences.append(f"{_millions(int(row['frames']))} frames against {_millions(frames)}")
    theirs = float(row["sticky_probability"]) if row["sticky_probability"] else None
    ours = protocol.get("sticky")
    if ours is None or theirs != ours:
        differences.append(f"{_sticky(theirs)} against {_sticky(ours)}")
    if row["protocol"] == "train":
        differences.append("training returns against held-out games")
    elif not row["protocol"]:
        differences.append("an unknown protocol of evaluation")
    if row["source"] == "sb3-zoo" and trainings != 1:
        differences.append(f"one training against {trainings}")
    if row["source"] == "dopamine":
        differences.append("mean over the last 5 iterations")
    if row["source"] == "arXiv:2508.07452":
        differences.append("an interquartile mean, quoted by a third party")
    if row["source"] == "mila-iqia/spr":
        differences.append("quoted by a third party")
    return differences


def _sticky(probability: float | None) -> str:
    if probability is None:
        return "an unknown sticky probability"
    return f"sticky actions {probability:g}" if probability else "no sticky actions"


def _millions(frames: int) -> str:
    return f"{frames / 1e6:.3g}M"
