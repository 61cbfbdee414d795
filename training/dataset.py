"""Data sets in Minari's format: written by a trained agent, learned from without an env.

A data set stands where an env would: it has the spaces, and its episodes become the rows of the
agent's own replay, each with its last observation as a row that is never sampled.
https://minari.farama.org; the package is an optional extra.
"""

import json
import re
import shutil
import warnings
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ludus.agents.agent import ConfigError
from ludus.agents.dqn import DQN, DQNConfig
from ludus.agents.memory.replay import Replay
from ludus.envs.make import EnvOptions, make
from ludus.training.evaluate import Player, tuned_for

COLLECTED = 1 << 41  # added to a collection's seed: games that no training and no evaluation plays
_WRITTEN_AT_ONCE = 32  # episodes


def _minari() -> ModuleType:
    try:
        import h5py  # noqa: F401  Minari asks for it late and with a traceback
        import minari
    except ImportError as error:
        raise ConfigError(
            'data sets need the package minari; pip install "ludus[offline]"'
        ) from error
    return minari


class Dataset:
    """A data set, opened.

    Args:
        name: a folder that `ludus collect` or Minari wrote, its main_data.hdf5, or a Minari id.
        held_out: share of the episodes that is kept for validation, at least one where above 0.
        seed: chooses them.

    Raises:
        ConfigError: there is no such data set, or no value-based agent can learn from it.
    """

    num_envs = 1

    def __init__(self, name: str, held_out: float = 0.1, seed: int = 0) -> None:
        minari = _minari()
        self.name = name
        folder = self._folder(name)
        if folder is None and not re.fullmatch(r"[\w/-]+-v\d+", name):
            raise ConfigError(
                f"{name} is neither the folder of a data set nor a Minari id like "
                "D4RL/door/human-v2; `ludus collect RUN` writes one"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if folder is None:
                    self._data = minari.load_dataset(name, download=True)
                else:
                    self._data = minari.MinariDataset(folder)
        except Exception as error:  # whatever Minari, h5py or the network may raise
            text = " ".join(str(error).split()) or type(error).__name__
            where = "" if folder else "no such folder is here, and as a Minari id "
            raise ConfigError(f"the data set {name}: {where}it cannot be opened: {text}") from error
        told = self._data.storage.metadata.get("ludus")
        self._told: dict[str, Any] = json.loads(told) if isinstance(told, str) else {}
        spec = self._data.env_spec
        self.env_id: str = self._told.get("env") or (spec.id if spec is not None else "dataset")
        self.options = EnvOptions(**self._told.get("options", {}))
        self.stack = int(self._told.get("stack", 1))
        self.observation_space = self._box(self._data.observation_space)
        self.action_space = self._data.action_space
        if not isinstance(self.action_space, spaces.Discrete):
            raise ConfigError(
                f"{name} has the action space {self.action_space}; these agents need Discrete"
            )
        self.protocol = {"kind": "dataset", "dataset": name, **self._told.get("protocol", {})}
        episodes = self._data.total_episodes
        if episodes < (2 if held_out else 1):
            raise ConfigError(f"{name} has {episodes} episodes; it needs more, or --held-out 0")
        order = np.random.default_rng([seed, 7]).permutation(episodes)
        count = max(1, round(held_out * episodes)) if held_out else 0
        if count >= episodes:
            raise ConfigError(f"held_out is {held_out}, which leaves no episode to learn from")
        self._held, self._learned = np.sort(order[:count]), np.sort(order[count:])

    @staticmethod
    def _folder(name: str) -> Path | None:
        """The folder with metadata.json, or None where the name is no path."""
        path = Path(name)
        for folder in (path, path / "data", path.parent):
            if path.exists() and (folder / "metadata.json").is_file():
                return folder
        return None

    def _box(self, space: spaces.Space[Any]) -> spaces.Box:
        """The space that the learner sees, as `envs.make` would adapt it."""
        if isinstance(space, spaces.Box) and space.dtype == np.uint8:
            return space
        if isinstance(space, spaces.Box) and space.dtype.kind == "f":
            with np.errstate(over="ignore"):
                low, high = space.low.astype(np.float32), space.high.astype(np.float32)
            return spaces.Box(low, high, dtype=np.float32)
        raise ConfigError(
            f"{self.name} has the observation space {space}; a Box of bytes or floats is needed"
        )

    def close(self) -> None:
        """Nothing is held open."""

    def rows(self) -> int:
        """Rows of the replay that the episodes to learn from take."""
        return self._rows(self._learned)

    def _rows(self, which: np.ndarray) -> int:
        steps = self._data.storage.get_episode_metadata(which)
        return sum(int(m["total_steps"]) + 1 for m in steps)

    def memory(self, agent: DQN, held_out: bool = False) -> tuple[Replay, int] | None:
        """The agent's replay, or one of the held-out episodes, filled; and a checksum of it.

        None where the held-out episodes have no transition that can be sampled.
        """
        which = self._held if held_out else self._learned
        memory = agent.memory
        if held_out:
            if not len(which):
                return None
            memory = Replay(
                max(self._rows(which), agent.config.n_step + self.stack + 1),
                1,
                self.observation_space.shape,
                self.observation_space.dtype,
                stack=self.stack,
                n_step=agent.config.n_step,
                gamma=agent.config.gamma,
                device=agent.device,
                seed=0,
            )
        arrays = self._arrays(which, agent.config)
        state = {"shape": [memory.rows, 1], "written": len(arrays["action"]), **arrays}
        memory.load_state_dict({**state, "generator": memory.state_dict()["generator"]})
        checksum = zlib.crc32(arrays["action"].tobytes())
        checksum = zlib.crc32(arrays["reward"].tobytes(), checksum)
        return (memory, checksum) if len(memory) else None

    def _arrays(self, which: np.ndarray, config: DQNConfig) -> dict[str, np.ndarray]:
        """The rows of these episodes, as `Replay.state_dict` has them."""
        total, shape = self._rows(which), self.observation_space.shape
        frame = shape[1:] if self.stack > 1 else shape
        size = int(np.prod(frame, dtype=np.int64))
        frames = np.zeros((total, size), self.observation_space.dtype)
        action = np.zeros(total, np.int64)
        reward, discount = np.zeros(total, np.float32), np.zeros(total, np.float32)
        first, valid = np.zeros(total, bool), np.ones(total, bool)
        assert isinstance(self.action_space, spaces.Discrete)
        at = 0
        for episode in self._data.iterate_episodes(which):
            steps = len(episode.rewards)
            obs = np.asarray(episode.observations)
            if obs.shape != (steps + 1, *shape):
                raise ConfigError(
                    f"{self.name}: episode {episode.id} has observations of shape "
                    f"{list(obs.shape)}; {[steps + 1, *shape]} would fit its {steps} actions"
                )
            newest = obs[:, -1] if self.stack > 1 else obs
            rows, last = slice(at, at + steps), at + steps
            frames[at : last + 1] = newest.reshape(steps + 1, size)
            action[rows] = episode.actions - self.action_space.start
            reward[rows] = (
                np.clip(episode.rewards, -1, 1) if config.clip_reward else episode.rewards
            )
            discount[rows] = np.where(episode.terminations, 0, np.float32(config.gamma))
            first[at], valid[last] = True, False
            at = last + 1
        fields = {"frames": frames, "action": action, "reward": reward, "discount": discount}
        return {**fields, "first": first, "valid": valid}


def collect(
    player: Player,
    env_id: str,
    options: EnvOptions,
    out: Path,
    *,
    dataset_id: str,
    agent: str,
    episodes: int,
    seed: int = 0,
    epsilon: float = 0.0,
    num_envs: int = 8,
    on_episode: Callable[[int, float], None] = lambda done, episode_return: None,
) -> None:
    """Play full games and write them as a Minari data set, whole or not at all.

    Terminations are the games' own: a lost life is none.

    Args:
        player: who plays.
        env_id: what is played.
        options: the protocol.
        out: folder that is made; data/main_data.hdf5 lies in it.
        dataset_id: Minari's name for it.
        agent: what the player is called.
        episodes: games.
        seed: of the games; neither trainings nor evaluations play them.
        epsilon: probability of a random action.
        num_envs: games at the same time.
        on_episode: called with the games written so far and the return of the last.

    Raises:
        ConfigError: there is something at `out` already, or Minari is not there.
    """
    _minari()
    if out.exists():
        raise ConfigError(f"{out} is there already; name another folder with --out")
    env = make(env_id, min(num_envs, episodes), seed + COLLECTED, options)
    env.action_space.seed(seed)
    if not isinstance(env.action_space, spaces.Discrete):
        env.close()
        raise ConfigError(f"{env_id} has the action space {env.action_space}; Discrete is needed")
    told: dict[str, Any] = {"env": env_id, "options": asdict(options), "protocol": env.protocol}
    told |= {"stack": env.stack, "agent": agent, "epsilon": epsilon, "seed": seed}
    temporary = out.resolve().with_name(f".{out.name}.tmp")  # Minari joins relative paths twice
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "data").mkdir(parents=True)
    try:
        writer = _Writer(temporary / "data", env_id, env, dataset_id, told)
        with tuned_for(env):
            _play(player, env, episodes, epsilon, seed, writer, on_episode)
        writer.flush()
        temporary.rename(out)
    finally:
        env.close()
        shutil.rmtree(temporary, ignore_errors=True)


class _Writer:
    """Episodes into Minari's storage, some at a time."""

    def __init__(
        self, folder: Path, env_id: str, env: Any, dataset_id: str, told: dict[str, Any]
    ) -> None:
        minari = _minari()
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage

        self._buffer_type = EpisodeBuffer
        spec = gymnasium.registry.get(env_id.rpartition(":")[2])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._storage = MinariStorage.new(
                folder, env.observation_space, env.action_space, spec, jpeg_encoding=False
            )
        known = {"dataset_id": dataset_id, "minari_version": minari.__version__}
        known |= {"algorithm_name": told["agent"], "ludus": json.dumps(told)}
        self._storage.update_metadata(known)
        self._waiting: list[Any] = []

    def add(self, obs: np.ndarray, rows: list[tuple[Any, float]], terminated: bool) -> None:
        """One game: observations [T + 1, *obs], T actions and rewards, and how it ended."""
        ends, never = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
        ends[-1] = True
        self._waiting.append(
            self._buffer_type(
                observations=obs,
                actions=np.array([action for action, _ in rows]),
                rewards=np.array([reward for _, reward in rows]),
                terminations=ends if terminated else never,
                truncations=never if terminated else ends,
            )
        )
        if len(self._waiting) >= _WRITTEN_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._storage.update_episodes(self._waiting)
        self._waiting = []


def _play(
    player: Player,
    env: Any,
    episodes: int,
    epsilon: float,
    seed: int,
    writer: _Writer,
    on_episode: Callable[[int, float], None],
) -> None:
    count, generator = env.num_envs, np.random.default_rng([seed, 8])
    quota = np.array([len(range(i, episodes, count)) for i in range(count)])
    row, state, done = env.reset(), None, 0
    seen: list[list[np.ndarray]] = [[] for _ in range(count)]
    rows: list[list[tuple[Any, float]]] = [[] for _ in range(count)]
    while done < episodes:
        actions, state = player.predict(row.obs, state, row.first, deterministic=True)
        for i in np.flatnonzero(generator.random(count) < epsilon) if epsilon else ():
            actions[i] = env.action_space.sample()
        env.send(actions)
        following = env.recv()
        for i in np.flatnonzero(~row.game_over & (quota > 0)):
            seen[i].append(row.obs[i].copy())
            rows[i].append((actions[i], float(following.reward[i])))
            if following.game_over[i]:
                obs = np.stack([*seen[i], following.obs[i]])
                writer.add(obs, rows[i], bool(following.terminated[i]))
                seen[i], rows[i] = [], []
                quota[i] -= 1
                done += 1
                on_episode(done, float(following.episode_return[i]))
        row = following
