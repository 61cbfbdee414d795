"""Draw scores against compute: PQN with networks of several widths, for several numbers of steps.

python benchmarks/scaling.py     # pictures/scaling.png, and the table and the fits as Markdown

Compute is what the network's multiplications and additions come to: one forward pass of each env
step to act, and `epochs` forward and backward passes, a backward pass counted as two forward ones.
A point is the mean score of the trainings of one width and number of steps. The frontier are the
points that no cheaper one reaches; to it a power law, score = a * compute ** b, is fitted by least
squares of the logarithms. The frontier of each seed has its own exponent, which shows how far
trainings differ.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from curves import save
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from torch.utils.flop_counter import FlopCounterMode
from trainings import results

from ludus.agents import registry
from ludus.agents.agent import HasNetwork
from ludus.agents.pqn_config import PQNConfig
from ludus.comparison.figure import figure_at
from ludus.envs.make import make

_ENOUGH = 8  # trainings of one seed that a power law is fitted to


class Cells(NamedTuple):
    """The trainings of one game, by width and number of steps, in ascending order of compute."""

    width: np.ndarray  # [N]
    steps: np.ndarray  # [N]
    compute: np.ndarray  # [N] operations of one training
    scores: np.ndarray  # [seeds, N] of each training; NaN where there is none

    @property
    def mean(self) -> np.ndarray:
        """Return the mean scores [N] over the trainings there are."""
        return np.nanmean(self.scores, 0)


def operations(env_id: str, width: float) -> float:
    """Return the operations of one env step of PQN, acting and learning together."""
    with closing(make(env_id, 1, 0)) as env:
        config = registry.preset("pqn", env).config
        assert isinstance(config, PQNConfig)
        config = replace(config, width=width, head_hidden=round(128 * width))
        agent = registry.build(config, env, device=torch.device("cpu"), seed=0, steps=1_000)
        assert isinstance(agent, HasNetwork)
        obs = torch.from_numpy(env.reset().obs)[None]  # [1, 1, *obs]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            agent.network(obs, agent.network.initial_state(1), torch.ones(1, 1, dtype=torch.bool))
    return counter.get_total_flops() * (1 + 3 * config.epochs)


def cells(lines: Mapping[str, Mapping[str, Any]], env_id: str) -> Cells:
    """Return the trainings of a game."""
    found: dict[tuple[float, int], dict[int, float]] = {}
    for line in lines.values():
        if line["env"] == env_id:
            options = line["options"]
            width = float(options[options.index("--width") + 1])
            score = float(np.mean(line["evaluations"][-1]["returns"]))
            found.setdefault((width, line["steps"]), {})[line["seed"]] = score
    each = {width: operations(env_id, width) for width, _ in found}
    order = sorted(found, key=lambda key: each[key[0]] * key[1])
    seeds = sorted({seed for trained in found.values() for seed in trained})
    return Cells(
        width=np.array([width for width, _ in order]),
        steps=np.array([steps for _, steps in order]),
        compute=np.array([each[width] * steps for width, steps in order]),
        scores=np.array([[found[key].get(seed, np.nan) for key in order] for seed in seeds]),
    )


def frontier(score: np.ndarray) -> np.ndarray:
    """Return the indices of the scores [N], by ascending compute, that no cheaper one reaches."""
    before = np.concatenate([[-np.inf], np.maximum.accumulate(score)[:-1]])
    return np.flatnonzero(score > before)


def power_law(compute: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """Return a and b of score = a * compute ** b."""
    b, log_a = np.polyfit(np.log(compute), np.log(score), 1)
    return float(np.exp(log_a)), float(b)


def exponent(compute: np.ndarray, score: np.ndarray) -> float:
    """Return b of the frontier of scores [N], by ascending compute."""
    best = frontier(score)
    return power_law(compute[best], score[best])[1]


def _plot(axis: Axes, found: Cells) -> None:
    """Plot one game."""
    mean = found.mean
    widths = np.unique(found.width)
    for i, width in enumerate(widths):
        of_one = found.width == width
        colour = colormaps["viridis"](0.9 * i / max(1, len(widths) - 1))
        axis.plot(found.compute[of_one], mean[of_one], "o-", color=colour, label=f"width {width:g}")
        for scores in found.scores if len(found.scores) > 1 else ():
            axis.plot(
                found.compute[of_one], scores[of_one], ".", color=colour, alpha=0.5, markersize=4
            )
    best = frontier(mean)
    a, b = power_law(found.compute[best], mean[best])
    axis.plot(found.compute, a * found.compute**b, "k--", linewidth=1, label="fit to the frontier")
    axis.plot(found.compute[best], mean[best], "ko", fillstyle="none", markersize=9)
    axis.set_xscale("log")
    axis.set_yscale("log")
    # without formulas, which figures do not parse
    axis.xaxis.set_major_formatter(lambda x, _: f"1e{round(np.log10(x))}")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    for each in (axis.xaxis, axis.yaxis):
        each.set_minor_formatter(ticker.NullFormatter())
    axis.grid(True)
    axis.set_xlabel("operations of a training", fontsize=9)


def main() -> None:
    """Draw the figure, and print what it shows."""
    lines = results("scaling")
    envs = list(dict.fromkeys(line["env"] for line in lines.values()))
    if not envs:
        raise SystemExit("scaling has no results yet; trainings.py run scaling makes them")
    with figure_at(None, 1, len(envs), 3.6) as (figure, _):
        for axis, env_id in zip(figure.axes, envs, strict=True):
            found = cells(lines, env_id)
            _plot(axis, found)
            axis.set_title(env_id.removeprefix("MinAtar/").removesuffix("-v1"), fontsize=10)
            _print(found, env_id)
        figure.axes[0].set_ylabel("held-out return", fontsize=9)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=9)
        print(save(figure, "scaling"))


def _print(found: Cells, env_id: str) -> None:
    """Print the scores of a game, and the exponent of its frontier."""
    budgets = sorted(set(found.steps.tolist()))
    print(f"\n| {env_id} | " + " | ".join(f"{steps / 1e6:g} M steps" for steps in budgets) + " |")
    print("|---" * (1 + len(budgets)) + "|")
    best = set(frontier(found.mean).tolist())
    for width in np.unique(found.width):
        row = [f"width {width:g}"]
        for steps in budgets:
            at = np.flatnonzero((found.width == width) & (found.steps == steps))
            value = f"{found.mean[at[0]]:.1f}" if len(at) else ""
            row.append(f"**{value}**" if len(at) and at[0] in best else value)
        print("| " + " | ".join(row) + " |")
    print(f"\nexponent of the frontier: {exponent(found.compute, found.mean):.2f}")
    for seed, scores in enumerate(found.scores):
        done = np.isfinite(scores)
        if np.count_nonzero(done) >= _ENOUGH:
            of_one = exponent(found.compute[done], scores[done])
            print(f"of seed {seed} alone, {np.count_nonzero(done)} trainings: {of_one:.2f}")


if __name__ == "__main__":
    main()
