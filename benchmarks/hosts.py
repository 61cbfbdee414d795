"""Envs on hosts against envs of this machine: what a row costs, and when hosts pay.

    python benchmarks/hosts.py rows     microseconds a row of 16 to 128 envs
    python benchmarks/hosts.py pays     one core against two hosts, by the time of an env step

Both start a Ray cluster here, take turns, and print a table.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import gymnasium
import numpy as np
import tyro
from gymnasium import spaces
from rich.console import Console
from rich.table import Table

from ludus.envs.make import EnvOptions, make
from ludus.envs.remote import EnvHosts, make_remote
from ludus.envs.vector import VectorEnv

HOSTS = 2
SECONDS, ROUNDS = 2.0, 5
ENVS = ("CartPole-v1", "MinAtar/Breakout-v1", "PongNoFrameskip-v4")
NUM_ENVS = (16, 32, 64, 128)
STEP_MICROSECONDS = (100, 300, 1_000, 3_000)


class Busy(gymnasium.Env[np.ndarray, np.int64]):
    """An env whose step computes for a given time, and whose observation is an Atari frame."""

    def __init__(self, microseconds: float = 100.0) -> None:
        self.observation_space = spaces.Box(0, 255, (1, 84, 84), np.uint8)
        self.action_space = spaces.Discrete(2)
        self._seconds, self._time = microseconds / 1e6, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        """Begin an episode."""
        self._time = 0
        return np.zeros((1, 84, 84), np.uint8), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Any]:
        """Compute, and return an empty frame."""
        end = time.thread_time() + self._seconds
        while time.thread_time() < end:
            pass
        self._time += 1
        return np.zeros((1, 84, 84), np.uint8), 1.0, self._time == 1_000, False, {}


def microseconds(env: VectorEnv) -> float:
    """Return the time of a row, by steps with random actions."""
    rng = np.random.default_rng(0)
    actions = [rng.integers(2, size=env.num_envs) for _ in range(64)]
    rows, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        env.send(actions[rows % 64])
        env.recv()
        rows += 1
    return 1e6 * (time.perf_counter() - began) / rows


def in_turns(makers: list[Callable[[], VectorEnv]]) -> list[float]:
    """Return the median time of a row of each env."""
    envs = [make_env() for make_env in makers]
    try:
        for env in envs:
            env.reset()
            microseconds(env)
        rounds = [[microseconds(env) for env in envs] for _ in range(ROUNDS)]
        return np.median(rounds, axis=0).tolist()
    finally:
        for env in envs:
            env.close()


@contextmanager
def one_core() -> Iterator[None]:
    """Keep what starts here on one core: a small machine."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def rows(hosts: EnvHosts, table: Table) -> None:
    """Fill a table with the time of a row, here and on hosts."""
    for name in ("env", "envs", "here, µs a row", "hosts, µs a row", "difference, µs"):
        table.add_column(name, justify="right")
    for env_id in ENVS:
        for num in NUM_ENVS:
            here, far = in_turns(
                [
                    partial(make, env_id, num, 0),
                    partial(make_remote, env_id, num, 0, EnvOptions(), hosts),
                ]
            )
            table.add_row(env_id, str(num), f"{here:,.0f}", f"{far:,.0f}", f"{far - here:,.0f}")


def pays(hosts: EnvHosts, table: Table) -> None:
    """Fill a table with the rates of one core and of two hosts, which share two."""
    for name in ("step, µs", "envs", "one core, µs a row", "two hosts, µs a row", "ratio"):
        table.add_column(name, justify="right")

    def local(num: int, options: EnvOptions) -> VectorEnv:
        with one_core():
            return make("hosts:Busy", num, 0, options)

    for cost in STEP_MICROSECONDS:
        for num in (8, 32):
            options = EnvOptions(env_kwargs=(f"microseconds={cost}",))
            here, far = in_turns(
                [
                    partial(local, num, options),
                    partial(make_remote, "hosts:Busy", num, 0, options, hosts),
                ]
            )
            cells = f"{cost:,}", str(num), f"{here:,.0f}", f"{far:,.0f}", f"{here / far:.2f}"
            table.add_row(*cells)


def main(what: tyro.conf.Positional[Literal["rows", "pays"]]) -> None:
    """Measure, and print a table."""
    from ludus.envs.ray_cluster import RayCluster

    cluster = RayCluster("local")
    cluster.acquire()
    hosts, table = EnvHosts(cluster, HOSTS, 60.0, print), Table()
    try:
        (rows if what == "rows" else pays)(hosts, table)
    finally:
        Console().print(table)
        cluster.release()


if __name__ == "__main__":
    tyro.cli(main)
