"""B envs as two vector envs, of which one plays while the agent acts for the other.

Rows, seeds and checkpoints are those of one vector env of B.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from ludus.envs.adapt import Adaptation
from ludus.envs.atari import AtariBackend
from ludus.envs.errors import EnvError
from ludus.envs.make import EnvOptions, make
from ludus.envs.remote import EnvHosts, make_remote
from ludus.envs.stack import FrameStack
from ludus.envs.vector import Row, VectorEnv
from ludus.envs.workers import WorkerBackend


class Halves:
    """Two vector envs of one env, whose rows belong together.

    Args:
        first: envs 0 to B/2 - 1.
        second: envs B/2 to B - 1.
    """

    def __init__(self, first: VectorEnv, second: VectorEnv) -> None:
        self.halves = first, second
        self.parts = slice(0, first.num_envs), slice(first.num_envs, None)
        self.env_id, self.protocol, self.stack = first.env_id, first.protocol, first.stack
        self.num_envs = first.num_envs + second.num_envs
        self.observation_space: spaces.Box = first.observation_space
        self.action_space: spaces.Space[Any] = first.action_space
        self.adaptation: Adaptation | None = first.adaptation

    def send(self, actions: np.ndarray) -> None:
        """Start one step of every env with actions [B, *action]."""
        for half, envs in zip(self.halves, self.parts, strict=True):
            half.send(actions[envs])

    def failing(self) -> str | None:
        """Return why the training must save and end at the next row, None if it need not."""
        return self.halves[0].failing() or self.halves[1].failing()

    def close(self) -> None:
        """Free the envs' processes and threads; a second call does nothing."""
        for half in self.halves:
            half.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a vector env of B returns, see `VectorEnv.state_dict`."""
        first, second = (half.state_dict() for half in self.halves)
        state = {
            key: np.concatenate([first[key], second[key]]) for key in first.keys() - {"actions"}
        }
        pair = first["actions"], second["actions"]  # [T, B/2, *action] each, of different T
        longest = max(map(len, pair))
        padded = [np.pad(x, [(0, longest - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in pair]
        return state | {"actions": np.concatenate(padded, axis=1)}

    def load_state_dict(
        self, state: Mapping[str, Any], last: Row, on_step: Callable[[int], None] | None = None
    ) -> None:
        """Rebuild the running episodes of B envs, see `VectorEnv.load_state_dict`."""
        longest = int(state["length"].max(initial=0))
        for half, envs in zip(self.halves, self.parts, strict=True):
            own = {key: x[envs] for key, x in state.items() if key != "actions"}
            own["actions"] = state["actions"][:, envs]
            own_last = Row(*(x[envs] for x in last))
            done = 0 if half is self.halves[0] else longest

            def show(step: int, done: int = done) -> None:
                if on_step is not None:
                    on_step((done + step) // 2)

            half.load_state_dict(own, own_last, show)


def make_halves(
    env_id: str,
    num_envs: int,
    seed: int,
    options: EnvOptions,
    *,
    first_env: int = 0,
    hosts: EnvHosts | None = None,
) -> Halves:
    """Make two halves of an env, see `make`; with hosts, each half on one half of these.

    Raises:
        EnvError: `num_envs` or the number of hosts is odd; the env plays in this process, so that
            no half could play while the agent acts for the other.
    """
    if num_envs % 2:
        raise EnvError(f"num_envs is {num_envs}; halves need an even number")
    each = num_envs // 2
    if hosts is not None:
        half = hosts.half()
        first = make_remote(env_id, each, seed, options, half, first_env=first_env)
        try:
            second = make_remote(env_id, each, seed, options, half, first_env=first_env + each)
        except BaseException:
            first.close()
            raise
        return Halves(first, second)
    first = make(env_id, each, seed, options, first_env=first_env)
    try:
        backend = first.backend
        inner = backend.inner if isinstance(backend, FrameStack) else backend
        if not isinstance(inner, AtariBackend | WorkerBackend):
            raise EnvError(
                f"halves are for Atari and envs in processes of their own; {env_id} plays in the "
                "trainer's process, so leave them out"
            )
        return Halves(first, make(env_id, each, seed, options, first_env=first_env + each))
    except BaseException:
        first.close()
        raise
