"""Pictures of a comparison: learning curves, aggregates with intervals, performance profiles.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; a line style and a marker
tell agents apart in print. The forms are those of Agarwal et al. 2021,
https://arxiv.org/abs/2108.13264. A picture is written under a temporary name and renamed.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors, ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ludus.comparison.aggregates import ENOUGH_SEEDS, Estimate, mean_band, smooth

# The yellow of the eight is left out: on white it cannot be seen.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX<>p"
_LINES: tuple[Any, ...] = ("-", (0, (7, 1.5, 1.5, 1.5)))  # a new one where colours repeat
_BASELINE: tuple[Any, ...] = ((0, (3.5, 1.5)), (0, (1.5, 1.2)))

_SETTINGS: Any = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.parse_math": False,  # a name may hold dollars
}
_WIDTH = 9.5  # inches
_TITLE = 78  # characters that fit over a picture


@dataclass(frozen=True)
class Style:
    """How one agent is drawn in every picture of a report."""

    colour: str
    line: Any
    marker: str
    baseline: bool  # dashed and hollow

    @property
    def face(self) -> str:
        """Inside of a marker."""
        return "white" if self.baseline else self.colour


_UNTRAINED = Style("#777777", ":", "x", False)


def styles(
    agents: Sequence[str], baselines: Collection[str] = (), untrained: Collection[str] = ()
) -> dict[str, Style]:
    """A style for each agent, all different for up to ten that train.

    Baselines are dashed and hollow. Agents that do not train are grey and dotted.
    """
    found: dict[str, Style] = {}
    used: Counter[tuple[str, bool]] = Counter()
    trained = [agent for agent in agents if agent not in untrained]
    for i, agent in enumerate(trained):
        baseline = agent in baselines
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        lines = _BASELINE if baseline else _LINES
        line = lines[used[colour, baseline] % len(lines)]
        used[colour, baseline] += 1
        found[agent] = Style(colour, line, marker, baseline)
    return found | {agent: _UNTRAINED for agent in agents if agent in untrained}


def learning_curves(
    runs: Mapping[str, Sequence[np.ndarray]],
    levels: Mapping[str, float],
    title: str,
    path: Path,
    look: Mapping[str, Style] | None = None,
) -> None:
    """Draw mean returns over env steps, and over seconds of training, beside each other.

    The band is the 95% bootstrap interval of the mean over runs; one run has none.

    Args:
        runs: for each agent the episodes [games, 4] of its runs.
        levels: for each agent that does not train, its mean return: a grey line.
        title: over both.
        path: of the PNG.
        look: a style for each agent of runs.
    """
    look = look or styles(list(runs))
    shown = {name: [e for e in episodes if len(e)] for name, episodes in runs.items()}
    with _figure(path, 1, 2, 4.3, sharey=True) as (figure, axes):
        seconds = max((e[-1, 1] for of_agent in shown.values() for e in of_agent), default=0.0)
        unit, scale = _unit(seconds)
        for axis, column in zip(axes, (0, 1), strict=True):
            for i, (name, episodes) in enumerate(shown.items()):
                if episodes:
                    _draw(axis, episodes, column, scale if column else 1.0, look[name], i)
            for level in levels.values():
                axis.axhline(level, color=_UNTRAINED.colour, linestyle=":", linewidth=1.4)
            axis.set_xlabel(f"{unit} of training" if column else "env steps")
            axis.set_xlim(left=0)
            axis.grid(True)
        axes[0].xaxis.set_major_formatter(ticker.FuncFormatter(_thousands))
        axes[0].set_ylabel("return, mean of 20 games")
        handles = [_handle(look[name]) for name in shown]
        grey = Line2D([], [], color=_UNTRAINED.colour, linestyle=":", linewidth=1.4)
        handles += [grey for _ in levels]
        _legend(figure, handles, [*shown, *levels])
        figure.suptitle(_text(title, _TITLE), fontsize=11, x=0.01, ha="left")
        counts = [len(episodes) for episodes in shown.values() if len(episodes) > 1]
        if counts:
            few = f"; fewer than {ENOUGH_SEEDS}, too narrow" if min(counts) < ENOUGH_SEEDS else ""
            band = f"band: 95% bootstrap interval of the mean over trainings{few}"
            axes[0].set_title(band, fontsize=9, color="#444444", loc="left")


def _draw(
    axis: plt.Axes, runs: Sequence[np.ndarray], column: int, scale: float, style: Style, place: int
) -> None:
    grid = np.linspace(0, max(run[-1, column] for run in runs), 200)
    curves = np.stack([smooth(run[:, [column, 1, 2, 3]], grid) for run in runs])  # [runs, points]
    known = ~np.isnan(curves).any(axis=0)
    if not known.any():
        return
    x = grid[known] / scale
    mean, low, high = mean_band(curves[:, known])
    axis.plot(
        x,
        mean,
        color=style.colour,
        linestyle=style.line,
        linewidth=1.7,
        marker=style.marker,
        markerfacecolor=style.face,
        markersize=5,
        markevery=(8 + 5 * place % 40, 40),  # so that markers of equal curves do not cover
    )
    if len(runs) > 1:
        axis.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0)


def intervals(
    estimates: Mapping[str, Mapping[str, Estimate]],
    certain: Collection[str],
    label: str,
    path: Path,
    look: Mapping[str, Style] | None = None,
) -> None:
    """Draw a panel for each aggregate with a bar for each agent's 95% interval.

    Args:
        estimates: for each agent, its aggregates by name.
        certain: agents whose interval is drawn; of the others only the value.
        label: under the panels, what the scores are.
        path: of the PNG.
        look: a style for each agent.
    """
    agents = list(estimates)
    look = look or styles(agents)
    names = list(estimates[agents[0]])
    better = {"optimality gap": "lower is better"}
    ends = [end for of_agent in estimates.values() for e in of_agent.values() for end in _ends(e)]
    low, high = min(0.0, *ends), max(1.0, *ends)
    with _figure(path, 1, len(names), 1.35 + 0.32 * len(agents), sharey=True) as (figure, axes):
        for axis, name in zip(axes, names, strict=True):
            for row, agent in enumerate(agents):
                _interval(axis, row, estimates[agent][name], look[agent], agent in certain)
            axis.set_title(f"{name}\n({better.get(name, 'higher is better')})", fontsize=10)
            axis.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10]))
            axis.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            axis.tick_params(axis="y", length=0)
        _rows(axes[0], [_text(agent) for agent in agents])
        figure.supxlabel(label, fontsize=10)


def improvement(
    pairs: Sequence[tuple[str, str, Estimate]], certain: Collection[str], path: Path
) -> None:
    """Draw the probability that an agent beats another, a row for each pair.

    Args:
        pairs: x, y and the probability that a run of x beats one of y.
        certain: agents with enough runs for an interval; it is drawn where both are.
        path: of the PNG.
    """
    with _figure(path, 1, 1, 1.1 + 0.29 * len(pairs)) as (_, axes):
        axis = axes[0]
        style = styles(["x"])["x"]
        for row, (x, y, found) in enumerate(pairs):
            _interval(axis, row, found, style, x in certain and y in certain)
        axis.axvline(0.5, color="#777777", linestyle=":", linewidth=1.4, zorder=0)
        axis.set_xlim(-0.02, 1.02)
        axis.set_xlabel("probability that a training of the first beats one of the second")
        _rows(axis, [f"{_text(x)}  over  {_text(y)}" for x, y, _ in pairs])


def profiles(
    taus: np.ndarray,
    found: Mapping[str, np.ndarray],
    certain: Collection[str],
    label: str,
    path: Path,
    look: Mapping[str, Style] | None = None,
) -> None:
    """Draw performance profiles: the share of trainings above each score.

    Args:
        taus: [taus] scores.
        found: for each agent value, low and high, [3, taus].
        certain: agents whose band is drawn.
        label: of the axis, what the scores are.
        path: of the PNG.
        look: a style for each agent.
    """
    look = look or styles(list(found))
    with _figure(path, 1, 1, 4.3) as (figure, axes):
        axis = axes[0]
        for i, (name, (value, low, high)) in enumerate(found.items()):
            style = look[name]
            on_the_way = np.flatnonzero(
                (value > 0) & (value < 1)
            )  # markers at 0 and 1 would pile up
            axis.plot(
                taus,
                value,
                color=style.colour,
                linestyle=style.line,
                linewidth=1.7,
                drawstyle="steps-post",
                marker=style.marker,
                markerfacecolor=style.face,
                markersize=5,
                markevery=on_the_way[2 + 2 * i % 12 :: 14].tolist(),
            )
            if name in certain:
                axis.fill_between(
                    taus, low, high, color=style.colour, alpha=0.14, linewidth=0, step="post"
                )
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlim(taus[0], taus[-1])
        axis.set_xlabel(label + ", tau")
        axis.set_ylabel("share of trainings above tau")
        axis.grid(True)
        _legend(figure, [_handle(look[name]) for name in found], list(found))


@contextmanager
def _figure(
    path: Path, rows: int, columns: int, height: float, *, sharey: bool = False
) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes, saved whole or not at all."""
    with plt.rc_context(_SETTINGS):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(_WIDTH, height),
            layout="constrained",
            sharey=sharey,
            squeeze=False,
        )
        try:
            yield figure, axes[0]
            temporary = path.with_name(f".{path.name}.tmp")
            figure.savefig(temporary, dpi=140, format="png")
            temporary.replace(path)
        finally:
            plt.close(figure)


def _interval(axis: plt.Axes, row: int, found: Estimate, style: Style, certain: bool) -> None:
    if certain:
        width = found.high - found.low
        face = "white" if style.baseline else colors.to_rgba(style.colour, 0.35)
        hatch = "//////" if style.baseline else None
        axis.barh(
            row, width, 0.55, found.low, facecolor=face, edgecolor=style.colour, hatch=hatch, lw=0.8
        )
    axis.plot(
        found.value,
        row,
        marker=style.marker,
        markersize=6.5,
        color=style.colour,
        markerfacecolor=style.face,
        linestyle="none",
    )
    axis.grid(True, axis="x")


def _ends(found: Estimate) -> tuple[float, float, float]:
    return found.low, found.value, found.high


def _rows(axis: plt.Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    axis.tick_params(axis="y", length=0, labelcolor="black")


def _handle(style: Style) -> Line2D:
    return Line2D(
        [],
        [],
        color=style.colour,
        linestyle=style.line,
        linewidth=1.7,
        marker=style.marker,
        markerfacecolor=style.face,
        markersize=5,
    )


def _legend(figure: Figure, handles: Sequence[Line2D], names: Sequence[str]) -> None:
    figure.legend(
        handles,
        [_text(name) for name in names],
        loc="outside lower center",
        ncols=min(len(names), 5) or 1,
        frameon=False,
        handlelength=3.4,
    )


def _text(name: str, longest: int = 24) -> str:
    """A name as a picture can show it: printable, not too long, and not hidden by matplotlib."""
    name = "".join(c if c.isprintable() else "?" for c in name)
    name = name if len(name) <= longest else name[: longest - 3] + "..."
    return f" {name}" if name.startswith("_") else name


def _thousands(value: float, _: int = 0) -> str:
    """12,000 as 12k and 3,500,000 as 3.5M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _unit(seconds: float) -> tuple[str, float]:
    """The unit a time of training is shown in, and its seconds."""
    if seconds >= 3 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if seconds >= 300 else ("seconds", 1.0)
