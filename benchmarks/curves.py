"""Draw the curves of an experiment, by env steps and by time, beside published scores.

python benchmarks/curves.py EXPERIMENT     # pictures/EXPERIMENT.png

A point is the mean of a training's held-out games; a line is the mean over trainings, with the 95%
bootstrap interval of that mean as a band, or if they are few with a thin line for each. Seconds are
of training, without evaluations, on a machine that did other work too.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from trainings import curve_of, results

from ludus.comparison.aggregates import ENOUGH_SEEDS, mean_band
from ludus.comparison.figure import figure_at
from ludus.comparison.plots import Style, agent_styles
from ludus.comparison.published_scores import published_table
from ludus.training.checkpoint import write_atomically

PICTURES = Path(__file__).parent / "pictures"
_HEIGHT = 5.6  # inches, of two rows


def draw(name: str) -> Path:
    """Draw an experiment and return the path of the picture.

    Raises:
        SystemExit: it has no results with times yet.
    """
    lines = [line for line in results(name).values() if "training_seconds" in line]
    if not lines:
        raise SystemExit(
            f"{name} has no results with times yet; trainings.py run {name} makes them"
        )
    envs = list(dict.fromkeys(line["env"] for line in lines))
    variants = list(dict.fromkeys(line["variant"] for line in lines))
    baselines = [each for each in variants if each.startswith("sb3:")]
    styles = agent_styles(variants, baselines)
    with figure_at(None, 2, len(envs), _HEIGHT) as (figure, _):
        for i, env in enumerate(envs):
            for row in (0, 1):
                axis = figure.axes[row * len(envs) + i]
                for variant in variants:
                    of_one = [x for x in lines if (x["env"], x["variant"]) == (env, variant)]
                    curves = [curve_of(line) for line in of_one]
                    if curves:
                        _plot(axis, curves, row, styles[variant], variant)
                _published(axis, env)
                axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
                axis.set_xlim(left=0)
                axis.grid(True)
                axis.set_xlabel("minutes of training" if row else "million env steps", fontsize=8)
                axis.tick_params(labelsize=8)
                axis.xaxis.set_major_locator(ticker.MaxNLocator(4))
            figure.axes[i].set_title(env.removeprefix("MinAtar/").removesuffix("-v1"), fontsize=10)
        for row in (0, 1):
            figure.axes[row * len(envs)].set_ylabel("held-out return", fontsize=9)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False
        )
        return save(figure, name)


def asked_for(about: str) -> str:
    """Return the experiment that the command line names.

    Args:
        about: what the program does.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment")
    return str(parser.parse_args().experiment)


def save(figure: Figure, name: str) -> Path:
    """Save a picture, and return its path."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    path = PICTURES / f"{name}.png"
    write_atomically(path, picture.getvalue())
    return path


def _plot(axis: Axes, curves: Sequence[np.ndarray], column: int, style: Style, label: str) -> None:
    """Plot the mean of curves [points, 3] over steps (column 0) or seconds (1)."""
    points = min(map(len, curves))
    stacked = np.stack([curve[:points] for curve in curves])  # [trainings, points, 3]
    x = stacked[..., column].mean(0) / (60 if column else 1e6)
    returns = stacked[..., 2]
    label = f"{label}, {len(curves)} training{'s' if len(curves) > 1 else ''}"
    axis.plot(x, returns.mean(0), color=style.colour, linestyle=style.line, label=label)
    if len(curves) >= ENOUGH_SEEDS:
        _, low, high = mean_band(returns)
        axis.fill_between(x, low, high, color=style.colour, alpha=0.2, linewidth=0)
    elif len(curves) > 1:
        for each in returns:
            axis.plot(x, each, color=style.colour, linewidth=0.7, alpha=0.6)


def _published(axis: Axes, env: str) -> None:
    """Draw the published scores of an env as lines."""
    for row, dashes in zip(
        published_table().get(env, []), ((1, 1), (4, 2), (6, 1, 1, 1)), strict=False
    ):
        label = f"{row['agent']}, published ({row['source']})"
        axis.axhline(float(row["score"]), color="#777777", linewidth=1, dashes=dashes, label=label)


def main() -> None:
    """Draw the experiment of the command line."""
    print(draw(asked_for(__doc__)))


if __name__ == "__main__":
    main()
