"""A scripted backend in memory, and helpers that several tests of the envs share."""

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from ludus.envs.vector import BackendStep, Row, VectorEnv

LIMIT = 600.0  # seconds that a test waits for an event, however slow the machine is


def hang(*_: Any) -> Any:
    """Never return."""
    threading.Event().wait()


class Fake:
    """B counters: an episode of env i lasts `lengths[i]` steps and is lost or cut at its end.

    An observation is (step of the episode, seed mod 1000, last action). An action a is paid with
    a + 1. A life is lost at step 2.
    """

    def __init__(self, lengths: Sequence[int], *, cut: Sequence[bool] = (), hang: bool = False):
        self.num_envs, self.lengths, self.hang = len(lengths), np.array(lengths), hang
        self.cut = np.array(cut or [False] * self.num_envs)
        self.observation_space = spaces.Box(-1, np.inf, (3,), np.float32)
        self.action_space = spaces.Discrete(4)
        self.action_names: Sequence[str] = ("a", "b", "c", "d")
        self.time = np.zeros(self.num_envs, np.int64)
        self.obs = np.zeros((self.num_envs, 3), np.float32)
        self.resets: list[tuple[list[int], list[int]]] = []
        self.closed = 0
        self.actions = np.zeros(self.num_envs, np.int64)

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        chosen = np.flatnonzero(mask)
        self.resets.append((chosen.tolist(), seeds[mask].tolist()))
        self.time[mask] = 0
        self.obs[mask] = np.stack([0 * seeds, seeds % 1000, 0 * seeds - 1], axis=1)[mask]
        return self.obs.copy()

    def send(self, actions: np.ndarray) -> None:
        self.actions = actions

    def recv(self) -> BackendStep:
        if self.hang:
            hang()
        self.time += 1
        self.obs[:, 0], self.obs[:, 2] = self.time, self.actions
        over = self.time == self.lengths
        reward = (self.actions + 1).astype(np.float32)
        lost = (self.time == 2) & ~over
        return BackendStep(self.obs.copy(), reward, over & ~self.cut, over & self.cut, lost)

    def render(self, index: int) -> np.ndarray:
        return np.full((2, 2, 3), index, np.uint8)

    def close(self) -> None:
        self.closed += 1


def stream(backend: Any, *, seed: int = 3, life_loss: bool = False, **more: Any) -> VectorEnv:
    more = {"trusted": True, **more}
    return VectorEnv(backend, env_id="fake", protocol={}, seed=seed, life_loss=life_loss, **more)


def chooser(env: VectorEnv, seed: int = 0) -> Any:
    """Return a function that samples actions [B] for the env."""
    rng = np.random.default_rng(seed)
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        return lambda: rng.integers(space.start, space.start + space.n, size=env.num_envs)
    if isinstance(space, spaces.MultiDiscrete):
        return lambda: rng.integers(
            space.start, space.start + space.nvec, (env.num_envs, *space.shape)
        )
    assert isinstance(space, spaces.Box)
    return lambda: rng.uniform(space.low, space.high, (env.num_envs, *space.shape)).astype("f4")


def step(env: VectorEnv, actions: Any) -> Row:
    env.send(np.asarray(actions))
    return env.recv()


def assert_same(row: Row, other: Row, when: str = "") -> None:
    for name in Row._fields:
        mine, theirs = getattr(row, name), getattr(other, name)
        assert mine.dtype == theirs.dtype, f"{name} {when}"
        np.testing.assert_array_equal(mine, theirs, err_msg=f"{name} {when}")


def through_json(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the state as a checkpoint would restore it: new arrays, and nothing but arrays."""
    text = json.dumps(
        {k: [v.dtype.str, list(v.shape), v.ravel().tolist()] for k, v in state.items()}
    )
    return {
        k: np.array(v, dtype).reshape(shape) for k, (dtype, shape, v) in json.loads(text).items()
    }
