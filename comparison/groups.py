"""Group trainings whose scores can be compared, and compute the score table of each group.

Scores are compared within a group: trainings on one env, under one protocol, for the same number of
env steps or for the same time.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ludus.comparison.aggregates import Score, human_normalised, summarise
from ludus.comparison.formatting import format_key, format_setting, to_json

_Budget = tuple[int, float]  # planned env steps and minutes


@dataclass(frozen=True)
class Training:
    """One training of one agent on one env, and the held-out games after it."""

    env: str
    agent: str
    """name of the preset: `dqn`, `sb3:dqn`, `random`"""
    seed: int
    run: str | None
    """folder of the run; None for an agent that does not train"""
    steps: int
    """planned env steps of training; 0 for an agent that does not train"""
    minutes: float
    """minutes after which it was to end before that; 0 for no limit"""
    done: int
    """env steps of the training"""
    returns: list[float]
    """unclipped returns of the held-out games"""
    lengths: list[int]
    """env steps of the held-out games"""
    episodes: np.ndarray
    """[episodes, 4]: env_steps, seconds, return and length of each training episode"""
    seconds: float | None
    """duration of the training without its evaluations"""
    protocol: dict[str, Any]
    """settings that scores depend on: kind, sticky, frameskip, ..., epsilon and episodes"""
    settings: dict[str, Any]
    """the agent's config"""
    versions: dict[str, str]
    """versions of the packages that the training used"""
    commit: str | None
    """commit of ludus that the training used"""
    reused: bool
    """whether the training had finished before this comparison started"""


@dataclass(frozen=True)
class Group:
    """Trainings whose scores can be compared: one env, one protocol, equal env steps and time."""

    number: int
    """counts from 1, as in scores.csv"""
    env: str
    label: str
    """the env, and what distinguishes the group from others on the same env"""
    slug: str
    """part of file names"""
    steps: int
    minutes: float
    protocol: dict[str, Any]
    agents: dict[str, list[Training]]


@dataclass(frozen=True)
class AgentScore:
    """One agent's row in the score table of a group."""

    agent: str
    trainings: int
    """0 for an agent that does not train"""
    score: Score
    human: float | None
    """human-normalised mean; 1 is a human player's score"""
    steps_per_second: float | None
    """mean over trainings"""
    seconds: float | None
    """duration of a training, mean over trainings"""


def group_trainings(trainings: Sequence[Training]) -> list[Group]:
    """Sort trainings into groups, in order of appearance.

    An agent that does not train has no number of env steps, so it is in every group of its
    protocol.
    """
    by_key: dict[tuple[str, str, _Budget], list[Training]] = {}
    for training in trainings:
        alike = [t for t in trainings if _protocol_key(t) == _protocol_key(training)]
        budgets = [_budget(t) for t in alike if t.steps] or [(0, 0.0)]
        for budget in dict.fromkeys([_budget(training)] if training.steps else budgets):
            by_key.setdefault((*_protocol_key(training), budget), []).append(training)
    order = list(dict.fromkeys(t.agent for t in trainings))
    groups: list[Group] = []
    for number, ((env, _, budget), members) in enumerate(by_key.items(), 1):
        on_env = [(key[2], ts[0].protocol) for key, ts in by_key.items() if key[0] == env]
        agents: dict[str, list[Training]] = {}
        for training in sorted(members, key=lambda t: order.index(t.agent)):
            agents.setdefault(training.agent, []).append(training)
        protocol = members[0].protocol
        distinction = _distinction(budget, protocol, on_env)
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", env)[:60].strip("-.") or "env"
        taken = slug in {group.slug for group in groups}
        groups.append(
            Group(
                number=number,
                env=env,
                label=f"{env} ({distinction})" if distinction else env,
                slug=f"{slug}-{number}" if taken else slug,
                steps=budget[0],
                minutes=budget[1],
                protocol=protocol,
                agents=agents,
            )
        )
    return groups


def _protocol_key(training: Training) -> tuple[str, str]:
    return training.env, json.dumps(to_json(training.protocol), sort_keys=True)


def _budget(training: Training) -> _Budget:
    return training.steps, training.minutes


def describe_budget(steps: int, minutes: float) -> str:
    """Return how long a training lasts in words."""
    if minutes:
        return f"{minutes:g} minute{'' if minutes == 1 else 's'}"
    return f"{steps:,} env steps"


def _distinction(
    budget: _Budget, protocol: dict[str, Any], on_env: list[tuple[_Budget, dict[str, Any]]]
) -> str:
    """Describe how a group differs from the other groups on its env.

    Args:
        budget: of the group.
        protocol: protocol of the group.
        on_env: budgets and protocols of all groups on the env.
    """
    parts = []
    for key in sorted({key for _, other in on_env for key in other}):
        if len({json.dumps(to_json(other.get(key))) for _, other in on_env}) > 1:
            parts.append(f"{format_key(key)} {format_setting(protocol.get(key))}")
    if len({other for other, _ in on_env}) > 1:
        parts.append(describe_budget(*budget))
    return ", ".join(parts)


def score_agents(group: Group) -> list[AgentScore]:
    """Compute the score table of a group, one row for each agent, the highest mean first."""
    scores = []
    for agent, trainings in group.agents.items():
        games = min(len(t.returns) for t in trainings)  # equal by the protocol
        returns = np.array([t.returns[:games] for t in trainings], np.float64)
        trained = is_trained(trainings)
        # Sets of games of an agent that does not train are no independent trainings, so its
        # interval resamples games.
        score = summarise(returns if trained else returns.reshape(1, -1))
        timed = [(t.done, t.seconds) for t in trainings if t.steps and t.seconds]
        rates = [steps / seconds for steps, seconds in timed]
        durations = [seconds for _, seconds in timed]
        scores.append(
            AgentScore(
                agent=agent,
                trainings=len(trainings) if trained else 0,
                score=score,
                human=human_normalised(group.protocol.get("rom", ""), score.mean),
                steps_per_second=float(np.mean(rates)) if timed else None,
                seconds=float(np.mean(durations)) if timed else None,
            )
        )
    # NaN, which is no number to compare with, comes last.
    return sorted(scores, key=lambda row: (row.score.mean != row.score.mean, -row.score.mean))


def mean_return(training: Training) -> float:
    """Compute the mean return of the held-out games of a training."""
    return float(np.mean(training.returns))


def is_trained(trainings: Sequence[Training]) -> bool:
    """Return whether the agent of these trainings is one that trains."""
    return any(t.steps for t in trainings)


def is_baseline(agent: str) -> bool:
    """Return whether an agent is another library's."""
    return agent.startswith("sb3:")
