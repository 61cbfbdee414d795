"""Data sets in Minari's format, learned from without an env.

A data set stands where an env would: it has the spaces, and its episodes become the rows of the
agent's own replay, each with its last observation as a row that is never sampled.
https://minari.farama.org; the package is an optional extra.
"""

import json
import re
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import psutil
import torch
from gymnasium import spaces

from ludus.agents.dqn import DQN
from ludus.agents.memory.replay import Replay
from ludus.envs.errors import ConfigError
from ludus.envs.make import EnvOptions

ROOT = Path("runs/datasets")  # where collections go, laid out as Minari's own folder
_ID = re.compile(r"[\w/-]+-v\d+")
_PER_ROW = 8 + 4 + 4 + 2  # bytes beside the observation: action, reward, discount, flags
_VALIDATED = 4_096  # held-out transitions of a validation error, at most
_CHUNK = 256  # of them at once


def minari_package() -> ModuleType:
    """Minari with what it needs to read and write.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import h5py  # noqa: F401  Minari asks for it late and with a traceback
        import minari
    except ImportError as error:
        raise ConfigError(
            'data sets need the package minari; run pip install -e ".[offline]" in the checkout'
        ) from error
    return minari


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turns what Minari, h5py or the network may raise into one sentence."""
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
    """A data set, opened.

    Args:
        name: a folder that `ludus collect` or Minari wrote, its main_data.hdf5, or a Minari id.
        held_out: share of the episodes that is kept for validation, at least one where above 0.
        seed: chooses them.
        download: fetch what a Minari id names, where it is not here yet.

    Raises:
        ConfigError: there is no such data set, or no value-based agent can learn from it.
    """

    num_envs = 1

    def __init__(
        self, name: str, held_out: float = 0.1, seed: int = 0, *, download: bool = True
    ) -> None:
        minari = minari_package()
        folder = _folder(name)
        self.name = name
        root = folder.parent if folder is not None and folder.name == "data" else folder
        self.source = name if root is None else str(root.resolve())  # from any folder
        if folder is not None:
            with _reading(f"the data set {name} cannot be opened"):
                self._data = minari.MinariDataset(folder)
        elif _ID.fullmatch(name):
            with (
                _reading(f"{name} is no folder here, and as a Minari id it cannot be loaded"),
                redirect_stdout(sys.stderr),  # where Minari says what it downloads
            ):
                self._data = minari.load_dataset(name, download=download)
        else:
            raise ConfigError(
                f"{name} is neither the folder of a data set nor a Minari id like "
                "D4RL/door/human-v2; `ludus collect RUN` writes one"
            )
        with _reading(f"the metadata of {name} cannot be read"):
            told = json.loads(self._data.storage.metadata.get("ludus", "{}"))
            self.options = EnvOptions(**told.get("options", {}))
            self.stack = int(told.get("stack", 1))
        self._by_us = "env" in told
        spec = self._data.env_spec
        self.env_id: str = told["env"] if self._by_us else "dataset" if spec is None else spec.id
        self.notes: list[str] = []  # what was adapted, a sentence each
        self.observation_space = self._adapted(self._data.observation_space)
        self.action_space = self._data.action_space
        if not isinstance(self.action_space, spaces.Discrete):
            raise ConfigError(
                f"{name} has the action space {self.action_space}; these agents need Discrete"
            )
        self.held_out, self.learned = self._split(held_out, seed)
        self.checksum = 0  # of what `fill` has read
        self._validation: Replay | None = None

    def _adapted(self, space: spaces.Space[Any]) -> spaces.Box:
        """The space that the learner sees, as `envs.make` would adapt it."""
        if not isinstance(space, spaces.Box) or not (
            space.dtype == np.uint8 or space.dtype.kind == "f"
        ):
            raise ConfigError(
                f"{self.name} has the observation space {space}; a Box of bytes or floats is needed"
            )
        shape = space.shape
        pictures = space.dtype == np.uint8 and len(shape) == 3
        self._channels_last = pictures and shape[2] in (1, 3, 4) and shape[0] > 4
        if space.dtype == np.uint8:
            if not self._channels_last:
                return space
            self.notes.append("its pictures are turned to channels first")
            low, high = space.low.transpose(2, 0, 1), space.high.transpose(2, 0, 1)
            return spaces.Box(low, high, dtype=np.uint8)
        if space.dtype != np.float32:
            self.notes.append(f"its observations are {space.dtype} and are learned as float32")
        with np.errstate(over="ignore"):
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32)

    def _split(self, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the episodes held out and of those to learn from."""
        episodes = self._data.total_episodes
        if episodes < (2 if share else 1):
            raise ConfigError(
                f"{self.name} has {episodes} episodes; it needs more, or --held-out 0"
            )
        order = np.random.default_rng([seed, 7]).permutation(self._data.episode_indices)
        count = max(1, round(share * episodes)) if share else 0
        if count >= episodes:
            raise ConfigError(f"held_out is {share}, which leaves no episode to learn from")
        return np.sort(order[:count]), np.sort(order[count:])

    def close(self) -> None:
        """Nothing is held open."""

    def why_no_env(self) -> str:
        """Why its env cannot be made from its id alone; empty where nothing speaks against it."""
        spec = self._data.env_spec
        if self._by_us:
            return ""
        if spec is None:
            return f"{self.name} does not say which env it is from"
        plain = gymnasium.registry.get(spec.id)
        given = {k: v for k, v in spec.kwargs.items() if k != "render_mode"}
        if plain is not None and (given != plain.kwargs or spec.additional_wrappers):
            return f"{self.name} is from {spec.id} with arguments or wrappers of its own"
        return ""

    # -- its episodes as rows of a replay -------------------------------------------------------

    @cached_property
    def _steps(self) -> np.ndarray:
        """Steps of each episode, by its number."""
        with _reading(f"the data set {self.name} cannot be read"):
            told = self._data.storage.get_episode_metadata(self._data.episode_indices)
            steps = np.zeros(int(self._data.episode_indices.max()) + 1, np.int64)
            steps[self._data.episode_indices] = [int(m["total_steps"]) for m in told]
        return steps

    def sentences(self) -> list[str]:
        """What a training from it should say at its start."""
        held, steps = len(self.held_out), self._steps
        return [
            f"learns from {self.source}: {len(self.learned):,} episodes, "
            f"{int(steps[self.learned].sum()):,} transitions; {held:,} episodes of "
            f"{int(steps[self.held_out].sum()):,} are held out; its steps are updates",
            *self.notes,
        ]

    def rows(self, n_step: int) -> int:
        """Rows of the replay that the episodes to learn from take."""
        return self._rows(self.learned, n_step)

    def _rows(self, which: np.ndarray, n_step: int) -> int:
        # the last n - 1 are there because a row is sampled once n others follow it
        return int((self._steps[which] + 1).sum()) + n_step - 1

    def refuse_if_too_large(self, device: torch.device) -> None:
        """Before anything is read.

        Raises:
            ConfigError: it does not fit in memory; the message has the figures.
        """
        space, transitions = self.observation_space, int(self._steps.sum())
        frame = int(np.prod(space.shape)) // self.stack * space.dtype.itemsize
        copies = 2 if device.type == "cpu" else 1  # what is read lies beside the replay
        need = copies * (transitions + len(self._steps)) * (frame + _PER_ROW)
        free = psutil.virtual_memory().available
        if need > 0.95 * free:
            raise ConfigError(
                f"the {transitions:,} transitions of {self.name} need {need / 1e9:.1f} GB while "
                f"they are read, and only {free / 1e9:.1f} GB are free; take a smaller data set"
            )

    def fill(self, agent: DQN) -> None:
        """Put the episodes to learn from into the agent's replay, and keep those held out.

        Raises:
            ConfigError: an episode is damaged, or there is no step to learn from.
        """
        config = agent.config
        self.checksum = self._load(agent.memory, self.learned, agent)
        if not len(agent.memory):
            raise ConfigError(f"{self.name} has no step to learn from; collect more episodes")
        if len(self.held_out):
            self._validation = Replay(
                max(self._rows(self.held_out, config.n_step), config.n_step + self.stack + 1),
                1,
                self.observation_space.shape,
                self.observation_space.dtype,
                stack=self.stack,
                n_step=config.n_step,
                gamma=config.gamma,
                device=agent.device,
                seed=0,
            )
            self._load(self._validation, self.held_out, agent)

    def _load(self, memory: Replay, which: np.ndarray, agent: DQN) -> int:
        """Fill a fresh memory; the checksum of what went in."""
        with _reading(f"the data set {self.name} cannot be read"):
            arrays = self._arrays(which, agent)
        generator = memory.state_dict()["generator"]
        whole = {"shape": [memory.rows, 1], "written": len(arrays["action"]), **arrays}
        memory.load_state_dict({**whole, "generator": generator})
        checksum = zlib.crc32(arrays["action"].tobytes())
        return zlib.crc32(arrays["reward"].tobytes(), checksum)

    def _arrays(self, which: np.ndarray, agent: DQN) -> dict[str, np.ndarray]:
        """The rows of these episodes, as `Replay.state_dict` has them."""
        config, shape = agent.config, self.observation_space.shape
        total = self._rows(which, config.n_step)
        size = int(np.prod(shape, dtype=np.int64)) // self.stack
        frames = np.zeros((total, size), self.observation_space.dtype)
        action = np.zeros(total, np.int64)
        reward, discount = np.zeros(total, np.float32), np.zeros(total, np.float32)
        first, valid = np.zeros(total, bool), np.zeros(total, bool)
        assert isinstance(self.action_space, spaces.Discrete)
        at = 0
        for episode in self._data.iterate_episodes(which):
            steps = int(self._steps[episode.id])
            last = at + steps
            rows = slice(at, last)
            frames[at : last + 1] = self._frames(episode, steps)
            action[rows] = episode.actions - self.action_space.start
            reward[rows] = (
                np.clip(episode.rewards, -1, 1) if config.clip_reward else episode.rewards
            )
            discount[rows] = np.where(episode.terminations, 0, np.float32(config.gamma))
            first[at], valid[rows] = True, True
            at = last + 1
            wrong = (action[rows] < 0) | (action[rows] >= self.action_space.n)
            for name, bad in (
                ("an action that is not in its space", wrong.any()),
                ("a reward that is no number", not np.isfinite(reward[rows]).all()),
            ):
                if bad:
                    raise ConfigError(f"{self.name}: episode {episode.id} has {name}")
        fields = {"frames": frames, "action": action, "reward": reward, "discount": discount}
        return {**fields, "first": first, "valid": valid}

    def _frames(self, episode: Any, steps: int) -> np.ndarray:
        """Its newest frames, flat, [steps + 1, size]."""
        obs, space = np.asarray(episode.observations), self.observation_space
        if self._channels_last:
            obs = obs.transpose(0, 3, 1, 2)
        wanted = (steps + 1, *space.shape)
        if obs.shape != wanted or len(episode.actions) != steps:
            raise ConfigError(
                f"{self.name}: episode {episode.id} has observations of shape {list(obs.shape)} "
                f"and {len(episode.actions)} actions; {list(wanted)} and {steps} would fit"
            )
        with np.errstate(over="ignore"):
            newest = (obs[:, -1] if self.stack > 1 else obs).astype(space.dtype, copy=False)
        if not np.isfinite(newest).all():
            raise ConfigError(
                f"{self.name}: episode {episode.id} has an observation that is no number"
            )
        return newest.reshape(steps + 1, -1)

    def td_error(self, agent: DQN) -> float | None:
        """Mean of `DQN.td_error` over at most 4,096 held-out transitions, always the same.

        None where nothing is held out.
        """
        memory = self._validation
        if memory is None or not len(memory):
            return None
        count = min(_VALIDATED, len(memory))
        chance = (torch.arange(count, dtype=torch.float64, device=agent.device) + 0.5) / count
        parts = [
            agent.td_error(memory.sample(some).batch) * len(some) for some in chance.split(_CHUNK)
        ]
        return float(torch.stack(parts).sum()) / count


def _folder(name: str) -> Path | None:
    """The folder with metadata.json, or None where the name is no path."""
    for path in (Path(name), ROOT / name):
        for folder in (path, path / "data", path.parent):
            if path.exists() and (folder / "metadata.json").is_file():
                return folder
    return None
