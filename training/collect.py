"""Games of a trained agent as a data set in Minari's format (https://minari.farama.org)."""

import json
import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ludus.envs.dict_observation import PackedDict
from ludus.envs.errors import ConfigError, EnvError
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import VectorEnv
from ludus.evaluation.evaluate import Player, tuned_for
from ludus.training.dataset import minari_package

COLLECTED = 1 << 41  # added to a collection's seed: games that no training and no evaluation plays
_BYTES_AT_ONCE, _GAMES_AT_ONCE = 1 << 26, 32  # what waits to be written, at most


def collect(
    player: Player,
    env_id: str,
    options: EnvOptions,
    out: Path,
    *,
    dataset_id: str,
    agent: str,
    episodes: float = math.inf,
    steps: float = math.inf,
    seed: int = 0,
    epsilon: float = 0.0,
    num_envs: int = 8,
    on_game: Callable[[int, int, float], None] = lambda games, steps, episode_return: None,
) -> int:
    """Play full games and write them as a Minari data set, whole or not at all.

    Terminations are the games' own: a lost life is none. Where the env breaks or Ctrl-C is pressed,
    the games that had ended are written.

    Args:
        player: who plays.
        env_id: what is played.
        options: the protocol.
        out: folder that is made; data/main_data.hdf5 lies in it.
        dataset_id: Minari's name for it.
        agent: what the player is called.
        episodes: games after which no other begins.
        steps: env steps after which no other game begins.
        seed: of the games; neither trainings nor evaluations play them.
        epsilon: probability of a random action.
        num_envs: games at the same time.
        on_game: called after each game with games, env steps and the game's return.

    Returns:
        The games written.

    Raises:
        ConfigError: there is something at `out` already, or Minari is not there.
        EnvError: the env broke.
    """
    minari_package()
    temporary = out.resolve().with_name(f".{out.name}.tmp")  # Minari joins relative paths twice
    for path in (out, temporary):
        if path.exists():
            raise ConfigError(f"{path} is there already; name another folder with --out")
    env = make(env_id, int(min(num_envs, episodes)), seed + COLLECTED, options)
    env.action_space.seed(seed)
    if not isinstance(env.action_space, spaces.Discrete):
        env.close()
        raise ConfigError(f"{env_id} has the action space {env.action_space}; Discrete is needed")
    if isinstance(env.observation_space, PackedDict):
        env.close()
        raise ConfigError(f"{env_id} shows dictionaries; a data set of arrays is what can be kept")
    told: dict[str, Any] = {"env": env_id, "options": asdict(options), "protocol": env.protocol}
    told |= {"stack": env.stack, "agent": agent, "epsilon": epsilon, "seed": seed}
    (temporary / "data").mkdir(parents=True)
    try:
        writer = _Writer(temporary / "data", env, dataset_id, told, on_game)
        try:
            with tuned_for(env):
                _play(player, env, episodes, steps, epsilon, seed, writer)
        except EnvError as error:
            kept = f"{out} has the {writer.games} games before" if writer.games else "none is kept"
            raise EnvError(f"{error}; {kept}", error.index) from error
        finally:
            if writer.games and writer.whole:
                writer.flush()
                temporary.rename(out)
    finally:
        env.close()
        shutil.rmtree(temporary, ignore_errors=True)
    return writer.games


class _Writer:
    """Episodes into Minari's storage, some at a time."""

    def __init__(
        self,
        folder: Path,
        env: VectorEnv,
        dataset_id: str,
        told: dict[str, Any],
        on_game: Callable[[int, int, float], None],
    ) -> None:
        minari = minari_package()
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage

        self._buffer_type, self._on_game, self._stack = EpisodeBuffer, on_game, env.stack
        # the spec only where Gymnasium's own make gives these observations
        plain = env.protocol["kind"] == "gymnasium" and env.stack == 1
        spec = gymnasium.registry.get(env.env_id.rpartition(":")[2]) if plain else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._storage = MinariStorage.new(
                folder, env.observation_space, env.action_space, spec, jpeg_encoding=False
            )
        about = f"{told['agent']} on {env.env_id}, a random action with probability "
        known = {"dataset_id": dataset_id, "minari_version": minari.__version__}
        known |= {"algorithm_name": told["agent"], "description": f"{about}{told['epsilon']}"}
        self._storage.update_metadata({**known, "ludus": json.dumps(told)})
        self._waiting: list[Any] = []
        self._bytes = 0
        self.games = self.steps = 0
        self.whole = True  # no write was cut off

    def add(
        self, frames: list[np.ndarray], actions: list[Any], rewards: list[float], terminated: bool
    ) -> None:
        """One game: T + 1 newest frames, T actions and rewards, and how it ended."""
        obs = _stacked(np.stack(frames), self._stack)
        never = np.zeros(len(rewards), bool)
        ends = never.copy()
        ends[-1] = True
        self._waiting.append(
            self._buffer_type(
                observations=obs,
                actions=np.array(actions),
                rewards=np.array(rewards),
                terminations=ends if terminated else never,
                truncations=never if terminated else ends,
            )
        )
        self._bytes += obs.nbytes
        if self._bytes >= _BYTES_AT_ONCE or len(self._waiting) >= _GAMES_AT_ONCE:
            self.flush()
        self.games, self.steps = self.games + 1, self.steps + len(rewards)
        self._on_game(self.games, self.steps, sum(rewards))

    def flush(self) -> None:
        """Write what waits."""
        self.whole = False
        self._storage.update_episodes(self._waiting)
        self._waiting, self._bytes, self.whole = [], 0, True


def _stacked(frames: np.ndarray, stack: int) -> np.ndarray:
    """[T, *frame] to the observations [T, stack, *frame], zeros before the first."""
    if stack == 1:
        return frames
    before = np.zeros((stack - 1, *frames.shape[1:]), frames.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.concatenate([before, frames]), stack, axis=0
    )
    return np.ascontiguousarray(np.moveaxis(windows, -1, 1))


def _play(
    player: Player,
    env: VectorEnv,
    episodes: float,
    steps: float,
    epsilon: float,
    seed: int,
    writer: _Writer,
) -> None:
    """Env i plays the games i, i + n, i + 2n, ...; every game that has begun is ended."""
    count, generator = env.num_envs, np.random.default_rng([seed, 8])
    game, idle, taken = np.arange(count), np.zeros(count, bool), 0
    frames: list[list[np.ndarray]] = [[] for _ in range(count)]
    actions: list[list[Any]] = [[] for _ in range(count)]
    rewards: list[list[float]] = [[] for _ in range(count)]
    row, state = env.reset(), None
    while True:
        idle[row.first] = (game[row.first] >= episodes) | (taken >= steps)
        if idle.all():
            return
        newest = row.obs[:, -1] if env.stack > 1 else row.obs
        chosen, state = player.predict(row.obs, state, row.first, deterministic=True)
        for i in np.flatnonzero(generator.random(count) < epsilon) if epsilon else ():
            chosen[i] = env.action_space.sample()
        env.send(chosen)
        following = env.recv()
        for i in np.flatnonzero(~row.game_over & ~idle):
            taken += 1
            frames[i].append(newest[i].copy())
            actions[i].append(chosen[i])
            rewards[i].append(float(following.reward[i]))
            if following.game_over[i]:
                frames[i].append(following.obs[i, -1] if env.stack > 1 else following.obs[i])
                writer.add(frames[i], actions[i], rewards[i], bool(following.terminated[i]))
                frames[i], actions[i], rewards[i] = [], [], []
                game[i] += count
        row = following
