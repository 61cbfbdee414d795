"""Plot a comparison: learning curves, aggregates with intervals, performance profiles.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish; line styles and
markers distinguish agents without colour. The kinds of plots are those of Agarwal et al. 2021,
https://arxiv.org/abs/2108.13264.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ludus.comparison.aggregates import ENOUGH_SEEDS, Estimate, mean_band, smooth
from ludus.comparison.figure import figure_at

# Yellow, the eighth colour of the palette, is left out: it is too pale on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX<>p"
_LINES: tuple[Any, ...] = ("-", (0, (7, 1.5, 1.5, 1.5)))  # the second one where colours repeat
_BASELINE_LINES: tuple[Any, ...] = ((0, (3.5, 1.5)), (0, (1.5, 1.2)))

_TITLE_LENGTH = 78  # characters that fit above a figure
_MARKER_SIZE = 5
_SLOWER = 5.0  # times; with a larger ratio of their times, agents share a logarithmic axis


@dataclass(frozen=True)
class Style:
    """Appearance of one agent in every figure of a report."""

    colour: str
    line: Any
    marker: str
    baseline: bool  # dashed lines and hollow markers

    @property
    def face(self) -> str:
        """Return the fill colour of the marker."""
        return "white" if self.baseline else self.colour


_UNTRAINED = Style("#777777", ":", "x", False)


def agent_styles(
    agents: Sequence[str], baselines: Collection[str] = (), untrained: Collection[str] = ()
) -> dict[str, Style]:
    """Assign a style to each agent; up to ten agents that train have different ones.

    Baselines have dashed lines and hollow markers. Agents that do not train are grey and dotted.
    """
    styles: dict[str, Style] = {}
    used: Counter[tuple[str, bool]] = Counter()
    trained = [agent for agent in agents if agent not in untrained]
    for i, agent in enumerate(trained):
        baseline = agent in baselines
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        lines = _BASELINE_LINES if baseline else _LINES
        line = lines[used[colour, baseline] % len(lines)]
        used[colour, baseline] += 1
        styles[agent] = Style(colour, line, marker, baseline)
    return styles | {agent: _UNTRAINED for agent in agents if agent in untrained}


def learning_curves(
    runs: Mapping[str, Sequence[np.ndarray]],
    levels: Mapping[str, float],
    title: str,
    path: Path | None,
    styles: Mapping[str, Style] | None = None,
) -> Figure:
    """Plot mean returns over env steps and over training time, side by side.

    The band is the 95% bootstrap interval of the mean over runs. A single run has no band.

    Args:
        runs: for each agent, the episodes [episodes, 4] of its runs.
        levels: for each agent that does not train, its mean return, drawn as a grey line.
        title: title of the figure.
        path: path of the PNG file; None to return the figure only.
        styles: a style for each agent of runs; default styles if None.
    """
    styles = styles or agent_styles(list(runs))
    curves = {name: [e for e in episodes if len(e)] for name, episodes in runs.items()}
    with figure_at(path, 1, 2, 4.3, sharey=True) as (figure, axes):
        seconds = max((e[-1, 1] for episodes in curves.values() for e in episodes), default=0.0)
        unit, scale = _unit(seconds)
        log_time = needs_log_time(list(curves.values()))
        for axis, column in zip(axes, (0, 1), strict=True):
            log = log_time and column == 1
            for i, (name, episodes) in enumerate(curves.items()):
                if episodes:
                    x_scale = scale if column else 1.0
                    _plot_curve(axis, episodes, column, x_scale, styles[name], i, log)
            for level in levels.values():
                axis.axhline(level, color=_UNTRAINED.colour, linestyle=":", linewidth=1.4)
            axis.set_xlabel(f"training time ({unit})" if column else "env steps")
            if log:
                axis.set_xscale("log")
                axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
            else:
                axis.set_xlim(left=0)
            axis.grid(True)
        axes[0].xaxis.set_major_formatter(ticker.FuncFormatter(_thousands))
        axes[0].set_ylabel("return, mean of 20 episodes")
        handles = [_handle(styles[name]) for name in curves]
        grey = Line2D([], [], color=_UNTRAINED.colour, linestyle=":", linewidth=1.4)
        handles += [grey for _ in levels]
        _add_legend(figure, handles, [*curves, *levels])
        figure.suptitle(_printable(title, _TITLE_LENGTH), fontsize=11, x=0.01, ha="left")
        counts = [len(episodes) for episodes in curves.values() if len(episodes) > 1]
        if counts:
            band = "band: 95% bootstrap interval of the mean over trainings"
            if min(counts) < ENOUGH_SEEDS:
                band += f" (fewer than {ENOUGH_SEEDS}: too narrow)"
            axes[0].set_title(band, fontsize=9, color="#444444", loc="left")
    return figure


def ratings(
    curves: Mapping[str, np.ndarray], levels: Mapping[str, float], title: str, path: Path | None
) -> Figure:
    """Plot Elo ratings of the stages of trainings over env steps.

    Args:
        curves: for each run, [stages, 4]: env steps, rating, and its 95% interval.
        levels: for each other contender, its rating, drawn as a grey line with its name.
        title: title of the figure.
        path: path of the PNG file; None to return the figure only.
    """
    styles = agent_styles(list(curves))
    with figure_at(path, 1, 1, 4.3) as (figure, axes):
        axis = axes[0]
        for name, points in curves.items():
            style, (steps, rating, low, high) = styles[name], points.T
            _plot_line(axis, steps, rating, style).set_clip_on(False)  # the first may be at 0
            axis.fill_between(steps, low, high, color=style.colour, alpha=0.16, linewidth=0)
        for name, level in levels.items():
            axis.axhline(level, color=_UNTRAINED.colour, linestyle=":", linewidth=1.4)
            axis.annotate(
                _printable(name),
                (1.0, level),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color="#444444",
            )
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(ticker.FuncFormatter(_thousands))
        axis.set_xlabel("env steps")
        axis.set_ylabel("Elo")
        axis.grid(True)
        axis.set_title(
            "band: 95% bootstrap interval over the games", fontsize=9, color="#444444", loc="left"
        )
        if len(curves) > 1:
            _add_legend(figure, [_handle(styles[name]) for name in curves], list(curves))
        figure.suptitle(_printable(title, _TITLE_LENGTH), fontsize=11, x=0.01, ha="left")
    return figure


def needs_log_time(runs: Sequence[Sequence[np.ndarray]]) -> bool:
    """Return whether the time of some agents would not be seen beside that of others.

    Args:
        runs: for each agent, the episodes [episodes, 4] of its runs.
    """
    ends = [max(e[-1, 1] for e in several if len(e)) for several in runs if any(map(len, several))]
    return len(ends) > 1 and min(ends) > 0 and max(ends) > _SLOWER * min(ends)


def _plot_curve(
    axis: Axes,
    runs: Sequence[np.ndarray],
    column: int,
    scale: float,
    style: Style,
    index: int,
    log: bool,
) -> None:
    """Plot the mean curve of an agent and its band.

    Args:
        axis: where it is plotted.
        runs: episodes [episodes, 4] of each run.
        column: column of the episodes on the x axis.
        scale: divisor of the x values.
        style: appearance of the agent.
        index: position of the agent, which shifts its markers.
        log: the x axis is logarithmic.
    """
    end = max(run[-1, column] for run in runs)
    grid = np.geomspace(end / 1000, end, 200) if log else np.linspace(0, end, 200)
    curves = np.stack([smooth(run[:, [column, 1, 2, 3]], grid) for run in runs])  # [runs, points]
    known = ~np.isnan(curves).any(axis=0)
    if not known.any():
        return
    x = grid[known] / scale
    mean, low, high = mean_band(curves[:, known])
    line = _plot_line(axis, x, mean, style)
    line.set_markevery((8 + 5 * index % 40, 40))  # shifted, so that those of equal curves are seen
    if len(runs) > 1:
        axis.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0)


def intervals(
    estimates: Mapping[str, Mapping[str, Estimate]],
    with_intervals: Collection[str],
    label: str,
    path: Path,
    styles: Mapping[str, Style] | None = None,
) -> None:
    """Plot a panel for each aggregate with the 95% interval of each agent.

    Args:
        estimates: for each agent, its aggregates by name.
        with_intervals: agents whose interval is plotted; others have only the value.
        label: name of the score, below the panels.
        path: path of the PNG file.
        styles: a style for each agent; default styles if None.
    """
    agents = list(estimates)
    styles = styles or agent_styles(agents)
    names = list(estimates[agents[0]])
    direction = {"optimality gap": "lower is better"}
    every = [e for of_agent in estimates.values() for e in of_agent.values()]
    low = min(0.0, *(min(e.low, e.value) for e in every))
    high = max(1.0, *(max(e.high, e.value) for e in every))
    with figure_at(path, 1, len(names), 1.35 + 0.32 * len(agents), sharey=True) as (figure, axes):
        for axis, name in zip(axes, names, strict=True):
            for row, agent in enumerate(agents):
                _plot_interval(
                    axis, row, estimates[agent][name], styles[agent], agent in with_intervals
                )
            axis.set_title(f"{name}\n({direction.get(name, 'higher is better')})", fontsize=10)
            axis.xaxis.set_major_locator(ticker.MaxNLocator(4, steps=[1, 2, 5, 10]))
            axis.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            axis.tick_params(axis="y", length=0)
        _label_rows(axes[0], [_printable(agent) for agent in agents])
        figure.supxlabel(label, fontsize=10)


def improvement(
    pairs: Sequence[tuple[str, str, Estimate]],
    with_intervals: Collection[str],
    certain: Collection[tuple[str, str]],
    path: Path,
) -> None:
    """Plot the probability that one agent improves on another, a row for each pair.

    Args:
        pairs: x, y and the probability that a run of x scores higher than a run of y.
        with_intervals: agents with enough runs; a pair has an interval if both have.
        certain: pairs whose probability is shown to be above or below 0.5; others are grey.
        path: path of the PNG file.
    """
    with figure_at(path, 1, 1, 1.1 + 0.29 * len(pairs)) as (_, axes):
        axis = axes[0]
        style = agent_styles(["x"])["x"]
        unsure = replace(style, colour=_UNTRAINED.colour)
        for row, (x, y, estimate) in enumerate(pairs):
            known = x in with_intervals and y in with_intervals
            drawn = style if (x, y) in certain else unsure
            _plot_interval(axis, row, estimate, drawn, known)
        axis.axvline(0.5, color="#777777", linestyle=":", linewidth=1.4, zorder=0)
        axis.set_xlim(-0.02, 1.02)
        axis.set_xlabel(
            "probability that a training of the first agent scores higher than one of the second"
        )
        _label_rows(axis, [f"{_printable(x)}  over  {_printable(y)}" for x, y, _ in pairs])


def profiles(
    taus: np.ndarray,
    curves: Mapping[str, np.ndarray],
    with_intervals: Collection[str],
    label: str,
    path: Path,
    styles: Mapping[str, Style] | None = None,
) -> None:
    """Plot performance profiles: the share of trainings above each score.

    Args:
        taus: [taus] scores.
        curves: for each agent, value, low and high, [3, taus].
        with_intervals: agents whose band is plotted.
        label: name of the score.
        path: path of the PNG file.
        styles: a style for each agent; default styles if None.
    """
    styles = styles or agent_styles(list(curves))
    with figure_at(path, 1, 1, 4.3) as (figure, axes):
        axis = axes[0]
        for i, (name, (value, low, high)) in enumerate(curves.items()):
            style = styles[name]
            # Markers of several agents would overlap at 0 and 1.
            between = np.flatnonzero((value > 0) & (value < 1))
            line = _plot_line(axis, taus, value, style)
            line.set_drawstyle("steps-post")
            line.set_markevery(between[2 + 2 * i % 12 :: 14].tolist())
            if name in with_intervals:
                axis.fill_between(
                    taus, low, high, color=style.colour, alpha=0.14, linewidth=0, step="post"
                )
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlim(taus[0], taus[-1])
        axis.set_xlabel(f"{label} (tau)")
        axis.set_ylabel("share of trainings above tau")
        axis.grid(True)
        _add_legend(figure, [_handle(styles[name]) for name in curves], list(curves))


def _plot_interval(
    axis: Axes, row: int, estimate: Estimate, style: Style, with_interval: bool
) -> None:
    """Plot the value of an estimate, and its interval as a bar."""
    if with_interval:
        width = estimate.high - estimate.low
        face = "white" if style.baseline else colors.to_rgba(style.colour, 0.35)
        hatch = "//////" if style.baseline else None
        axis.barh(
            row,
            width,
            0.55,
            estimate.low,
            facecolor=face,
            edgecolor=style.colour,
            hatch=hatch,
            lw=0.8,
        )
    axis.plot(
        estimate.value,
        row,
        marker=style.marker,
        markersize=6.5,
        color=style.colour,
        markerfacecolor=style.face,
        linestyle="none",
    )
    axis.grid(True, axis="x")


def _label_rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    axis.tick_params(axis="y", length=0, labelcolor="black")


def _plot_line(axis: Axes, x: np.ndarray, y: np.ndarray, style: Style) -> Line2D:
    """Plot a line with a marker at each point, and return it."""
    line = _handle(style)
    line.set_data(x, y)
    axis.add_line(line)
    axis.autoscale_view()
    return line


def _handle(style: Style) -> Line2D:
    """Return the legend entry of a style."""
    return Line2D(
        [],
        [],
        color=style.colour,
        linestyle=style.line,
        linewidth=1.7,
        marker=style.marker,
        markerfacecolor=style.face,
        markersize=_MARKER_SIZE,
    )


def _add_legend(figure: Figure, handles: Sequence[Line2D], names: Sequence[str]) -> None:
    figure.legend(
        handles,
        [_printable(name) for name in names],
        loc="outside lower center",
        ncols=min(len(names), 5) or 1,
        frameon=False,
        handlelength=3.4,
    )


def _printable(name: str, max_length: int = 24) -> str:
    """Replace characters that cannot be printed, and shorten a long name.

    matplotlib hides labels that begin with an underscore, so a space goes before it.
    """
    name = "".join(c if c.isprintable() else "?" for c in name)
    name = name if len(name) <= max_length else name[: max_length - 3] + "..."
    return f" {name}" if name.startswith("_") else name


def _thousands(value: float, _: int = 0) -> str:
    """Format 12,000 as 12k and 3,500,000 as 3.5M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _unit(seconds: float) -> tuple[str, float]:
    """Choose the unit of the time axis, and return it with its length in seconds."""
    if seconds >= 3 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if seconds >= 300 else ("seconds", 1.0)
