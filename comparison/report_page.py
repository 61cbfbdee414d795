"""Render the page of a report from `report.html.j2`: one HTML file without external files.

This module computes the values that the template shows. The template contains the texts and escapes
every value.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ludus.comparison.aggregates import (
    AGGREGATES,
    ENOUGH_SEEDS,
    Estimate,
    Score,
    human_reference,
)
from ludus.comparison.analysis import Analysis, finding
from ludus.comparison.figure import embedded
from ludus.comparison.formatting import (
    format_count,
    format_key,
    format_list,
    format_number,
    format_percent,
    format_setting,
    to_json,
)
from ludus.comparison.groups import Group, describe_budget, is_baseline, is_trained, mean_return
from ludus.comparison.page import render
from ludus.comparison.plots import needs_log_time


def render_page(analysis: Analysis, figures: Mapping[str, Path], film: Path | None = None) -> str:
    """Render the HTML of a report.

    Args:
        analysis: the results that the page shows.
        figures: PNG files by name: `curves-` and the slug of a group, `aggregates`, `profiles`,
            `improvement`.
        film: an MP4 of one of the agents; None for none.
    """
    filters: dict[str, Callable[..., Any]] = {
        "estimate": _format_estimate,
        "interval": _format_interval,
        "mean_return": mean_return,
        "number": format_number,
        "percent": format_percent,
        "count_of": format_count,
        "listed": format_list,
        "key": format_key,
        "setting": format_setting,
        "budget": lambda both: describe_budget(*both),
    }
    images = {name: embedded(path) for name, path in figures.items()}
    game = None
    if film is not None:
        game = {"name": film.name, "data": base64.b64encode(film.read_bytes()).decode()}
    values = _values(analysis) | {"figures": images, "film": game}
    return render("report.html.j2", values, filters=filters, tests={"baseline": is_baseline})


def _values(analysis: Analysis) -> dict[str, Any]:
    """Compute the values of the whole page."""
    groups, about = analysis.groups, analysis.about
    envs = list(dict.fromkeys(group.env for group in groups))
    trained = {id(t) for g in groups for ts in g.agents.values() for t in ts if t.steps}
    return {
        "about": about,
        "notes": analysis.notes,
        "enough_seeds": ENOUGH_SEEDS,
        "aggregates": list(AGGREGATES),
        "agents": list(dict.fromkeys(agent for group in groups for agent in group.agents)),
        "envs": envs,
        "trained_runs": len(trained),
        "sections": _sections(analysis, several_envs=len(envs) > 1),
        "groups": [_group_values(group, analysis) for group in groups],
        "settings": _settings(groups),
        "machine": {"date": about.date, "commit": about.commit or "-"} | about.hardware,
        **_overall_values(analysis),
    }


def _sections(analysis: Analysis, *, several_envs: bool) -> dict[str, str]:
    """Return the titles of the sections by their anchors, in order."""
    scores = {"scores": "Scores by env"}
    title = "All envs" if several_envs else "Normalised scores"
    overall = {"overall": title} if analysis.overall or several_envs else {}
    sections = overall | scores if several_envs else scores | overall
    if any(analysis.published.values()):
        sections["published"] = "Published scores"
    return sections | {"settings": "Agent settings", "made": "Reproduction"}


def _group_values(group: Group, analysis: Analysis) -> dict[str, Any]:
    """Compute the values of one group: its table, the caption of its curves, its trainings."""
    scores = analysis.tables[group.number]
    curves = {agent: len(ts) for agent, ts in group.agents.items() if is_trained(ts)}
    one, few = _too_few(curves)
    rom = group.protocol.get("rom", "")
    return {
        "group": group,
        "rom": rom,
        "human": human_reference(rom) is not None,
        "scores": scores,
        "finding": finding(group),
        "best": analysis.best[group.number],
        "few_trainings": [row.agent for row in scores if 0 < row.trainings < ENOUGH_SEEDS],
        "figure": f"curves-{group.slug}",
        "one_curve": one,
        "few_curves": few,
        "any_band": len(one) < len(curves),
        "log_time": needs_log_time([[t.episodes for t in group.agents[a]] for a in curves]),
        "any_untrained": len(curves) < len(group.agents),
        "any_baseline": any(map(is_baseline, curves)),
        "trainings": [t for ts in group.agents.values() for t in ts],
        "published": analysis.published[group.number],
    }


def _overall_values(analysis: Analysis) -> dict[str, Any]:
    """Compute the values of the section on all envs together."""
    overall = analysis.overall
    if overall is None:
        return {"overall": None}
    scales = {
        group.label: scale
        for group in analysis.groups
        if group.label in overall.envs and (scale := analysis.scales[group.number])
    }
    one, few = _too_few({agent: len(overall.matrices[agent]) for agent in overall.trained})
    return {
        "overall": overall,
        "scales": scales,
        "own_scales": [label for label, scale in scales.items() if scale.own],
        "one_training": one,
        "few_trainings": few,
    }


def _too_few(counts: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Return the agents with one training, and those with too few for a trusted interval."""
    one = [agent for agent, count in counts.items() if count == 1]
    few = [agent for agent, count in counts.items() if 1 < count < ENOUGH_SEEDS]
    return one, few


def _settings(groups: Sequence[Group]) -> list[tuple[str, dict[str, str]]]:
    """Return a title and the values of each distinct configuration of an agent."""
    settings: dict[tuple[str, str], dict[str, Any]] = {}
    labels: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        for training in (t for ts in group.agents.values() for t in ts):
            key = training.agent, json.dumps(to_json(training.settings), sort_keys=True)
            settings.setdefault(key, training.settings)
            if group.label not in labels.setdefault(key, []):
                labels[key].append(group.label)
    return [
        (
            f"{key[0]} on {format_list(labels[key])}",
            {name: format_setting(value) for name, value in of_agent.items()},
        )
        for key, of_agent in settings.items()
    ]


def _format_interval(score: Score) -> str:
    if not (math.isfinite(score.low) and math.isfinite(score.high)):
        return "-"
    return f"{format_number(score.low)} to {format_number(score.high)}"


def _format_estimate(estimate: Estimate, certain: bool) -> str:
    interval = f"{estimate.low:z.2f} to {estimate.high:z.2f}" if certain else "-"
    return f"{estimate.value:z.2f} ({interval})"
