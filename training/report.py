"""The report of a comparison: one HTML page that opens anywhere, and the numbers behind it.

Scores are compared within a group: trainings on one env under one protocol for the same env steps.
Over envs they are normalised and summed up as Agarwal et al. 2021 do,
https://arxiv.org/abs/2108.13264.

`published_scores.csv` holds published scores of peers on Atari. Its sources: rl-baselines3-zoo's
`benchmark.md` (one training each, evaluated in games of its own), Dopamine's
`baselines/atari/data/*.json` (returns in training, mean over the last 5 iterations up to that frame
count) and CleanRL's `docs/rl-algorithms/*.md` (returns in training).
"""

import base64
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from html import escape
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ludus.training import plots
from ludus.training.checkpoint import write_atomically
from ludus.training.statistics import (
    AGGREGATES,
    ENOUGH_SEEDS,
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


def write(out: Path, trainings: Sequence[Training], about: About) -> list[Path]:
    """Write the report of a comparison.

    Each file appears whole. Files of an earlier report that this one does not have stay.

    Args:
        out: folder of report.html, results.json, scores.csv and the pictures; made if absent.
        trainings: all of them; what cannot be compared is kept apart.
        about: where it was made.

    Returns:
        The paths, report.html first.

    Raises:
        ValueError: no training has a held-out game.
    """
    played = [t for t in trainings if t.returns]
    if not played:
        raise ValueError("no training has a held-out game, so there is nothing to compare")
    out.mkdir(parents=True, exist_ok=True)
    groups = _groups(played)
    tables = {group.number: _rows(group) for group in groups}
    scales = {group.number: _scale(group) for group in groups}
    beside = {group.number: _published(group) for group in groups}
    overall, notes = _overall(groups, scales)
    if len(played) < len(trainings):
        left_out = _count(len(trainings) - len(played), "training")
        notes.append(f"Left out: {left_out} without a held-out game.")
    notes += _mixed(played, about)

    pictures = _draw(out, groups, overall)
    write_atomically(out / "scores.csv", _scores(played, groups))
    told = _results(trainings, about, groups, tables, scales, beside, overall, notes)
    write_atomically(out / "results.json", json.dumps(_plain(told), indent=1, allow_nan=False))
    page = _page(about, groups, tables, scales, beside, overall, notes, pictures)
    # references in place of other characters, so that no encoding can spoil the page
    write_atomically(out / "report.html", page.encode("ascii", "xmlcharrefreplace").decode())
    return [out / "report.html", out / "results.json", out / "scores.csv", *pictures.values()]


def _groups(trainings: Sequence[Training]) -> list[Group]:
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
    return training.env, json.dumps(_plain(training.protocol), sort_keys=True)


def _apart(steps: int, protocol: dict[str, Any], all_: list[tuple[int, dict[str, Any]]]) -> str:
    """What sets a group apart from the others on its env, in words."""
    words = []
    for key in sorted({key for _, other in all_ for key in other}):
        if len({json.dumps(_plain(other.get(key))) for _, other in all_}) > 1:
            words.append(f"{_spaced(key)} {_show(protocol.get(key))}")
    if len({other for other, _ in all_}) > 1:
        words.append(f"{steps:,} env steps")
    return ", ".join(words)


def _rows(group: Group) -> list[Row]:
    rows = []
    for agent, trainings in group.agents.items():
        games = min(len(t.returns) for t in trainings)  # equal by the protocol
        returns = np.array([t.returns[:games] for t in trainings], np.float64)
        learns = _learns(trainings)
        # without training there is nothing but games to draw
        score = summarise(returns if learns else returns.reshape(1, -1))
        timed = [(t.steps, t.seconds) for t in trainings if t.steps and t.seconds]
        rows.append(
            Row(
                agent,
                len(trainings) if learns else 0,
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
    means = {a: float(np.mean([_mean(t) for t in ts])) for a, ts in group.agents.items()}
    best = max(means, key=lambda agent: means[agent])
    if "random" in means:
        low, words = means["random"], "the random agent's mean"
    else:
        low = min(_mean(t) for ts in group.agents.values() for t in ts)
        words = "the lowest mean of any training, for want of a random agent,"
    if not means[best] > low:
        return None
    words = f"{words} {_number(low)} is 0 and {best}'s mean {_number(means[best])}, the best, is 1"
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
            notes.append(f"{agent} is left out over all envs: it has no score on {_and(missing)}.")
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
    return [(_mean(t) - scale.low) / (scale.high - scale.low) for t in trainings]


def _mean(training: Training) -> float:
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
        told = _and([f"{commit[:12]} ({count})" for commit, count in commits.items()])
        notes.append(f"Trainings were made by different commits than the report: {told}.")
    for name in sorted({name for t in trainings for name in t.versions}):
        found = list(dict.fromkeys(t.versions.get(name, "none") for t in trainings if t.versions))
        if len(found) > 1:
            notes.append(f"Trainings were made with different versions of {name}: {_and(found)}.")
    return notes


@cache
def _published_table() -> dict[str, list[dict[str, str]]]:
    """Rows of published_scores.csv by game."""
    text = files("ludus.training").joinpath("published_scores.csv").read_text()
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
                    mean=float(np.mean([_mean(t) for t in trainings])),
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


def _draw(out: Path, groups: Sequence[Group], overall: Overall | None) -> dict[str, Path]:
    """All pictures by what they show: a group's slug, or the name of the figure."""
    agents = list(dict.fromkeys(agent for group in groups for agent in group.agents))
    trained = {agent for group in groups for agent, ts in group.agents.items() if _learns(ts)}
    baselines = [agent for agent in agents if _is_baseline(agent)]
    look = plots.styles(agents, baselines, set(agents) - trained)
    drawn = {}
    for group in groups:
        curves = {a: [t.episodes for t in ts] for a, ts in group.agents.items() if _learns(ts)}
        if not any(len(e) for of_agent in curves.values() for e in of_agent):
            continue
        levels = {
            a: float(np.mean([_mean(t) for t in ts]))
            for a, ts in group.agents.items()
            if a not in curves
        }
        drawn[f"curves-{group.slug}"] = out / f"curves-{group.slug}.png"
        plots.learning_curves(curves, levels, group.label, drawn[f"curves-{group.slug}"], look)
    if overall is not None:
        names = ["aggregates", "profiles", *(["improvement"] if overall.improvements else [])]
        drawn |= {name: out / f"{name}.png" for name in names}
        certain, label = overall.certain, overall.label
        plots.intervals(overall.aggregates, certain, label, drawn["aggregates"], look)
        plots.profiles(overall.taus, overall.profiles, certain, label, drawn["profiles"], look)
        if overall.improvements:
            plots.improvement(overall.improvements, certain, drawn["improvement"])
    return drawn


def _is_baseline(agent: str) -> bool:
    return agent.startswith("sb3:")


def _learns(trainings: Sequence[Training]) -> bool:
    return any(t.steps for t in trainings)


def _scores(trainings: Sequence[Training], groups: Sequence[Group]) -> str:
    """One line a held-out game; `group` is the first group of results.json the game is in."""
    numbers: dict[int, int] = {}
    for group in groups:
        for training in (t for ts in group.agents.values() for t in ts):
            numbers.setdefault(id(training), group.number)
    told = io.StringIO()
    writer = csv.writer(told, lineterminator="\n")
    writer.writerow(["env", "agent", "seed", "game", "return", "length", "group"])
    for t in trainings:
        for game, (score, length) in enumerate(zip(t.returns, t.lengths, strict=True)):
            writer.writerow([t.env, t.agent, t.seed, game, score, length, numbers[id(t)]])
    return told.getvalue().encode("utf-8", "replace").decode()  # a name may be no text


def _results(
    trainings: Sequence[Training],
    about: About,
    groups: Sequence[Group],
    tables: Mapping[int, list[Row]],
    scales: Mapping[int, Scale | None],
    beside: Mapping[int, list[Published]],
    overall: Overall | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    names = [field.name for field in fields(Training) if field.name != "episodes"]
    told: dict[str, Any] = {
        "about": asdict(about),
        "notes": notes,
        "groups": [
            {
                "number": group.number,
                "env": group.env,
                "label": group.label,
                "steps": group.steps,
                "protocol": group.protocol,
                "normalised": scales[group.number],
                "agents": tables[group.number],
                "published": beside[group.number],
            }
            for group in groups
        ],
        "overall": None,
        "trainings": [{name: getattr(t, name) for name in names} for t in trainings],
    }
    if overall is not None:
        told["overall"] = {
            "envs": overall.envs,
            "score": overall.label,
            "normalised": overall.matrices,  # [runs, envs]
            "trainings": {agent: len(matrix) for agent, matrix in overall.matrices.items()},
            "aggregates": overall.aggregates,
            "taus": overall.taus,
            "profiles": {
                agent: dict(zip(("value", "low", "high"), lines, strict=True))
                for agent, lines in overall.profiles.items()
            },
            "improvement": [
                {"x": x, "y": y, **asdict(found)} for x, y, found in overall.improvements
            ],
        }
    return told


def _plain(value: Any) -> Any:
    """The same as JSON knows it; what is not finite becomes null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    return str(value)


class Html(str):
    """Text that is HTML already; any other is escaped."""


def _html(value: object) -> str:
    return value if isinstance(value, Html) else escape(str(value))


def _tag(name: str, *inside: object, **attributes: str) -> Html:
    """An element; `class_` stands for class."""
    given = "".join(f' {k.rstrip("_")}="{escape(v)}"' for k, v in attributes.items())
    return Html(f"<{name}{given}>{''.join(map(_html, inside))}</{name}>\n")


def _scroll(label: str, *inside: object) -> Html:
    """A box that scrolls by itself, also with the keyboard."""
    label_ = {"aria-label": label}
    return _tag("div", *inside, class_="scroll", role="region", tabindex="0", **label_)


def _table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    words: Sequence[str] = (),
    marks: Callable[[int], str] = lambda _: "",
) -> Html:
    """A table whose first column are its rows' headings.

    Args:
        caption: over it.
        head: names of the columns.
        rows: cells.
        words: columns of text; all others but the first are numbers.
        marks: the class of a row by its place.
    """

    def kind(name: str) -> str:
        return "words" if name in words else "number"

    first, *others = head
    names = [_tag("th", first, scope="col")]
    names += [_tag("th", name, scope="col", class_=kind(name)) for name in others]
    body = []
    for place, (heading, *cells) in enumerate(rows):
        shown = [_tag("th", heading, scope="row")]
        shown += [_tag("td", c, class_=kind(n)) for n, c in zip(others, cells, strict=True)]
        body.append(_tag("tr", *shown, class_=marks(place)))
    return _scroll(
        caption,
        _tag(
            "table",
            _tag("caption", caption),
            _tag("thead", _tag("tr", *names)),
            _tag("tbody", *body),
        ),
    )


def _figure(path: Path, alt: str, caption: str) -> Html:
    data = base64.b64encode(path.read_bytes()).decode()
    image = Html(f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">')
    return _tag("figure", _scroll(alt, image), _tag("figcaption", caption))


def _page(
    about: About,
    groups: Sequence[Group],
    tables: Mapping[int, list[Row]],
    scales: Mapping[int, Scale | None],
    beside: Mapping[int, list[Published]],
    overall: Overall | None,
    notes: Sequence[str],
    pictures: Mapping[str, Path],
) -> str:
    sections = [
        ("scores", "Scores on each env", _scores_section(groups, tables, pictures)),
        ("overall", "All envs together", _overall_section(groups, scales, overall, pictures)),
    ]
    if len({group.env for group in groups}) > 1:
        sections.reverse()
    if any("rom" in group.protocol for group in groups):
        sections.append(
            ("published", "Beside published scores", _published_section(groups, beside))
        )
    sections.append(("settings", "Settings of the agents", _settings_section(groups)))
    sections.append(("made", "How it was made", _made_section(about)))
    links = [_tag("li", _tag("a", title, href=f"#{name}")) for name, title, _ in sections]
    agents = list(dict.fromkeys(agent for group in groups for agent in group.agents))
    envs = dict.fromkeys(group.env for group in groups)
    trainings = len({id(t) for g in groups for ts in g.agents.values() for t in ts if t.steps})
    summary = (
        f"{_count(len(agents), 'agent')} ({', '.join(agents)}) on {_count(len(envs), 'env')}, "
        f"{_count(trainings, 'training')}, {about.date}."
    )
    body = [
        _tag("h1", about.title),
        _tag("p", summary),
        _tag("ul", *[_tag("li", note) for note in notes], class_="notes") if notes else "",
        _tag("nav", _tag("ul", *links), **{"aria-label": "Sections"}),
        *[_tag("section", _tag("h2", t, id=name), *inside) for name, t, inside in sections],
    ]
    style = files("ludus.training").joinpath("report.css").read_text()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(about.title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{_tag('main', *body)}</body>\n</html>\n"
    )


def _scores_section(
    groups: Sequence[Group], tables: Mapping[int, list[Row]], pictures: Mapping[str, Path]
) -> list[Html]:
    inside = []
    if len(groups) > len({group.env for group in groups}):
        words = (
            "Scores of different protocols cannot be compared, so an env has a table for each of "
            "them. Its heading names what differs."
        )
        inside.append(_tag("p", words))
    for group in groups:
        rows = tables[group.number]
        inside += [_tag("h3", group.label), _protocol_words(group), _score_table(group, rows)]
        inside.append(_seeds_words(rows))
        if path := pictures.get(f"curves-{group.slug}"):
            alt = (
                f"Learning curves on {group.label} of {_and(list(group.agents))}: "
                "mean return over env steps, and over time of training."
            )
            inside.append(_figure(path, alt, _curve_words(group)))
        inside.append(_trainings_table(group))
    return inside


def _protocol_words(group: Group) -> Html:
    known = [f"{_spaced(key)} {_show(value)}" for key, value in group.protocol.items()]
    steps = f"{group.steps:,} env steps of training" if group.steps else "no training"
    return _tag("p", f"Protocol: {', '.join([steps, *known])}.", class_="soft")


def _score_table(group: Group, rows: Sequence[Row]) -> Html:
    human = human_reference(group.protocol.get("rom", "")) is not None
    finite = [row.score.mean for row in rows if math.isfinite(row.score.mean)]
    best = max(finite, default=math.nan)
    head = ["agent", "trainings", "mean", "IQM", "IQM, 95% interval", "interval over"]
    head += [*(["human-normalised"] if human else []), "env steps/s", "seconds"]

    def marks(place: int) -> str:
        row = rows[place]
        marked = ["best"] if row.score.mean == best else []
        return " ".join([*marked, *(["baseline"] if _is_baseline(row.agent) else [])])

    cells = []
    for row in rows:
        score = row.score
        name = _name(row.agent, best=row.score.mean == best)
        shown = [name, row.trainings or "-", _number(score.mean), _number(score.iqm)]
        shown += [_range(score.low, score.high), score.over]
        shown += [_percent(row.human)] if human else []
        shown += [_number(row.steps_per_second, 0), _number(row.seconds, 0)]
        cells.append(shown)
    caption = f"Held-out games on {group.label}: returns, unclipped"
    return _table(caption, head, cells, words=["interval over"], marks=marks)


def _name(agent: str, *, best: bool = False) -> Html:
    tags = [_tag("span", "baseline", class_="tag").strip()] if _is_baseline(agent) else []
    tags += [_tag("span", "best mean", class_="tag").strip()] if best else []
    return Html(escape(agent) + "".join(tags))


def _seeds_words(rows: Sequence[Row]) -> Html:
    few = [row.agent for row in rows if 0 < row.trainings < ENOUGH_SEEDS]
    words = "IQM: mean of the middle half of the games. Seconds and env steps/s: of training, mean "
    words += "over trainings. "
    if few:
        words += (
            f"Of {_and(few)} there are fewer than {ENOUGH_SEEDS} trainings, too few for an "
            "interval over trainings: theirs is over the games of these trainings, and says "
            "nothing of how another training would end."
        )
    return _tag("p", words, class_="soft")


def _curve_words(group: Group) -> str:
    counts = {agent: len(ts) for agent, ts in group.agents.items() if _learns(ts)}
    words = (
        "Returns of the games of training, where the agent explores; mean of the last 20. By time, "
        "a training that ended before the slowest of its agent keeps its last mean. "
    )
    one = [agent for agent, count in counts.items() if count == 1]
    few = [agent for agent, count in counts.items() if 1 < count < ENOUGH_SEEDS]
    if len(one) < len(counts):
        words += "Band: 95% bootstrap interval of the mean over trainings. "
    if one:
        words += f"One training of {_and(one)}: no band. "
    if few:
        words += (
            f"Fewer than {ENOUGH_SEEDS} trainings of {_and(few)}: the band is narrower than it "
            "should be. "
        )
    if len(counts) < len(group.agents):
        words += "Dotted: the mean of an agent that does not train. "
    return words + "Dashed with hollow markers: a baseline." * any(map(_is_baseline, counts))


def _trainings_table(group: Group) -> Html:
    trainings = [t for ts in group.agents.values() for t in ts]
    rows = [
        [
            _name(t.agent),
            t.seed,
            _number(_mean(t)),
            len(t.returns),
            _number(t.seconds, 0),
            "yes" if t.reused else "no",
            t.run or "-",
        ]
        for t in trainings
    ]
    head = ["agent", "seed", "mean", "games", "seconds", "finished before", "run"]
    table = _table(f"Each training on {group.label}", head, rows, words=["run"])
    return _tag("details", _tag("summary", f"All {_count(len(trainings), 'training')}"), table)


def _overall_section(
    groups: Sequence[Group],
    scales: Mapping[int, Scale | None],
    overall: Overall | None,
    pictures: Mapping[str, Path],
) -> list[Html]:
    if overall is None:
        return [_tag("p", "No agent has a score on every env, so there is nothing to sum up.")]
    counted = [
        (group.label, scale)
        for group in groups
        if group.label in overall.envs and (scale := scales[group.number])
    ]
    inside = [
        _tag("p", "A score is the mean return of a training's held-out games, normalised:"),
        _tag("ul", *[_tag("li", f"{label}: {scale.words}.") for label, scale in counted]),
    ]
    if own := [label for label, scale in counted if scale.own]:
        words = (
            "These scores cannot be compared with those of other reports: the scale of "
            f"{_and(own)} is made of the scores of this comparison, and changes with its agents."
        )
        inside.append(_tag("p", words))
    if any(scale.human for _, scale in counted):
        words = (
            "Human-normalised: human and random players were measured with no-op starts, without "
            "sticky actions, and games of at most 108,000 frames (dqn_zoo's table)."
        )
        inside.append(_tag("p", words, class_="soft"))
    inside.append(_overall_seeds(overall))
    alt = f"IQM, median, mean and optimality gap of {_and(list(overall.matrices))}."
    caption = (
        "Bars: 95% stratified bootstrap intervals, trainings drawn for each env by itself. "
        "The optimality gap is what is missing to 1. Hatched and hollow: a baseline."
    )
    inside += [
        _tag("h3", "Aggregates"),
        _figure(pictures["aggregates"], alt, caption),
        _aggregate_table(overall),
        _tag("h3", "Performance profiles"),
        _figure(
            pictures["profiles"],
            f"Performance profiles of {_and(list(overall.matrices))}.",
            "The share of trainings, of all envs together, that score above tau. Higher is "
            "better. Bands: 95% stratified bootstrap intervals.",
        ),
    ]
    if "improvement" in pictures:
        alt = f"Probability of improvement for {_count(len(overall.improvements), 'pair')}."
        words = (
            "The probability that a training of the first agent scores higher than one of the "
            "second, mean over envs; a tie counts half. Bars: 95% stratified bootstrap intervals. "
            "An interval that holds 0.5 leaves open which is better."
        )
        inside += [_tag("h3", "Probability of improvement")]
        inside += [_figure(pictures["improvement"], alt, words), _improvement_table(overall)]
    return inside


def _overall_seeds(overall: Overall) -> Html:
    counts = {agent: len(overall.matrices[agent]) for agent in overall.trained}
    one = [agent for agent, count in counts.items() if count == 1]
    few = [agent for agent, count in counts.items() if 1 < count < ENOUGH_SEEDS]
    words = ""
    if one:
        words += f"One training on each env of {_and(one)}: no interval over trainings. "
    if few:
        words += (
            f"Fewer than {ENOUGH_SEEDS} trainings on each env of {_and(few)}: too few for an "
            "interval to be trusted; it is narrower than it should be."
        )
    return _tag("p", words, class_="soft") if words else Html("")


def _aggregate_table(overall: Overall) -> Html:
    certain = overall.certain
    rows = [
        [
            _name(agent),
            len(overall.matrices[agent]) if agent in overall.trained else "-",
            *[_estimated(found[name], agent in certain) for name in AGGREGATES],
        ]
        for agent, found in overall.aggregates.items()
    ]
    caption = f"{overall.label} over {_and(overall.envs)}, with 95% intervals"
    return _table(caption, ["agent", "trainings on each env", *AGGREGATES], rows)


def _improvement_table(overall: Overall) -> Html:
    certain = overall.certain
    rows = [
        [f"{x} over {y}", _estimated(found, x in certain and y in certain)]
        for x, y, found in overall.improvements
    ]
    table = _table("Probability of improvement", ["pair", "probability, 95% interval"], rows)
    return _tag("details", _tag("summary", "The same in numbers"), table)


def _estimated(found: Estimate, certain: bool) -> str:
    interval = f"{found.low:z.2f} to {found.high:z.2f}" if certain else "-"
    return f"{found.value:z.2f} ({interval})"


def _published_section(
    groups: Sequence[Group], beside: Mapping[int, list[Published]]
) -> list[Html]:
    words = (
        "Published scores of the same algorithms, of each source the frame count nearest to ours. "
        "They were not got as ours were: the last column names what is known to differ, theirs "
        "against ours. What a source does not state beside its score, such as the handling of "
        "lost lives or the probability of a random action, may differ too."
    )
    inside = [_tag("p", words)]
    for group in groups:
        if "rom" not in group.protocol:
            continue
        inside.append(_tag("h3", group.label))
        if not beside[group.number]:
            inside.append(_tag("p", "No published score of these agents on this game is known."))
            continue
        head = ["our agent", "our mean", "published", "deviation", "human-normalised"]
        head += ["source", "differs in"]
        rows = [
            [
                _name(p.agent),
                _number(p.mean),
                _number(p.score),
                _number(p.std),
                _percent(p.human),
                f"{p.source}: {p.name}",
                "; ".join(p.differences) or "nothing that the source states",
            ]
            for p in beside[group.number]
        ]
        caption = f"{group.label}: our mean beside published ones, whose human-normalised is given"
        inside.append(_table(caption, head, rows, words=["source", "differs in"]))
    return inside


def _settings_section(groups: Sequence[Group]) -> list[Html]:
    found: dict[tuple[str, str], tuple[dict[str, Any], list[str]]] = {}
    for group in groups:
        for training in (t for ts in group.agents.values() for t in ts):
            key = training.agent, json.dumps(_plain(training.settings), sort_keys=True)
            settings, labels = found.setdefault(key, (training.settings, []))
            if group.label not in labels:
                labels.append(group.label)
    inside = []
    for (agent, _), (settings, labels) in found.items():
        rows = [[name, _show(value)] for name, value in settings.items()]
        where = f"{agent} on {_and(labels)}"
        table = (
            _table(f"Settings of {where}", ["setting", "value"], rows, words=["value"])
            if rows
            else _tag("p", "No settings.")
        )
        inside.append(_tag("details", _tag("summary", where), table))
    return inside


def _made_section(about: About) -> list[Html]:
    facts = {"date": about.date, "commit": about.commit or "-", **about.hardware}
    return [
        _tag("p", "This command repeats the comparison:"),
        _tag("pre", about.command),
        _table("Machine", ["fact", "value"], list(facts.items()), words=["value"]),
        _table("Versions", ["package", "version"], list(about.versions.items()), words=["version"]),
        _tag(
            "p",
            "results.json beside this page holds all numbers, scores.csv every held-out game.",
            class_="soft",
        ),
    ]


def _number(value: float | None, decimals: int | None = None) -> str:
    """A number as a table shows it; "-" where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    if decimals is None:
        decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:z,.{decimals}f}"


def _range(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "-"
    return f"{_number(low)} to {_number(high)}"


def _percent(share: float | None) -> str:
    return "-" if share is None or not math.isfinite(share) else f"{100 * share:z.1f}%"


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _show(value: Any) -> str:
    """A setting in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else "-"
    return value if isinstance(value, str) else json.dumps(_plain(value))
