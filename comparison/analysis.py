"""Analyse a comparison: scores by group, normalised scores and aggregates over all envs.

Over several envs, scores are normalised and aggregated as in Agarwal et al. 2021,
https://arxiv.org/abs/2108.13264.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from time import strftime

import numpy as np

from ludus.comparison.aggregates import (
    AGGREGATES,
    ENOUGH_SEEDS,
    Estimate,
    estimate,
    human_reference,
    improvement,
    pooled_iqm,
    profile,
)
from ludus.comparison.formatting import format_count, format_list, format_number
from ludus.comparison.groups import (
    AgentScore,
    Group,
    Training,
    group_trainings,
    is_trained,
    mean_return,
    score_agents,
)
from ludus.comparison.published_scores import PublishedScore, published_scores
from ludus.training.device import device_of
from ludus.training.provenance import commit, hardware, versions

_RETURN_RANGES = {"CartPole-v1": (0.0, 500.0)}  # envs with known bounds of the return
_MAX_TAU = 8.0  # profiles end here: some games give hundreds of times the human score


@dataclass(frozen=True)
class About:
    """Where a comparison was made, and the command that repeats it."""

    title: str
    command: str
    """repeats the comparison"""
    hardware: dict[str, str]
    """cpu, cores, memory, gpu, system"""
    versions: dict[str, str]
    commit: str | None
    date: str

    @classmethod
    def here(cls, title: str, command: str, device: str) -> "About":
        """Describe this machine, now.

        Args:
            title: of the comparison.
            command: repeats it.
            device: auto, cpu, cuda or mps.
        """
        return cls(
            title=title,
            command=command,
            hardware={k: str(v) for k, v in hardware(device_of(device)).items() if v},
            versions=versions(),
            commit=commit(),
            date=strftime("%Y-%m-%d"),
        )


@dataclass(frozen=True)
class Scale:
    """Linear normalisation of the scores of a group."""

    low: float
    """score that becomes 0"""
    high: float
    """score that becomes 1"""
    human: bool
    """whether the normalised scores are human-normalised"""
    own: bool
    """whether the scale is computed from the scores of this comparison"""
    words: str
    """the scale in words"""


@dataclass(frozen=True)
class Overall:
    """Normalised scores over all envs, and their aggregates."""

    envs: list[str]
    """labels of the groups that count, one for each env"""
    human: bool
    """whether all scores are human-normalised"""
    matrices: dict[str, np.ndarray]
    """[runs, envs] normalised scores of each agent"""
    aggregates: dict[str, dict[str, Estimate]]
    """by agent, the highest interquartile mean first, then by name of the aggregate"""
    taus: np.ndarray
    """[taus] scores at which the profiles are computed"""
    profiles: dict[str, np.ndarray]
    """[3, taus] value, low and high of each agent with more than one run"""
    improvements: list[tuple[str, str, Estimate]]
    """x, y and the probability that x improves on y, of agents with more than one run"""
    trained: list[str]
    """agents that train"""

    @property
    def with_intervals(self) -> list[str]:
        """Return the agents with more than one run on each env; others have no interval."""
        return [agent for agent, matrix in self.matrices.items() if len(matrix) > 1]

    @property
    def certain(self) -> set[tuple[str, str]]:
        """Return the pairs of improvements whose interval excludes chance.

        With fewer than `ENOUGH_SEEDS` trainings an interval is too narrow to say so.
        """
        enough = {agent for agent, matrix in self.matrices.items() if len(matrix) >= ENOUGH_SEEDS}
        return {
            (x, y)
            for x, y, probability in self.improvements
            if {x, y} <= enough and not probability.low <= 0.5 <= probability.high
        }

    @property
    def label(self) -> str:
        """Return the name of the score, for axes and captions."""
        return "human-normalised score" if self.human else "normalised score"


@dataclass(frozen=True)
class Analysis:
    """All results that a report shows."""

    about: About
    trainings: Sequence[Training]
    """all trainings, also those without held-out games"""
    groups: list[Group]
    tables: dict[int, list[AgentScore]]
    """by the number of the group, like `scales` and `published`"""
    scales: dict[int, Scale | None]
    """None for a group in which no agent scores above the low end of the scale"""
    published: dict[int, list[PublishedScore]]
    best: dict[int, str | None]
    """by the number of the group: the agent that improves on every other one by more than chance"""
    overall: Overall | None
    """None if no agent has a score on every env, or with one training on one env"""
    notes: list[str]
    """sentences on what was excluded, and on trainings of other machines or versions"""

    @property
    def scored(self) -> list[Training]:
        """Return the trainings with held-out games."""
        return [t for t in self.trainings if t.returns]


def analyse(trainings: Sequence[Training], about: About) -> Analysis:
    """Group trainings and compute all results of a report.

    Args:
        trainings: all trainings; those that cannot be compared go into different groups.
        about: where the comparison was made.

    Raises:
        ValueError: No training has held-out games.
    """
    scored = [t for t in trainings if t.returns]
    if not scored:
        raise ValueError("no training has held-out games, so there is nothing to compare")
    groups = group_trainings(scored)
    scales = {group.number: _scale(group) for group in groups}
    chosen, notes = _one_group_per_env(groups, scales)
    matrices, more_notes = _normalised_matrices(groups, chosen, scales)
    notes += more_notes
    if len(scored) < len(trainings):
        excluded = format_count(len(trainings) - len(scored), "training")
        notes.append(f"Excluded: {excluded} without held-out games.")
    return Analysis(
        about=about,
        trainings=trainings,
        groups=groups,
        tables={group.number: score_agents(group) for group in groups},
        scales=scales,
        published={group.number: published_scores(group) for group in groups},
        best={group.number: _best(group) for group in groups},
        overall=_overall(chosen, matrices, scales) if _is_aggregate(matrices) else None,
        notes=notes + _provenance_notes(scored, about),
    )


def _scale(group: Group) -> Scale | None:
    """Choose the scale of a group, or return None if no agent scores above its low end."""
    if reference := human_reference(group.protocol.get("rom", "")):
        low, high = reference
        words = f"a random player's {low:g} maps to 0 and a human player's {high:g} to 1"
        return Scale(low, high, human=True, own=False, words=words)
    if bounds := _RETURN_RANGES.get(group.env):
        low, high = bounds
        words = f"the env's range of returns: {low:g} maps to 0 and {high:g} to 1"
        return Scale(low, high, human=False, own=False, words=words)
    means = {a: float(np.mean([mean_return(t) for t in ts])) for a, ts in group.agents.items()}
    best = max(means, key=lambda agent: means[agent])
    if "random" in means:
        low, name = means["random"], "the random agent's mean"
    else:
        low = min(mean_return(t) for ts in group.agents.values() for t in ts)
        name = "without a random agent, the lowest mean of any training"
    if not means[best] > low:
        return None
    words = f"{name} {format_number(low)} maps to 0 and the best mean, "
    words += f"{best}'s {format_number(means[best])}, to 1"
    return Scale(low, means[best], human=False, own=True, words=words)


def _one_group_per_env(
    groups: Sequence[Group], scales: Mapping[int, Scale | None]
) -> tuple[list[Group], list[str]]:
    """Choose the group of each env that counts over all envs.

    Returns:
        The groups, and a sentence on each that was excluded.
    """
    chosen, notes = [], []
    for env in dict.fromkeys(group.env for group in groups):
        on_env = [group for group in groups if group.env == env]
        largest = max(on_env, key=lambda g: (len(g.agents), sum(map(len, g.agents.values()))))
        if len(on_env) > 1:
            notes.append(
                f"The scores on {env} were obtained under {len(on_env)} protocols. The results "
                f"over all envs use the first with the most agents: {largest.label}."
            )
        if scales[largest.number] is None:
            notes.append(
                f"{largest.label} is excluded from the results over all envs: no agent has a mean "
                "above the score that maps to 0."
            )
        else:
            chosen.append(largest)
    return chosen, notes


def _normalised_matrices(
    groups: Sequence[Group], chosen: Sequence[Group], scales: Mapping[int, Scale | None]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Compute the normalised scores [runs, envs] of each agent with a score on every env.

    Returns:
        The matrices by agent, and a sentence on each agent that was excluded.
    """
    if not chosen:
        return {}, []
    matrices, notes = {}, []
    for agent in dict.fromkeys(agent for group in groups for agent in group.agents):
        missing = [group.label for group in chosen if agent not in group.agents]
        if missing:
            notes.append(
                f"{agent} is excluded from the results over all envs: it has no score on "
                f"{format_list(missing)}."
            )
            continue
        columns = [_normalise(group.agents[agent], scales[group.number]) for group in chosen]
        runs = min(map(len, columns))
        if max(map(len, columns)) > runs:
            notes.append(
                f"The results over all envs use the first {format_count(runs, 'training')} of "
                f"{agent} on each env."
            )
        matrix = np.array([column[:runs] for column in columns]).T  # [runs, envs]
        if np.isfinite(matrix).all():
            matrices[agent] = matrix
        else:
            notes.append(
                f"{agent} is excluded from the results over all envs: a return is not finite."
            )
    return matrices, notes


def _normalise(trainings: Sequence[Training], scale: Scale | None) -> list[float]:
    assert scale is not None
    return [(mean_return(t) - scale.low) / (scale.high - scale.low) for t in trainings]


def _best(group: Group) -> str | None:
    """Return the agent that improves on every other one by more than chance; None if none does.

    With fewer than `ENOUGH_SEEDS` trainings an interval is too narrow to say so.
    """
    scores = {a: np.array([[mean_return(t)] for t in ts]) for a, ts in group.agents.items()}
    first = max(scores, key=lambda agent: float(np.mean(scores[agent])))
    enough = all(len(runs) >= ENOUGH_SEEDS for runs in scores.values()) and len(scores) > 1
    enough &= all(np.isfinite(runs).all() for runs in scores.values())
    others = [runs for agent, runs in scores.items() if agent != first]
    if enough and all(improvement(scores[first], runs).low > 0.5 for runs in others):
        return first
    return None


def finding(group: Group) -> str:
    """Return what the scores of a group show, in a sentence or two."""
    rows = score_agents(group)
    trained = [row for row in rows if row.trainings]
    sentences = []
    chance = next((row.score.high for row in rows if row.agent == "random"), None)
    if chance is not None:
        better = [row.agent for row in trained if row.score.low > chance]
        if better:
            plays = "plays" if len(better) == 1 else "play"
            sentences.append(f"{format_list(better)} {plays} better than the random agent.")
        elif trained:
            sentences.append("No agent is shown to play better than the random agent.")
    first, fewest = _best(group), min((row.trainings for row in trained), default=0)
    if first is not None:
        sentences.append(f"{first} scores higher than every other agent, by more than chance.")
    elif len(trained) > 1:
        names = " or ".join(row.agent for row in trained) if len(trained) == 2 else "the agents"
        why = "" if fewest >= ENOUGH_SEEDS else f": {format_count(fewest, 'training')} of each "
        why += "" if fewest >= ENOUGH_SEEDS else "is too few" if fewest == 1 else "are too few"
        question = f"whether {names} is better" if len(trained) == 2 else "which agent is the best"
        sentences.append(f"The scores do not show {question}{why}.")
    return " ".join(sentences)


def _is_aggregate(matrices: Mapping[str, np.ndarray]) -> bool:
    """Return whether an agent has several runs, or one on each of several envs."""
    return any(matrix.size > 1 for matrix in matrices.values())


def _overall(
    chosen: Sequence[Group],
    matrices: Mapping[str, np.ndarray],
    scales: Mapping[int, Scale | None],
) -> Overall:
    """Compute aggregates, profiles and probabilities of improvement over all envs."""
    scores = np.concatenate([matrix.ravel() for matrix in matrices.values()])
    high = min(max(1.0, scores.max()), _MAX_TAU)
    taus = np.linspace(min(0.0, max(scores.min(), -_MAX_TAU)), high * 1.02, 201)
    ranked = sorted(matrices, key=lambda agent: -float(pooled_iqm(matrices[agent])))
    trained = [agent for agent in ranked if is_trained(chosen[0].agents[agent])]
    several = [agent for agent in ranked if len(matrices[agent]) > 1]
    compared = [agent for agent in several if agent in trained or len(trained) == 1]
    return Overall(
        envs=[group.label for group in chosen],
        human=all(scale.human for group in chosen if (scale := scales[group.number])),
        matrices={agent: matrices[agent] for agent in ranked},
        aggregates={
            agent: {name: estimate(matrices[agent], each) for name, each in AGGREGATES.items()}
            for agent in ranked
        },
        taus=taus,
        profiles={agent: profile(matrices[agent], taus) for agent in several},
        improvements=[
            (x, y, improvement(matrices[x], matrices[y])) for x, y in combinations(compared, 2)
        ],
        trained=trained,
    )


def _provenance_notes(trainings: Sequence[Training], about: About) -> list[str]:
    """Describe reused trainings, and differences in commits and versions."""
    notes = []
    if reused := sum(t.reused for t in trainings):
        notes.append(
            f"{reused} of {len(trainings)} trainings had finished before this comparison started; "
            "their speed may have been measured on another machine."
        )
    commits = Counter(t.commit or "unknown" for t in trainings if t.run)
    if set(commits) - {about.commit or "unknown"}:
        counted = format_list([f"{commit[:12]} ({count})" for commit, count in commits.items()])
        notes.append(
            f"Not all trainings were made at the commit of this report. Their commits: {counted}."
        )
    for name in sorted({name for t in trainings for name in t.versions}):
        used = list(dict.fromkeys(t.versions.get(name, "none") for t in trainings if t.versions))
        if len(used) > 1:
            notes.append(f"The trainings used different versions of {name}: {format_list(used)}.")
    return notes
