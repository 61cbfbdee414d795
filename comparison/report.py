"""The report of a comparison: one HTML page that opens anywhere, and the numbers behind it."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from ludus.comparison import plots
from ludus.comparison.analysis import (
    About,
    Findings,
    Group,
    Overall,
    Training,
    find,
    is_baseline,
    learns,
    mean_return,
    plain,
)
from ludus.comparison.report_page import render_page
from ludus.training.checkpoint import write_atomically


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
    found = find(trainings, about)
    out.mkdir(parents=True, exist_ok=True)
    pictures = _draw(out, found.groups, found.overall)
    write_atomically(out / "scores.csv", _scores(found))
    told = json.dumps(plain(_results(found)), indent=1, allow_nan=False)
    write_atomically(out / "results.json", told)
    # references in place of other characters, so that no encoding can spoil the page
    html = render_page(found, pictures).encode("ascii", "xmlcharrefreplace").decode()
    write_atomically(out / "report.html", html)
    return [out / "report.html", out / "results.json", out / "scores.csv", *pictures.values()]


def _draw(out: Path, groups: Sequence[Group], overall: Overall | None) -> dict[str, Path]:
    """All pictures by what they show: a group's slug, or the name of the figure."""
    agents = list(dict.fromkeys(agent for group in groups for agent in group.agents))
    trained = {agent for group in groups for agent, ts in group.agents.items() if learns(ts)}
    baselines = [agent for agent in agents if is_baseline(agent)]
    look = plots.styles(agents, baselines, set(agents) - trained)
    drawn = {}
    for group in groups:
        curves = {a: [t.episodes for t in ts] for a, ts in group.agents.items() if learns(ts)}
        if not any(len(e) for of_agent in curves.values() for e in of_agent):
            continue
        levels = {
            a: float(np.mean([mean_return(t) for t in ts]))
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


def _scores(found: Findings) -> str:
    """One line a held-out game; `group` is the first group of results.json the game is in."""
    numbers: dict[int, int] = {}
    for group in found.groups:
        for training in (t for ts in group.agents.values() for t in ts):
            numbers.setdefault(id(training), group.number)
    told = io.StringIO()
    writer = csv.writer(told, lineterminator="\n")
    writer.writerow(["env", "agent", "seed", "game", "return", "length", "group"])
    for t in found.played:
        for game, (score, length) in enumerate(zip(t.returns, t.lengths, strict=True)):
            writer.writerow([t.env, t.agent, t.seed, game, score, length, numbers[id(t)]])
    return told.getvalue().encode("utf-8", "replace").decode()  # a name may be no text


def _results(found: Findings) -> dict[str, Any]:
    names = [field.name for field in fields(Training) if field.name != "episodes"]
    told: dict[str, Any] = {
        "about": asdict(found.about),
        "notes": found.notes,
        "groups": [
            {
                "number": group.number,
                "env": group.env,
                "label": group.label,
                "steps": group.steps,
                "protocol": group.protocol,
                "normalised": found.scales[group.number],
                "agents": found.tables[group.number],
                "published": found.beside[group.number],
            }
            for group in found.groups
        ],
        "overall": None,
        "trainings": [{name: getattr(t, name) for name in names} for t in found.trainings],
    }
    overall = found.overall
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
                {"x": x, "y": y, **asdict(better)} for x, y, better in overall.improvements
            ],
        }
    return told
