"""A model card: what a trained agent is, how well it plays, how it was made, and its limits.

A page in Markdown with the metadata that model hubs read (Mitchell et al. 2019,
https://arxiv.org/abs/1810.03993), and a picture of the learning curve.
"""

import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ludus.agents import registry
from ludus.comparison.aggregates import Score, human_normalised, summarise
from ludus.comparison.plots import learning_curves
from ludus.envs.errors import LudusError
from ludus.training.checkpoint import write_atomically
from ludus.training.files import read_json
from ludus.training.logger import Episodes
from ludus.training.packed import command_of
from ludus.training.run import Run, RunConfig

CURVE = "curve.png"


def write_card(run: Run, path: Path, name: str) -> Path | None:
    """Write the card of a run, and its learning curve beside it.

    Args:
        run: the run.
        path: of the card.
        name: how a reader names the run in commands.

    Returns:
        The path of the curve; None if no game has finished.
    """
    try:
        games = Episodes.read(run.path / "episodes.csv")
    except (OSError, ValueError):
        games = np.zeros((0, 4))
    config, curve = run.config(), None
    if len(games) and config.protocol.get("kind") != "board":  # in self-play it says little
        curve = path.with_name(CURVE)
        picture = io.BytesIO()
        learning_curves({config.agent: [games]}, {}, config.env, None).savefig(picture, dpi=90)
        write_atomically(curve, picture.getvalue())
    write_atomically(path, "\n\n".join(_sections(run, config, name, curve)) + "\n")
    return curve


def _sections(run: Run, config: RunConfig, name: str, curve: Path | None) -> Iterator[str]:
    evaluations = run.evaluations()
    returns = [np.asarray(e["returns"], float) for e in evaluations[-1:]]
    returns = [each + 0.0 for each in returns]  # no -0.0
    score = summarise(returns[0][None]) if returns else None
    yield _metadata(config, returns[0] if returns else None)
    yield f"# {config.agent} on {config.env}"
    yield f"Algorithm: {_summary(config.agent)}. Trained by Ludus."
    yield _table(_facts(run, config))
    yield "## Scores"
    if score is None:
        yield "It was not evaluated."
    else:
        yield from _scores(config, score, returns[0])
        if evaluations[-1]["env_steps"] < run.status().env_steps:
            yield f"They were played after {evaluations[-1]['env_steps']:,} {_unit(config)}."
    if curve is not None:
        yield f"![Learning curve]({curve.name})"
    means = {
        f"after {e['env_steps']:,}": f"{np.mean(e['returns']):.2f} in {len(e['returns'])} games"
        for e in evaluations
    }
    if curve is None and len(means) > 1:
        yield "Mean score over the training:"
        yield _table(means)
    yield "## Use"
    yield _use(config, name)
    yield "## How it was made"
    yield from _making(run)
    yield "## Limits"
    yield "\n".join(f"- {each}" for each in _limits(config, score))


def _metadata(config: RunConfig, returns: np.ndarray | None) -> str:
    """Return the entries that hubs read, which are YAML; JSON's strings are YAML's."""
    text = json.dumps
    tags = ["reinforcement-learning", "deep-reinforcement-learning", config.agent, config.env]
    lines = ["---", "library_name: ludus", "tags:", *(f"- {text(tag)}" for tag in tags)]
    if returns is not None:
        lines += [
            "model-index:",
            f"- name: {text(config.agent)}",
            "  results:",
            "  - task:",
            "      type: reinforcement-learning",
            "      name: reinforcement-learning",
            "    dataset:",
            f"      name: {text(config.env)}",
            f"      type: {text(config.env)}",
            "    metrics:",
            "    - type: mean_reward",
            f"      value: {text(f'{returns.mean():.2f} +/- {returns.std():.2f}')}",
            "      name: mean_reward",
            "      verified: false",
        ]
    return "\n".join([*lines, "---"])


def _summary(agent: str) -> str:
    """Return what the algorithm is, with its paper as a link."""
    try:
        summary = registry.entry(agent).summary
    except LudusError:  # of a newer or another Ludus
        return agent
    words, _, paper = summary.rpartition(", ")
    return f"[{words}]({paper})" if re.match(r"https?://", paper) else summary


def _unit(config: RunConfig) -> str:
    """Return what the training's steps are."""
    return "env steps" if config.train.unit == "steps" else config.train.unit


def _facts(run: Run, config: RunConfig) -> dict[str, str]:
    status, t = run.status(), config.train
    facts = {
        "environment": f"`{config.env}`",
        "protocol": ", ".join(f"{name} {value}" for name, value in config.protocol.items()),
        "trained for": f"{status.env_steps:,} {_unit(config)}",
    }
    if status.seconds:
        minutes = status.seconds / 60
        took = f"{minutes:.0f} minutes" if minutes >= 10 else f"{status.seconds:.0f} seconds"
        facts["time of training"] = f"{took} on {t.device}"
    return facts | {"seed": str(t.seed)}


def _table(facts: dict[str, str]) -> str:
    rows = [
        f"| {name} | {' '.join(value.replace('|', ' ').split())} |" for name, value in facts.items()
    ]
    return "\n".join(["| | |", "|---|---|", *rows])


def _scores(config: RunConfig, score: Score, returns: np.ndarray) -> Iterator[str]:
    """Yield a table of the last evaluation, and what its numbers are."""
    facts = {
        "mean": f"{score.mean:.2f}",
        "IQM": f"{score.iqm:.2f} (95% interval {score.low:.2f} to {score.high:.2f})",
        "lowest, highest": f"{returns.min():.2f}, {returns.max():.2f}",
    }
    opponent = config.protocol.get("opponent")
    if opponent is not None:
        won, lost = int((returns > 0).sum()), int((returns < 0).sum())
        facts = {"won, drawn, lost": f"{won}, {len(returns) - won - lost}, {lost}"} | facts
    human = human_normalised(str(config.protocol.get("rom", "")), score.mean)
    if human is not None:
        facts["human-normalised mean"] = f"{human:.0%}"
    yield _table(facts)
    against = f" against `{opponent}`" if opponent is not None else ""
    epsilon = config.train.eval_epsilon
    how = f"a random action with probability {epsilon:g}" if epsilon else "no random actions"
    yield (
        f"{len(returns)} full held-out games{against} with {how}. The interval is over these games."
    )


def _use(config: RunConfig, name: str) -> str:
    commands = [f"ludus watch {name}", f"ludus evaluate {name}"]
    if "opponent" in config.protocol:
        commands.insert(0, f"ludus play {name} --web")
    python = f'import ludus\n\nagent = ludus.load("{name}")\nresult = ludus.evaluate(agent)'
    shell = "\n".join(commands)
    return f"```\n{shell}\n```\n\n```python\n{python}\n```"


def _making(run: Run) -> Iterator[str]:
    """Yield the command, the commit and the versions, as far as they are known."""
    try:
        record: dict[str, Any] = read_json(run.path / "config.json")
    except (OSError, ValueError):
        record = {}
    command = command_of(record)
    if command:
        yield f"```\n{shlex.join(command)}\n```"
    versions = record.get("versions")
    known = versions if isinstance(versions, dict) else {}
    made = ", ".join(f"{package} {version}" for package, version in known.items())
    commit = f", at commit {record['commit']}" if record.get("commit") else ""
    yield f"With {made}{commit}." if made else "Its versions are not known."


def _limits(config: RunConfig, score: Score | None) -> Iterator[str]:
    yield "It is one training with one seed; other seeds may play better or worse."
    if score is not None:
        yield "The scores are those of this protocol; scores under another are not comparable."
    kind = config.protocol.get("kind")
    if kind == "atari" and not config.protocol.get("sticky"):
        yield "Without sticky actions games repeat themselves, and it may know them by heart."
    if kind == "board":
        yield "It plays the rules and the size of board that it was trained on, and no others."
    yield "It was trained in simulation, for study and comparison, and for nothing else."
