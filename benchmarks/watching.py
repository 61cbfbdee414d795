"""Measure how much a watched training slows down, and the viewer's memory.

python benchmarks/watching.py                 # a training with and without 100 pages, alternately
python benchmarks/watching.py --minutes 10    # 100 pages throughout: memory and frames per second

The pages are web sockets of one other process. It has the lowest priority, because pages usually
run on other machines. The training's env steps are read from its status.json.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import psutil
from websockets.asyncio.client import connect

from ludus.training.provenance import hardware

LUDUS = [sys.executable, "-m", "ludus"]


async def _page(url: str, counts: list[int], number: int) -> None:
    async with connect(url, max_size=None) as socket:
        if number == 0:
            await socket.send(json.dumps({"do": "saliency", "value": "gradient"}))
        async for message in socket:
            counts[number] += 1
            del message


async def _pages(url: str, count: int, seconds: float) -> float:
    """Watch with `count` pages; return the frames per second of a page, the median over pages."""
    counts = [0] * count
    tasks = [asyncio.create_task(_page(url, counts, number)) for number in range(count)]
    await asyncio.sleep(min(10.0, seconds / 3))  # until all are connected
    before, began = list(counts), time.monotonic()
    await asyncio.sleep(seconds)
    rates = [(a - b) / (time.monotonic() - began) for a, b in zip(counts, before, strict=True)]
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
            raise ended
    return statistics.median(rates)


def _rate(run: Path, seconds: float) -> float:
    """Return the env steps per second of a training, between two updates of its status."""

    def read_status() -> tuple[float, int]:
        path = run / "status.json"
        while True:
            at = path.stat().st_mtime
            steps = json.loads(path.read_text())["env_steps"]
            if path.stat().st_mtime == at:
                return at, steps

    def next_status() -> tuple[float, int]:
        first = read_status()
        while (now := read_status()) == first:
            time.sleep(0.02)
        return now

    began, before = next_status()
    time.sleep(seconds)
    ended, after = next_status()
    return (after - before) / (ended - began)


def _start(given: argparse.Namespace, root: Path) -> tuple[list[subprocess.Popen[str]], Path, str]:
    """Start a training and a viewer; return both, the run, and the web socket's URL."""
    options = ["--steps", "100000000", "--eval-episodes", "0", "--quiet", "--run-dir", str(root)]
    options += ["--checkpoint-seconds", "20", "--device", "cpu"]
    training = subprocess.Popen([*LUDUS, "train", given.agent, given.env, *options], text=True)
    while not list(root.glob("*/*/*/weights/*")):
        time.sleep(0.5)
        if training.poll() is not None:
            sys.exit("the training ended")
    run = next(root.glob("*/*/*/config.json")).parent
    viewer = subprocess.Popen(
        [*LUDUS, "watch", str(run), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert viewer.stdout is not None
    link = next(line for line in viewer.stdout if "http" in line).split()[1]
    name = quote(run.relative_to(root).as_posix(), safe="")
    parts = urlsplit(link)
    return [training, viewer], run, f"ws://{parts.netloc}/watch?run={name}&{parts.query}"


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agent", default="ppo_small")
    parser.add_argument("--env", default="PongNoFrameskip-v4")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of each measurement")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="watch for this time and measure memory instead"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        processes, run, url = _start(given, Path(folder))
        try:
            viewer = psutil.Process(processes[1].pid)
            os.nice(19)
            results = _memory(given, viewer, url) if given.minutes else _ratio(given, run, url)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
    import torch

    print(json.dumps({**vars(given), **results, "hardware": hardware(torch.device("cpu"))}))


def _ratio(given: argparse.Namespace, run: Path, url: str) -> dict[str, object]:
    """Measure env steps per second without and with pages, alternately."""
    alone, watched, frames = [], [], []
    for _ in range(given.rounds):
        alone.append(_rate(run, given.seconds))
        pages = subprocess.Popen(
            [sys.executable, __file__, "--pages", url, str(given.clients), str(given.seconds + 15)],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(10)
        watched.append(_rate(run, given.seconds))
        frames.append(float(pages.communicate()[0]))
        print(alone[-1], watched[-1], frames[-1], file=sys.stderr)
    ratio = statistics.median(w / a for w, a in zip(watched, alone, strict=True))
    return {"alone": alone, "watched": watched, "pictures": frames, "watched_over_alone": ratio}


def _memory(given: argparse.Namespace, viewer: psutil.Process, url: str) -> dict[str, object]:
    """Measure the megabytes of the viewer each half minute."""
    seconds = given.minutes * 60
    pages = subprocess.Popen(
        [sys.executable, __file__, "--pages", url, str(given.clients), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    taken = []
    while pages.poll() is None:
        time.sleep(30 if seconds > 120 else 2)
        taken.append(round(viewer.memory_info().rss / 2**20, 1))
        print(taken[-1], file=sys.stderr)
    return {"megabytes": taken, "pictures": float(pages.communicate()[0])}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pages"]:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        print(asyncio.run(_pages(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
    else:
        main()
