"""Run folders: one training of one agent on one env with one seed.

runs/<env>/<agent>/<seed>-<time>/
    config.json     agent, env, options, protocol, versions, commit: all that reproduces the run
    status.json     state, env steps and score; rewritten every few seconds
    episodes.csv    env_steps, seconds, return and length of every finished game
    evaluations.json
    checkpoints/    the newest few, to resume from
    weights/        weights for acting: from the start, from each checkpoint and from the end
    events.out...   TensorBoard
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from time import strftime
from typing import Annotated, Any

import numpy as np
from torch import Tensor

from ludus.agents import registry
from ludus.agents.agent import AgentConfig
from ludus.envs.bounds import (
    AT_LEAST_ONE,
    FRACTION,
    NON_NEGATIVE,
    NON_NEGATIVE_OR_INFINITE,
    Bounds,
    check_bounds,
)
from ludus.envs.errors import CheckpointError, FormatError, LudusError, RunError
from ludus.envs.from_json import from_json
from ludus.envs.make import EnvOptions
from ludus.training.checkpoint import newest_checkpoint, read_checkpoint, write_atomically
from ludus.training.device import Precision, check_device
from ludus.training.files import read_json
from ludus.training.find_run import RunState, find_run, run_folders
from ludus.training.formats import check_format, format_stamp
from ludus.training.lease import RunLock
from ludus.training.provenance import made_by
from ludus.training.sinks import LogName


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training that do not depend on the agent."""

    steps: Annotated[int, AT_LEAST_ONE] = 100_000
    """env steps (decisions) to train for, which schedules follow; updates with a data set"""
    minutes: Annotated[float, NON_NEGATIVE] = 0.0
    """minutes of training, without evaluations, after which it ends before `steps`; 0: no limit"""
    until: Annotated[int, NON_NEGATIVE] = 0
    """env steps after which it ends before `steps`, and from which a resume goes on; 0: no limit"""
    seed: Annotated[int, NON_NEGATIVE] = 0
    """seed of the envs, the weights, the exploration and the sampling"""
    num_envs: Annotated[int, AT_LEAST_ONE] = 8
    """number of parallel envs"""
    halves: bool = False
    """Atari, envs in workers: step two halves in turn, acting for one while the other plays"""
    ray: str | None = None
    """step the envs on a Ray cluster: auto, local, or host:port (default: on this machine)"""
    hosts: Annotated[int, NON_NEGATIVE] = 0
    """ray: number of processes among which the envs are divided; 0: one for each machine"""
    patience: Annotated[float, NON_NEGATIVE] = 300.0
    """ray: seconds to wait for a host before the training saves and ends"""
    device: str = "auto"
    """auto, cpu, cuda or mps; auto is cuda if there is such a GPU, else cpu"""
    precision: Precision = "float32"
    """arithmetic of the updates: torch's float32, TF32 in its matrix products, or bfloat16"""
    compile: bool = False
    """cpu: compile the updates by TorchInductor, which takes seconds and needs a C++ compiler"""
    deterministic: bool = False
    """cuda: use only algorithms that give the same numbers again"""
    log_every: Annotated[int, AT_LEAST_ONE] = 1_000
    """env steps (updates with a data set) between two points of a curve"""
    log: tuple[LogName, ...] = ()
    """where curves go besides TensorBoard: csv, json (files in the run), wandb, mlflow, trackio"""
    eval_every: Annotated[int, NON_NEGATIVE] = 0
    """env steps (updates with a data set) between two evaluations; 0 for one at the end only"""
    eval_episodes: Annotated[int, NON_NEGATIVE] = 10
    """full games in an evaluation; 0 for no evaluation"""
    eval_epsilon: Annotated[float, FRACTION] = 0.0
    """probability of a random action in an evaluation; 0 for the deterministic policy"""
    eval_max_episode_steps: Annotated[int, NON_NEGATIVE] = 0
    """env steps after which an evaluation truncates a game; 0: 108,000 if the env has no limit"""
    video_every: Annotated[int, NON_NEGATIVE] = 100_000
    """env steps between two videos of a held-out game in TensorBoard; 0 for none"""
    checkpoint_seconds: Annotated[float, NON_NEGATIVE_OR_INFINITE] = 300.0
    """seconds between two checkpoints"""
    keep_checkpoints: Annotated[int, AT_LEAST_ONE] = 2
    """number of checkpoints to keep, the newest"""
    init_from: str | None = None
    """run folder to start from: its encoder is used, and its head if the actions are the same"""
    rivals: tuple[str, ...] = ()
    """board games: opponents to sample from for each game; self, past, random, mcts:N"""
    dataset: str | None = None
    """learn from this data set without an env: a folder of `ludus collect`, or a Minari id"""
    held_out: Annotated[float, Bounds(0, 1, below_high=True)] = 0.1
    """fraction of the data set's episodes that is held out for `validation/td_error`"""

    @property
    def unit(self) -> str:
        """Return what `steps`, `log_every` and `eval_every` count."""
        return "steps" if self.dataset is None else "updates"

    @property
    def end(self) -> int:
        """Return the steps after which the training ends, if not by its minutes before."""
        return min(self.steps, self.until or self.steps)

    def __post_init__(self) -> None:
        """Raise `RunError` for values that cannot work."""
        check_bounds(self, RunError)
        if self.seed >= 1 << 40:
            raise RunError(
                f"seed is {self.seed}; it must be below 2^40, where held-out seeds begin"
            )
        check_device(self.device)


@dataclass(frozen=True)
class RunConfig:
    """Everything that reproduces a run."""

    agent: str
    env: str
    train: TrainOptions
    options: EnvOptions
    config: AgentConfig
    protocol: dict[str, Any]

    @property
    def imported(self) -> tuple[str, ...]:
        """Return what may name a module besides the env id: wrappers, and the encoder."""
        return (*self.options.wrapper, getattr(self.config, "encoder", ""))


@dataclass(frozen=True)
class _Head:
    """The entries of config.json that are no dataclasses."""

    agent: str
    env: str
    config_type: str
    protocol: dict


_HEAD_FIELDS = tuple(field.name for field in fields(_Head))


def record_of(config: RunConfig) -> dict[str, Any]:
    """Return what config.json holds of a new run."""
    return {
        **format_stamp(),
        "agent": config.agent,
        "env": config.env,
        "train": asdict(config.train),
        "options": asdict(config.options),
        "config_type": type(config.config).__name__,
        "config": asdict(config.config),
        "protocol": config.protocol,
        **made_by(),
    }


def config_of(record: dict[str, Any]) -> RunConfig:
    """Invert `record_of`.

    Raises:
        RunError, ConfigError, EnvError: an entry is missing, of another type, or out of bounds.
    """
    head = from_json(_Head, {k: record.get(k) for k in _HEAD_FIELDS}, RunError)
    return RunConfig(
        head.agent,
        head.env,
        from_json(TrainOptions, record.get("train"), RunError),
        from_json(EnvOptions, record.get("options"), RunError),
        from_json(registry.config_class(head.config_type), record.get("config"), RunError),
        head.protocol,
    )


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Return agent, env and every setting of a run by its name."""
    named = {"agent": config.agent, "env": config.env}
    return named | asdict(config.train) | asdict(config.options) | asdict(config.config)


def changes(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ between two configurations of a run, old and new."""
    old, new = settings_of(before), settings_of(after)
    return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


@dataclass(frozen=True)
class Status:
    """State and progress of a run."""

    state: RunState
    env_steps: int = 0
    score: float | None = None  # mean return of the last evaluation
    mean_return: float | None = None  # of the last 100 games of the training
    seconds: float | None = None  # of training so far, without evaluations


PACKED = "packed"  # the entry of config.json that says so
_MAX_STATUS_BYTES = 1 << 20
_STATUS_FIELDS = tuple(field.name for field in fields(Status))


def _are_evaluations(stored: Any) -> bool:
    """Return whether a value is what `write_evaluations` writes."""
    try:
        return isinstance(stored, list) and all(
            type(each["env_steps"]) is int
            and np.isfinite(np.asarray(each["returns"], np.float64)).ndim == 1
            and len(each["returns"]) == len(each["lengths"]) > 0
            for each in stored
        )
    except (TypeError, ValueError, LookupError):
        return False


def _as_weights(tree: Any) -> dict[str, Tensor]:
    """Return a checkpoint's tree if it is of weights.

    Raises:
        CheckpointError: it is not.
    """
    if not isinstance(tree, dict) or not all(isinstance(each, Tensor) for each in tree.values()):
        raise CheckpointError("it holds no weights")
    return tree


class Run:
    """Folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, root: Path, config: RunConfig) -> "Run":
        """Make a new folder below root, named after env, agent, seed and time, with its config."""
        parts = (config.env.replace("/", "-").replace(":", "-"), config.agent.replace(":", "-"))
        stem = f"{config.train.seed}-{strftime('%Y%m%d-%H%M%S')}"
        for suffix in range(1000):
            path = root.joinpath(*parts, stem + (f"-{suffix}" if suffix else ""))
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise RunError(f"the run folder {path} cannot be made: {error.strerror}") from error
            break
        run = cls(path)
        write_atomically(path / "config.json", json.dumps(record_of(config), indent=2))
        run.write_status(Status("waiting"))
        return run

    def stamp(self) -> None:
        """Record that this version and command train the run from its start."""
        record = read_json(self.path / "config.json")
        record |= format_stamp() | made_by()
        write_atomically(self.path / "config.json", json.dumps(record, indent=2))

    def change(self, config: RunConfig, env_steps: int) -> None:
        """Record that the training goes on with another configuration, and keep its history."""
        record = read_json(self.path / "config.json")
        changed = {k: list(pair) for k, pair in changes(self.config(), config).items()}
        entry = {"env_steps": env_steps, "changed": changed, **made_by()}
        record |= {"train": asdict(config.train), "config": asdict(config.config)}
        record["history"] = [*record.get("history", []), entry]
        write_atomically(self.path / "config.json", json.dumps(record, indent=2))

    def launched_by(self) -> tuple[str | None, list[str] | None]:
        """Return the start of `torchrun` and the command that made the run, None if unknown."""
        try:
            record = read_json(self.path / "config.json")
            return record.get("launch"), record.get("command")
        except (OSError, ValueError, AttributeError):
            return None, None

    def changed(self) -> set[str]:
        """Return the names of the settings that a resume has changed."""
        try:
            history = read_json(self.path / "config.json").get("history", [])
            return {name for entry in history for name in entry["changed"]}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return set()

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Open an existing run: a folder, or what `find_run` takes for one.

        Raises:
            RunError: there is no such run, or more than one.
        """
        return cls(find_run(path))

    def config(self) -> RunConfig:
        """Read the configuration that the run was started with.

        Raises:
            RunError: the file is damaged, or its format is newer than this version of Ludus.
        """
        try:
            record = read_json(self.path / "config.json")
            check_format(record, f"the run {self.path}", FormatError)
            return config_of(record)
        except FormatError as error:
            raise RunError(str(error)) from error
        except (OSError, ValueError, LudusError) as error:
            raise RunError(f"{self.path}/config.json cannot be read: {error}") from error

    def write_evaluations(self, evaluations: list[dict[str, Any]]) -> None:
        """Write all evaluations: env_steps, and the returns and lengths of the games."""
        write_atomically(self.path / "evaluations.json", json.dumps(evaluations))

    def evaluations(self) -> list[dict[str, Any]]:
        """Return what `write_evaluations` wrote; empty if there is nothing readable."""
        try:
            stored = read_json(self.path / "evaluations.json")
        except (OSError, ValueError):
            return []
        return stored if _are_evaluations(stored) else []

    def returns_after(self, steps: int) -> np.ndarray:
        """Return the held-out games [games] of the first evaluation after so many env steps.

        Raises:
            RunError: there is none.
        """
        after = [each for each in self.evaluations() if each["env_steps"] >= steps]
        if not after:
            raise RunError(f"{self.path} has no evaluation after {steps:,} steps")
        return np.asarray(after[0]["returns"], np.float64)

    def newest_weights(self) -> dict[str, Tensor]:
        """Return the weights for acting of the newest checkpoint.

        Raises:
            RunError: the run has not saved any yet, or their format is too new.
        """
        try:
            return _as_weights(newest_checkpoint(self.weights)[0])
        except CheckpointError as error:
            none = "has no weights yet; its first checkpoint saves them"
            none = "has ended without weights" if self.status().state == "finished" else none
            raise RunError(str(error) if self.stages() else f"{self.path} {none}") from error

    def stages(self) -> dict[int, Path]:
        """Return the folders of the weights that are kept by their env steps, oldest first."""
        found = self.weights.glob("[0-9]*")
        return dict(sorted((int(path.name), path) for path in found if path.name.isdecimal()))

    def weights_at(self, steps: int) -> dict[str, Tensor]:
        """Return the weights for acting of the checkpoint at `steps` env steps.

        Raises:
            RunError: there is no such checkpoint; the message lists those there are.
        """
        saved = self.stages()
        if steps not in saved:
            available = ", ".join(str(number) for number in saved) or "none"
            raise RunError(f"{self.path} has no weights of {steps} env steps; it has: {available}")
        try:
            return _as_weights(read_checkpoint(saved[steps]))
        except CheckpointError as error:
            raise RunError(f"the weights of {self.path} at {steps}: {error}") from error

    def lock(self, report: Callable[[str], None]) -> RunLock:
        """Acquire the lock that prevents other processes from training in this folder.

        Args:
            report: called with a sentence for the user, if this takes long.

        Raises:
            RunError: another process is training in it.
        """
        lock = RunLock(self.path)
        lock.acquire(report)
        return lock

    def is_locked(self) -> bool:
        """Return whether a process is training in this folder."""
        return RunLock(self.path).held_by_other()

    def write_status(self, status: Status) -> None:
        """Write the status."""
        write_atomically(self.path / "status.json", json.dumps(asdict(status)))

    def status(self) -> Status:
        """Read the status; a run that was killed while it ran counts as stopped."""
        try:
            record = read_json(self.path / "status.json", _MAX_STATUS_BYTES)
            known = {k: record[k] for k in _STATUS_FIELDS if k in record}
            status = from_json(Status, known, RunError)
        except (OSError, ValueError, TypeError, RunError):
            return Status("unknown")
        if status.state == "running" and not self.is_locked():
            return replace(status, state="stopped")
        return status

    @property
    def packed(self) -> bool:
        """Whether the folder has been packed, and holds no training to go on with."""
        try:
            return bool(read_json(self.path / "config.json").get(PACKED, False))
        except (OSError, ValueError, AttributeError):
            return False

    @property
    def deleted(self) -> bool:
        """Whether the folder does not exist any more."""
        return not (self.path / "config.json").is_file()

    @property
    def saved_steps(self) -> list[int]:
        """Env steps of the checkpoints, oldest first."""
        return sorted(int(path.name) for path in self.checkpoints.glob("[0-9]*"))

    def what_is_saved(self, unit: str) -> str:
        """Return a clause on the checkpoints, whose steps are counted in `unit`."""
        if self.deleted:
            return f"{self.path} does not exist any more, nor do its checkpoints"
        if not self.saved_steps:
            return f"no checkpoint had been saved in {self.path}"
        return f"everything up to {self.saved_steps[-1]:,} {unit} is saved"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints to resume from."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """Return the folder of the weights of the stages and of the newest checkpoints."""
        return self.path / "weights"

    @property
    def thumbnail(self) -> Path:
        """Return the path of a picture of the agent at play, which may not exist."""
        return self.path / "thumbnail.png"


def all_runs(root: Path) -> list[Run]:
    """Return every run below root, sorted by path."""
    return [Run(path) for path in run_folders(root)]
