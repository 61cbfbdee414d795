"""The page of a tuning: its trials, what mattered, and the best against the preset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import ticker

from ludus.comparison.analysis import finding
from ludus.comparison.figure import embedded, figure_at
from ludus.comparison.formatting import format_number
from ludus.comparison.groups import Training, group_trainings, score_agents
from ludus.comparison.page import render
from ludus.comparison.search_space import Dimension
from ludus.training.checkpoint import write_atomically

_FEWEST = 8  # finished trials from which the importance of fields is estimated
_COLUMNS = 4  # of slices side by side
_ROW = 2.6  # inches
_DONE, _PRUNED, _BEST = "#0072B2", "#666666", "#D55E00"


@dataclass(frozen=True)
class TrialRow:
    """One trial of the table."""

    number: int  # from 1
    state: str  # finished, pruned, failed
    score: float | None  # at its last rung
    env_steps: int  # of that rung
    values: dict[str, Any]
    runs: list[str]
    error: str | None = None


def trial_rows(study: Any) -> list[TrialRow]:
    """Return all trials of an Optuna study of `Tuning` that have ended."""
    names = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name in names:
            steps, score = max(trial.intermediate_values.items(), default=(0, None))
            attrs = trial.user_attrs
            rows.append(
                TrialRow(
                    number=trial.number + 1,
                    state=names[trial.state.name],
                    score=score,
                    env_steps=steps,
                    values=attrs.get("values", {}),
                    runs=attrs.get("runs", []),
                    error=attrs.get("error"),
                )
            )
    return rows


def importance_of(study: Any) -> dict[str, float]:
    """Return the importance of each field (PED-ANOVA), a share of 1; empty with too few trials."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if sum(row.state == "finished" for row in trial_rows(study)) < _FEWEST:
        return {}
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name.removeprefix("1 - "): float(share) for name, share in found.items()}


def write_tune_page(
    folder: Path,
    title: str,
    trials: Sequence[TrialRow],
    space: Mapping[str, Dimension],
    importance: Mapping[str, float],
    final: Sequence[Training],
    facts: Mapping[str, str],
) -> Path:
    """Write the figures and the page, one HTML file without external files; return its path.

    Args:
        folder: of the figures and the page.
        title: agent and env.
        trials: all of them, in their order.
        space: what varied.
        importance: of each field, a share of 1; empty with too few trials.
        final: trainings of the preset and of the best configuration with fresh seeds.
        facts: further values for the page, by their names.
    """
    figures = {"history": folder / "history.png", "slices": folder / "slices.png"}
    plot_history(trials, figures["history"])
    plot_slices(trials, space, figures["slices"])
    if importance:
        figures["importance"] = folder / "importance.png"
        plot_importance(importance, figures["importance"])
    ranked = sorted(trials, key=lambda t: (t.state != "finished", -(t.score or 0.0)))
    groups = group_trainings(final) if final else []
    values = {
        "title": title,
        "trials": ranked,
        "space": space,
        "facts": facts,
        "figures": {name: embedded(path) for name, path in figures.items()},
        "final": [(group, score_agents(group), finding(group)) for group in groups],
    }
    page = folder / "tune.html"
    write_atomically(page, render("tune.html.j2", values, filters={"number": format_number}))
    return page


def plot_history(trials: Sequence[TrialRow], path: Path | None) -> None:
    """Plot the score of each trial, and the best so far."""
    with figure_at(path, 1, 1, 3.4) as (_, (axes,)):
        done = [t for t in trials if t.state == "finished" and t.score is not None]
        pruned = [t for t in trials if t.state == "pruned" and t.score is not None]
        if pruned:
            axes.scatter(*_points(pruned), color=_PRUNED, marker="x", label="pruned")
        axes.scatter(*_points(done), color=_DONE, label="trained to the end")
        if done:
            best = np.maximum.accumulate(_points(done)[1])
            axes.step([t.number for t in done], best, where="post", color=_BEST, label="best")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes.set_xlabel("trial")
        axes.set_ylabel("IQM of the games")
        axes.legend(frameon=False)
        axes.grid(axis="y")


def _points(trials: Sequence[TrialRow]) -> tuple[list[int], list[float]]:
    return [t.number for t in trials], [t.score or 0.0 for t in trials]


def plot_slices(
    trials: Sequence[TrialRow], space: Mapping[str, Dimension], path: Path | None
) -> None:
    """Plot the scores of the trials over the values of each field."""
    done = [t for t in trials if t.state == "finished" and t.score is not None]
    pruned = [t for t in trials if t.state == "pruned" and t.score is not None]
    columns = min(_COLUMNS, len(space))
    rows = -(-len(space) // columns)
    with figure_at(path, 1, 1, _ROW * rows + 0.4) as (figure, (only,)):
        only.remove()
        for number, (name, dimension) in enumerate(space.items(), 1):
            axes = figure.add_subplot(rows, columns, number)
            for those, colour, marker in ((pruned, _PRUNED, "x"), (done, _DONE, "o")):
                values = [_shown(t.values[name], dimension) for t in those]
                axes.scatter(values, _points(those)[1], color=colour, marker=marker, s=18)
            axes.set_xlabel(f"1 - {name}" if dimension.below_one else name)
            if dimension.kind == "choice":
                axes.set_xticks(range(len(dimension.choices)), map(str, dimension.choices))
                axes.set_xlim(-0.5, len(dimension.choices) - 0.5)
            elif dimension.below_one or (dimension.kind == "float" and dimension.log):
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(ticker.FuncFormatter(_label))
                axes.xaxis.set_minor_locator(ticker.NullLocator())
                axes.margins(x=0.1)
                low, high = axes.get_xlim()
                axes.xaxis.set_major_locator(_few_ticks(high / low))
            if (number - 1) % columns == 0:
                axes.set_ylabel("IQM")
            axes.grid(axis="y")


def _label(number: float, _: int) -> str:
    """Return a short text of a number on a logarithmic axis."""
    if number >= 0.001:
        return f"{number:g}"
    return f"{number:.1e}".replace(".0e", "e").replace("e-0", "e-")


def _few_ticks(ratio: float) -> ticker.Locator:
    """Return where a logarithmic axis over this ratio has a few labels."""
    if ratio < 4:
        return ticker.MaxNLocator(4, steps=(1, 2, 5, 10))
    if ratio < 100:
        return ticker.LogLocator(subs=(1, 2, 5) if ratio < 20 else (1, 3))
    return ticker.LogLocator(numticks=5)


def _shown(value: Any, dimension: Dimension) -> Any:
    """Return a value's place on its axis."""
    if dimension.below_one:
        return 1 - value
    return dimension.choices.index(value) if dimension.kind == "choice" else value


def plot_importance(importance: Mapping[str, float], path: Path | None) -> None:
    """Plot the importance of each field as bars."""
    with figure_at(path, 1, 1, 0.35 * len(importance) + 1.0) as (_, (axes,)):
        names = sorted(importance, key=lambda name: importance[name])
        axes.barh(names, [importance[name] for name in names], color=_DONE)
        axes.set_xlabel("importance (share)")
        axes.grid(axis="x")
