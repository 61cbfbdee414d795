"""Learning curves as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

# Okabe and Ito's colours, which stay apart for colour-blind readers.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def smooth(episodes: np.ndarray, grid: np.ndarray, window: int = 20) -> np.ndarray:
    """Mean return of the last `window` games at each step of grid; NaN before the first game.

    Args:
        episodes: [games, 4] as in episodes.csv.
        grid: [points] env steps.
        window: games in a mean.
    """
    steps, returns = episodes[:, 0], episodes[:, 2]
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    ends = np.searchsorted(steps, grid, side="right")  # games finished by then
    starts = np.maximum(ends - window, 0)
    with np.errstate(invalid="ignore"):
        return np.where(ends > 0, (sums[ends] - sums[starts]) / (ends - starts), np.nan)


def learning_curves(
    runs: Mapping[str, Sequence[np.ndarray]],
    levels: Mapping[str, float],
    title: str,
    path: Path,
) -> None:
    """Draw mean returns over env steps, and over seconds of training, beside each other.

    Args:
        runs: for each agent the episodes [games, 4] of its runs.
        levels: for each agent that does not train, its mean return: a dashed line.
        title: over both.
        path: of the PNG.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for axis, column, label in zip(axes, (0, 1), ("env steps", "seconds of training"), strict=True):
        for (name, episodes), colour in zip(runs.items(), _COLOURS, strict=False):
            _draw(axis, name, [e for e in episodes if len(e)], column, colour)
        for name, level in levels.items():
            axis.axhline(level, color="grey", linestyle="--", linewidth=1, label=name)
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("return, mean of 20 games")
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw(axis: plt.Axes, name: str, runs: list[np.ndarray], column: int, colour: str) -> None:
    if not runs:
        return
    grid = np.linspace(0, max(run[-1, column] for run in runs), 200)
    ordered = [np.column_stack([run[:, column], run[:, 1:]]) for run in runs]
    curves = np.stack([smooth(run, grid) for run in ordered])  # [runs, points]
    known = ~np.isnan(curves).all(axis=0)
    mean = np.nanmean(curves[:, known], axis=0)
    axis.plot(grid[known], mean, color=colour, label=name)
    if len(runs) > 1:
        low = np.nanmin(curves[:, known], axis=0)
        high = np.nanmax(curves[:, known], axis=0)
        axis.fill_between(grid[known], low, high, color=colour, alpha=0.18, linewidth=0)
