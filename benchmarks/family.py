"""Every value-based preset, and SB3's, on CartPole-v1 and two MinAtar games: one table.

python benchmarks/family.py            # trains what is missing, then prints the table
python benchmarks/family.py --jobs 4   # four trainings at once

Each training is one run folder under runs/family; one that has finished is not repeated.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from ludus.training.run import all_runs, versions
from ludus.training.statistics import summarise

STEPS = {"CartPole-v1": 30_000, "MinAtar/Breakout-v1": 50_000, "MinAtar/SpaceInvaders-v1": 50_000}
AGENTS = (
    *("dqn", "ddqn", "dueling", "c51", "qrdqn", "iqn", "munchausen", "rainbow", "btr"),
    *("pqn", "r2d2", "drqn"),
    *("sb3:dqn", "sb3:qrdqn"),
)
GAMES = 20
OUT = Path(__file__).with_name("family.json")


class Job(NamedTuple):
    """One training."""

    seed: int  # first, so that early results are of all agents
    env: str
    agent: str


def finished(root: Path) -> dict[Job, list[float]]:
    """Held-out returns of every training that is over."""
    found = {}
    for run in all_runs(root):
        config, evaluations = run.config(), run.evaluations()
        whole = run.status()["state"] == "finished" and config.train.steps == STEPS[config.env]
        if whole and evaluations:
            job = Job(config.train.seed, config.env, config.agent)
            found[job] = evaluations[-1]["returns"]
    return found


def train(job: Job, root: Path) -> str | None:
    """Train in a process of its own; what went wrong, if anything did."""
    command = [sys.executable, "-m", "ludus.cli", "train", job.agent, job.env, "--quiet"]
    command += ["--steps", str(STEPS[job.env]), "--seed", str(job.seed), "--device", "cpu"]
    command += ["--eval-episodes", str(GAMES), "--run-dir", str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def rows(found: dict[Job, list[float]], agents: Sequence[str], seeds: int) -> Iterator[list[str]]:
    """Lines of the table: an agent, and for each env its IQM with a 95% interval."""
    for agent in agents:
        cells = [agent]
        for env in STEPS:
            played = [found[job] for s in range(seeds) if (job := Job(s, env, agent)) in found]
            if not played:
                cells.append("-")
                continue
            score = summarise(np.array(played))
            few = "" if len(played) == seeds else f" ({len(played)} of {seeds})"
            cells.append(f"{score.iqm:.1f} ({score.low:.1f} to {score.high:.1f}){few}")
        yield cells


def main() -> None:
    """Train what is missing, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--agents", nargs="+", default=AGENTS)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/family"))
    given = parser.parse_args()
    found = finished(given.run_dir)
    every = [Job(s, e, a) for s in range(given.seeds) for e in STEPS for a in given.agents]
    missing = [job for job in every if job not in found]
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as bar, ThreadPoolExecutor(given.jobs) as pool:
        task = bar.add_task("trainings", total=len(missing))
        running = {pool.submit(train, job, given.run_dir): job for job in missing}
        for future in as_completed(running):
            bar.advance(task)
            if future.result():
                print(f"{running[future]}: {future.result()}", file=sys.stderr)
    found = finished(given.run_dir)
    print(f"| agent | {' | '.join(STEPS)} |\n|{'---|' * (1 + len(STEPS))}")
    for cells in rows(found, given.agents, given.seeds):
        print(f"| {' | '.join(cells)} |")
    returns = [{**job._asdict(), "returns": found[job]} for job in every if job in found]
    told = {"steps": STEPS, "games": GAMES, "versions": versions(), "returns": returns}
    OUT.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
