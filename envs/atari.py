"""Atari 2600 with ale-py's native vector env, and the protocol that a score depends on.

Two protocols are in use, and their scores are not comparable: sticky actions (`ALE/Pong-v5`,
Machado et al. 2018, https://arxiv.org/abs/1709.06009) and the 2015 DQN's (`PongNoFrameskip-v4`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces

from ludus.envs.bounds import FRACTION, Bounds, check_bounds
from ludus.envs.errors import EnvError
from ludus.envs.vector import BackendStep

ALEInterface.setLoggerMode(LoggerMode.Error)  # no banner


STACK = Bounds(1, 32)
FRAMESKIP = Bounds(1, 60)
SCREEN_SIZE = Bounds(36, 160)
NOOP_MAX = Bounds(0, 1000)
MAX_FRAMES = Bounds(1, 10_000_000)


@dataclass(frozen=True)
class AtariProtocol:
    """Settings that a score on an Atari game depends on.

    Raises:
        EnvError: a value would hang or crash the emulator.
    """

    rom: str
    """name of the game, e.g. pong"""
    sticky: Annotated[float, FRACTION]
    """probability that the emulator repeats the last action, per frame"""
    frameskip: Annotated[int, FRAMESKIP] = 4
    """emulator frames per action; the last two are max-pooled"""
    stack: Annotated[int, STACK] = 4
    """frames in one observation"""
    screen_size: Annotated[int, SCREEN_SIZE] = 84
    """height and width of a frame in pixels"""
    life_loss: bool = False
    """a lost life ends the episode for the learner; the game continues"""
    noop_max: Annotated[int, NOOP_MAX] = 30
    """a new game starts with 0 to noop_max - 1 no-ops"""
    fire_reset: bool = True
    """a new game starts with FIRE if the game has that action"""
    full_action_space: bool = False
    """all 18 actions instead of the game's own"""
    max_frames: Annotated[int, MAX_FRAMES] = 108_000
    """emulator frames after which a game is truncated"""

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_bounds(self, EnvError)


def game_names() -> list[str]:
    """Return the names of ale-py's games, as in `ALE/<name>-v5`."""
    return [name.title().replace("_", "") for name in roms.get_all_rom_ids()]


def resolve(env_id: str) -> AtariProtocol | None:
    """Return the protocol that an Atari id stands for, or None for any other id."""
    match = re.fullmatch(r"(?:ALE/(\w+)-v5|(\w+)NoFrameskip-v([04]))", env_id)
    if not match:
        return None
    name, version = match[1] or match[2], match[3] or "5"
    by_name = {rom.title().replace("_", "").lower(): rom for rom in roms.get_all_rom_ids()}
    rom = by_name.get(name.lower())
    if rom is None:
        return None
    if version == "4":
        return AtariProtocol(rom, sticky=0.0, life_loss=True)
    return AtariProtocol(rom, sticky=0.25)


class AtariBackend:
    """B games on the emulator's own threads, which run without Python's global lock.

    Args:
        protocol: settings of the games.
        num_envs: B.
        threads: emulator threads; 0 uses one per core.
        render: run a second emulator of every game with colour frames, so that `render` works.
    """

    def __init__(
        self, protocol: AtariProtocol, num_envs: int, threads: int = 0, render: bool = False
    ) -> None:
        self.num_envs = num_envs
        self._env = self._vector(protocol, num_envs, threads, picture=False)
        self._twin = self._vector(protocol, num_envs, threads, picture=True) if render else None
        self._picture: np.ndarray | None = None
        space = self._env.single_observation_space
        assert isinstance(space, spaces.Box)
        self.observation_space = space
        self.action_names: Sequence[str] = _action_names(protocol)
        self.action_space = spaces.Discrete(len(self.action_names))
        self._lives = np.zeros(num_envs, np.int64)
        self._started = False

    @staticmethod
    def _vector(
        protocol: AtariProtocol, num_envs: int, threads: int, *, picture: bool
    ) -> AtariVectorEnv:
        return AtariVectorEnv(
            protocol.rom,
            num_envs,
            num_threads=threads,
            max_num_frames_per_episode=protocol.max_frames,
            repeat_action_probability=protocol.sticky,
            full_action_space=protocol.full_action_space,
            img_height=210 if picture else protocol.screen_size,
            img_width=160 if picture else protocol.screen_size,
            grayscale=not picture,
            stack_num=1 if picture else protocol.stack,
            frameskip=protocol.frameskip,
            noop_max=protocol.noop_max,
            use_fire_reset=protocol.fire_reset,
            # `terminated` is the end of the game; lost lives are derived from `info["lives"]`.
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
        )

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new games where mask [B] is true; return all observations."""
        # ale-py requires that the first reset is of all games.
        chosen = mask if self._started else np.ones(self.num_envs, bool)
        self._started = True
        options = {"reset_mask": chosen}
        seed = seeds[chosen].astype(np.int32)
        obs, info = self._env.reset(seed=seed, options=options)
        self._lives = np.asarray(info["lives"], np.int64)
        if self._twin is not None:
            self._picture = self._twin.reset(seed=seed, options=options)[0]
        return obs

    def send(self, actions: np.ndarray) -> None:
        """Start one step. An action outside the action set would hang the emulator."""
        self._env.send(actions)
        if self._twin is not None:
            self._twin.send(actions)

    def recv(self) -> BackendStep:
        """Wait for the emulator."""
        obs, reward, terminated, truncated, info = self._env.recv()
        if self._twin is not None:
            self._picture = self._twin.recv()[0]
        lives = np.asarray(info["lives"], np.int64)
        lost = (lives < self._lives) & (lives > 0) & ~terminated
        self._lives = lives
        return BackendStep(obs, reward.astype(np.float32), terminated, truncated, lost)

    def render(self, index: int) -> np.ndarray:
        """Return the game's screen in colour, [210, 160, 3] uint8."""
        if self._picture is None:
            raise EnvError("make the env with render=True to see its picture")
        return self._picture[index, 0]

    def close(self) -> None:
        """End the emulator's threads, which live as long as the objects."""
        del self._env, self._twin


def _action_names(protocol: AtariProtocol) -> list[str]:
    ale = ALEInterface()
    path = roms.get_rom_path(protocol.rom)
    assert path is not None, "`resolve` returns only games with a ROM"
    ale.loadROM(path)
    full = protocol.full_action_space
    actions = ale.getLegalActionSet() if full else ale.getMinimalActionSet()
    return [action.name.lower() for action in actions]
