"""Write the report of an arena, one HTML page, and the rating curve of a run to TensorBoard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ludus.comparison import plots
from ludus.comparison.arena import Standing, rating_curves
from ludus.comparison.figure import embedded
from ludus.comparison.page import render
from ludus.envs.board.opponent_names import is_opponent
from ludus.envs.errors import RunError
from ludus.training.checkpoint import write_atomically
from ludus.training.find_run import at_steps
from ludus.training.run import Run
from ludus.training.sinks import TensorBoard

CURVE = "arena/elo"  # tag in TensorBoard


def write_arena_report(
    folder: Path, results: Mapping[str, Any], standings: Sequence[Standing], sentence: str
) -> Path:
    """Write the figure and the page of an arena; return the page's path.

    Args:
        folder: of arena.html and the figure; made if absent.
        results: what `ludus arena --json` prints.
        standings: the ratings, best first.
        sentence: what a sequential test says; empty without one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curves = rating_curves(standings)
    short = short_names([*(s.name for s in standings), *curves])
    figure = None
    if curves:
        path = folder / "ratings.png"
        staged = {each.name for stages in curves.values() for each in stages.values()}
        plots.ratings(
            {short[name]: _points(stages) for name, stages in curves.items()},
            {short[s.name]: s.elo for s in standings if s.name not in staged},
            str(results["game"]),
            path,
        )
        figure = embedded(path)
    values = {
        "results": results,
        "standings": standings,
        "curves": curves,
        "short": short,
        "ratings": figure,
        "sentence": sentence,
    }
    filters = {"steps": "{:,}".format, "elo": "{:+.0f}".format, "points": "{:g}".format}
    page = folder / "arena.html"
    write_atomically(page, render("arena.html.j2", values, filters=filters))
    return page


def _points(stages: Mapping[int, Standing]) -> np.ndarray:
    """Return env steps, rating and interval [stages, 4]."""
    return np.array([[steps, s.elo, s.low, s.high] for steps, s in stages.items()])


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return names for tables and figures: of a run the last folder, if no other has it.

    Of runs of several agents, the agent's folder and that.
    """
    runs = {name: at_steps(name) for name in names if not is_opponent(name)}
    parts = 1 if len({folder.parent.name for folder, _ in runs.values()}) == 1 else 2
    short = dict[str, str]()
    for name, (folder, steps) in runs.items():
        last = folder.parts[-parts:]
        alike = {other for other, _ in runs.values() if other.parts[-parts:] == last}
        if len(alike) == 1 and not is_opponent(folder.name):
            short[name] = "/".join(last) + ("" if steps is None else f"@{steps}")
    return {name: short.get(name, name) for name in names}


def write_curve(run: str, stages: Mapping[int, Standing]) -> Path | None:
    """Write the rating curve of a run to TensorBoard, in a folder of its own within the run's.

    The training's own file is left alone, since the training may go on; the curve replaces that of
    an arena before.

    Args:
        run: the run, as `Run.open` takes it.
        stages: the standing of each stage by env steps.

    Returns:
        The folder; None if the run is packed, which gets no curve: nothing writes into it.

    Raises:
        RunError: the folder is a link.
        OSError: it cannot be written.
    """
    opened = Run.open(run)
    if opened.packed:
        return None
    folder = opened.path / "arena"
    if folder.is_symlink():  # to anywhere, in a run of somebody else's
        raise RunError(f"{folder} is a link, which is not followed; remove it")
    log = TensorBoard(folder, 0, resumed=False)
    for steps, standing in stages.items():
        points = {CURVE: standing.elo, f"{CURVE}_low": standing.low, f"{CURVE}_high": standing.high}
        log.scalars(points, steps)
    log.band(CURVE, f"{CURVE}_low", f"{CURVE}_high")
    log.close()
    return folder
