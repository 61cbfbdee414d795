"""Replay of self-play games: positions, search results and outcomes.

A ring of rows of B games. A row can be sampled once its game is over; its value target is then the
outcome for the player who moved there.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.memory.replay import check_fits, free_bytes
from ludus.agents.memory.step import Staging
from ludus.agents.seeding import restore_generator
from ludus.envs.errors import ConfigError


class Position(NamedTuple):
    """One row of B games with the results of the search."""

    board: Tensor  # [B, *board] as seen by the player to move
    legal: Tensor  # [B, A] bool
    policy: Tensor  # [B, A] of the search
    value: Tensor  # [B] of the search, for the player to move
    policy_trained: Tensor  # [B] bool, False where the policy is not a target
    trained: np.ndarray  # [B] bool, False where the whole position is not a target


class PositionBatch(NamedTuple):
    """N positions."""

    board: Tensor  # [N, *board]
    legal: Tensor  # [N, A] bool
    policy: Tensor  # [N, A]
    weight: Tensor  # [N] float32, 1 where the policy is a target, else 0
    value: Tensor  # [N] value target


class Games:
    """The last rows of B games, in preallocated tensors.

    Args:
        capacity: positions; rounded down to whole rows of B.
        num_envs: B.
        board: of one position.
        actions: A.
        longest: maximum number of moves of a game.
        outcome_share: weight of the outcome in the value target; the rest is the search's value.
        device: where the memory lives.
        seed: of the sampling.

    Raises:
        ConfigError: the capacity is too small for one game of each env, or exceeds the free memory.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        board: spaces.Box,
        actions: int,
        longest: int,
        *,
        outcome_share: float,
        device: torch.device,
        seed: int,
    ) -> None:
        self.rows, self.num_envs = capacity // num_envs, num_envs
        self._share, self._device = outcome_share, device
        self._refuse(capacity, board, actions, longest)
        dtype = torch.from_numpy(np.empty(0, board.dtype)).dtype

        def zeros(shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
            return torch.zeros(self.rows * num_envs, *shape, dtype=kind, device=device)

        self._board = zeros(board.shape, dtype)
        self._legal, self._policy = zeros((actions,), torch.bool), zeros((actions,), torch.float32)
        self._weight = zeros((), torch.float32)
        # One more than positions, for what pads the outcomes.
        self._value = torch.zeros(self.rows * num_envs + 1, device=device)
        self._staging = Staging(device)
        self._side = np.zeros((self.rows, num_envs), np.float32)  # 1 for the first player, else -1
        self._finished = np.zeros((self.rows, num_envs), bool)  # the game is over
        self._trained = np.zeros((self.rows, num_envs), bool)
        self._mover = np.ones(
            num_envs, np.float32
        )  # [B] 1 while the first player is to move, else -1
        self._length = np.zeros(num_envs, np.int64)  # [B] rows of the running game
        self._generator = torch.Generator(device).manual_seed(seed)
        self._sampleable: Tensor | None = None
        self.written = 0  # rows, counted from the start

    def _refuse(self, capacity: int, board: spaces.Box, actions: int, longest: int) -> None:
        if self.rows < longest + 2:
            raise ConfigError(
                f"replay_size is {capacity}; {self.num_envs} games of up to {longest} moves need "
                f"{(longest + 2) * self.num_envs} or more"
            )
        size = int(np.prod(board.shape)) * board.dtype.itemsize
        need, free = capacity * (size + 5 * actions + 14), free_bytes(self._device)
        if need > 0.95 * free:
            raise ConfigError(
                f"a replay of {capacity:,} positions needs {need / 1e9:.1f} GB, and only "
                f"{free / 1e9:.1f} GB are free on {self._device}; choose a smaller replay_size"
            )

    def add(
        self,
        position: Position,
        used: np.ndarray,
        reward: np.ndarray,
        over: np.ndarray,
        sign: np.ndarray,
    ) -> None:
        """Append one row.

        Args:
            position: positions and search results.
            used: [B] bool, a move was made there.
            reward: [B] of the move, for the player who made it.
            over: [B] bool, the move ended the game.
            sign: [B] -1 where the other player moves next.
        """
        row = self.written % self.rows
        part = slice(row * self.num_envs, (row + 1) * self.num_envs)
        self._board[part], self._legal[part] = position.board, position.legal
        self._policy[part], self._value[part] = position.policy, position.value
        self._weight[part] = position.policy_trained.to(torch.float32)
        self._finished[row], self._side[row] = False, self._mover
        self._trained[row] = used & position.trained
        self.written += 1
        self._length = np.where(used, self._length + 1, 0)
        if over.any():
            self._set_outcome(np.flatnonzero(over), row, reward * self._mover)
        self._mover = np.where(over | ~used, 1, self._mover * sign).astype(np.float32)
        self._length[over] = 0
        self._sampleable = None

    def _set_outcome(self, envs: np.ndarray, last: int, outcome: np.ndarray) -> None:
        """Mix the outcome [B] into the value of all rows of the finished games of `envs`."""
        # All rows of all finished games at once: a rectangle as long as the longest game, without
        # the rows that lie before the start of a shorter one.
        length = self._length[envs]
        back = np.arange(length.max())[:, None]  # [L, 1] rows before the last
        row, env = (last - back) % self.rows, np.broadcast_to(envs, (len(back), len(envs)))
        there = back < length  # [L, E]
        row, env = np.broadcast_to(row, there.shape)[there], env[there]
        self._finished[row, env] = True
        won, index = self._staging.upload(
            _padded(outcome[env] * self._side[row, env], 0.0),
            _padded(row * self.num_envs + env, self.rows * self.num_envs),
        )
        self._value[index] += self._share * (won - self._value[index])

    def __len__(self) -> int:
        """Return the number of positions that can be sampled now."""
        return len(self._indices())

    def _indices(self) -> Tensor:
        """Return the indices of all positions that can be sampled."""
        if self._sampleable is None:
            indices = np.flatnonzero(self._finished & self._trained)
            (there,) = self._staging.upload(_padded(indices, 0))
            self._sampleable = there[: len(indices)]
        return self._sampleable

    def sample_indices(self, batch_size: int) -> Tensor:
        """Return the indices [batch_size] of positions, sampled uniformly with replacement."""
        indices = self._indices()
        sampled = torch.randint(
            len(indices), (batch_size,), generator=self._generator, device=self._device
        )
        return indices[sampled]

    def policies(self, index: Tensor) -> Tensor:
        """Return how many of the positions at indices [N] have a policy target."""
        return self._weight[index].sum()

    def gather(self, index: Tensor) -> PositionBatch:
        """Return the positions at indices [N]."""
        return PositionBatch(
            self._board[index],
            self._legal[index],
            self._policy[index],
            self._weight[index],
            self._value[index],
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the rows in use, and the state of the running games."""
        rows = min(self.written, self.rows)
        used = rows * self.num_envs
        tensors = {name: getattr(self, f"_{name}")[:used].cpu().numpy() for name in _TENSORS}
        arrays = {name: getattr(self, f"_{name}")[:rows] for name in _ARRAYS}
        return {
            "written": self.written,
            "shape": [self.rows, self.num_envs],
            "generator": self._generator.get_state(),
            "mover": self._mover,
            "length": self._length,
            **tensors,
            **arrays,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`.

        Raises:
            ConfigError: the state does not fit.
        """
        check_fits(state, self.rows, self.num_envs)
        for name in _TENSORS:
            getattr(self, f"_{name}")[: len(state[name])].copy_(torch.from_numpy(state[name]))
        for name in _ARRAYS:
            getattr(self, f"_{name}")[: len(state[name])] = state[name]
        self._mover, self._length = np.array(state["mover"]), np.array(state["length"])
        restore_generator(self._generator, state["generator"])
        self.written, self._sampleable = state["written"], None


def _padded(x: np.ndarray, fill: float) -> np.ndarray:
    """Return x [N] with `fill` up to a power of two: a GPU gets arrays of few lengths."""
    padded = np.full(1 << max(0, len(x) - 1).bit_length(), fill, x.dtype)
    padded[: len(x)] = x
    return padded


_TENSORS = ("board", "legal", "policy", "value", "weight")
_ARRAYS = ("side", "finished", "trained")
