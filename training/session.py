"""A training from its start or a checkpoint to its end or a signal.

`Session` holds what all trainings share: log, evaluations, videos, checkpoints and status. How an
agent gets its data is its `Mode`: `online`, `offline` or `baseline`.
"""

import contextlib
import math
import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ludus.agents.agent import Agent, AnyAgent
from ludus.envs.env_object import PREFIX
from ludus.envs.errors import (
    CheckpointError,
    EnvError,
    LudusError,
    PeerError,
    RunError,
    TrainingError,
    TrainingStopped,
)
from ludus.envs.trust import consent_arguments
from ludus.envs.vector import Row
from ludus.evaluation.evaluate import (
    EvaluationStopped,
    evaluate,
    torch_settings,
    truncated_games,
)
from ludus.training.callbacks import Callback, Callbacks, RunningTraining
from ludus.training.card import card
from ludus.training.checkpoint import newest_checkpoint, save_checkpoint
from ludus.training.checkpoint_writer import CheckpointWriter
from ludus.training.console import Terminal
from ludus.training.decisions import Decisions
from ludus.training.device import arithmetic
from ludus.training.film import film, save_thumbnail
from ludus.training.find_run import RunState
from ludus.training.gang import ALONE_GANG, Gang
from ludus.training.header import header, resumed
from ludus.training.logger import Logger
from ludus.training.mode import Mode
from ludus.training.progress import Due, Show
from ludus.training.run import Run, RunConfig, Status, changes, settings_of
from ludus.training.signals import Signals, signal_name

_STATUS_SECONDS = 3.0  # between two writes of status.json
_STAGES = 10  # of the training whose weights are kept, to watch how the agent learned
_HINT = "a smaller learning_rate or max_grad_norm may help"

console = Terminal(stderr=True)


class Session:
    """One training.

    Args:
        run: its folder, locked until the training ends.
        config: of the run.
        mode: agent and data.
        callbacks: called during the training.
        quiet: show no progress.
        resumed: continue from the newest checkpoint.
        gang: the ranks of the training, of which this process is the first.
    """

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        mode: Mode,
        callbacks: Sequence[Callback] = (),
        *,
        quiet: bool,
        resumed: bool,
        gang: Gang = ALONE_GANG,
    ) -> None:
        self.run, self.config, self.mode, self.agent = run, config, mode, mode.agent
        self.quiet, self._resumed, self.gang = quiet, resumed, gang
        self._lock = run.lock(console.print)
        again = "" if gang.size > 1 else ", a second signal ends at once"
        saving = "" if quiet else f"saving{again}"
        self._signals = Signals(announcement=saving, ignores_others=gang.size > 1)
        self.decisions = Decisions(lambda: self._signals.received or 0, gang.rows)
        self._log: Logger | None = None
        keep, own = config.train.keep_checkpoints, self._lock.require
        self._writer = CheckpointWriter(run.checkpoints, keep, gang.checkpoints, own)
        self._saved_at = time.monotonic()
        self._status_at, self._videos, self._filmed = 0.0, 0, -1
        self._stage, self._stage_steps = 0, max(1, config.train.steps // _STAGES)
        self._evaluations: list[dict[str, Any]] = []
        self._changed = changes(run.config(), config)  # what its folder does not have yet
        self._resumed_at = 0  # env steps
        self._due = Due(config.train)
        seen = RunningTraining(run, config, self.agent, lambda: self.log)
        self._callbacks = Callbacks(callbacks, seen)

    @property
    def log(self) -> Logger:
        """The training's log."""
        assert self._log is not None, "the session has not begun"
        return self._log

    @property
    def stopping(self) -> bool:
        """Whether a signal asks this process to stop."""
        return self._signals.received is not None

    @property
    def ended(self) -> bool:
        """Whether its steps are done, its minutes over, or a callback ends it."""
        return self.decisions.ended

    def run_to_end(self) -> AnyAgent:
        """Train, evaluate, save the weights and return the agent.

        Raises:
            TrainingStopped: on SIGINT, SIGTERM or SIGHUP, after a last checkpoint.
            EnvError: the env broke; the newest checkpoint remains.
            TrainingError: a loss or weight is not finite; the newest checkpoint remains.
            CheckpointError, RunError: the run folder cannot be written.
        """
        # Signals are handled until everything is closed, so that a second one ends that, too.
        with self._signals:
            for line in () if self.quiet else header(self.config, self.mode, self.run, self.gang):
                console.print(line)
            try:
                self._run()
            except TrainingStopped:
                with contextlib.suppress(OSError):
                    self.write_status("stopped")
                raise
            except BaseException as error:
                with contextlib.suppress(Exception):  # the error that ends the training comes first
                    self._writer.finish()
                if not self._changed:  # else the run is as it was, only its new settings failed
                    with contextlib.suppress(OSError):
                        self.write_status("failed")
                self._explain(error)
                raise
            finally:
                self._close()
        return self.agent

    def _run(self) -> None:
        """Train, evaluate and save the weights."""
        t = self.config.train
        settings = torch_settings(self.mode.source, self.agent)
        with settings, arithmetic(t.device, t.precision, deterministic=t.deterministic):
            self.mode.train(self, self._begin())
            self.decisions.decide_alone()
            self._show(self.agent.env_steps)
            self.record_changes()
            self.save_weights()
            evaluated = self._evaluations[-1]["env_steps"] if self._evaluations else -1
            if t.eval_episodes and evaluated < self.agent.env_steps:
                self._evaluate()
            if t.eval_episodes and t.video_every and self._filmed != self.agent.env_steps:
                self._record_video(self.agent.env_steps)
            self.raise_if_stopping()
        self._callbacks.on_end()
        self.log.close()
        self.write_status("finished")

    def _explain(self, error: BaseException) -> None:
        """Raise an error that a user can mend again, with what is saved and how to go on."""
        if error is self._callbacks.error:
            return  # its own
        match error:
            case EnvError():
                raise EnvError(f"{error}; {self._how_to_resume()}") from error.__cause__
            case TrainingError():
                raise TrainingError(f"{error}; {self._saved()}") from error
            case PeerError():
                raise PeerError(f"{error}; {self._saved()}") from error
            case OSError():  # the disk is full or read-only, or the folder was deleted
                raise RunError(f"{error}; {self._how_to_resume()}") from error

    def _close(self) -> None:
        """Free everything."""
        self.mode.close()
        self._lock.release()
        if self._log is not None:
            with contextlib.suppress(OSError):  # of a disk that has failed before
                self._log.close()

    def _begin(self) -> dict[str, Any] | None:
        """Open the log and return the checkpoint to resume from; None for a new training."""
        tree: dict[str, Any] | None = None
        if self._resumed:
            tree, damaged, path = newest_checkpoint(self.run.checkpoints, self.gang.rows)
            self._writer.continue_from(path, tree)
            for sentence in damaged:
                console.print(f"warning: {sentence}", style="yellow")
            if not isinstance(tree, dict):
                raise CheckpointError(f"the newest checkpoint of {self.run.path} holds no training")
        t, name = self.config.train, f"{self.config.agent} {self.config.env}"
        with self.restoring():
            self._evaluations = [] if tree is None else self._evaluated(tree)
            moved_from = self._moved_from(tree)
            done = self._resumed_at = 0 if tree is None else int(tree["agent"]["env_steps"])
            state = None if tree is None else tree["log"]
            self._log = Logger(
                self.run.path, name, t.end, t.log_every, self.quiet, state, done, t.unit, t.log
            )
            self._show(done)
        self._videos, self._stage = done // (t.video_every or 1), done // self._stage_steps
        if tree is None:
            if self.mode.resumable:
                self.save_weights()  # so that it can be watched at once
            self.log.card(card(self.config, self.run.path), settings_of(self.config))
            self.write_status("running")
        elif not self.quiet:
            for line in resumed(self.run, self.config, done, self._changed, moved_from):
                console.print(line)
        return tree

    def _evaluated(self, tree: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the evaluations up to a checkpoint, also those after it at the same step."""
        done, known = int(tree["agent"]["env_steps"]), list(tree["evaluations"])
        steps = {each["env_steps"] for each in known}
        later = [e for e in self.run.evaluations() if e["env_steps"] not in steps]
        return [*known, *(e for e in later if e["env_steps"] == done)]

    def _moved_from(self, tree: dict[str, Any] | None) -> str | None:
        """Return the device on which a checkpoint was saved, if it is another one."""
        here = self.config.train.device
        recorded = self._changed.get("device", (here,))[0]
        saved = str((tree or {"device": here}).get("device", recorded))
        return None if saved == here else saved

    def record_changes(self) -> None:
        """Record what has changed, such as the device, once the state fits it."""
        if self._changed:
            self.run.change(self.config, self._resumed_at)
            self._changed = {}

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """Convert what loading a checkpoint of another content raises into one sentence.

        Raises:
            CheckpointError: the checkpoint does not fit this run.
        """
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if isinstance(error, LudusError):
                raise
            text = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"the newest checkpoint of {self.run.path} does not fit its config: "
                f"{type(error).__name__}: {text}{self._hint_at_changes()}"
            ) from error

    def _hint_at_changes(self) -> str:
        names = ", ".join(self._changed)
        return f"; the run is as it was, without new values of {names}" if names else ""

    def after_row(self, row: Row, *, may_evaluate: bool = True) -> bool:
        """Log a row, see `after_step`."""
        self.log.add_row(row, self.agent.env_steps)
        if self.log.due(self.agent.env_steps):
            assert isinstance(self.agent, Agent)
            self.write_metrics(self.agent.metrics())
        return self.after_step(may_evaluate=may_evaluate)

    def after_step(self, *, may_evaluate: bool = True) -> bool:
        """Show progress, evaluate and record when due; return whether a checkpoint is due.

        Args:
            may_evaluate: evaluate and record now; otherwise wait for a later step.
        """
        steps, t = self.agent.env_steps, self.config.train
        self.show_progress(steps)
        if t.eval_every and may_evaluate:
            last = max((e["env_steps"] for e in self._evaluations), default=0)
            if steps // t.eval_every > last // t.eval_every:
                self._evaluate()
        if t.video_every and may_evaluate and steps // t.video_every > self._videos:
            self._record_video(steps)
        if may_evaluate and steps // self._stage_steps > self._stage and not self.ended:
            self.save_weights()
        self.decisions.wants_save = time.monotonic() - self._saved_at > t.checkpoint_seconds
        return self.decisions.save

    def show_progress(self, env_steps: int) -> None:
        """Update the progress bar, and status.json every few seconds."""
        self._show(env_steps)
        self.decisions.wants_end |= self._callbacks.end_after_step()
        if time.monotonic() - self._status_at > _STATUS_SECONDS:
            self.write_status("running")

    @contextlib.contextmanager
    def task(self, name: str, total: int, unit: str) -> Iterator[Show]:
        """Show the progress of something other than training, which counts neither its time."""
        began = time.monotonic()
        try:
            with self.log.bar.task(name, total, unit) as show:
                yield show
        finally:
            self._due.seconds[name] = time.monotonic() - began
            self.log.exclude(self._due.seconds[name])

    def _show(self, env_steps: int) -> None:
        """Update the progress bar, and whether the training has ended."""
        t = self.config.train
        left = 60 * t.minutes - self.log.seconds if t.minutes else math.inf
        self.decisions.complete |= env_steps >= t.end
        self.decisions.wants_end |= left <= 0
        self.log.progress(env_steps, self._due, left)

    def write_metrics(self, metrics: dict[str, float]) -> None:
        """Write metrics to the log.

        Raises:
            TrainingError: a metric is not finite.
        """
        for name, value in metrics.items():
            if not np.isfinite(value):
                raise TrainingError(f"{name} became {value}; {_HINT}")
        self.log.write(metrics, self.agent.env_steps, self.agent.updates)

    def save(self, tree: dict[str, Any]) -> None:
        """Write a checkpoint, in another thread unless the training ends.

        Raises:
            TrainingError: a weight is not finite; the previous checkpoint remains.
            CheckpointError: it cannot be written; older ones remain. One that fails in the other
                thread is made up for by the next, which is waited for.
        """
        self._finite_weights()
        steps, t = self.agent.env_steps, self.config.train
        log = {"log": self.log.state_dict(), "evaluations": self._evaluations, "device": t.device}
        self.record_changes()
        with self._writing():
            self._writer.save(steps, tree | log, wait=self.decisions.last)
        self.decisions.wants_save = False
        self.save_weights()
        self.write_status("running")
        self._saved_at = time.monotonic()

    def raise_if_stopping(self) -> None:
        """Raise `TrainingStopped` if a signal asks the training to stop."""
        number = self.decisions.signal
        if number:
            with self._writing():
                self._writer.finish()  # it may have begun before the signal
            stopped = f"stopped by {signal_name(number)} at {self._position()}"
            message = f"{stopped}; {self._how_to_resume()}"
            raise TrainingStopped(message, code=128 + number)

    def write_status(self, state: RunState) -> None:
        """Write status.json."""
        score = float(np.mean(self._evaluations[-1]["returns"])) if self._evaluations else None
        mean = None if self._log is None else self._log.mean_return
        seconds = None if self._log is None else round(self._log.seconds, 3)
        self.run.write_status(Status(state, self.agent.env_steps, score, mean, seconds))
        self._status_at = time.monotonic()

    def save_weights(self) -> None:
        """Save the weights for acting; raises as `save` does."""
        weights, steps, t = self._finite_weights(), self.agent.env_steps, self.config.train
        self._stage = steps // self._stage_steps
        with self._writing():
            into, keep, every = self.run.weights, t.keep_checkpoints, self._stage_steps
            save_checkpoint(into, steps, weights, keep, every=every, require_own=self._lock.require)

    def _finite_weights(self) -> dict[str, Any]:
        weights = self.agent.weights()
        for name, weight in weights.items():
            if not weight.isfinite().all():
                raise TrainingError(f"the weight {name} is not finite any more; {_HINT}")
        return weights

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say how to go on where a checkpoint cannot be written."""
        if self.run.deleted:  # `save_checkpoint` would make a folder that cannot be resumed
            raise RunError(f"the run folder was deleted at {self._position()}; {self._saved()}")
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {self._how_to_resume()}") from error

    def _evaluate(self) -> None:
        t = self.config.train
        try:
            with self.task("evaluation", t.eval_episodes, "games") as show:
                result = evaluate(
                    self.agent,
                    self.config.env,
                    self.config.options,
                    episodes=t.eval_episodes,
                    epsilon=t.eval_epsilon,
                    max_episode_steps=t.eval_max_episode_steps,
                    stop=lambda: self.stopping,
                    on_step=lambda games, steps: show(games, f"{steps:,} steps"),
                )
        except EvaluationStopped:
            return
        if result.truncated and not self.quiet:
            console.print(truncated_games(result))
        steps = self.agent.env_steps
        record = {"env_steps": steps, "returns": result.returns, "lengths": result.lengths}
        self._evaluations.append(record)
        self.run.write_evaluations(self._evaluations)
        points = {
            "eval/mean_reward": result.mean,
            "eval/mean_ep_length": float(np.mean(result.lengths)),
        }
        self.log.scalars(points, steps)
        self.decisions.wants_end |= self._callbacks.end_after_evaluation(result.returns)

    def _record_video(self, steps: int) -> None:
        """Record a held-out game for TensorBoard, if the env can render."""
        self._videos, self._filmed = steps // self.config.train.video_every, steps
        self.agent.weights()  # raises an error of updates that run in another thread
        try:
            video = film(self.agent, self.config, self.task, lambda: self.stopping)
            self.log.video("eval/game", video, steps)
            save_thumbnail(video, self.run.thumbnail)
        except EvaluationStopped:
            return
        except Exception as error:  # a broken picture must not stop the training
            if not self.quiet:
                console.print(f"no video for TensorBoard: {error}", style="yellow")

    def _position(self) -> str:
        return f"{self.agent.env_steps:,} {self.config.train.unit}"

    def _saved(self) -> str:
        return self.run.what_is_saved(self.config.train.unit)

    def _how_to_resume(self) -> str:
        if not self.mode.resumable:
            return f"an SB3 run cannot be resumed; {self.run.path} keeps its log and weights"
        if not self.run.saved_steps:
            return self._saved()
        c = self.config
        if c.env.startswith(PREFIX):
            return f'{self._saved()}; go on with: ludus.resume("{self.run.path}", env)'
        consent = consent_arguments(c.env, c.imported)
        command = shlex.join(["ludus", "train", "--resume", str(self.run.path), *consent])
        return f"{self._saved()}; go on with: {command}"
