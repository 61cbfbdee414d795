"""Data sets in Minari's format, to learn from without an env.

A `Dataset` takes the place of an env: it has its spaces. Its episodes become rows of the agent's
own replay, each followed by its last observation as a row that is never sampled.
https://minari.farama.org; the package is an optional extra.
"""

import logging
import re
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import psutil
import torch
from gymnasium import spaces

from ludus.agents.agent import OfflineLearner
from ludus.agents.memory.replay import Replay
from ludus.envs.adapt import adapt, channels_of
from ludus.envs.errors import ConfigError
from ludus.envs.from_json import from_json
from ludus.envs.make import EnvOptions
from ludus.envs.stack import newest_frames
from ludus.networks.dtypes import widest_float
from ludus.training.files import parse_json
from ludus.training.formats import check_format

ROOT = Path("runs/datasets")  # default folder of collections, laid out as Minari's own
_ID = re.compile(r"[\w/-]+-v\d+")
_ROW_BYTES = 8 + 4 + 4 + 2  # beside the observation: action, reward, discount, two flags
_MAX_VALIDATION = 4_096  # held-out transitions of a validation error
_CHUNK = 256  # of these in one forward pass


def minari_package() -> ModuleType:
    """Import Minari and what it needs to read and write.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import h5py  # noqa: F401  Minari imports it late, and fails with a traceback
        import minari
    except ImportError as error:
        raise ConfigError(
            'data sets need the package minari; run pip install -e ".[offline]" in the checkout'
        ) from error
    # it reports each attempt to reach its server, and we say once that there is none
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    return minari


@contextmanager
def _minari_errors(what: str) -> Iterator[None]:
    """Turn any exception of Minari, h5py or the network into one `ConfigError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ConfigError:
        raise
    except Exception as error:  # a cut file, a missing key, a damaged JSON, no network, ...
        text = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{what}: {text.rstrip('.')}") from error


class Dataset:
    """An opened data set.

    Args:
        name: a folder that `ludus collect` or Minari wrote, its main_data.hdf5, or a Minari id.
        held_out: fraction of the episodes that is held out for validation; at least one episode
            if above 0.
        seed: seed of the choice of held-out episodes.
        download: download the data set of a Minari id if it is not on this machine.

    Raises:
        ConfigError: there is no such data set, or no value-based agent can learn from it.
    """

    num_envs = 1

    def __init__(
        self, name: str, held_out: float = 0.1, seed: int = 0, *, download: bool = True
    ) -> None:
        self.name = name
        folder = _folder(name)
        root = folder.parent if folder is not None and folder.name == "data" else folder
        self.source = name if root is None else str(root.resolve())  # valid from any folder
        self._data = _open(name, folder, download)
        with _minari_errors(f"the metadata of {name} cannot be read"):
            record = parse_json(self._data.storage.metadata.get("ludus", "{}"))
            check_format(record, f"the data set {name}", ConfigError)
            self.options = from_json(EnvOptions, record.get("options", {}), ConfigError)
            self.stack = int(record.get("stack", 1))
            self._collected_by_ludus = "env" in record
            spec = self._data.env_spec
            if spec is not None and not self._collected_by_ludus:
                registered = gymnasium.registry.get(spec.id)
                if registered is None or registered.max_episode_steps != spec.max_episode_steps:
                    limit = spec.max_episode_steps
                    self.options = replace(self.options, max_episode_steps=limit)
        self.env_id: str = record.get("env", spec.id if spec else "dataset")
        self.notes: list[str] = []  # one sentence for each adaptation
        self.observation_space = self._adapted(self._data.observation_space)
        self.action_space = self._data.action_space
        if not isinstance(self.action_space, spaces.Discrete):
            raise ConfigError(
                f"{name} has the action space {self.action_space}; these agents need Discrete"
            )
        self.held_out, self.learned = self._split(held_out, seed)
        self.checksum = 0  # of the actions and rewards that `fill` has read
        self._validation: Replay | None = None

    def _adapted(self, space: spaces.Space[Any]) -> spaces.Box:
        """Return the learner's observation space, adapted as `envs.make` adapts an env's."""
        if not isinstance(space, spaces.Box) or not (
            space.dtype == np.uint8 or space.dtype.kind == "f"
        ):
            raise ConfigError(
                f"{self.name} has the observation space {space}; a Box of bytes or floats is needed"
            )
        adapted = adapt(space).space
        self._channels_last = len(space.shape) == 3 and channels_of(space.shape) == "last"
        if self._channels_last:
            self.notes.append("its images are transposed to channels first")
        if space.dtype != adapted.dtype:
            self.notes.append(f"its {space.dtype} observations are converted to float32")
        return adapted

    def _split(self, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the held-out episodes and of those to learn from."""
        episodes = self._data.total_episodes
        if episodes < (2 if fraction else 1):
            raise ConfigError(
                f"{self.name} has {episodes} episodes; it needs more, or --held-out 0"
            )
        order = np.random.default_rng([seed, 7]).permutation(self._data.episode_indices)
        count = max(1, round(fraction * episodes)) if fraction else 0
        if count >= episodes:
            raise ConfigError(f"held_out is {fraction}, which leaves no episode to learn from")
        return np.sort(order[:count]), np.sort(order[count:])

    def close(self) -> None:
        """Do nothing; exists because an env has it."""

    def why_no_env(self) -> str:
        """Return why its env cannot be made from its id alone; empty if it can."""
        spec = self._data.env_spec
        if self._collected_by_ludus:
            return ""
        if spec is None:
            return f"{self.name} does not name its env"
        registered = gymnasium.registry.get(spec.id)
        given = {k: v for k, v in spec.kwargs.items() if k != "render_mode"}
        if registered is not None and (given != registered.kwargs or spec.additional_wrappers):
            return f"{self.name} is from {spec.id} with arguments or wrappers of its own"
        limit = None if registered is None else registered.max_episode_steps
        if limit is not None and spec.max_episode_steps is None:
            return f"{self.name} is from {spec.id} without its time limit"
        return ""

    @cached_property
    def _steps(self) -> np.ndarray:
        """Return the number of steps of each episode, by episode index."""
        with _minari_errors(f"the data set {self.name} cannot be read"):
            entries = self._data.storage.get_episode_metadata(self._data.episode_indices)
            steps = np.zeros(int(self._data.episode_indices.max()) + 1, np.int64)
            steps[self._data.episode_indices] = [int(entry["total_steps"]) for entry in entries]
        return steps

    def sentences(self) -> list[str]:
        """Return the sentences to print when a training from this data set starts."""
        held, steps = len(self.held_out), self._steps
        return [
            f"learns from {self.source}: {len(self.learned):,} episodes, "
            f"{int(steps[self.learned].sum()):,} transitions; {held:,} episodes of "
            f"{int(steps[self.held_out].sum()):,} are held out; its steps are updates",
            *self.notes,
        ]

    def rows(self, successors: int) -> int:
        """Return how many rows of a replay the episodes to learn from take."""
        return self._rows(self.learned, successors)

    def _rows(self, episodes: np.ndarray, successors: int) -> int:
        # A replay samples a row once so many others follow it: empty rows end the last episode.
        return int((self._steps[episodes] + 1).sum()) + successors - 1

    def refuse_if_too_large(self, device: torch.device) -> None:
        """Check that the data set fits in memory, before anything is read.

        Raises:
            ConfigError: it does not; the message has the figures.
        """
        space, transitions = self.observation_space, int(self._steps.sum())
        frame = int(np.prod(space.shape)) // self.stack * space.dtype.itemsize
        copies = 2 if device.type == "cpu" else 1  # the arrays that are read, and the replay
        need = copies * (transitions + len(self._steps)) * (frame + _ROW_BYTES)
        free = psutil.virtual_memory().available
        if need > 0.95 * free:
            raise ConfigError(
                f"the {transitions:,} transitions of {self.name} need {need / 1e9:.1f} GB while "
                f"they are read, and only {free / 1e9:.1f} GB are free; use a smaller data set"
            )

    def fill(self, agent: OfflineLearner) -> None:
        """Write the episodes to learn from into the agent's replay, and load those held out.

        Raises:
            ConfigError: an episode is damaged, or there is no step to learn from.
        """
        config = agent.config
        self.checksum = self._load(agent.memory, self.learned, agent)
        if not len(agent.memory):
            raise ConfigError(f"{self.name} has no step to learn from; collect more episodes")
        if len(self.held_out):
            self._validation = Replay(
                max(
                    self._rows(self.held_out, config.successors),
                    config.successors + self.stack + 1,
                ),
                1,
                self.observation_space.shape,
                self.observation_space.dtype,
                stack=self.stack,
                n_step=config.longest_n_step,
                rows_ahead=config.rows_ahead,
                gamma=config.gamma,
                device=agent.device,
                seed=0,
            )
            self._validation.horizon = agent.memory.horizon
            self._load(self._validation, self.held_out, agent)

    def _load(self, memory: Replay, episodes: np.ndarray, agent: OfflineLearner) -> int:
        """Fill an empty memory; return the checksum of the actions and rewards."""
        with _minari_errors(f"the data set {self.name} cannot be read"):
            arrays = self._arrays(episodes, agent)
        # One call in place of an `add` for each row: the state of a memory that has these rows.
        state = {
            "shape": [memory.rows, 1],
            "written": len(arrays["action"]),
            "generator": memory.state_dict()["generator"],
            **arrays,
        }
        memory.load_state_dict(state)
        checksum = zlib.crc32(arrays["action"].tobytes())
        return zlib.crc32(arrays["reward"].tobytes(), checksum)

    def _arrays(self, episodes: np.ndarray, agent: OfflineLearner) -> dict[str, np.ndarray]:
        """Return the rows of these episodes in the layout of `Replay.state_dict`.

        An episode of T steps takes T + 1 rows: row t has the newest frame of observation t and the
        action taken there, as one env would have written it. A stack of frames is stored once and
        rebuilt from the rows before it, up to `first`. The last row has the final frame only; it
        is not `valid`, so it is never sampled and never joins two episodes.
        """
        config, shape = agent.config, self.observation_space.shape
        total = self._rows(episodes, config.successors)
        size = int(np.prod(shape, dtype=np.int64)) // self.stack
        frames = np.zeros((total, size), self.observation_space.dtype)
        action = np.zeros(total, np.int64)
        reward, discount = np.zeros(total, np.float32), np.zeros(total, np.float32)
        first, valid = np.zeros(total, bool), np.zeros(total, bool)
        assert isinstance(self.action_space, spaces.Discrete)
        start = 0
        for episode in self._data.iterate_episodes(episodes):
            steps = int(self._steps[episode.id])
            last = start + steps
            rows = slice(start, last)
            frames[start : last + 1] = self._frames(episode, steps)
            action[rows] = episode.actions - self.action_space.start
            rewards = episode.rewards
            reward[rows] = np.clip(rewards, -1, 1) if config.clip_reward else rewards
            # A truncated episode bootstraps from its last frame; a terminated one does not.
            discount[rows] = np.where(episode.terminations, 0, np.float32(config.gamma))
            first[start], valid[rows] = True, True
            start = last + 1
            if ((action[rows] < 0) | (action[rows] >= self.action_space.n)).any():
                raise ConfigError(
                    f"{self.name}: episode {episode.id} has an action outside its space"
                )
            if not np.isfinite(reward[rows]).all():
                raise ConfigError(
                    f"{self.name}: episode {episode.id} has a reward that is not finite"
                )
        return {
            "frames": frames,
            "action": action,
            "reward": reward,
            "discount": discount,
            "first": first,
            "valid": valid,
        }

    def _frames(self, episode: Any, steps: int) -> np.ndarray:
        """Return the newest frame of each observation, flat, [steps + 1, size]."""
        obs, space = np.asarray(episode.observations), self.observation_space
        if self._channels_last:
            obs = obs.transpose(0, 3, 1, 2)
        wanted = (steps + 1, *space.shape)
        if obs.shape != wanted or len(episode.actions) != steps:
            raise ConfigError(
                f"{self.name}: episode {episode.id} has observations of shape {list(obs.shape)} "
                f"and {len(episode.actions)} actions; {list(wanted)} and {steps} are expected"
            )
        with np.errstate(over="ignore"):
            newest = newest_frames(obs, self.stack).astype(space.dtype, copy=False)
        if not np.isfinite(newest).all():
            raise ConfigError(
                f"{self.name}: episode {episode.id} has an observation that is not finite"
            )
        return newest

    def td_error(self, agent: OfflineLearner) -> float | None:
        """Return the mean TD error of held-out transitions; None if there are none.

        At most 4,096 transitions, evenly spaced and always the same.
        """
        memory = self._validation
        if memory is None or not len(memory):
            return None
        count = min(_MAX_VALIDATION, len(memory))
        uniforms = (
            torch.arange(count, dtype=widest_float(agent.device), device=agent.device) + 0.5
        ) / count
        sums = [
            agent.td_error(memory.sample(chunk).batch) * len(chunk)
            for chunk in uniforms.split(_CHUNK)
        ]
        return float(torch.stack(sums).sum()) / count


def _open(name: str, folder: Path | None, download: bool) -> Any:
    """Return Minari's data set of a folder, or else of an id."""
    minari = minari_package()
    if folder is not None:
        with _minari_errors(f"the data set {name} cannot be opened"):
            return minari.MinariDataset(folder)
    if not _ID.fullmatch(name):
        raise ConfigError(
            f"{name} is neither the folder of a data set nor a Minari id like "
            "D4RL/door/human-v2; `ludus collect RUN` writes one"
        )
    with (
        _minari_errors(f"there is no folder {name}, and as a Minari id it cannot be loaded"),
        redirect_stdout(sys.stderr),  # Minari prints its downloads
    ):
        return minari.load_dataset(name, download=download)


def is_dataset(name: str) -> bool:
    """Return whether a name is a data set's and no env's: a folder, or a name of three parts.

    A Minari id has three, and so has the path of a data set that does not exist; an env id has two
    at most.
    """
    return _folder(name) is not None or name.count("/") > 1


def _folder(name: str) -> Path | None:
    """Return the folder that has metadata.json, or None if the name is not a path."""
    for path in (Path(name), ROOT / name):
        for folder in (path, path / "data", path.parent):
            if path.exists() and (folder / "metadata.json").is_file():
                return folder
    return None
