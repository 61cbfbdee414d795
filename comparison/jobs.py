"""Run several trainings in parallel, each in its own process, with a common progress display."""

import time
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

from ludus.comparison.executor import (
    MOST_LOSSES,
    Ended,
    Executor,
    LocalExecutor,
    RayExecutor,
    Task,
)
from ludus.envs.ray_cluster import RayCluster
from ludus.training.console import printable
from ludus.training.provenance import cores
from ludus.training.run import Run, RunConfig

_JOB_MEMORY = 2 << 30  # bytes that one training may need
_POLL_SECONDS = 0.25
_LINE_SECONDS = 30.0  # between progress lines without a terminal


@dataclass
class Job:
    """One process: a training, or the held-out games of a finished run."""

    run: Run
    config: RunConfig
    command: list[str]
    """arguments of `ludus`"""
    trains: bool = False
    """a training, not the held-out games of a finished run"""
    output: str = ""
    """standard output of the process, once it has ended"""
    error: str | None = None
    """one sentence on why the process failed"""
    lost: int = 0
    """number of times that it was lost with its machine"""

    @property
    def name(self) -> str:
        """Return the name of the job for progress and error messages."""
        c = self.config
        return printable(f"{c.agent} on {c.env}, seed {c.train.seed}")

    @property
    def total(self) -> int:
        """Return the env steps of the training, or its seconds if minutes limit it."""
        t = self.config.train
        return 0 if not self.trains else int(60 * t.minutes) or t.end

    def goes_on_after(self, ended: Ended) -> bool:
        """Return whether it must be started again; else set its output and its error."""
        if ended.code and self.trains and self.run.is_locked():
            return True  # another process locked the run first
        if ended.code is None and self.lost < MOST_LOSSES:
            self.lost += 1
            return True
        self.output = ended.output
        if ended.code is None:
            self.error = f"its machine was lost {self.lost + 1} times: {ended.errors}"
        elif ended.code:
            self.error = ended.problem
        return False

    def done(self) -> int:
        """Return how much of `total` is done so far."""
        status = self.run.status()
        done = int(status.seconds or 0) if self.config.train.minutes else status.env_steps
        return min(done, self.total)


def max_parallel(count: int, device: str) -> int:
    """Choose how many jobs run in parallel.

    Each job gets a core and 2 GiB of memory; on a GPU it gets four cores.

    Args:
        count: number of jobs.
        device: cpu or cuda.
    """
    slots = cores() // (4 if device == "cuda" else 1)
    memory_slots = int(psutil.virtual_memory().available // _JOB_MEMORY)
    return max(1, min(slots, count, memory_slots))


def make_executor(ray: str | None, jobs: int, count: int, device: str) -> Executor:
    """Return what runs commands, on this machine or on a Ray cluster.

    Args:
        ray: address of the cluster, see `RayCluster`; None for this machine.
        jobs: maximum number of commands in parallel; 0 for as many as there is room for.
        count: number of commands that may be wanted at the same time.
        device: cpu or cuda.
    """
    if ray is not None:
        return RayExecutor(RayCluster(ray), jobs, gpu=device == "cuda")
    return LocalExecutor(jobs or max_parallel(count, device))


def run_jobs(jobs: list[Job], executor: Executor, trainings: int, *, quiet: bool) -> None:
    """Run all jobs, and wait for runs that another process trains.

    Args:
        jobs: the jobs; their `output` and `error` are set.
        executor: where they run; it is closed.
        trainings: number of trainings of the whole comparison, for the progress display.
        quiet: show no progress.

    Raises:
        KeyboardInterrupt: On a signal, after every process has saved and ended.
    """
    waiting, ended = list(jobs), list[Job]()
    running: list[tuple[Task, Job]] = []
    with _ProgressView(jobs, trainings, executor.parallel, quiet) as view:
        try:
            while waiting or running:
                # A locked run belongs to another process: wait until that process finishes it, in
                # which case there is nothing left to do, or leaves it unfinished.
                ready = [job for job in waiting if not (job.trains and job.run.is_locked())]
                finished = [j for j in ready if j.trains and j.run.status().state == "finished"]
                for job in finished:
                    ready.remove(job)
                    waiting.remove(job)
                    ended.append(job)
                for job in ready[: executor.parallel - len(running)]:
                    running.append((executor.start(job.command, job.run.path), job))
                    waiting.remove(job)
                time.sleep(_POLL_SECONDS)
                for task, job in list(running):
                    result = task.ended()
                    if result is None:
                        continue
                    running.remove((task, job))
                    if job.goes_on_after(result):
                        waiting.append(job)
                    else:
                        ended.append(job)
                view.update([job for _, job in running], ended)
        finally:
            for task, _ in running:
                task.terminate()
            for task, _ in running:
                task.wait()
            executor.close()


class _ProgressView:
    """Progress bars of all env steps and of each running job; plain lines without a terminal."""

    def __init__(self, jobs: list[Job], trainings: int, parallel: int, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._quiet, self._jobs, self._printed_at = quiet, jobs, time.monotonic()
        self._total = sum(job.total for job in jobs)
        timed = any(job.config.train.minutes for job in jobs)
        self._unit = "seconds of training" if timed else "env steps"
        name = TextColumn("{task.description}", markup=False)
        columns = (name, BarColumn(), MofNCompleteColumn())
        left = TimeRemainingColumn()
        self._all = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), left)
        self._each = Progress(*columns, TextColumn("return {task.fields[score]}"))
        self._live = Live(Group(self._all, self._each), console=self._console)
        self._tasks: dict[Path, TaskID] = {}
        if quiet or not jobs:
            return
        finished = trainings - sum(job.trains for job in jobs)
        self._console.print(
            f"{trainings} trainings, {finished} of them finished; "
            f"{self._total:,} {self._unit} in all, {parallel} trainings in parallel"
        )
        done = sum(job.done() for job in jobs)
        self._task = self._all.add_task(self._unit, total=self._total, completed=done)

    def __enter__(self) -> "_ProgressView":
        if self._uses_bars():
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _uses_bars(self) -> bool:
        return bool(self._console.is_terminal and not self._quiet and self._jobs)

    def update(self, running: list[Job], ended: list[Job]) -> None:
        """Show the progress of all jobs."""
        if self._quiet:
            return
        done = sum(job.done() for job in running) + sum(job.total for job in ended)
        if self._uses_bars():
            self._all.update(self._task, completed=done)
            self._update_each({job.run.path: job for job in running})
        elif time.monotonic() - self._printed_at > _LINE_SECONDS:
            self._printed_at = time.monotonic()
            self._console.print(
                f"{len(ended)} of {len(self._jobs)} jobs done, "
                f"{done:,} of {self._total:,} {self._unit}; {self._describe(running)}",
                soft_wrap=True,
            )

    def _describe(self, running: list[Job]) -> str:
        if running:
            return f"running: {'; '.join(job.name for job in running)}"
        return "waiting for the runs that another process trains"

    def _update_each(self, running: dict[Path, Job]) -> None:
        for path in [path for path in self._tasks if path not in running]:
            self._each.remove_task(self._tasks.pop(path))
        for path, job in running.items():
            if path not in self._tasks:
                self._tasks[path] = self._each.add_task(job.name, total=job.total, score="-")
            status = job.run.status()
            score = "-" if status.mean_return is None else f"{status.mean_return:.1f}"
            self._each.update(self._tasks[path], completed=job.done(), score=score)
