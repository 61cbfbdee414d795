"""Several trainings at once, each in a process of its own, with one view over all of them."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ludus.training.provenance import cores
from ludus.training.run import Run, RunConfig

_ROOM = 2 << 30  # bytes of memory that one training may take
_POLL_SECONDS = 0.25
_PLAIN_SECONDS = 30.0  # between lines where there is no terminal


@dataclass
class Job:
    """One process: a training to its end, or the held-out games of a finished one."""

    run: Run
    config: RunConfig
    command: list[str]  # what follows `ludus`
    steps: int = 0  # env steps that it trains for; 0 where it only plays
    said: str = ""  # on stdout, when it has ended well
    failed: str | None = None  # why it failed, one sentence

    @property
    def name(self) -> str:
        """What is shown of it."""
        c = self.config
        return f"{c.agent} on {c.env}, seed {c.train.seed}"

    def done(self) -> int:
        """Env steps done so far."""
        return min(self.run.status().env_steps, self.steps)


def room(work: int, device: str) -> int:
    """Trainings at once: a core and some memory for each; on a GPU four cores for each."""
    most = cores() // (4 if device == "cuda" else 1)
    return max(1, min(most, work, int(psutil.virtual_memory().available // _ROOM)))


def run_all(work: list[Job], at_once: int, trainings: int, *, quiet: bool) -> None:
    """Run every job to its end; a training that another process does is waited for.

    Args:
        work: what is left to do; `said` and `failed` are written there.
        at_once: processes at the same time.
        trainings: of the whole comparison, those that have finished included.
        quiet: no progress.

    Raises:
        KeyboardInterrupt: on SIGINT or SIGTERM, after every process has saved and ended.
    """
    waiting, ended = list(work), list[Job]()
    running: dict[subprocess.Popen[bytes], Job] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        _terminated_is_interrupted(),
        _View(work, trainings, at_once, quiet) as view,
    ):
        try:
            while waiting or running:
                free = [job for job in waiting if not (job.steps and job.run.is_locked())]
                over = [j for j in free if j.steps and j.run.status().state == "finished"]
                for job in over:  # by the process that was waited for
                    free.remove(job)
                    waiting.remove(job)
                    ended.append(job)
                for job in free[: at_once - len(running)]:
                    place = Path(folder, str(work.index(job)))
                    running[_start(job, place, max(1, cores() // at_once))] = job
                    waiting.remove(job)
                time.sleep(_POLL_SECONDS)
                for process in [p for p in running if p.poll() is not None]:
                    job = running.pop(process)
                    if process.returncode and job.steps and job.run.is_locked():
                        waiting.append(job)  # another process was faster
                        continue
                    _end(job, process.returncode, Path(folder, str(work.index(job))))
                    ended.append(job)
                view.update(list(running.values()), ended)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()


def _start(job: Job, place: Path, threads: int) -> subprocess.Popen[bytes]:
    with place.with_suffix(".out").open("wb") as out, place.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "ludus.cli", *job.command],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _end_with_parent() -> None:
    """In a child: a SIGTERM, on which it saves, once whoever started it is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG


def _end(job: Job, code: int, place: Path) -> None:
    job.said = place.with_suffix(".out").read_text()
    if code != 0:
        lines = place.with_suffix(".err").read_text().strip().splitlines()
        job.failed = lines[-1].removeprefix("ludus: ") if lines else f"it ended with status {code}"


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM is what Ctrl-C is."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread: the signals are its owner's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _View:
    """A bar over the env steps of all trainings, and one for each that runs; else plain lines."""

    def __init__(self, work: list[Job], trainings: int, at_once: int, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._quiet, self._work, self._said_at = quiet, work, time.monotonic()
        self._total = sum(job.steps for job in work)
        name = TextColumn("{task.description}", markup=False)
        columns = (name, BarColumn(), MofNCompleteColumn())
        left = TimeRemainingColumn()
        self._all = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), left)
        self._each = Progress(*columns, TextColumn("return {task.fields[score]}"))
        self._live = Live(Group(self._all, self._each), console=self._console)
        self._tasks: dict[Path, TaskID] = {}
        if quiet or not work:
            return
        over = trainings - sum(job.steps > 0 for job in work)
        self._console.print(
            f"{trainings} trainings, {over} of them finished; {self._total:,} env steps, "
            f"{at_once} trainings at once"
        )
        done = sum(job.done() for job in work)
        self._task = self._all.add_task("env steps", total=self._total, completed=done)

    def __enter__(self) -> "_View":
        if self._shown():
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _shown(self) -> bool:
        return bool(self._console.is_terminal and not self._quiet and self._work)

    def update(self, running: list[Job], ended: list[Job]) -> None:
        """Show how far everything is."""
        if self._quiet:
            return
        steps = sum(job.done() for job in running) + sum(job.steps for job in ended)
        if self._shown():
            self._all.update(self._task, completed=steps)
            self._update_each({job.run.path: job for job in running})
        elif time.monotonic() - self._said_at > _PLAIN_SECONDS:
            self._said_at = time.monotonic()
            self._console.print(
                f"{len(ended)} of {len(self._work)} done, {steps:,} of {self._total:,} env steps; "
                + self._now(running),
                soft_wrap=True,
            )

    def _now(self, running: list[Job]) -> str:
        if running:
            return f"now {'; '.join(job.name for job in running)}"
        return "waiting for another process, which trains what is left"

    def _update_each(self, running: dict[Path, Job]) -> None:
        for path in [path for path in self._tasks if path not in running]:
            self._each.remove_task(self._tasks.pop(path))
        for path, job in running.items():
            if path not in self._tasks:
                self._tasks[path] = self._each.add_task(job.name, total=job.steps, score="-")
            status = job.run.status()
            score = "-" if status.mean_return is None else f"{status.mean_return:.1f}"
            self._each.update(self._tasks[path], completed=job.done(), score=score)
