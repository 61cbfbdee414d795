"""A slice of the envs on any machine: what a process beside the trainer runs, see `remote`.

It knows no Ray. Whatever goes wrong in an env is an answer, not an exception.
"""

import pickle
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from gymnasium import spaces

from ludus.envs.errors import describe_error
from ludus.envs.make import EnvOptions, make
from ludus.envs.trust import modules_of, trust_modules
from ludus.envs.vector import BackendStep, VectorEnv

_PACKAGES = ("ludus-rl", "numpy", "gymnasium", "ale-py", "open-spiel")  # episodes depend on them


@dataclass(frozen=True)
class Recipe:
    """What all hosts of a training make."""

    env_id: str
    seed: int
    options: EnvOptions  # for single frames


@dataclass(frozen=True)
class HostSpaces:
    """What a host says of its envs once they are made."""

    observation_space: spaces.Box  # of a single frame
    action_space: spaces.Space[Any]
    action_names: Sequence[str]
    versions: dict[str, str]
    machine: str


@dataclass(frozen=True)
class EnvFailure:
    """An answer in place of a result: what went wrong in an env."""

    problem: str
    index: int | None  # of the env within the host


def host_versions() -> dict[str, str]:
    """Return the versions here of what episodes depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout that is on the path only
            found[name] = "unknown"
    return found


def record_type(observation_space: spaces.Box) -> np.dtype[Any]:
    """Return the type of one env's part of a host's answer, which is one array."""
    return np.dtype(
        [
            ("obs", observation_space.dtype, observation_space.shape),
            ("reward", np.float32),
            ("discount_sign", np.float32),
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("life_lost", np.bool_),
        ]
    )


class EnvHost:
    """B of the envs of a training.

    Args:
        recipe: of the envs.
        num_envs: B.
        first_env: number of the first of them within the training.
    """

    def __init__(self, recipe: Recipe, num_envs: int, first_env: int) -> None:
        self._recipe, self._num_envs, self._first_env = recipe, num_envs, first_env
        self._env: VectorEnv | None = None
        self._records: np.ndarray = np.zeros(0)  # [B] of `record_type`

    def call(self, request: bytes) -> bytes:
        """Call a method; request and answer are pickled."""
        method, arguments = pickle.loads(request)
        return pickle.dumps(getattr(self, method)(*arguments))

    def open(self) -> HostSpaces | EnvFailure:
        """Make the envs."""
        r = self._recipe
        try:
            trust_modules(modules_of(r.env_id, r.options.wrapper))  # the trainer's user named them
            env = make(r.env_id, self._num_envs, r.seed, r.options, first_env=self._first_env)
        except Exception as error:
            return EnvFailure(describe_error(error), None)
        self._env = env
        self._records = np.zeros(self._num_envs, record_type(env.observation_space))
        return HostSpaces(
            env.observation_space,
            env.action_space,
            env.action_names,
            host_versions(),
            platform.node(),
        )

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray | EnvFailure:
        """Start new episodes where mask [B] is true, from seeds [B]; return [B] records."""
        assert self._env is not None
        try:
            self._records["obs"] = self._env.backend.reset(mask, seeds)
        except Exception as error:
            index = getattr(error, "index", None)
            seed = "" if index is None else f" at its reset with seed {seeds[index]}"
            return EnvFailure(f"{describe_error(error)}{seed}", index)
        return self._records

    def step(
        self, actions: np.ndarray, begins: np.ndarray | None, seeds: np.ndarray
    ) -> np.ndarray | EnvFailure:
        """Step all envs, and then start new episodes in some.

        Args:
            actions: [B, *action], validated.
            begins: [B], where new episodes are started; None for nowhere.
            seeds: [B] of these episodes.

        Returns:
            [B] records, of the step but for the observations of new episodes.
        """
        assert self._env is not None
        try:
            self._env.backend.send(actions)
            raw: BackendStep = self._env.backend.recv()
        except Exception as error:
            return EnvFailure(describe_error(error), getattr(error, "index", None))
        records = self._records
        records["obs"], records["reward"] = raw.obs, raw.reward
        records["terminated"], records["truncated"] = raw.terminated, raw.truncated
        records["life_lost"] = raw.life_lost
        records["discount_sign"] = 1 if raw.discount_sign is None else raw.discount_sign
        return records if begins is None else self.reset(begins, seeds)

    def render(self, index: int) -> np.ndarray | EnvFailure:
        """Return an image of one env, [height, width, 3] uint8."""
        assert self._env is not None
        try:
            return self._env.backend.render(index)
        except Exception as error:
            return EnvFailure(describe_error(error), index)

    def close(self) -> None:
        """Close the envs."""
        if self._env is not None:
            self._env.close()
