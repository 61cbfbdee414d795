"""Collect the games of an agent as a data set in Minari's format (https://minari.farama.org)."""

import copy
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
from gymnasium.envs.registration import EnvSpec

from ludus.envs.action_mask import legal_mask, mix_random_actions
from ludus.envs.dict_observation import PackedDict
from ludus.envs.errors import ConfigError, EnvError
from ludus.envs.make import EnvOptions, make
from ludus.envs.stack import newest_frames, stack_frames
from ludus.envs.vector import VectorEnv
from ludus.evaluation.evaluate import Player, torch_settings
from ludus.training.dataset import minari_package
from ludus.training.formats import format_stamp

COLLECTION_SEEDS = 1 << 41  # added to the seed; training and evaluation seeds lie below
_MAX_BYTES, _MAX_GAMES = 1 << 26, 32  # of the games that are buffered before a write


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
    """Play full games and write them as a Minari data set.

    A termination is the end of a game; a lost life is not one. The folder appears when it is
    complete. If the env fails or Ctrl-C is pressed, it has the games that had ended.

    Args:
        player: the agent.
        env_id: id of the env.
        options: protocol of the env.
        out: folder to make; the episodes are in its data/main_data.hdf5.
        dataset_id: id of the data set for Minari.
        agent: name of the player, for the metadata.
        episodes: number of games to play.
        steps: env steps after which no new game begins.
        seed: seed of the games, disjoint from those of training and evaluation.
        epsilon: probability of a random action.
        num_envs: number of parallel envs.
        on_game: called after each game with the games and env steps so far and its return.

    Returns:
        The number of games written.

    Raises:
        ConfigError: `out` exists already, the spaces do not suit, or Minari is not installed.
        EnvError: the env failed.
    """
    minari_package()
    temporary = out.resolve().with_name(f".{out.name}.tmp")  # Minari joins relative paths twice
    for path in (out, temporary):
        if path.exists():
            raise ConfigError(f"{path} exists already; name another folder with --out")
    env = make(env_id, int(min(num_envs, episodes)), seed + COLLECTION_SEEDS, options)
    env.action_space.seed(seed)
    if not isinstance(env.action_space, spaces.Discrete):
        env.close()
        raise ConfigError(f"{env_id} has the action space {env.action_space}; Discrete is needed")
    if isinstance(env.observation_space, PackedDict):
        env.close()
        raise ConfigError(f"{env_id} has dictionary observations; a data set needs arrays")
    record = {
        **format_stamp(),
        "env": env_id,
        "options": asdict(options),
        "protocol": env.protocol,
        "stack": env.stack,
        "agent": agent,
        "epsilon": epsilon,
        "seed": seed,
    }
    (temporary / "data").mkdir(parents=True)
    try:
        writer = _Writer(temporary / "data", env, options, dataset_id, record, on_game)
        try:
            with torch_settings(env):
                _play(player, env, episodes, steps, epsilon, seed, writer)
        except EnvError as error:
            saved = (
                f"{out} has the {writer.games} games that had ended"
                if writer.games
                else "no game had ended"
            )
            raise EnvError(f"{error}; {saved}", error.index) from error
        finally:
            if writer.games and writer.whole:
                writer.flush()
                temporary.rename(out)
    finally:
        env.close()
        shutil.rmtree(temporary, ignore_errors=True)
    return writer.games


class _Writer:
    """Buffers episodes and writes them to Minari's storage in batches."""

    def __init__(
        self,
        folder: Path,
        env: VectorEnv,
        options: EnvOptions,
        dataset_id: str,
        record: dict[str, Any],
        on_game: Callable[[int, int, float], None],
    ) -> None:
        minari = minari_package()
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage

        self._buffer_type, self._on_game = EpisodeBuffer, on_game
        self._stack, self._shape = env.stack, env.observation_space.shape
        spec = _minari_spec(env, options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._storage = MinariStorage.new(
                folder, env.observation_space, env.action_space, spec, jpeg_encoding=False
            )
        self._storage.update_metadata(
            {
                "dataset_id": dataset_id,
                "minari_version": minari.__version__,
                "algorithm_name": record["agent"],
                "description": (
                    f"{record['agent']} on {env.env_id}, a random action with probability "
                    f"{record['epsilon']}"
                ),
                "ludus": json.dumps(record),
            }
        )
        self._waiting: list[Any] = []
        self._bytes = 0
        self.games = self.steps = 0
        self.whole = True  # no write was interrupted

    def add(
        self, frames: list[np.ndarray], actions: list[Any], rewards: list[float], terminated: bool
    ) -> None:
        """Add one game: T + 1 newest frames [size], T actions and rewards, and how it ended."""
        obs = stack_frames(np.stack(frames), self._stack, self._shape)
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
        if self._bytes >= _MAX_BYTES or len(self._waiting) >= _MAX_GAMES:
            self.flush()
        self.games, self.steps = self.games + 1, self.steps + len(rewards)
        self._on_game(self.games, self.steps, sum(rewards))

    def flush(self) -> None:
        """Write the buffered games."""
        self.whole = False
        self._storage.update_episodes(self._waiting)
        self._waiting, self._bytes, self.whole = [], 0, True


def _minari_spec(env: VectorEnv, options: EnvOptions) -> EnvSpec | None:
    """Return the spec from which Gymnasium alone, as Minari does, makes this env.

    None if there is none: an env that Gymnasium does not make or that has wrappers, or other spaces
    than those of the data, because Ludus has adapted its observations.
    """
    spec = gymnasium.registry.get(env.env_id.rpartition(":")[2])
    if env.protocol["kind"] != "gymnasium" or env.stack > 1 or options.wrapper:
        return None
    if spec is None or not isinstance(spec.entry_point, str):
        return None
    if env.adaptation is not None and env.adaptation.source != env.observation_space:
        return None
    spec = copy.deepcopy(spec)
    spec.max_episode_steps = options.max_episode_steps or spec.max_episode_steps
    spec.kwargs |= options.constructor_kwargs()
    try:
        spec.to_json()
    except ValueError:  # a keyword argument that JSON does not have
        return None
    return spec


def _play(
    player: Player,
    env: VectorEnv,
    episodes: float,
    steps: float,
    epsilon: float,
    seed: int,
    writer: _Writer,
) -> None:
    """Play until `episodes` or `steps` is reached and every game that has begun has ended.

    Env i plays games i, i + n, i + 2n, ..., so that the set of games follows from the seed alone.
    """
    count, generator = env.num_envs, np.random.default_rng([seed, 8])
    game = np.arange(count)  # [B] number of the running game
    idle = np.zeros(count, bool)  # [B] the env has no game left; its steps are not recorded
    taken = 0  # env steps recorded
    frames: list[list[np.ndarray]] = [[] for _ in range(count)]
    actions: list[list[Any]] = [[] for _ in range(count)]
    rewards: list[list[float]] = [[] for _ in range(count)]
    row, state = env.reset(), None
    while True:
        idle[row.first] = (game[row.first] >= episodes) | (taken >= steps)
        if idle.all():
            return
        newest = newest_frames(row.obs, env.stack)
        chosen, state = player.predict(row.obs, state, row.first, deterministic=True)
        legal = legal_mask(env.observation_space, row.obs)
        chosen = mix_random_actions(chosen, epsilon, env.action_space, generator, legal)
        env.send(chosen)
        following = env.recv()
        for i in np.flatnonzero(~row.game_over & ~idle):  # a finished game's action is not used
            taken += 1
            frames[i].append(newest[i].copy())
            actions[i].append(chosen[i])
            rewards[i].append(float(following.reward[i]))
            if following.game_over[i]:
                frames[i].append(newest_frames(following.obs, env.stack)[i].copy())
                writer.add(frames[i], actions[i], rewards[i], bool(following.terminated[i]))
                frames[i], actions[i], rewards[i] = [], [], []
                game[i] += count
        row = following
