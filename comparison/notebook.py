"""Learning curves of runs as a figure, for notebooks."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ludus.comparison.plots import learning_curves
from ludus.envs.errors import UsageError
from ludus.training.api import TrainedAgent, folder_of
from ludus.training.logger import Episodes
from ludus.training.run import Run


def plot(
    runs: TrainedAgent | Path | str | Sequence[TrainedAgent | Path | str], title: str = ""
) -> Figure:
    """Draw the learning curves of runs, over env steps and over training time.

    Runs of one agent on one env become one curve: their mean, with its 95% bootstrap interval.

    Args:
        runs: one or more, by their folders or by what `ludus.train` returns.
        title: of the figure; the env by default.

    Returns:
        The figure; `savefig` saves it, and a notebook shows it below the cell.

    Raises:
        UsageError: there are no runs, or none has finished a game yet.
    """
    given = [runs] if isinstance(runs, TrainedAgent | Path | str) else list(runs)
    folders = [folder_of(run) for run in given]
    configs = [Run.open(folder).config() for folder in folders]
    envs = sorted({config.env for config in configs})
    curves = defaultdict[str, list[np.ndarray]](list)
    for folder, config in zip(folders, configs, strict=True):
        name = config.agent if len(envs) == 1 else f"{config.agent} on {config.env}"
        curves[name].append(Episodes.read(folder / "episodes.csv"))
    if not any(len(episodes) for several in curves.values() for episodes in several):
        raise UsageError("there is nothing to plot yet: no run has finished a game")
    return learning_curves(curves, {}, title or ", ".join(envs), None)
