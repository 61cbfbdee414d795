"""A run's folder: one training of one agent on one env with one seed.

runs/<env>/<agent>/<seed>-<time>/
    config.json     agent, env, options, protocol, versions, commit: all that repeats the run
    status.json     how it stands: state, env steps, score; renewed every few seconds
    episodes.csv    env_steps, seconds, return, length of every finished game
    evaluations.json
    checkpoints/    for resuming, the newest few
    weights/        what acting needs, at the start, with each checkpoint and at the end
    events.out...   TensorBoard
"""

import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from time import strftime
from typing import IO, Any, TypeVar, get_args

import psutil
import torch
from torch import Tensor

from ludus.agents import presets
from ludus.envs.errors import CheckpointError, RunError
from ludus.envs.make import EnvOptions
from ludus.training.checkpoint import newest_checkpoint, read_checkpoint, write_atomically

_CONFIGS: dict[str, type[presets.Config]] = {
    config.__name__: config for config in get_args(presets.Config)
}
_PACKAGES = ("ludus", "torch", "numpy", "gymnasium", "ale-py", "minatar", "stable-baselines3")
_LOCK_ATTEMPTS = 5
_T = TypeVar("_T")


@dataclass(frozen=True)
class TrainOptions:
    """How long and how to train, whatever the agent."""

    steps: int = 100_000
    """env steps (decisions) to train for; updates with a data set"""
    seed: int = 0
    """fixes the envs, the weights, the exploration and the sampling"""
    num_envs: int = 8
    """envs that step together"""
    device: str = "auto"
    """auto, cpu or cuda; auto takes the GPU where there is one"""
    log_every: int = 1_000
    """env steps (updates with a data set) between two points in TensorBoard"""
    eval_every: int = 0
    """env steps (updates with a data set) between two evaluations; 0 for one at the end only"""
    eval_episodes: int = 10
    """full games of an evaluation; 0 for no evaluation"""
    eval_epsilon: float = 0.0
    """probability of a random action in an evaluation; 0 is the deterministic policy"""
    video_every: int = 100_000
    """env steps between two films of a held-out game in TensorBoard; 0 for none"""
    checkpoint_seconds: float = 300.0
    """seconds between two checkpoints"""
    keep_checkpoints: int = 2
    """checkpoints that stay, the newest"""
    init_from: str | None = None
    """folder of a run whose encoder, and head where the actions are the same, are taken"""
    rivals: tuple[str, ...] = ()
    """board games: who the other side is drawn from for each game; self, past, random, mcts:N"""
    dataset: str | None = None
    """learn from this instead of playing: a folder of `ludus collect`, or a Minari id"""
    held_out: float = 0.1
    """share of the data set's episodes that is kept for `validation/td_error`"""

    @property
    def unit(self) -> str:
        """What `steps` counts, and `log_every` and `eval_every` with it."""
        return "steps" if self.dataset is None else "updates"

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("steps", "num_envs", "log_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise RunError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("seed", "eval_every", "eval_episodes", "video_every", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise RunError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 <= self.held_out < 1:
            raise RunError(f"held_out is {self.held_out}; it must be from 0 to below 1")
        if self.seed >= 1 << 40:
            raise RunError(
                f"seed is {self.seed}; it must be below 2^40, where held-out seeds begin"
            )
        if not 0 <= self.eval_epsilon <= 1:
            raise RunError(f"eval_epsilon is {self.eval_epsilon}; it must be from 0 to 1")
        if self.device not in ("auto", "cpu", "cuda"):
            raise RunError(f"device is {self.device}; it must be auto, cpu or cuda")


@dataclass(frozen=True)
class RunConfig:
    """All that repeats a run."""

    agent: str
    env: str
    train: TrainOptions
    options: EnvOptions
    config: presets.Config
    protocol: dict[str, Any]


def _from_json(kind: type[_T], values: dict[str, Any]) -> _T:
    """A config dataclass from JSON, whose lists were tuples."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # always a dataclass
    unknown = set(values) - known
    if unknown:
        raise RunError(f"{kind.__name__} has no field {sorted(unknown)[0]}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def commit() -> str | None:
    """The git commit of the working folder, with a + where files differ from it."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of what a score depends on."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


@dataclass(frozen=True)
class Status:
    """How a run stands."""

    state: str  # waiting, running, finished, stopped or failed; unknown where nothing says it
    env_steps: int = 0
    score: float | None = None  # mean return of the last evaluation
    mean_return: float | None = None  # of the last 100 games of the training
    seconds: float | None = None  # of training so far, evaluations left out


_STATUS = tuple(field.name for field in fields(Status))


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware(device: torch.device) -> dict[str, Any]:
    """What a figure was measured on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "gpu": gpu,
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _made_by() -> dict[str, Any]:
    return {"versions": versions(), "commit": commit(), "command": sys.argv}


class Run:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, root: Path, config: RunConfig) -> "Run":
        """A new folder under root, named after env, agent, seed and time, with its config."""
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
        told = {
            "agent": config.agent,
            "env": config.env,
            "train": asdict(config.train),
            "options": asdict(config.options),
            "config_type": type(config.config).__name__,
            "config": asdict(config.config),
            "protocol": config.protocol,
            **_made_by(),
        }
        write_atomically(path / "config.json", json.dumps(told, indent=2))
        run.write_status(Status("waiting"))
        return run

    def stamp(self) -> None:
        """Say that what is here now trains the run from its start."""
        told = json.loads((self.path / "config.json").read_text())
        write_atomically(self.path / "config.json", json.dumps(told | _made_by(), indent=2))

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """An existing run.

        Raises:
            RunError: there is none at that path.
        """
        run = cls(Path(path))
        if not (run.path / "config.json").is_file():
            raise RunError(
                f"{path} is not a run: it has no config.json; `ludus list runs` shows all"
            )
        return run

    def config(self) -> RunConfig:
        """What the run was started with.

        Raises:
            RunError: the file is damaged.
        """
        try:
            told = json.loads((self.path / "config.json").read_text())
            return RunConfig(
                told["agent"],
                told["env"],
                _from_json(TrainOptions, told["train"]),
                _from_json(EnvOptions, told["options"]),
                _from_json(_CONFIGS[told["config_type"]], told["config"]),
                told["protocol"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.path}/config.json cannot be read: {error}") from error

    def write_evaluations(self, evaluations: list[dict[str, Any]]) -> None:
        """Keep every evaluation: env_steps, returns and lengths of its games."""
        write_atomically(self.path / "evaluations.json", json.dumps(evaluations))

    def evaluations(self) -> list[dict[str, Any]]:
        """What `write_evaluations` kept."""
        try:
            return json.loads((self.path / "evaluations.json").read_text())
        except (OSError, ValueError, RecursionError):
            return []

    def newest_weights(self) -> dict[str, Tensor]:
        """What acting needs, as it was at the newest checkpoint.

        Raises:
            RunError: the run has not saved any yet.
        """
        try:
            return newest_checkpoint(self.weights)[0]
        except CheckpointError as error:
            raise RunError(f"{self.path} has no weights yet: {error}") from error

    def weights_at(self, steps: int) -> dict[str, Tensor]:
        """What acting needs, as it was at the checkpoint of so many env steps.

        Raises:
            RunError: there is none; the message says which there are.
        """
        kept = {int(path.name): path for path in self.weights.glob("[0-9]*")}
        if steps not in kept:
            there = ", ".join(str(number) for number in sorted(kept)) or "none"
            raise RunError(f"{self.path} has no weights of {steps} env steps; it has: {there}")
        try:
            return read_checkpoint(kept[steps])
        except CheckpointError as error:
            raise RunError(f"the weights of {self.path} at {steps}: {error}") from error

    def lock(self) -> IO[str]:
        """Keep other processes from training in this folder until the file is closed.

        Raises:
            RunError: another process does.
        """
        file = (self.path / ".lock").open("w")
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except OSError:
                if attempt + 1 < _LOCK_ATTEMPTS:  # somebody may be in `is_locked`
                    time.sleep(0.05)
        file.close()
        raise RunError(f"{self.path} is being trained by another process")

    def is_locked(self) -> bool:
        """Whether a process is training in this folder."""
        try:
            with (self.path / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def write_status(self, status: Status) -> None:
        """Say how the run stands."""
        write_atomically(self.path / "status.json", json.dumps(asdict(status)))

    def status(self) -> Status:
        """How the run stands; one that was killed while it ran is stopped."""
        try:
            told = json.loads((self.path / "status.json").read_text())
            status = Status(**{k: told[k] for k in _STATUS if k in told})
        except (OSError, ValueError, TypeError, RecursionError):
            return Status("unknown")
        if status.state == "running" and not self.is_locked():
            return replace(status, state="stopped")
        return status

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """Where the weights of the newest checkpoints lie."""
        return self.path / "weights"


def at_steps(path: Path | str) -> tuple[Path, int | None]:
    """The folder and the checkpoint that `RUN` or `RUN@ENV_STEPS` names; None for the newest."""
    folder, at, steps = str(path).rpartition("@")
    if at and steps.isdecimal() and not Path(path).exists():
        return Path(folder), int(steps)
    return Path(path), None


def all_runs(root: Path) -> list[Run]:
    """Every run below root, by path."""
    return [Run(path.parent) for path in sorted(root.glob("*/*/*/config.json"))]
