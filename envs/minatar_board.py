"""What MinAtar's games share: the board, the actions, and random numbers for B games at once."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

KEYS = "nlurdf"  # the library's letters for its actions
ACTIONS = ("noop", "left", "up", "right", "down", "fire")
NOOP, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
DX = np.array([0, -1, 0, 1, 0, 0])  # [6] what an action adds to the player's column
DY = np.array([0, 0, -1, 0, 1, 0])  # [6] and to its row
COLUMNS, LANES = np.arange(10), np.arange(1, 9)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class MinAtarGame(Protocol):
    """B boards of one game; every array attribute has the leading axis [B].

    The arrays as `__init__` leaves them are the start of an episode. A game that is over may be
    stepped on; what it shows then is unused.
    """

    channels: int
    minimal: str  # the keys of the actions that do something
    colours: str  # hexadecimal, one a channel
    layers: str  # the channels' digits in the order of painting, what lies on top last
    over: np.ndarray  # [B] bool

    def deal(self, envs: np.ndarray) -> None:
        """Draw what is random in the start of the games with these indices [n]."""

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Play actions [B], indices of `KEYS`, and return the rewards [B]."""

    def write_planes(self, obs: np.ndarray) -> None:
        """Mark the boards in obs [B, channels, 10, 10], which is all 0."""


class Draws:
    """Random numbers by counter: number k of env i is a hash of its seed and k alone.

    The hash is splitmix64 (Steele et al., 2014, https://doi.org/10.1145/2660193.2660195), started
    from a hash of the seed.
    """

    def __init__(self, num_envs: int) -> None:
        self._keys = np.zeros(num_envs, np.uint64)
        self._counters = np.zeros(num_envs, np.uint64)

    def restart(self, envs: np.ndarray, seeds: np.ndarray) -> None:
        """Begin again at number 0 of seeds [n] for envs [n]."""
        self._keys[envs] = _mix(seeds.astype(np.uint64) + GOLDEN)
        self._counters[envs] = 0

    def uniform(self, envs: np.ndarray, count: int) -> np.ndarray:
        """Return the next `count` random numbers of envs [n]: [n, count] float64 in [0, 1)."""
        number = self._counters[envs, None] + np.arange(1, count + 1, dtype=np.uint64)
        self._counters[envs] += np.uint64(count)
        bits = _mix(self._keys[envs, None] + number * GOLDEN)  # [n, count]
        return (bits >> np.uint64(11)) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def full(shape: int | tuple[int, ...], *values: int) -> Iterator[np.ndarray]:
    """Return an int64 array of that shape for each value."""
    return (np.full(shape, value, np.int64) for value in values)


def clip(x: np.ndarray, low: int, high: int) -> np.ndarray:
    """`x`, but not below `low` nor above `high`."""
    return np.minimum(np.maximum(x, low), high)  # np.clip takes three times as long on small arrays


def inside(x: np.ndarray) -> np.ndarray:
    """Return where a column or row x lies on the board."""
    return (x >= 0) & (x <= 9)
