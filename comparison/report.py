"""Write the report of a comparison: one HTML page without external files, and its numbers."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from ludus.comparison import plots
from ludus.comparison.analysis import About, Analysis, Overall, analyse, finding
from ludus.comparison.figure import SUFFIXES
from ludus.comparison.formatting import to_json
from ludus.comparison.groups import Group, Training, is_baseline, is_trained, mean_return
from ludus.comparison.report_page import render_page
from ludus.training.checkpoint import write_atomically


def write_report(
    folder: Path, trainings: Sequence[Training], about: About, film: Path | None = None
) -> list[Path]:
    """Write the report of a comparison.

    Each file is written atomically. Files of an earlier report in the folder stay if this report
    has no file of that name.

    Args:
        folder: folder of report.html, results.json, scores.csv and the figures; made if absent.
        trainings: all trainings; those that cannot be compared go into different groups.
        about: where the comparison was made.
        film: an MP4 that the page contains; None for none.

    Returns:
        The paths, report.html first.

    Raises:
        ValueError: No training has held-out games.
    """
    analysis = analyse(trainings, about)
    folder.mkdir(parents=True, exist_ok=True)
    figures = _plot(folder, analysis.groups, analysis.overall)
    write_atomically(folder / "scores.csv", _scores_csv(analysis))
    results = json.dumps(to_json(_results(analysis)), indent=1, allow_nan=False)
    write_atomically(folder / "results.json", results)
    html = render_page(analysis, figures, film)
    write_atomically(folder / "report.html", html)
    return [
        folder / "report.html",
        folder / "results.json",
        folder / "scores.csv",
        *(path.with_suffix(suffix) for path in figures.values() for suffix in SUFFIXES),
    ]


def _plot(folder: Path, groups: Sequence[Group], overall: Overall | None) -> dict[str, Path]:
    """Plot all figures and return their paths by name."""
    agents = list(dict.fromkeys(agent for group in groups for agent in group.agents))
    trained = {agent for group in groups for agent, ts in group.agents.items() if is_trained(ts)}
    baselines = [agent for agent in agents if is_baseline(agent)]
    styles = plots.agent_styles(agents, baselines, set(agents) - trained)
    paths = {}
    for group in groups:
        curves = {a: [t.episodes for t in ts] for a, ts in group.agents.items() if is_trained(ts)}
        if not any(len(episodes) for runs in curves.values() for episodes in runs):
            continue
        levels = {
            agent: float(np.mean([mean_return(t) for t in trainings]))
            for agent, trainings in group.agents.items()
            if agent not in curves
        }
        name = f"curves-{group.slug}"
        paths[name] = folder / f"{name}.png"
        plots.learning_curves(curves, levels, group.label, paths[name], styles)
    if overall is None:
        return paths
    known, label = overall.with_intervals, overall.label
    paths["aggregates"] = folder / "aggregates.png"
    plots.intervals(overall.aggregates, known, label, paths["aggregates"], styles)
    if overall.profiles:
        paths["profiles"] = folder / "profiles.png"
        plots.profiles(overall.taus, overall.profiles, known, label, paths["profiles"], styles)
    if overall.improvements:
        paths["improvement"] = folder / "improvement.png"
        plots.improvement(overall.improvements, known, overall.certain, paths["improvement"])
    return paths


def _scores_csv(analysis: Analysis) -> str:
    """Write one line for each held-out game.

    `group` is the first group of results.json that the game is in.
    """
    numbers: dict[int, int] = {}
    for group in analysis.groups:
        for training in (t for ts in group.agents.values() for t in ts):
            numbers.setdefault(id(training), group.number)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["env", "agent", "seed", "game", "return", "length", "group"])
    for t in analysis.scored:
        for game, (score, length) in enumerate(zip(t.returns, t.lengths, strict=True)):
            writer.writerow([t.env, t.agent, t.seed, game, score, length, numbers[id(t)]])
    return text.getvalue().encode("utf-8", "replace").decode()  # a name may hold lone surrogates


def _results(analysis: Analysis) -> dict[str, Any]:
    """Return the content of results.json."""
    names = [field.name for field in fields(Training) if field.name != "episodes"]
    return {
        "about": asdict(analysis.about),
        "notes": analysis.notes,
        "groups": [
            {
                "number": group.number,
                "env": group.env,
                "label": group.label,
                "steps": group.steps,
                "minutes": group.minutes,
                "protocol": group.protocol,
                "normalised": analysis.scales[group.number],
                "finding": finding(group),
                "agents": analysis.tables[group.number],
                "best": analysis.best[group.number],
                "published": analysis.published[group.number],
            }
            for group in analysis.groups
        ],
        "overall": _overall_results(analysis.overall) if analysis.overall else None,
        "trainings": [{name: getattr(t, name) for name in names} for t in analysis.trainings],
    }


def _overall_results(overall: Overall) -> dict[str, Any]:
    return {
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
            {"x": x, "y": y, **asdict(probability)} for x, y, probability in overall.improvements
        ],
    }
