"""Train what the tables of experiments need, and keep the result of each training.

python benchmarks/trainings.py run [EXPERIMENT ...]      # all, in the order of `EXPERIMENTS`
python benchmarks/trainings.py status
python benchmarks/trainings.py table EXPERIMENT
python benchmarks/trainings.py evaluations EXPERIMENT

Two trainings run at once, with one thread each and the lowest priority. `results/EXPERIMENT.jsonl`
gets one line for each training that ends, with its curve at 20 points; what has a line is not
trained again, unless another begins with its network and its run is lost. An interrupted training
is resumed by the next call, if its run folder still exists; SB3's starts anew. `experiments.py`
says what the experiments are.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from experiments import EXPERIMENTS, Training

from ludus.comparison.aggregates import ENOUGH_SEEDS, estimate, improvement, pooled_iqm, smooth
from ludus.envs.errors import LudusError
from ludus.training.logger import Episodes
from ludus.training.provenance import hardware
from ludus.training.run import Run, all_runs

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RUNS = HERE.parent / "runs" / "experiments"


def results(experiment: str, folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the results of an experiment by the trainings' keys."""
    path = (folder or RESULTS) / f"{experiment}.jsonl"
    text = path.read_text() if path.exists() else ""
    whole, _, _ = text.rpartition("\n")  # a kill may have left half a line
    return {line["key"]: line for line in map(json.loads, whole.splitlines())}


def _folder(training: Training) -> Path:
    """Return the folder of a training's run."""
    return RUNS / training.folder


def _finished(training: Training) -> Run | None:
    """Return the last finished run of a training, if there is one."""
    runs = [run for run in all_runs(_folder(training)) if run.status().state == "finished"]
    return runs[-1] if runs else None


def _with_starts(trainings: list[Training]) -> Iterator[Training]:
    """Yield the trainings, and before each the one it begins with if that has no run."""
    for training in trainings:
        if training.start is not None and _finished(training.start) is None:
            yield training.start
        yield training


def _yield_to_others(pid: int) -> None:
    """Give a process's session the lowest priority.

    On Linux each session is a group whose share of the cores does not depend on the `nice` of its
    processes: beside two trainings, tests had a third of each core.
    """
    with contextlib.suppress(OSError):  # another system, or a kernel without such groups
        Path(f"/proc/{pid}/autogroup").write_text("19")


class Stopped(Exception):
    """Raised in a worker when the whole queue is being stopped."""


class Queue:
    """Trainings that are done by workers in order, but for those whose start has not ended.

    Args:
        waiting: the trainings.
        results: folder of the results.
        commit: commit each result.
    """

    def __init__(self, waiting: list[Training], results: Path, *, commit: bool) -> None:
        self._waiting = list(dict.fromkeys(_with_starts(waiting)))
        self._unfinished = set(self._waiting)
        self._results, self._commit = results, commit
        self._changed = threading.Condition()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopping = False

    def stop(self, *_: object) -> None:
        """Ask the running trainings to save and end; start no more."""
        self.stopping = True
        for process in list(self._running):
            process.send_signal(signal.SIGTERM)

    def run(self, jobs: int) -> None:
        """Do all trainings, so many at once; a signal stops them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)
        workers = [threading.Thread(target=self.work) for _ in range(jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def work(self) -> None:
        """Do trainings until none is left."""
        while (training := self._next()) is not None:
            try:
                self._keep(training, self._train(training))
            except Stopped:
                return
            except (LudusError, RuntimeError, OSError, ValueError) as error:
                print(f"{training.experiment}: {training.key}: {error}", flush=True)
            finally:
                with self._changed:
                    self._unfinished.remove(training)
                    self._changed.notify_all()

    def _next(self) -> Training | None:
        """Take the next training, as soon as the one it begins with has ended; None at the end."""
        with self._changed:
            while self._waiting and not self.stopping:
                for training in self._waiting:
                    if training.start not in self._unfinished:
                        self._waiting.remove(training)
                        return training
                self._changed.wait()
            return None

    def _train(self, training: Training) -> Run:
        """Train or resume, and return the finished run."""
        run = next(iter(all_runs(_folder(training))), None)
        if run is None or (run.status().state != "finished" and training.agent.startswith("sb3")):
            command = [training.agent, training.env, "--steps", str(training.steps)]
            command += ["--seed", str(training.seed), "--video-every", "0", *training.options]
            command += ["--run-dir", str(_folder(training))]
            if training.start is not None:
                start = _finished(training.start)
                if start is None:
                    raise RuntimeError(f"{training.start.key} has no finished run to begin with")
                command += ["--init-from", str(start.path)]
        elif run.status().state == "finished":
            return run
        else:
            command = ["--resume", str(run.path)]
        print(f"{training.experiment}: {training.key}", flush=True)
        _folder(training).mkdir(parents=True, exist_ok=True)
        with (_folder(training) / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                ["nice", "-n", "19", sys.executable, "-m", "ludus", "train", *command, "--quiet"],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            _yield_to_others(process.pid)
            self._running.add(process)
            if self.stopping:  # since the loop of `work` asked
                process.send_signal(signal.SIGTERM)
            code = process.wait()
            self._running.discard(process)
        if self.stopping and code:
            raise Stopped
        finished = _finished(training)
        if code or finished is None:
            raise RuntimeError(f"exit code {code}; see {_folder(training) / 'output.txt'}")
        return finished

    def _keep(self, training: Training, run: Run) -> None:
        """Append the result to its file, unless it is there."""
        if training.key in results(training.experiment, self._results):
            return
        episodes = Episodes.read(run.path / "episodes.csv")
        status = run.status()
        points = np.linspace(0, status.env_steps, 21)[1:]
        curve = smooth(episodes, points, window=100)
        # without an episode, as a short training may be, time goes evenly from start to end
        steps = [0.0, *episodes[:, 0], status.env_steps]
        seconds = np.interp(points, steps, [0.0, *episodes[:, 1], status.seconds or 0.0])
        line = {
            "key": training.key,
            "env": training.env,
            "variant": training.variant,
            "seed": training.seed,
            "agent": training.agent,
            "options": training.options,
            "start": training.start and training.start.key,
            "steps": training.steps,
            "evaluations": [
                {"env_steps": e["env_steps"], "returns": e["returns"]} for e in run.evaluations()
            ],
            "env_steps": status.env_steps,
            "training_seconds": [round(float(x), 1) for x in seconds],
            "training_returns": [None if np.isnan(x) else round(float(x), 3) for x in curve],
            "seconds": round(status.seconds or 0),
            "commit": json.loads((run.path / "config.json").read_text()).get("commit"),
            "cpu": hardware(torch.device("cpu"))["processor"],
        }
        path = self._results / f"{training.experiment}.jsonl"
        with self._changed:
            self._results.mkdir(exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            if self._commit:
                title = f"Result of {training.experiment}: {training.key}"
                git = ["git", "-C", str(self._results)]
                subprocess.run([*git, "add", path.name], check=False)
                subprocess.run([*git, "commit", "-qm", title, "--", path.name], check=False)


def run(names: list[str], jobs: int, *, commit: bool) -> None:
    """Do the missing trainings of some experiments."""
    waiting = list[Training]()
    for name in names:
        done = results(name)
        waiting += [training for training in EXPERIMENTS[name]() if training.key not in done]
    Queue(waiting, RESULTS, commit=commit).run(jobs)


def status() -> None:
    """Print how many trainings of each experiment are done, and the core-hours they took."""
    for name, trainings in EXPERIMENTS.items():
        planned, done = [training.key for training in trainings()], results(name)
        hours = sum(line["seconds"] for line in done.values()) / 3600
        print(
            f"{name}: {len(done.keys() & set(planned))} of {len(planned)}, {hours:.1f} core-hours"
        )


class Scores(NamedTuple):
    """What the trainings of an experiment that have ended have scored."""

    envs: list[str]  # with any result
    variants: list[str]  # with any result, and the last, with which others are compared
    of: dict[tuple[str, str], np.ndarray]  # [seeds] by env and variant; empty where none has ended


def scores_of(name: str) -> Scores:
    """Return the scores of an experiment; rows that it has no longer come first."""
    done = [line for line in results(name).values() if line["evaluations"]]
    planned = [t for t in EXPERIMENTS[name]() if "--reward-free" not in t.options]
    envs = list(dict.fromkeys(training.env for training in planned))
    kept = dict.fromkeys(training.variant for training in planned)
    variants = [*dict.fromkeys(r["variant"] for r in done if r["variant"] not in kept), *kept]
    of = {
        (env, variant): scores([x for x in done if (x["env"], x["variant"]) == (env, variant)])
        for env, variant in product(envs, variants)
    }
    envs = [env for env in envs if any(len(of[env, variant]) for variant in variants)]
    *others, last = variants
    shown = [variant for variant in others if any(len(of[env, variant]) for env in envs)]
    return Scores(envs, [*shown, last], of)


def scores(lines: list[dict[str, Any]]) -> np.ndarray:
    """Return the mean return of the last evaluation of each training, [seeds]."""
    ordered = sorted(lines, key=lambda line: line["seed"])
    return np.array([np.mean(line["evaluations"][-1]["returns"]) for line in ordered])


def table(name: str) -> None:
    """Print the scores of an experiment as a table in Markdown.

    A cell is the IQM over trainings of their mean return, with a 95% bootstrap interval over
    trainings, and in brackets the probability that a training of the row is better than one of the
    last row; the last column holds its mean over the envs, where there are several. Few trainings
    are listed instead. A last row without results is left out, with what is compared with it.
    """
    envs, variants, of = scores_of(name)
    compares = any(len(of[env, variants[-1]]) for env in envs)  # else nothing is compared
    several = compares and len(envs) > 1
    columns = [*envs, *(["all"] if several else [])]
    print("| | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    baseline = [of[env, variants[-1]] for env in envs]
    for variant in variants if compares else variants[:-1]:
        row = [of[env, variant] for env in envs]
        compared = variant != variants[-1]
        cells = [
            _cell(here, last if compared else None)
            for here, last in zip(row, baseline, strict=True)
        ]
        if several:
            cells.append(_over_all(row, baseline) if compared else "")
        print(f"| {variant} | " + " | ".join(cells) + " |")


def curve_of(line: Mapping[str, Any]) -> np.ndarray:
    """Return env steps, seconds of training and mean return of each evaluation, [points, 3]."""
    steps = np.array([each["env_steps"] for each in line["evaluations"]], float)
    at = np.linspace(0, line["env_steps"], len(line["training_seconds"]) + 1)
    seconds = np.interp(steps, at, [0.0, *line["training_seconds"]])
    means = [np.mean(each["returns"]) for each in line["evaluations"]]
    return np.stack([steps, seconds, means], 1)


def evaluations(name: str) -> None:
    """Print the evaluations of an experiment's trainings as a table in Markdown.

    Minutes are of training, without evaluations. Points are those of a game against an opponent.
    """
    print("| training | env steps | minutes | held-out |\n|---|---|---|---|")
    for line in results(name).values():
        points = "--opponent" in line["options"]
        for steps, seconds, mean in curve_of(line) if "training_seconds" in line else ():
            score = f"{(1 + mean) / 2:.1%}" if points else f"{mean:.1f}"
            print(f"| {line['key']} | {steps:,.0f} | {seconds / 60:.1f} | {score} |")


def _cell(here: np.ndarray, last: np.ndarray | None) -> str:
    """Return the IQM of scores [seeds], compared with others if there are; all if they are few."""
    if len(here) < ENOUGH_SEEDS:
        return ", ".join(f"{score:.1f}" for score in here)
    value = estimate(here[:, None], pooled_iqm)
    cell = f"{value.value:.1f} ({value.low:.1f} to {value.high:.1f})"
    if last is not None and len(last) >= ENOUGH_SEEDS:
        better = improvement(here[:, None], last[:, None])
        cell += f" [{better.value:.2f}, {better.low:.2f} to {better.high:.2f}]"
    return cell


def _over_all(here: list[np.ndarray], there: list[np.ndarray]) -> str:
    """Return the probability of being better, averaged over the envs; "" without all trainings."""
    counts = {len(column) for column in [*here, *there]}
    if len(counts) != 1 or min(counts) < ENOUGH_SEEDS:
        return ""
    better = improvement(np.stack(here, 1), np.stack(there, 1))  # [seeds, envs] each
    return f"{better.value:.2f} ({better.low:.2f} to {better.high:.2f})"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="do the missing trainings")
    running.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=f"{[*EXPERIMENTS]}")
    running.add_argument("--jobs", type=int, default=2, help="trainings at once")
    running.add_argument("--commit", action="store_true", help="commit each result")
    commands.add_parser("status", help="print what is done")
    commands.add_parser("table", help="print a table").add_argument(
        "experiment", choices=EXPERIMENTS
    )
    commands.add_parser("evaluations", help="print all evaluations").add_argument(
        "experiment", choices=EXPERIMENTS
    )
    given = parser.parse_args()
    match given.command:
        case "run":
            unknown = [name for name in given.experiments if name not in EXPERIMENTS]
            if unknown:
                parser.error(f"no experiment {unknown[0]}; there are {', '.join(EXPERIMENTS)}")
            run(given.experiments or list(EXPERIMENTS), given.jobs, commit=given.commit)
        case "status":
            status()
        case "table":
            table(given.experiment)
        case "evaluations":
            evaluations(given.experiment)


if __name__ == "__main__":
    main()
