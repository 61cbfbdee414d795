"""Tables of scores: agents trained alike on several envs and seeds, one table a name.

python benchmarks/scores.py family            # trains what is missing, then prints the table
python benchmarks/scores.py policy --jobs 4   # four trainings at once

Each training is one run folder under runs/scores; one that has finished is not repeated.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from ludus.comparison.aggregates import summarise
from ludus.training.provenance import versions
from ludus.training.run import all_runs


class Table(NamedTuple):
    """What is trained, on what, for how long."""

    agents: dict[str, str]  # a label, and how `ludus train` is asked for it
    steps: dict[str, int]  # env steps on each env
    games: int = 20  # of the last evaluation
    points: bool = False  # show the mean share of points of board games in place of the IQM


def _alike(*names: str) -> dict[str, str]:
    return {name: name for name in names}


TABLES = {
    "family": Table(
        _alike(
            "dqn",
            "ddqn",
            "dueling",
            "c51",
            "qrdqn",
            "iqn",
            "munchausen",
            "rainbow",
            "btr",
            "pqn",
            "r2d2",
            "drqn",
            "sb3:dqn",
            "sb3:qrdqn",
        ),
        {"CartPole-v1": 30_000, "MinAtar/Breakout-v1": 50_000, "MinAtar/SpaceInvaders-v1": 50_000},
    ),
    "policy": Table(
        _alike("ppo", "a2c", "sb3:ppo", "sb3:a2c"),
        {
            **{"CartPole-v1": 60_000, "Acrobot-v1": 100_000},
            **{"MinAtar/Breakout-v1": 100_000, "MinAtar/SpaceInvaders-v1": 100_000},
        },
    ),
    "memory": Table(
        {
            **{"dqn": "dqn", "r2d2": "r2d2", "ppo": "ppo"},
            **{f"ppo {core}": f"recurrent_ppo --core {core}" for core in ("lstm", "gru", "gtrxl")},
        },
        {"ludus/MaskedCartPole-v0": 100_000},
    ),
    "selfplay": Table(
        _alike("dqn", "ppo"),
        {"connect_four": 400_000},
        games=200,
        points=True,
    ),
}


class Job(NamedTuple):
    """One training."""

    seed: int  # first, so that early results are of all agents
    env: str
    agent: str  # its label


def finished(table: Table, root: Path) -> dict[Job, list[float]]:
    """Held-out returns of every training that is over."""
    found = {}
    for label in table.agents:
        for run in all_runs(root / _folder(label)):
            config, evaluations = run.config(), run.evaluations()
            over = run.status().state == "finished"
            if over and config.train.steps == table.steps.get(config.env) and evaluations:
                job = Job(config.train.seed, config.env, label)
                found[job] = evaluations[-1]["returns"]
    return found


def _folder(label: str) -> str:
    return label.replace(":", "-").replace(" ", "-")


def train(table: Table, job: Job, root: Path) -> str | None:
    """Train in a process of its own; what went wrong, if anything did."""
    agent, *options = table.agents[job.agent].split()
    command = [sys.executable, "-m", "ludus.cli", "train", agent, job.env, "--quiet", *options]
    command += ["--steps", str(table.steps[job.env]), "--seed", str(job.seed), "--device", "cpu"]
    command += ["--eval-episodes", str(table.games), "--run-dir", str(root / _folder(job.agent))]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def rows(table: Table, found: dict[Job, list[float]], seeds: int) -> Iterator[list[str]]:
    """Return the rows of the table: the IQM with a 95% interval, or the points, per env."""
    for agent in table.agents:
        cells = [agent]
        for env in table.steps:
            played = [found[job] for s in range(seeds) if (job := Job(s, env, agent)) in found]
            if not played:
                cells.append("-")
                continue
            few = "" if len(played) == seeds else f" ({len(played)} of {seeds})"
            if table.points:
                shares = [float(np.mean([(r + 1) / 2 for r in returns])) for returns in played]
                each = ", ".join(f"{share:.1%}" for share in shares)
                cells.append(f"{np.mean(shares):.1%} ({each}){few}")
                continue
            score = summarise(np.array(played))
            cells.append(f"{score.iqm:.1f} ({score.low:.1f} to {score.high:.1f}){few}")
        yield cells


def main() -> None:
    """Train what is missing, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/scores"))
    given = parser.parse_args()
    table, root = TABLES[given.table], given.run_dir / given.table
    found = finished(table, root)
    every = [Job(s, e, a) for s in range(given.seeds) for e in table.steps for a in table.agents]
    missing = [job for job in every if job not in found]
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar, ThreadPoolExecutor(given.jobs) as pool:
        task = bar.add_task("trainings", total=len(missing))
        running = {pool.submit(train, table, job, root): job for job in missing}
        for future in as_completed(running):
            bar.advance(task)
            if future.result():
                print(f"{running[future]}: {future.result()}", file=sys.stderr)
    found = finished(table, root)
    print(f"| agent | {' | '.join(table.steps)} |\n|{'---|' * (1 + len(table.steps))}")
    for cells in rows(table, found, given.seeds):
        print(f"| {' | '.join(cells)} |")
    returns = [{**job._asdict(), "returns": found[job]} for job in every if job in found]
    record = {
        "steps": table.steps,
        "games": table.games,
        "versions": versions(),
        "returns": returns,
    }
    Path(__file__).with_name(f"{given.table}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
