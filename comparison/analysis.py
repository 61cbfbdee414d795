"""What a comparison has found: scores in groups, normalised and summed up, beside published ones.

Scores are compared within a group: trainings on one env under one protocol for the same env steps.
Over envs they are normalised and summed up as Agarwal et al. 2021 do,
https://arxiv.org/abs/2108.13264.

`published_scores.csv` holds published scores of peers on Atari. Its sources: rl-baselines3-zoo's
`benchmark.md` (one training each, evaluated in games of its own), Dopamine's
`baselines/atari/data/*.json` (returns in training, mean over the last 5 iterations up to that frame
count) and CleanRL's `docs/rl-algorithms/*.md` (returns in training).
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations
from typing import Any

import numpy as np

from ludus.comparison.aggregates import (
    AGGREGATES,
    Estimate,
    Score,
    estimate,
    human_normalised,
    human_reference,
    improvement,
    profile,
    summarise,
)

_SPANS = {"CartPole-v1": (0.0, 500.0)}  # envs whose returns have known ends
_MOST_TAU = 8.0  # a few games give hundreds of times the human score; a profile stops here
# The published agents that are the same algorithm as ours.
_NAMESAKES = {
    "dqn": ("DQN", "DQN (Adam + MSE in JAX)", "dqn"),
    "c51": ("C51", "c51"),
    "qrdqn": ("Quantile (JAX)", "qrdqn"),
    "iqn": ("IQN",),
    "rainbow": ("Rainbow", "rainbow"),
    "ppo": ("ppo",),
    "recurrent_ppo": ("ppo_lstm",),
    "a2c": ("a2c",),
    "pqn": ("pqn",),
}


@dataclass(frozen=True)
class Training:
    """One training of one agent on one env, and the held-out games after it."""

    env: str
    agent: str
    """preset's name, `sb3:dqn`, `random`"""
    seed: int
    run: str | None
    """folder of the run; None for an agent that does not train"""
    steps: int
    """env steps trained for, as planned: different numbers are kept apart; 0 without training"""
    returns: list[float]
    """unclipped, of the held-out games"""
    lengths: list[int]
    """env steps of the held-out games"""
    episodes: np.ndarray
    """[games, 4]: env_steps, seconds, return, length of the games of training; may be empty"""
    seconds: float | None
    """of training, evaluations left out"""
    protocol: dict[str, Any]
    """what fixes the score: kind, sticky, frameskip, ..., epsilon and episodes"""
    settings: dict[str, Any]
    """the agent's config"""
    versions: dict[str, str]
    commit: str | None
    reused: bool
    """finished before this comparison began"""


@dataclass(frozen=True)
class About:
    """Where a comparison was made, and how to repeat it."""

    title: str
    command: str
    """repeats the comparison"""
    hardware: dict[str, str]
    """cpu, cores, memory, gpu, system"""
    versions: dict[str, str]
    commit: str | None
    date: str


@dataclass(frozen=True)
class Row:
    """One agent in the table of a group."""

    agent: str
    trainings: int  # 0 of an agent that does not train
    score: Score
    human: float | None  # normalised mean, 1 for a human player
    steps_per_second: float | None  # mean over trainings
    seconds: float | None  # of training, mean over trainings


@dataclass(frozen=True)
class Group:
    """Trainings whose scores may stand in one column: one env, one protocol, equal env steps."""

    number: int  # from 1, as in scores.csv
    env: str
    label: str  # the env, and what sets the group apart from others on it
    slug: str  # for file names
    steps: int
    protocol: dict[str, Any]
    agents: dict[str, list[Training]]


@dataclass(frozen=True)
class Scale:
    """How the scores of a group are normalised."""

    low: float  # becomes 0
    high: float  # becomes 1
    human: bool
    own: bool  # made from the scores of this comparison
    words: str


@dataclass(frozen=True)
class Published:
    """A published score beside one of ours."""

    agent: str
    mean: float
    source: str
    name: str  # of the agent there
    score: float
    std: float | None
    human: float | None
    differences: list[str]  # of the protocols, in words


@dataclass(frozen=True)
class Overall:
    """Normalised scores over all envs."""

    envs: list[str]
    human: bool  # all are human-normalised
    matrices: dict[str, np.ndarray]  # [runs, envs] of each agent
    aggregates: dict[str, dict[str, Estimate]]
    taus: np.ndarray  # [taus]
    profiles: dict[str, np.ndarray]  # [3, taus]: value, low, high
    improvements: list[tuple[str, str, Estimate]]
    trained: list[str]  # agents that train

    @property
    def certain(self) -> list[str]:
        """Agents with more than one run on each env: without that no interval is shown."""
        return [agent for agent, matrix in self.matrices.items() if len(matrix) > 1]

    @property
    def label(self) -> str:
        """What the scores are."""
        return "human-normalised score" if self.human else "normalised score"


@dataclass(frozen=True)
class Findings:
    """All that a report tells."""

    about: About
    trainings: Sequence[Training]
    groups: list[Group]
    tables: dict[int, list[Row]]  # of each group by its number, as all that follow
    scales: dict[int, Scale | None]  # None where all agents score alike
    beside: dict[int, list[Published]]
    overall: Overall | None  # None where no agent has a score on every env
    notes: list[str]  # what was left out or not made in one go

    @property
    def played(self) -> list[Training]:
        """Those with held-out games."""
        return _played(self.trainings)


def find(trainings: Sequence[Training], about: About) -> Findings:
    """Sort trainings into groups and compute what there is to tell.

    Args:
        trainings: all of them; what cannot be compared is kept apart.
        about: where they were made.

    Raises:
        ValueError: no training has a held-out game.
    """
    played = _played(trainings)
    if not played:
        raise ValueError("no training has a held-out game, so there is nothing to compare")
    groups = groups_of(played)
    scales = {group.number: _scale(group) for group in groups}
    overall, notes = _overall(groups, scales)
    if len(played) < len(trainings):
        left_out = plural(len(trainings) - len(played), "training")
        notes.append(f"Left out: {left_out} without a held-out game.")
    return Findings(
        about=about,
        trainings=trainings,
        groups=groups,
        tables={group.number: _rows(group) for group in groups},
        scales=scales,
        beside={group.number: _published(group) for group in groups},
        overall=overall,
        notes=notes + _mixed(played, about),
    )


def _played(trainings: Sequence[Training]) -> list[Training]:
    return [t for t in trainings if t.returns]


def groups_of(trainings: Sequence[Training]) -> list[Group]:
    """Groups in order of appearance; an agent that does not train is in all of its protocol."""
    apart: dict[tuple[str, str, int], list[Training]] = {}
    for training in trainings:
        same = [t for t in trainings if _protocol_key(t) == _protocol_key(training)]
        budgets = [t.steps for t in same if t.steps] or [0]
        for steps in dict.fromkeys([training.steps] if training.steps else budgets):
            apart.setdefault((*_protocol_key(training), steps), []).append(training)
    found: list[Group] = []
    everyone = list(dict.fromkeys(t.agent for t in trainings))
    for number, ((env, _, steps), members) in enumerate(apart.items(), 1):
        others = [(key[2], ts[0].protocol) for key, ts in apart.items() if key[0] == env]
        agents: dict[str, list[Training]] = {}
        for training in sorted(members, key=lambda t: everyone.index(t.agent)):
            agents.setdefault(training.agent, []).append(training)
        protocol = members[0].protocol
        words = _apart(steps, protocol, others)
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", env)[:60].strip("-.") or "env"
        taken = slug in {group.slug for group in found}
        found.append(
            Group(
                number=number,
                env=env,
                label=f"{env} ({words})" if words else env,
                slug=f"{slug}-{number}" if taken else slug,
                steps=steps,
                protocol=protocol,
                agents=agents,
            )
        )
    return found


def _protocol_key(training: Training) -> tuple[str, str]:
    return training.env, json.dumps(plain(training.protocol), sort_keys=True)


def _apart(steps: int, protocol: dict[str, Any], all_: list[tuple[int, dict[str, Any]]]) -> str:
    """What sets a group apart from the others on its env, in words."""
    words = []
    for key in sorted({key for _, other in all_ for key in other}):
        if len({json.dumps(plain(other.get(key))) for _, other in all_}) > 1:
            words.append(f"{spaced(key)} {in_words(protocol.get(key))}")
    if len({other for other, _ in all_}) > 1:
        words.append(f"{steps:,} env steps")
    return ", ".join(words)


def _rows(group: Group) -> list[Row]:
    rows = []
    for agent, trainings in group.agents.items():
        games = min(len(t.returns) for t in trainings)  # equal by the protocol
        returns = np.array([t.returns[:games] for t in trainings], np.float64)
        trained = learns(trainings)
        # without training there is nothing but games to draw
        score = summarise(returns if trained else returns.reshape(1, -1))
        timed = [(t.steps, t.seconds) for t in trainings if t.steps and t.seconds]
        rows.append(
            Row(
                agent,
                len(trainings) if trained else 0,
                score,
                human_normalised(group.protocol.get("rom", ""), score.mean),
                float(np.mean([steps / seconds for steps, seconds in timed])) if timed else None,
                float(np.mean([seconds for _, seconds in timed])) if timed else None,
            )
        )
    return rows


def _scale(group: Group) -> Scale | None:
    """How a group is normalised; None where all agents score alike."""
    if reference := human_reference(group.protocol.get("rom", "")):
        low, high = reference
        words = f"a random player's {low:g} is 0 and a human player's {high:g} is 1"
        return Scale(low, high, True, False, words)
    if span := _SPANS.get(group.env):
        words = f"the env's own range: {span[0]:g} is 0 and {span[1]:g} is 1"
        return Scale(*span, False, False, words)
    means = {a: float(np.mean([mean_return(t) for t in ts])) for a, ts in group.agents.items()}
    best = max(means, key=lambda agent: means[agent])
    if "random" in means:
        low, words = means["random"], "the random agent's mean"
    else:
        low = min(mean_return(t) for ts in group.agents.values() for t in ts)
        words = "the lowest mean of any training, for want of a random agent,"
    if not means[best] > low:
        return None
    words = f"{words} {rounded(low)} is 0 and {best}'s mean {rounded(means[best])}, the best, is 1"
    return Scale(low, means[best], False, True, words)


def _overall(
    groups: Sequence[Group], scales: Mapping[int, Scale | None]
) -> tuple[Overall | None, list[str]]:
    """Aggregates over envs, one group each, and what had to be left out, in words."""
    notes = []
    chosen = []
    for env in dict.fromkeys(group.env for group in groups):
        of_env = [group for group in groups if group.env == env]
        largest = max(of_env, key=lambda g: (len(g.agents), sum(map(len, g.agents.values()))))
        if len(of_env) > 1:
            notes.append(
                f"Scores on {env} were got under {len(of_env)} protocols. Over all envs one of "
                f"them counts, the first with the most agents: {largest.label}."
            )
        if scales[largest.number] is None:
            notes.append(f"{largest.label} is left out over all envs: no agent beats the lowest.")
        else:
            chosen.append(largest)
    everyone = list(dict.fromkeys(agent for group in groups for agent in group.agents))
    matrices = {}
    for agent in everyone:
        missing = [group.label for group in chosen if agent not in group.agents]
        if missing and chosen:
            notes.append(
                f"{agent} is left out over all envs: it has no score on {joined(missing)}."
            )
        elif chosen:
            columns = [_normalised(group.agents[agent], scales[group.number]) for group in chosen]
            runs = min(map(len, columns))
            if max(map(len, columns)) > runs:
                notes.append(f"{agent}: over all envs, its first {runs} trainings on each count.")
            matrix = np.array([column[:runs] for column in columns]).T  # [runs, envs]
            if np.isfinite(matrix).all():
                matrices[agent] = matrix
            else:
                notes.append(f"{agent} is left out over all envs: a return is not finite.")
    if not matrices:
        return None, notes
    everything = np.concatenate([matrix.ravel() for matrix in matrices.values()])
    high = min(max(1.0, everything.max()), _MOST_TAU)
    taus = np.linspace(min(0.0, max(everything.min(), -_MOST_TAU)), high * 1.02, 201)
    trained = [a for a in matrices if any(t.steps for t in chosen[0].agents[a])]
    order = sorted(trained if len(trained) > 1 else matrices, key=lambda a: -_iqm(matrices[a]))
    found = Overall(
        envs=[group.label for group in chosen],
        human=all(scale.human for group in chosen if (scale := scales[group.number])),
        matrices=matrices,
        aggregates={
            agent: {name: estimate(matrix, aggregate) for name, aggregate in AGGREGATES.items()}
            for agent, matrix in matrices.items()
        },
        taus=taus,
        profiles={agent: profile(matrix, taus) for agent, matrix in matrices.items()},
        improvements=[
            (x, y, improvement(matrices[x], matrices[y])) for x, y in combinations(order, 2)
        ],
        trained=trained,
    )
    return found, notes


def _normalised(trainings: Sequence[Training], scale: Scale | None) -> list[float]:
    assert scale is not None
    return [(mean_return(t) - scale.low) / (scale.high - scale.low) for t in trainings]


def mean_return(training: Training) -> float:
    """Over its held-out games."""
    return float(np.mean(training.returns))


def _iqm(matrix: np.ndarray) -> float:
    return float(AGGREGATES["IQM"](matrix))


def _mixed(trainings: Sequence[Training], about: About) -> list[str]:
    """What was not made in one go, in words."""
    notes = []
    if reused := sum(t.reused for t in trainings):
        notes.append(
            f"{reused} of {len(trainings)} trainings were finished before this comparison began; "
            "their speed may be that of another machine."
        )
    commits = Counter(t.commit or "unknown" for t in trainings if t.run)
    if set(commits) - {about.commit or "unknown"}:
        told = joined([f"{commit[:12]} ({count})" for commit, count in commits.items()])
        notes.append(f"Trainings were made by different commits than the report: {told}.")
    for name in sorted({name for t in trainings for name in t.versions}):
        found = list(dict.fromkeys(t.versions.get(name, "none") for t in trainings if t.versions))
        if len(found) > 1:
            notes.append(f"Trainings were made with different versions of {name}: {joined(found)}.")
    return notes


@cache
def _published_table() -> dict[str, list[dict[str, str]]]:
    """Rows of published_scores.csv by game."""
    text = files("ludus.comparison").joinpath("published_scores.csv").read_text()
    by_game: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(text.splitlines()):
        by_game.setdefault(row["game"], []).append(row)
    return by_game


def _published(group: Group) -> list[Published]:
    """Of each source and algorithm the published score nearest in frames to ours."""
    rom = group.protocol.get("rom", "")
    frames = group.steps * int(group.protocol.get("frameskip", 4))
    found = []
    for agent, trainings in group.agents.items():
        names = _NAMESAKES.get(agent.removeprefix("sb3:"), ())
        nearest: dict[tuple[str, str], dict[str, str]] = {}
        for row in _published_table().get(rom, []):
            key = (row["source"], row["agent"])
            if row["agent"] in names and (
                key not in nearest or _off(row, frames) < _off(nearest[key], frames)
            ):
                nearest[key] = row
        for (source, name), row in nearest.items():
            score = float(row["score"])
            found.append(
                Published(
                    agent=agent,
                    mean=float(np.mean([mean_return(t) for t in trainings])),
                    source=source,
                    name=name,
                    score=score,
                    std=float(row["std"]) if row["std"] else None,
                    human=human_normalised(rom, score),
                    differences=_differences(row, frames, group.protocol, len(trainings)),
                )
            )
    return found


def _off(row: dict[str, str], frames: int) -> float:
    return abs(math.log(float(row["frames"]) / max(frames, 1)))


def _differences(
    row: dict[str, str], frames: int, protocol: dict[str, Any], trainings: int
) -> list[str]:
    """How a published score was got otherwise than ours, in words: theirs against ours."""
    words = []
    if int(row["frames"]) != frames:
        words.append(f"{_millions(int(row['frames']))} frames against {_millions(frames)}")
    theirs, ours = float(row["sticky_probability"]), protocol.get("sticky")
    if ours is None or theirs != ours:
        words.append(f"{_sticky(theirs)} against {_sticky(ours)}")
    if row["protocol"] == "train":
        words.append("returns in training against held-out games")
    if row["source"] == "sb3-zoo" and trainings != 1:
        words.append(f"one training against {trainings}")
    if row["source"] == "dopamine":
        words.append("mean over the last 5 iterations")
    return words


def _sticky(probability: float | None) -> str:
    if probability is None:
        return "an unknown sticky probability"
    return f"sticky actions {probability:g}" if probability else "no sticky actions"


def _millions(frames: int) -> str:
    return f"{frames / 1e6:.3g}M"


def is_baseline(agent: str) -> bool:
    """Whether it is a peer's agent rather than ours."""
    return agent.startswith("sb3:")


def learns(trainings: Sequence[Training]) -> bool:
    """Whether the agent of these trainings is one that trains."""
    return any(t.steps for t in trainings)


def plain(value: Any) -> Any:
    """The same as JSON knows it; what is not finite becomes null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    return str(value)


def rounded(value: float | None, decimals: int | None = None) -> str:
    """A number as a table shows it; "-" where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if decimals is None:
        decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:z,.{decimals}f}"


def plural(number: int, name: str) -> str:
    """A number of things: `1 env`, `2 envs`."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def joined(names: Sequence[str]) -> str:
    """Names in a sentence: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def spaced(name: str) -> str:
    """The name of a setting in words."""
    return name.replace("_", " ")


def in_words(value: Any) -> str:
    """A setting in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else "-"
    return value if isinstance(value, str) else json.dumps(plain(value))
