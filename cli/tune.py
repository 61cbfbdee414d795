"""`ludus tune AGENT ENV`: search for better values of an agent's configuration with Optuna."""

import json
import shlex
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import strftime
from typing import Annotated, Any

from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional

from ludus.cli.options import parse
from ludus.cli.output import print_json, print_message, print_result, print_table
from ludus.comparison.analysis import About
from ludus.comparison.compare import Plan, compare, tables
from ludus.comparison.groups import Training
from ludus.comparison.report import write_report
from ludus.comparison.tune import Pruner, TunePlan, Tuning
from ludus.comparison.tune_report import TrialRow, importance_of, trial_rows, write_tune_page
from ludus.envs.bounds import AT_LEAST_ONE, NON_NEGATIVE, check_bounds
from ludus.envs.errors import RunError, UsageError
from ludus.envs.make import EnvOptions
from ludus.training.checkpoint import write_atomically
from ludus.training.run import Run

ABOUT = """Search for better values of AGENT's configuration on ENV with Optuna.

examples:
  ludus tune ppo MinAtar/Breakout-v1 --steps 200000 --trials 40 --jobs 2
  ludus tune dqn CartPole-v1 --space learning_rate=1e-5..1e-2 --fix gamma=0.99
  ludus train --config runs/tune/ppo-CartPole-v1/best.json

The same command goes on where it was interrupted."""

_SHOWN = 5  # trials of the table in the terminal


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus tune`."""

    agent: Positional[str]
    """name of the preset"""
    env: Positional[str]
    """env id"""
    steps: Annotated[int, AT_LEAST_ONE] = 100_000
    """env steps of each training, which its schedules follow"""
    trials: Annotated[int, AT_LEAST_ONE] = 40
    """number of configurations to try, the preset's first"""
    seeds: Annotated[int, AT_LEAST_ONE] = 3
    """trainings of each trial, whose IQM is its score; all trials have the same seeds"""
    first_seed: Annotated[int, NON_NEGATIVE] = 0
    """seed of the first of these; each further one is 1 higher"""
    space: tuple[str, ...] = ()
    """values of a field, in place of those around the preset's: field=low..high or field=a,b,c"""
    fix: tuple[str, ...] = ()
    """value of a field that does not vary: field=value"""
    rungs: Annotated[int, AT_LEAST_ONE] = 3
    """times that a trial is scored and may be pruned: at its end, at half of it, and so on"""
    pruner: Pruner = "median"
    """ends trials below the median of those before, or below their better half; or none"""
    episodes: Annotated[int, AT_LEAST_ONE] = 20
    """held-out games of each training at each rung"""
    final_seeds: Annotated[int, NON_NEGATIVE] = 5
    """trainings of the best and of the preset each, with other seeds, at the end; 0 for none"""
    seed: Annotated[int, NON_NEGATIVE] = 0
    """seed of the sampler; with --jobs 1 the same seed leads to the same trials"""
    jobs: Annotated[int, NON_NEGATIVE] = 0
    """trainings in parallel; 0 for one per core, if memory allows, but not more than seeds"""
    ray: str | None = None
    """train on a Ray cluster: auto, local, or host:port; all machines must see the folder"""
    storage: str | None = None
    """of the study: sqlite:///FILE or journal:FILE (default: study.log in the folder)"""
    out: Path | None = None
    """folder of the runs, the study and the results (default: runs/tune/<agent>-<env>)"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    quiet: bool = False
    """print no progress"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""
    options: OmitArgPrefixes[EnvOptions] = field(default_factory=EnvOptions)
    """changes to the protocol of the env"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)


def run(argv: list[str]) -> int:
    """Tune, print the best trials and write the results."""
    given = parse(Arguments, argv, command="tune", about=ABOUT)
    name = f"{given.agent}-{given.env}".replace("/", "-").replace(":", "-")
    folder = (given.out or Path("runs", "tune", name)).absolute()
    plan = TunePlan(
        agent=given.agent,
        env=given.env,
        options=given.options,
        steps=given.steps,
        trials=given.trials,
        seeds=given.seeds,
        first_seed=given.first_seed,
        rungs=given.rungs,
        episodes=given.episodes,
        pruner=given.pruner,
        space=given.space,
        fix=given.fix,
        seed=given.seed,
        folder=folder,
        storage=given.storage,
        device=given.device,
        jobs=given.jobs,
        ray=given.ray,
        quiet=given.quiet,
    )
    tuning = Tuning(plan, (lambda line: None) if given.quiet else print_message)
    try:
        tuning.run()
        best = tuning.best()
        if best is None:
            raise RunError(f"no trial was trained to its end; {folder} says why")
        final, failures = _final(tuning, best, given)
    except KeyboardInterrupt as stopped:
        stopped.add_note("the trainings have saved; the same command goes on")
        raise
    write_atomically(folder / "best.json", json.dumps(tuning.settings_of(best), indent=2))
    rows = trial_rows(tuning.study)
    if final:
        title, command = f"{given.agent}: the best against the preset", ["ludus", "tune", *argv]
        about = About.here(title, shlex.join(command), given.device)
        write_report(folder / "final", final, about)
    page = write_tune_page(
        folder,
        f"{given.agent} on {given.env}",
        rows,
        tuning.space,
        importance_of(tuning.study),
        final,
        _facts(given, rows),
    )
    for sentence in failures:
        print_message(f"ludus: {sentence}")
    if given.json:
        result = {"best": tuning.settings_of(best), "score": best.value, "folder": str(folder)}
        print_json(result | {"trials": [vars(row) for row in rows]})
        return 1 if failures else 0
    print_table(_table(rows, tuning.space))
    for table in tables(final):
        print_table(table)
    best_file = shlex.quote(_short(folder / "best.json"))
    print_result(f"the best values  ludus train --config {best_file}")
    print_result(f"what was tried   {_short(page)}")
    return 1 if failures else 0


def _final(tuning: Tuning, best: Any, given: Arguments) -> tuple[list[Training], list[str]]:
    """Train the preset and the best configuration with fresh seeds, and compare them."""
    configs = tuning.final_configs(best, given.final_seeds)
    if not configs:
        return [], []
    plan = Plan(
        envs=(),
        agents=(),
        steps=given.steps,
        minutes=0.0,
        seeds=given.final_seeds,
        first_seed=given.first_seed + given.seeds,
        episodes=given.episodes,
        epsilon=0.0,
        options=given.options,
        runs=(),
        root=tuning.plan.folder,
        device=given.device,
        jobs=given.jobs,
        quiet=given.quiet,
        ray=given.ray,
        configs=configs,
    )
    trainings, failures = compare(plan)
    named = []
    for training in trainings:
        assert training.run is not None
        preset = Run.open(training.run).config().config == tuning.preset
        agent = f"{given.agent} ({'preset' if preset else 'tuned'})"
        named.append(replace(training, agent=agent))
    return named, failures


def _facts(given: Arguments, rows: list[TrialRow]) -> dict[str, str]:
    counts = Counter(row.state for row in rows)
    return {
        "trials": ", ".join(f"{count} {state}" for state, count in counts.items()),
        "env steps of a training": f"{given.steps:,}",
        "seeds of a trial": str(given.seeds),
        "games at a rung": str(given.seeds * given.episodes),
        "date": strftime("%Y-%m-%d"),
    }


def _table(rows: list[TrialRow], space: dict[str, Any]) -> Table:
    """Return the best trials, one in each column, as a table for the terminal."""
    done = sorted((r for r in rows if r.state == "finished"), key=lambda r: -(r.score or 0.0))
    best = done[:_SHOWN]
    table = Table(title="the best trials", title_justify="left")
    table.add_column("trial")
    for row in best:
        table.add_column(str(row.number), justify="right", no_wrap=True)
    table.add_row("IQM", *(f"{row.score:.1f}" for row in best), end_section=True)
    for name in space:
        values = [row.values.get(name) for row in best]
        table.add_row(name, *(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
    return table


def _short(path: Path) -> str:
    """Return a path from the working folder, if it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
