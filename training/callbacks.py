"""Callbacks: what a program does at each step, after evaluations and at the end of a training."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ludus.agents.agent import AnyAgent
from ludus.envs.errors import ConfigError
from ludus.training.agent_file import save_agent
from ludus.training.logger import Logger
from ludus.training.run import Run, RunConfig


@dataclass
class RunningTraining:
    """A running training, as callbacks see it."""

    run: Run
    """its folder"""
    config: RunConfig
    """everything that it was started with"""
    agent: AnyAgent
    """the agent that trains"""
    log_of: Callable[[], Logger]
    """returns the log, which is there once the training has begun"""

    @property
    def env_steps(self) -> int:
        """Return the env steps (decisions) so far; the updates with a data set."""
        return self.agent.env_steps

    @property
    def seconds(self) -> float:
        """Return the seconds of training so far, without evaluations."""
        return self.log_of().seconds

    @property
    def mean_return(self) -> float | None:
        """Return the mean return of the last 100 finished games; None before the first."""
        return self.log_of().mean_return

    def log(self, name: str, value: float) -> None:
        """Write a number into TensorBoard, such as `log("my/number", 3.0)`."""
        self.log_of().scalars({name: float(value)}, self.env_steps)

    def save(self, path: Path | str) -> None:
        """Save the agent as one file, see `TrainedAgent.save`."""
        save_agent(Path(path), self.config, self.agent.weights(), self.env_steps)


class Callback:
    """What a program does during a training; each method does nothing unless it is replaced.

    An exception ends the training and reaches the caller; the newest checkpoint remains.
    """

    def on_step(self, training: RunningTraining) -> bool | None:
        """Do something after each step of all envs; return False to end the training."""

    def on_evaluation(self, training: RunningTraining, returns: np.ndarray) -> bool | None:
        """Do something with the returns [games] of an evaluation; return False to end it.

        A training evaluates each `eval_every` steps and after its end.
        """

    def on_end(self, training: RunningTraining) -> None:
        """Do something after the last step and the last evaluation."""


class Callbacks:
    """All callbacks of a training.

    Args:
        callbacks: in the order of their calls.
        training: what they see.
    """

    def __init__(self, callbacks: Sequence[Callback], training: RunningTraining) -> None:
        self._callbacks, self._training = callbacks, training
        self.error: BaseException | None = None  # which the caller gets as it is

    def end_after_step(self) -> bool:
        """Call all after a step; return whether one ends the training."""
        if not self._callbacks:
            return False
        with self._noting():
            return any([_ends(each.on_step(self._training)) for each in self._callbacks])

    def end_after_evaluation(self, returns: list[float]) -> bool:
        """Call all after an evaluation; return whether one ends the training."""
        t, games = self._training, np.array(returns)
        with self._noting():
            return any([_ends(each.on_evaluation(t, games)) for each in self._callbacks])

    def on_end(self) -> None:
        """Call all at the end."""
        with self._noting():
            for each in self._callbacks:
                each.on_end(self._training)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Note an error of a callback."""
        try:
            yield
        except BaseException as error:
            self.error = error
            raise


def check_callbacks(callbacks: object) -> None:
    """Refuse what is no sequence of callbacks.

    Raises:
        ConfigError: it is one callback, a class, or something else.
    """
    listed = callbacks if isinstance(callbacks, list | tuple) else [None]
    if not all(isinstance(each, Callback) for each in listed):
        raise ConfigError(
            f"callbacks is {callbacks!r}; it must be a list of ludus.Callback objects"
        )


def _ends(answer: object) -> bool:
    """Return whether a callback ends the training: False does, also NumPy's."""
    return answer is not None and not answer


class StopAtScore(Callback):
    """Ends the training once the mean return of an evaluation reaches a score.

    Args:
        score: mean return.
    """

    def __init__(self, score: float) -> None:
        self.score = score

    def on_evaluation(self, training: RunningTraining, returns: np.ndarray) -> bool:
        """Return whether the score has not been reached."""
        return float(returns.mean()) < self.score


class SaveBest(Callback):
    """Saves the agent whenever an evaluation's mean return is the highest so far.

    Args:
        path: of the file, see `TrainedAgent.save`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path, self.best = Path(path), -math.inf

    def on_evaluation(self, training: RunningTraining, returns: np.ndarray) -> None:
        """Save the agent if it is the best."""
        if float(returns.mean()) > self.best:
            self.best = float(returns.mean())
            training.save(self.path)
