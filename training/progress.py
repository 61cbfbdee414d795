"""Progress on stderr: bars in a terminal, a line every ten seconds elsewhere."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from ludus.training.console import Terminal, printable
from ludus.training.run import TrainOptions

_BAR_SECONDS = 1.0  # between two updates of a bar
_PLAIN_SECONDS = 10.0  # between two lines without a terminal


Show = Callable[[int, str], None]  # takes what is done and further text; called at every step


def duration(seconds: float) -> str:
    """Return seconds in the unit that fits: 90 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Bar:
    """Progress with steps, speed, return and the time left, and bars of tasks within it.

    Args:
        name: label.
        total: steps at the end.
        done: steps already done.
        quiet: show nothing.
        unit: name of what is counted.
    """

    def __init__(self, name: str, total: int, done: int, quiet: bool, unit: str = "steps") -> None:
        self._name, self._total, self._quiet, self._unit = name, total, quiet, unit
        self._terminal = Terminal(stderr=True)
        self._since, self._since_done = time.monotonic(), done  # start of the speed measurement
        self._rate: float | None = None  # smoothed steps per second
        self._progress: Progress | None = None
        if self._terminal.rich.is_terminal and not quiet:
            self._progress = _bars(self._terminal)
            self._progress.start()
            self._task = self._progress.add_task(
                printable(name), total=total, completed=done, detail="", left=""
            )

    def total(self, done: int, seconds: float) -> int:
        """Return the steps at the end, estimated where only so many seconds are left."""
        if seconds == math.inf or self._rate is None:
            return self._total
        return min(self._total, done + int(self._rate * max(0.0, seconds)))

    def update(
        self,
        done: int,
        score: float | None,
        due: Callable[[int, int], tuple[float, str]] = lambda done, total: (0.0, ""),
        seconds: float = math.inf,
    ) -> None:
        """Show the progress, if an update is due.

        Args:
            done: steps done.
            score: mean return; None before the first.
            due: takes what is done and the total; returns the seconds of tasks that are still to
                come, and those of them whose duration is unknown.
            seconds: left at most, without tasks.
        """
        now = time.monotonic()
        pause = _PLAIN_SECONDS if self._progress is None else _BAR_SECONDS
        ended = done >= self._total > self._since_done
        if self._quiet or (now - self._since < pause and not ended):
            return
        speed = (done - self._since_done) / max(now - self._since, 1e-9)
        self._rate = speed if not self._rate else (self._rate + speed) / 2
        self._since, self._since_done = now, done
        total = self.total(done, seconds)
        later, more = due(done, total)
        steps_left = max(0, self._total - done)
        left_now = min(steps_left / max(self._rate, 1e-9), max(0.0, seconds))
        left = f"{duration(left_now + later)} left"
        left += f" and {more}" if more else ""
        detail = f"{speed:.0f} {self._unit}/s, return {'-' if score is None else f'{score:.1f}'}"
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, detail=detail, left=left)
        else:
            _print(self._terminal, self._name, done, total, self._unit, detail, left)

    def exclude(self, seconds: float) -> None:
        """Exclude a time from the speed, such as that of an evaluation."""
        self._since += seconds

    @contextmanager
    def task(self, name: str, total: int, unit: str) -> Iterator[Show]:
        """Show the progress of something else within it; see `task`."""
        label = name if self._progress is not None else f"{self._name}: {name}"
        with _task(self._progress, self._terminal, label, total, unit, self._quiet) as show:
            yield show

    def close(self) -> None:
        """Restore the terminal."""
        if self._progress is not None:
            self._progress.stop()


class Due:
    """Evaluations and videos that a training has still to do.

    Args:
        t: options of the training.
    """

    def __init__(self, t: TrainOptions) -> None:
        self._t = t
        self.seconds = dict[str, float]()  # of the last evaluation and the last video

    def after(self, steps: int, total: int) -> tuple[float, str]:
        """Return the seconds of what is due after so many steps, and what has no known duration."""
        t, due = self._t, dict[str, int]()
        if t.eval_episodes:
            every = t.eval_every
            between = total // every - steps // every if every else 0
            due["evaluation"] = between + (not every or total % every > 0)
        if t.video_every:
            due["video"] = total // t.video_every - steps // t.video_every + bool(t.eval_episodes)
        later, more = 0.0, list[str]()
        for name, count in due.items():
            if name in self.seconds:
                later += max(0, count) * self.seconds[name]
            elif count > 0:
                more.append(f"{count} {name}{'s' if count > 1 else ''}")
        return later, " and ".join(more)


@contextmanager
def task(name: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> Iterator[Show]:
    """Show the progress of one task, with the time left once something is done.

    Args:
        name: label.
        total: units at the end.
        unit: name of what is counted.
        done: units that were done before.
        quiet: show nothing.
    """
    terminal = Terminal(stderr=True)
    progress = _bars(terminal) if terminal.rich.is_terminal and not quiet else None
    with (
        progress or nullcontext(),
        _task(progress, terminal, name, total, unit, quiet, done) as show,
    ):
        yield show


def _bars(terminal: Terminal) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=terminal.rich,
        refresh_per_second=4,
    )


@contextmanager
def _task(
    progress: Progress | None,
    terminal: Terminal,
    name: str,
    total: int,
    unit: str,
    quiet: bool,
    done_before: int = 0,
) -> Iterator[Show]:
    """Show a task as a bar of `progress`, or as lines if that is None."""
    began = shown = time.monotonic()
    bar = None
    if progress is not None:
        bar = progress.add_task(
            printable(name), total=total, completed=done_before, detail="", left=""
        )

    def show(done: int, detail: str) -> None:
        nonlocal shown
        now = time.monotonic()
        if quiet or now - shown < (_PLAIN_SECONDS if bar is None else _BAR_SECONDS):
            return
        shown = now
        new = done - done_before
        left = f"{duration((now - began) * max(0, total - done) / new)} left" if new > 0 else ""
        if progress is not None and bar is not None:
            progress.update(bar, completed=done, detail=detail, left=left)
        else:
            _print(terminal, name, done, total, unit, detail, left)

    try:
        yield show
    finally:
        if progress is not None and bar is not None:
            progress.remove_task(bar)


def _print(
    terminal: Terminal, name: str, done: int, total: int, unit: str, detail: str, left: str
) -> None:
    parts = [f"{name}: {done:,} of {total:,} {unit}", detail, left]
    terminal.print(", ".join(filter(None, parts)))
