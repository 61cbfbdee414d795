"""Draw the scores of an experiment: a panel for each env, a line for each row of its table.

python benchmarks/scores.py EXPERIMENT     # pictures/EXPERIMENT_scores.png

A small dot is the mean of a training's held-out games; a large one is the IQM over the trainings,
with its 95% bootstrap interval. The last row is drawn through the others.
"""

from pathlib import Path

import numpy as np
from curves import asked_for, save
from trainings import scores_of

from ludus.comparison.aggregates import estimate, pooled_iqm
from ludus.comparison.figure import figure_at

_COLOUR, _BASELINE = "#0072b2", "#d55e00"


def draw(name: str) -> Path:
    """Draw an experiment and return the path of the picture.

    Raises:
        SystemExit: it has no results yet.
    """
    envs, variants, of = scores_of(name)
    if not envs:
        raise SystemExit(f"{name} has no results yet; trainings.py run {name} makes them")
    with figure_at(None, 1, len(envs), 1 + 0.28 * len(variants), sharey=True) as (figure, axes):
        for axis, env in zip(axes, envs, strict=True):
            for y, variant in enumerate(variants):
                scores, last = of[env, variant], variant == variants[-1]
                if not len(scores):
                    continue
                colour = _BASELINE if last else _COLOUR
                value = estimate(scores[:, None], pooled_iqm)
                axis.plot(scores, np.full(len(scores), y), ".", color=colour, alpha=0.5)
                axis.plot([value.low, value.high], [y, y], color=colour, linewidth=2)
                axis.plot(value.value, y, "o", color=colour, markersize=7)
                if last:
                    axis.axvline(value.value, color=colour, linewidth=1, linestyle=":")
            axis.set_title(env.removeprefix("MinAtar/").removesuffix("-v1"), fontsize=10)
            axis.set_xlabel("held-out return", fontsize=9)
            axis.set_yticks(range(len(variants)), variants)
            axis.grid(True, axis="x")
        axes[0].invert_yaxis()
        return save(figure, f"{name}_scores")


def main() -> None:
    """Draw the experiment of the command line."""
    print(draw(asked_for(__doc__)))


if __name__ == "__main__":
    main()
