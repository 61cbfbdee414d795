"""Train an agent in a run folder, resume it bit for bit, load it to act."""

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ludus.agents import presets
from ludus.agents.sb3 import SB3Agent, SB3Config
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import EnvError, Row, VectorEnv
from ludus.networks.cores import State
from ludus.training.checkpoint import newest_checkpoint, save_checkpoint
from ludus.training.evaluate import Evaluation, EvaluationStopped, evaluate, tuned_for
from ludus.training.graphs import Capturable, capture
from ludus.training.logger import Logger
from ludus.training.loop import train_loop
from ludus.training.run import Run, RunConfig, RunError, TrainOptions

_console = Console(stderr=True, highlight=False, soft_wrap=True)


class Stopped(Exception):
    """A signal ended the training after a last checkpoint; `code` is the exit status."""

    def __init__(self, number: int, steps: int, how_to_go_on: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} at {steps:,} steps; {how_to_go_on}")
        self.code = 128 + number


def device_of(name: str) -> torch.device:
    """The torch device for auto, cpu or cuda.

    Raises:
        RunError: cuda was asked for and there is none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise RunError("device is cuda, but torch sees no GPU here; use --device cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def train(
    agent: str,
    env: str,
    *,
    steps: int = 100_000,
    seed: int = 0,
    config: presets.Config | None = None,
    options: EnvOptions | None = None,
    more: TrainOptions | None = None,
    root: Path | str = "runs",
    quiet: bool = False,
) -> presets.AnyAgent:
    """Train an agent on an env and return it.

    Args:
        agent: a preset's name, see `ludus list agents`.
        env: an env id, see `ludus.envs.make.make`.
        steps: env steps.
        seed: of everything.
        config: in place of the preset's.
        options: changes to the env's protocol.
        more: the other choices of a training; its own steps and seed are not read.
        root: where run folders are made.
        quiet: no progress.
    """
    options = options or EnvOptions()
    if more is None:
        probe = make(env, 1, 0, options)
        more = TrainOptions(num_envs=presets.num_envs(agent, presets.family(probe)))
        probe.close()
    chosen = replace(more, steps=steps, seed=seed)
    return Session.start(agent, env, chosen, options, config, Path(root), quiet=quiet).run_to_end()


class Session:
    """One sitting of a training: from the start or a checkpoint to the end or a signal."""

    @classmethod
    def start(
        cls,
        agent: str,
        env_id: str,
        train_options: TrainOptions,
        options: EnvOptions,
        config: presets.Config | None,
        root: Path,
        *,
        quiet: bool = False,
    ) -> "Session":
        """A new training, whose run folder is made once all else has been found to work."""
        device = device_of(train_options.device)
        train_options = replace(train_options, device=device.type)  # a resume is on the same
        env = make(env_id, train_options.num_envs, train_options.seed, options)
        try:
            chosen = presets.preset(agent, env) if config is None else config
            t = train_options
            built = presets.build(chosen, env, device=device, seed=t.seed, steps=t.steps)
            whole = RunConfig(agent, env_id, train_options, options, chosen, env.protocol)
            return cls(Run.create(root, whole), whole, env, built, device, quiet, resumed=False)
        except BaseException:
            env.close()
            raise

    @classmethod
    def resume(cls, run: Run, *, quiet: bool = False) -> "Session":
        """Go on with a training from its newest whole checkpoint."""
        config = run.config()
        if isinstance(config.config, SB3Config):
            raise RunError(f"{run.path} is an SB3 run; those cannot be resumed, only evaluated")
        t = config.train
        device = device_of(t.device)
        env = make(config.env, t.num_envs, t.seed, config.options)
        built = presets.build(config.config, env, device=device, seed=t.seed, steps=t.steps)
        return cls(run, config, env, built, device, quiet, resumed=True)

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        env: VectorEnv,
        agent: presets.AnyAgent,
        device: torch.device,
        quiet: bool,
        resumed: bool,
    ) -> None:
        self.run, self.config, self.env, self.agent = run, config, env, agent
        self.device, self.quiet, self._resume = device, quiet, resumed
        self._lock = run.lock()
        if isinstance(agent, Capturable):
            capture(agent)
        self._signal: int | None = None
        self._saved_at = time.monotonic()
        self._log: Logger
        self._evaluating = 0.0  # seconds
        self._evaluated: list[dict[str, Any]] = []

    def run_to_end(self) -> presets.AnyAgent:
        """Train; evaluate; keep the weights.

        Raises:
            Stopped: on SIGINT or SIGTERM, after a last checkpoint.
            EnvError: the env broke; the newest checkpoint stays.
        """
        t = self.config.train
        self._say_what()
        try:
            with _Signals(self._on_signal), tuned_for(self.env):
                if isinstance(self.agent, SB3Agent):
                    self._train_sb3(self.agent)
                else:
                    self._train_own()
                self._log.progress(self.agent.env_steps)
                self._keep_weights()
                done = self._evaluated[-1]["env_steps"] if self._evaluated else -1
                if t.eval_episodes and done < self.agent.env_steps:
                    self._evaluate()
                if self._signal is not None:
                    raise self._stopped()
            self._status("finished")
        except Stopped:
            self._status("stopped")
            raise
        except EnvError as error:
            self._status("failed")
            raise EnvError(f"{error}; {self._how_to_go_on()}") from error.__cause__
        except BaseException:
            with contextlib.suppress(OSError):
                self._status("failed")
            raise
        finally:
            self.env.close()
            self._lock.close()
            if hasattr(self, "_log"):
                self._log.close()
        return self.agent

    @property
    def steps_per_second(self) -> float:
        """Env steps of training per second of wall clock, evaluations left out."""
        return self.agent.env_steps / max(self._log.seconds - self._evaluating, 1e-9)

    # -- our agents ---------------------------------------------------------------------------

    def _train_own(self) -> None:
        agent, t = self.agent, self.config.train
        assert not isinstance(agent, SB3Agent)
        if self._resume:
            row, state = self._restore()
        else:
            self._log = self._logger(None)
            row, state = self.env.reset(), agent.initial_state(self.env.num_envs)
            self._status("running")
        train_loop(agent, self.env, row, state, t.steps, self._after)

    def _after(self, row: Row, state: State) -> bool:
        """Log, evaluate and save where they are due."""
        agent, t = self.agent, self.config.train
        assert not isinstance(agent, SB3Agent)
        self._log.row(row, agent.env_steps)
        if self._log.due(agent.env_steps):
            self._log.write(agent.metrics(), agent.env_steps, agent.updates)
        self._log.progress(agent.env_steps)
        if t.eval_every and agent.env_steps // t.eval_every > self._evaluations_done():
            self._evaluate()
        late = time.monotonic() - self._saved_at > t.checkpoint_seconds
        if late or self._signal is not None or agent.env_steps >= t.steps:
            self._save(row, state)
        if self._signal is not None:
            raise self._stopped()
        return True

    def _evaluations_done(self) -> int:
        every = self.config.train.eval_every
        return max((e["env_steps"] // every for e in self._evaluated), default=0)

    def _save(self, row: Row, state: State) -> None:
        agent = self.agent
        assert not isinstance(agent, SB3Agent)
        tree = {
            "agent": agent.state_dict(),
            "env": self.env.state_dict(),
            "row": row._asdict(),
            "state": list(state),
            "log": self._log.state_dict(),
            "evaluations": self._evaluated,
        }
        keep = self.config.train.keep_checkpoints
        save_checkpoint(self.run.checkpoints, agent.env_steps, tree, keep)
        self._keep_weights()
        self._status("running")
        self._saved_at = time.monotonic()

    def _restore(self) -> tuple[Row, State]:
        agent = self.agent
        assert not isinstance(agent, SB3Agent)
        tree, damaged = newest_checkpoint(self.run.checkpoints)
        for sentence in damaged:
            _console.print(f"warning: {sentence}", style="yellow")
        row = Row(**{k: np.array(v) for k, v in tree["row"].items()})
        agent.load_state_dict(tree["agent"])
        self.env.load_state_dict(tree["env"], row)
        self._evaluated = tree["evaluations"]
        self._log = self._logger(tree["log"])
        if not self.quiet:
            _console.print(f"resumed {self.run.path} at {agent.env_steps:,} steps")
        state = tuple(s.to(self.device) for s in tree["state"])
        return row, state

    # -- SB3 ----------------------------------------------------------------------------------

    def _train_sb3(self, agent: SB3Agent) -> None:
        t = self.config.train
        self._log = self._logger(None)
        self._status("running")
        steps = 0

        def on_row(row: Row) -> None:
            nonlocal steps
            steps += self.env.num_envs
            self._log.row(row, steps)

        def on_step(done: int) -> bool:
            if self._log.due(done):
                self._log.write({}, done, agent.updates)
            self._log.progress(done)
            return self._signal is None

        agent.fit(self.env, t.steps, on_row=on_row, on_step=on_step, write=self._log.scalars)
        if self._signal is not None:
            self._keep_weights()
            raise self._stopped()

    # -- around both --------------------------------------------------------------------------

    def _logger(self, state: dict[str, Any] | None) -> Logger:
        t, name = self.config.train, f"{self.config.agent} {self.config.env}"
        done = self.agent.env_steps
        return Logger(self.run.path, name, t.steps, t.log_every, self.quiet, state, done)

    def _on_signal(self, number: int) -> None:
        self._signal = number

    def _evaluate(self) -> None:
        t, began = self.config.train, time.monotonic()
        try:
            result: Evaluation = evaluate(
                self.agent,
                self.config.env,
                self.config.options,
                episodes=t.eval_episodes,
                epsilon=t.eval_epsilon,
                stop=lambda: self._signal is not None,
            )
        except EvaluationStopped:  # the signal is answered where the training stands
            return
        steps = self.agent.env_steps
        told = {"env_steps": steps, "returns": result.returns, "lengths": result.lengths}
        self._evaluated.append(told)
        self.run.write_evaluations(self._evaluated)
        points = {
            "eval/mean_reward": result.mean,
            "eval/mean_ep_length": float(np.mean(result.lengths)),
        }
        self._log.scalars(points, steps)
        self._evaluating += time.monotonic() - began

    def _keep_weights(self) -> None:
        save_checkpoint(self.run.weights, self.agent.env_steps, self.agent.weights(), keep=1)

    def _status(self, state: str) -> None:
        score = float(np.mean(self._evaluated[-1]["returns"])) if self._evaluated else None
        self.run.write_status(state, self.agent.env_steps, score)

    def _stopped(self) -> Stopped:
        assert self._signal is not None
        return Stopped(self._signal, self.agent.env_steps, self._how_to_go_on())

    def _how_to_go_on(self) -> str:
        if isinstance(self.agent, SB3Agent):
            return f"an SB3 run cannot be resumed; {self.run.path} keeps what it had"
        saved = sorted(p.name for p in self.run.checkpoints.glob("[0-9]*"))
        if not saved:
            return f"no checkpoint had been saved in {self.run.path}"
        return (
            f"everything up to {int(saved[-1]):,} steps is saved; go on with: "
            f"ludus train --resume {self.run.path}"
        )

    def _say_what(self) -> None:
        if self.quiet:
            return
        protocol = ", ".join(f"{k} {v}" for k, v in self.config.protocol.items())
        _console.print(f"{self.config.agent} on {self.config.env} ({protocol})")
        _console.print(f"run folder {self.run.path}, device {self.device}")


class _Signals:
    """Turns SIGINT and SIGTERM into a call, in the main thread, for as long as it is entered."""

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal
        self._before: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._on_signal(number)

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: the signals are its owner's
                return

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def load(
    path: Path | str, *, device: str = "cpu", env: VectorEnv | None = None
) -> presets.AnyAgent:
    """The agent of a run, to act with `predict`.

    Args:
        path: the run's folder.
        device: auto, cpu or cuda.
        env: the env it will play, if it is at hand; only its spaces are read.

    Raises:
        RunError: it is no run, or it has no weights yet.
    """
    run = Run.open(path)
    config = run.config()
    made = env or make(config.env, 1, 0, config.options)
    try:
        agent = presets.build(
            config.config,
            made,
            device=device_of(device),
            seed=config.train.seed,
            steps=config.train.steps,
            training=False,
        )
    finally:
        if env is None:
            made.close()
    try:
        agent.load_weights(run.newest_weights())
    except RuntimeError as error:  # torch's, on names or shapes
        text = " ".join(str(error).split())
        raise RunError(f"the weights of {path} do not fit its config or env: {text}") from error
    return agent
