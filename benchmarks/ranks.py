"""Trainings by several ranks: what a killed rank costs, and how the speed grows with the ranks.

    python benchmarks/ranks.py kill --times 10      kills a random rank at a random moment
    python benchmarks/ranks.py scaling --minutes 1  one process, two apart and two ranks, in turns

Both print JSON lines. `kill` compares the weights of a disturbed training with
those of an undisturbed one. `scaling` gives each rank as many envs as one process has, and each
process one thread; two trainings apart, which average no gradients, are what the machine allows.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import tyro

from ludus.training.run import Run, all_runs

RANKS = 2
KILLED = {
    "dqn CartPole-v1": "--steps 20000 --learning-starts 200 --prioritised",
    "ppo MinAtar/Breakout-v1": "--steps 60000",
    "alphazero tic_tac_toe": "--steps 6000 --replay-size 4000",
}
SCALED = {
    "pqn MinAtar/Breakout-v1": ("--num-envs", 32),
    "ppo_small PongNoFrameskip-v4": ("--num-envs", 8),
    "dqn PongNoFrameskip-v4 --learning-starts 1000": ("--num-envs", 8),
    "alphazero connect_four": ("--num-envs", 64),
}
QUIET = "--eval-episodes 0 --video-every 0 --device cpu"


@dataclass
class Arguments:
    """What to measure."""

    what: tyro.conf.Positional[Literal["kill", "scaling"]]
    times: int = 10
    """trainings of each kind"""
    minutes: float = 1.0
    """scaling: of each training"""
    seed: int = 0
    """kill: of the moments and ranks"""


def start(words: str, folder: Path, ranks: int, restarts: int = 0) -> subprocess.Popen[str]:
    """Start a training of one or several processes, of one thread each."""
    command = [sys.executable, "-m", "ludus"]
    if ranks > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(ranks), "--max-restarts", str(restarts), "-m", "ludus"]
    log = (folder / "log").open("a")
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    words = f"train {words} {QUIET} --run-dir {folder}"
    return subprocess.Popen(
        [*command, *words.split()], stdout=log, stderr=log, text=True, env=one_thread
    )


def weights_of(run: Run) -> str:
    """Return the sha256 of the last weights' file."""
    newest = max(run.weights.glob("[0-9]*"))
    return hashlib.sha256((newest / "rank-0" / "tensors.safetensors").read_bytes()).hexdigest()


def only_run(folder: Path) -> Run | None:
    """Return the run of a folder, if it is there."""
    runs = all_runs(folder)
    return runs[0] if runs else None


def kill(arguments: Arguments) -> None:
    """Kill a random rank at a random step of each training, and compare the weights."""
    chance = random.Random(arguments.seed)
    for task, options in KILLED.items():
        with tempfile.TemporaryDirectory() as name:
            whole = Path(name)
            assert start(f"{task} {options}", whole, RANKS).wait() == 0, (whole / "log").read_text()
            run = only_run(whole)
            assert run is not None
            wanted, steps = weights_of(run), run.status().env_steps
        equal = 0
        for _ in range(arguments.times):
            rank, at = chance.randrange(RANKS), chance.randrange(steps)
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                words = f"{task} {options} --checkpoint-seconds 0.2"
                process = start(words, folder, RANKS, restarts=3)
                while process.poll() is None:
                    run = only_run(folder)
                    if run is not None and run.status().env_steps >= at:
                        kill_rank(process, rank)
                        break
                    time.sleep(0.005)
                code, run = process.wait(), only_run(folder)
                assert run is not None
                same = code == 0 and weights_of(run) == wanted
                restarted = (folder / "log").read_text().count("resumed ")
                equal += same
                print(json.dumps({"task": task, "rank": rank, "at": at, "resumed": restarted,
                                  "equal": same}), flush=True)  # fmt: skip
        print(json.dumps({"task": task, "equal": equal, "of": arguments.times}), flush=True)


def kill_rank(process: subprocess.Popen[str], rank: int) -> None:
    """Kill one of the processes that torchrun has started."""
    for child in psutil.Process(process.pid).children():
        if child.environ().get("RANK") == str(rank):
            child.kill()


def speed(task: str, option: str, envs: int, ranks: int, minutes: float, apart: int = 1) -> float:
    """Return env steps of all ranks per second of training, of all trainings at the same time."""
    with ExitStack() as stack:
        names = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(apart)]
        words = f"{task} {option} {envs * ranks} --steps 100000000 --minutes {minutes}"
        processes = [start(words, Path(name), ranks) for name in names]
        rate = 0.0
        for process, name in zip(processes, names, strict=True):
            assert process.wait() == 0, Path(name, "log").read_text()
            run = only_run(Path(name))
            assert run is not None
            status = run.status()
            assert status.seconds
            rate += status.env_steps / status.seconds
        return rate


def scaling(arguments: Arguments) -> None:
    """Compare one process, two trainings apart and one of two ranks, in turns."""
    for task, (option, envs) in SCALED.items():
        for _ in range(arguments.times):
            one = speed(task, option, envs, 1, arguments.minutes)
            apart = speed(task, option, envs, 1, arguments.minutes, apart=RANKS)
            together = speed(task, option, envs, RANKS, arguments.minutes)
            print(json.dumps({"task": task, "one": round(one), "two apart": round(apart),
                              "two ranks": round(together),
                              "efficiency": round(together / (RANKS * one), 3),
                              "of what two apart do": round(together / apart, 3)}),
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    chosen = tyro.cli(Arguments)
    kill(chosen) if chosen.what == "kill" else scaling(chosen)
