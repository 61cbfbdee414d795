"""Train an agent in a run folder, resume it bit for bit, load it to act."""

import contextlib
import json
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
from ludus.agents.agent import Agent, Searching
from ludus.agents.capture import Capturable, capture
from ludus.agents.dqn import DQN
from ludus.agents.sb3 import SB3Agent, SB3Config
from ludus.envs.board.spiel import is_game
from ludus.envs.errors import EnvError, RunError, TrainingError, TrainingStopped
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import Row, VectorEnv
from ludus.evaluation.evaluate import Evaluation, EvaluationStopped, evaluate, tuned_for
from ludus.evaluation.rivals import Rivals
from ludus.evaluation.video import gif
from ludus.networks.cores import State
from ludus.training import offline
from ludus.training.checkpoint import newest_checkpoint, save_checkpoint, write_atomically
from ludus.training.dataset import Dataset
from ludus.training.logger import Logger
from ludus.training.loop import train_loop
from ludus.training.run import Run, RunConfig, Status, TrainOptions, at_steps
from ludus.training.transfer import Learner, transfer

_console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


_TELL_SECONDS = 3.0  # between two renewals of status.json
_FILM_STEPS, _FILM_WIDE = 300, 240  # env steps and pixels of a film in TensorBoard
_WHAT_MAY_HELP = "a smaller learning_rate or max_grad_norm may help"


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
    train_options: TrainOptions | None = None,
    root: Path | str = "runs",
    quiet: bool = False,
) -> presets.AnyAgent:
    """Train an agent on an env and return it.

    Args:
        agent: a preset's name, see `ludus list agents`.
        env: an env id, see `ludus.envs.make.make`; with a data set where it is evaluated, ""
            for the data set's own.
        steps: env steps; updates with a data set.
        seed: of everything.
        config: in place of the preset's.
        options: changes to the env's protocol.
        train_options: the other choices of a training; its own steps and seed are not read.
        root: where run folders are made.
        quiet: no progress.
    """
    options = options or EnvOptions()
    if train_options is None:
        probe = make(env, 1, 0, options)
        train_options = TrainOptions(num_envs=presets.num_envs(agent, presets.family(probe)))
        probe.close()
    chosen = replace(train_options, steps=steps, seed=seed)
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
        """A new training, whose run folder is made once all else has been found to work.

        Args:
            agent: a preset's name.
            env_id: what is played; "" with a data set for the env that it is from.
            train_options: how long and how.
            options: changes to the env's protocol.
            config: in place of the preset's.
            root: where the run folder is made.
            quiet: no progress.
        """
        device = device_of(train_options.device)
        t = replace(train_options, device=device.type)  # a resume is on the same
        env = _open(env_id, t, options)
        try:
            chosen = presets.preset(agent, env) if config is None else config
            protocol, said = {}, []
            if isinstance(env, Dataset):
                where = offline.playground(env, env_id, options)
                env_id, options, protocol = where.env_id, where.options, where.protocol
                t = replace(t, dataset=env.source)  # a resume may be in another folder
                if where.missing:
                    t = replace(t, eval_episodes=0, eval_every=0)
                    said = [f"no evaluation: {where.missing}"]
            else:
                protocol = env.protocol
            built = _build(agent, chosen, env, device, t)
            taken = None
            if t.init_from is not None:
                if not isinstance(built, Learner):
                    raise RunError(f"{agent} cannot start from another run; leave out --init-from")
                taken = transfer(built, chosen, Run.open(t.init_from), env)
                said += taken.sentences()
            whole = RunConfig(agent, env_id, t, options, chosen, protocol)
            session = cls(Run.create(root, whole), whole, env, built, device, quiet, resumed=False)
        except BaseException:
            env.close()
            raise
        if taken is not None:
            write_atomically(session.run.path / "transfer.json", json.dumps(taken.as_dict()))
        for sentence in () if quiet else said:
            _console.print(sentence)
        return session

    @classmethod
    def resume(cls, run: Run, *, quiet: bool = False) -> "Session":
        """Go on with a training from its newest whole checkpoint, or from its start before one."""
        config = run.config()
        begun = run.status().state != "waiting"
        if isinstance(config.config, SB3Config) and begun:
            raise RunError(f"{run.path} is an SB3 run; those cannot be resumed, only evaluated")
        device = device_of(config.train.device)
        env = _open(config.env, config.train, config.options)
        built = _build(config.agent, config.config, env, device, config.train)
        resumed = any(run.checkpoints.glob("[0-9]*"))
        if not resumed and config.train.init_from is not None:
            raise RunError(f"{run.path} took another run's weights and saved none; train anew")
        if not resumed:
            run.stamp()
        return cls(run, config, env, built, device, quiet, resumed)

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        env: VectorEnv | Dataset,
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
        self._rivals = _make_rivals(config, env, device)
        self._signal: int | None = None
        self._saved_at = time.monotonic()
        self._log: Logger
        self._told_at, self._films = 0.0, 0
        self._evaluated: list[dict[str, Any]] = []

    def run_to_end(self) -> presets.AnyAgent:
        """Train; evaluate; keep the weights.

        Raises:
            TrainingStopped: on SIGINT or SIGTERM, after a last checkpoint.
            EnvError: the env broke; the newest checkpoint stays.
            TrainingError: what is learned is not finite any more; so too.
        """
        t = self.config.train
        self._say_what()
        try:
            with _Signals(self._on_signal), tuned_for(self.env, self.agent):
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
        except TrainingStopped:
            self._status("stopped")
            raise
        except EnvError as error:
            self._status("failed")
            raise EnvError(f"{error}; {self._how_to_go_on()}") from error.__cause__
        except TrainingError as error:
            self._status("failed")
            raise TrainingError(f"{error}; {self._what_is_kept()}") from error
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

    # -- our agents ---------------------------------------------------------------------------

    def _train_own(self) -> None:
        agent, t = self.agent, self.config.train
        assert not isinstance(agent, SB3Agent)
        if isinstance(self.env, Dataset):
            self._train_offline(self.env)
            return
        if self._resume:
            row, state = self._restore(self._newest(), self.env)
        else:
            self._log = self._logger(None)
            row, state = self.env.reset(), agent.initial_state(self.env.num_envs)
            self._keep_weights()  # so that it can be watched at once
            self._status("running")
        train_loop(agent, self.env, row, state, t.steps, self._after, self._rivals)

    def _after(self, row: Row, state: State) -> bool:
        """Log, evaluate and save where they are due."""
        agent = self.agent
        assert not isinstance(agent, SB3Agent)
        assert isinstance(self.env, VectorEnv)
        self._log.row(row, agent.env_steps)
        if self._log.due(agent.env_steps):
            self._log.write(_finite(agent.metrics()), agent.env_steps, agent.updates)
        if self._evaluate_or_save_now():
            stream = {"env": self.env.state_dict(), "row": row._asdict(), "state": list(state)}
            if self._rivals is not None:
                stream["rivals"] = self._rivals.state_dict()
            self._save({"agent": agent.state_dict(), **stream})
        if self._signal is not None:
            raise self._stopped()
        return True

    def _evaluate_or_save_now(self) -> bool:
        """Show progress, evaluate if that is due; say whether a checkpoint is."""
        steps, t = self.agent.env_steps, self.config.train
        self._progress(steps)
        if t.eval_every and steps // t.eval_every > self._evaluations_done():
            self._evaluate()
        if t.video_every and steps // t.video_every > self._films:
            self._film(steps)
        late = time.monotonic() - self._saved_at > t.checkpoint_seconds
        return late or self._signal is not None or steps >= t.steps

    def _train_offline(self, data: Dataset) -> None:
        """Learn from a data set; the clock of such a run, `env_steps`, is its updates."""
        agent, t = self.agent, self.config.train
        assert isinstance(agent, DQN)
        if self._resume:
            tree = self._newest()
            offline.go_on(agent, data, tree)
            self._resumed(tree)
        else:
            self._log = self._logger(None)
            self._status("running")
        while agent.updates < t.steps:
            agent.study(1, agent.updates / t.steps)
            agent.env_steps = agent.updates
            if self._log.due(agent.updates):
                told = _finite(offline.metrics(agent, data))
                self._log.write(told, agent.updates, agent.updates)
            if self._evaluate_or_save_now():
                self._save(offline.checkpoint(agent, data))
            if self._signal is not None:
                raise self._stopped()

    def _evaluations_done(self) -> int:
        every = self.config.train.eval_every
        return max((e["env_steps"] // every for e in self._evaluated), default=0)

    def _save(self, tree: dict[str, Any]) -> None:
        for name, weight in self.agent.weights().items():
            if not weight.isfinite().all():  # the checkpoint before it stays
                raise TrainingError(f"the weight {name} is not finite any more; {_WHAT_MAY_HELP}")
        log = {"log": self._log.state_dict(), "evaluations": self._evaluated}
        keep = self.config.train.keep_checkpoints
        save_checkpoint(self.run.checkpoints, self.agent.env_steps, tree | log, keep)
        self._keep_weights()
        self._status("running")
        self._saved_at = time.monotonic()

    def _newest(self) -> dict[str, Any]:
        tree, damaged = newest_checkpoint(self.run.checkpoints)
        for sentence in damaged:
            _console.print(f"warning: {sentence}", style="yellow")
        return tree

    def _restore(self, tree: dict[str, Any], env: VectorEnv) -> tuple[Row, State]:
        agent = self.agent
        assert not isinstance(agent, SB3Agent)
        row = Row(**{k: np.array(v) for k, v in tree["row"].items()})
        agent.load_state_dict(tree["agent"])
        env.load_state_dict(tree["env"], row)
        if self._rivals is not None:
            self._rivals.load_state_dict(tree["rivals"])
        self._resumed(tree)
        return row, tuple(s.to(self.device) for s in tree["state"])

    def _resumed(self, tree: dict[str, Any]) -> None:
        self._evaluated = tree["evaluations"]
        self._films = self.agent.env_steps // (self.config.train.video_every or 1)
        self._log = self._logger(tree["log"])
        if not self.quiet:
            _console.print(f"resumed {self.run.path} at {self._at()}")

    # -- SB3 ----------------------------------------------------------------------------------

    def _train_sb3(self, agent: SB3Agent) -> None:
        t, env = self.config.train, self.env
        assert isinstance(env, VectorEnv)
        self._log = self._logger(None)
        self._status("running")
        steps = 0

        def on_row(row: Row) -> None:
            nonlocal steps
            steps += env.num_envs
            self._log.row(row, steps)

        def on_step(done: int) -> bool:
            if self._log.due(done):
                self._log.write({}, done, agent.updates)
            self._progress(done)
            return self._signal is None

        agent.fit(env, t.steps, on_row=on_row, on_step=on_step, write=self._log.scalars)
        if self._signal is not None:
            self._keep_weights()
            raise self._stopped()

    # -- around both --------------------------------------------------------------------------

    def _logger(self, state: dict[str, Any] | None) -> Logger:
        t, name = self.config.train, f"{self.config.agent} {self.config.env}"
        done, unit = self.agent.env_steps, t.unit
        return Logger(self.run.path, name, t.steps, t.log_every, self.quiet, state, done, unit)

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
            self._log.leave_out(time.monotonic() - began)
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
        self._log.leave_out(time.monotonic() - began)

    def _film(self, steps: int) -> None:
        """A held-out game for TensorBoard; an env without a picture has none."""
        c, began = self.config, time.monotonic()
        self._films = steps // c.train.video_every
        try:
            film = gif(self.agent, c.env, c.options, max_steps=_FILM_STEPS, wide=_FILM_WIDE)
            self._log.film("eval/game", film, steps)
        except Exception as error:  # whatever an env's picture may do, the training goes on
            if not self.quiet:
                _console.print(f"no film for TensorBoard: {error}", style="yellow", markup=False)
        self._log.leave_out(time.monotonic() - began)

    def _keep_weights(self) -> None:
        keep = self.config.train.keep_checkpoints
        save_checkpoint(self.run.weights, self.agent.env_steps, self.agent.weights(), keep)

    def _status(self, state: str) -> None:
        score = float(np.mean(self._evaluated[-1]["returns"])) if self._evaluated else None
        steps, log = self.agent.env_steps, getattr(self, "_log", None)
        seconds, mean = (None, None) if log is None else (round(log.seconds, 3), log.mean_return)
        self.run.write_status(Status(state, steps, score, mean, seconds))
        self._told_at = time.monotonic()

    def _progress(self, env_steps: int) -> None:
        """Show the bar, and tell those who watch the folder."""
        self._log.progress(env_steps)
        if time.monotonic() - self._told_at > _TELL_SECONDS:
            self._status("running")

    def _stopped(self) -> TrainingStopped:
        assert self._signal is not None
        name = signal.Signals(self._signal).name
        message = f"stopped by {name} at {self._at()}; {self._how_to_go_on()}"
        return TrainingStopped(message, code=128 + self._signal)

    def _at(self) -> str:
        return f"{self.agent.env_steps:,} {self.config.train.unit}"

    def _how_to_go_on(self) -> str:
        if isinstance(self.agent, SB3Agent):
            return f"an SB3 run cannot be resumed; {self.run.path} keeps what it had"
        kept = self._what_is_kept()
        if not self._saved():
            return kept
        return f"{kept}; go on with: ludus train --resume {self.run.path}"

    def _saved(self) -> list[int]:
        """Env steps of the checkpoints there are, oldest first."""
        return sorted(int(path.name) for path in self.run.checkpoints.glob("[0-9]*"))

    def _what_is_kept(self) -> str:
        saved = self._saved()
        if not saved:
            return f"no checkpoint had been saved in {self.run.path}"
        return f"everything up to {saved[-1]:,} {self.config.train.unit} is saved"

    def _say_what(self) -> None:
        if self.quiet:
            return
        protocol = ", ".join(f"{k} {v}" for k, v in self.config.protocol.items())
        _console.print(f"{self.config.agent} on {self.config.env} ({protocol})")
        if isinstance(self.env, Dataset):
            for sentence in self.env.sentences():
                _console.print(sentence)
        _console.print(f"run folder {self.run.path}, device {self.device}")


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics, where they are finite."""
    for name, value in metrics.items():
        if not np.isfinite(value):
            raise TrainingError(f"{name} became {value}; {_WHAT_MAY_HELP}")
    return metrics


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


def _open(env_id: str, t: TrainOptions, options: EnvOptions) -> VectorEnv | Dataset:
    """What a training learns from."""
    if t.dataset is not None:
        return Dataset(t.dataset, t.held_out, t.seed)
    return make(env_id, t.num_envs, t.seed, options)


def _build(
    name: str,
    config: presets.Config,
    env: VectorEnv | Dataset,
    device: torch.device,
    t: TrainOptions,
) -> presets.AnyAgent:
    if isinstance(env, Dataset):
        return offline.learner(name, config, env, device, t)
    return presets.build(config, env, device=device, seed=t.seed, steps=t.steps)


def _make_rivals(
    config: RunConfig, env: VectorEnv | Dataset, device: torch.device
) -> Rivals | None:
    """Who plays the other side of a board game; None where there is none."""
    t = config.train
    if not is_game(config.env) or isinstance(env, Dataset):
        if t.rivals:
            raise RunError(f"rivals are for board games; leave them out for {config.env}")
        return None

    def make_past() -> Agent:
        agent = presets.build(
            config.config, env, device=device, seed=t.seed, steps=t.steps, training=False
        )
        assert not isinstance(agent, SB3Agent)
        return agent

    names = t.rivals or presets.rivals(config.agent)
    return Rivals(names, config.env, env.num_envs, t.seed, make_past, every=t.steps // 20)


def load(
    path: Path | str, *, device: str = "cpu", simulations: int = 0, config: RunConfig | None = None
) -> presets.AnyAgent:
    """The agent of a run, to act with `predict`.

    Args:
        path: the run's folder, or that and `@ENV_STEPS` for one of its earlier checkpoints.
        device: auto, cpu or cuda.
        simulations: of an agent that searches, for each move; 0 for its own number.
        config: of the run, where it has been read before; None to read it.

    Raises:
        RunError: it is no run, it has no weights yet, or it does not search.
    """
    folder, steps = at_steps(path)
    run = Run.open(folder)
    config = run.config() if config is None else config
    made: VectorEnv | Dataset
    try:
        made = make(config.env, 1, 0, config.options)
    except EnvError:
        if config.train.dataset is None:
            raise
        made = Dataset(config.train.dataset, held_out=0, download=False)
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
        made.close()
    try:
        agent.load_weights(run.newest_weights() if steps is None else run.weights_at(steps))
    except RuntimeError as error:  # torch's, on names or shapes
        text = " ".join(str(error).split())
        raise RunError(f"the weights of {path} do not fit its config or env: {text}") from error
    if simulations < 0:
        raise RunError(f"simulations is {simulations}; it must be 0 or more")
    if simulations and not isinstance(agent, Searching):
        raise RunError(f"{config.agent} does not search; leave simulations out for {path}")
    if simulations and isinstance(agent, Searching):
        agent.simulations = simulations
    return agent
