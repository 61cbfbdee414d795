"""Replay of self-play games: positions, what the search made of them, and who won.

A ring of rows of B games. A row may be drawn once its game is over; its value is the outcome for
who moved there.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.memory.replay import free_bytes
from ludus.envs.errors import ConfigError


class Position(NamedTuple):
    """One row of B games, as a search left it."""

    board: Tensor  # [B, *board] as its mover sees it
    legal: Tensor  # [B, A] bool
    policy: Tensor  # [B, A] of the search
    value: Tensor  # [B] of the search, of the mover
    learned: Tensor  # [B] bool, the policy is to be learned from
    kept: Tensor  # [B] bool, the position is to be learned from at all


class Sampled(NamedTuple):
    """N positions."""

    board: Tensor  # [N, *board]
    legal: Tensor  # [N, A] bool
    policy: Tensor  # [N, A]
    weight: Tensor  # [N] float32, 1 where the policy is learned from
    value: Tensor  # [N] what the value is to be


class Games:
    """The last rows of B games, in preallocated tensors.

    Args:
        capacity: positions; rounded down to whole rows of B.
        num_envs: B.
        board: of one position, as a network sees it.
        actions: A.
        longest: moves of a game at most.
        outcome_share: of the outcome in the value to learn; the rest is the search's value.
        device: where all lives.
        seed: of the sampling.

    Raises:
        ConfigError: the capacity is too small for a game of each env, or does not fit in memory.
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
        self._value, self._weight = zeros((), torch.float32), zeros((), torch.float32)
        self._side = np.zeros((self.rows, num_envs), np.float32)  # 1 for who began, else -1
        self._ready = np.zeros((self.rows, num_envs), bool)  # the game is over
        self._kept = np.zeros((self.rows, num_envs), bool)  # it is to be learned from
        self._mover = np.ones(num_envs, np.float32)  # [B] 1 while who began is to move, else -1
        self._length = np.zeros(num_envs, np.int64)  # [B] rows of the running game
        self._generator = torch.Generator(device).manual_seed(seed)
        self._drawable: Tensor | None = None
        self.written = 0  # rows so far

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
        """Keep one row.

        Args:
            position: what was searched.
            used: [B] bool, a move was made there.
            reward: [B] of the move, for the mover.
            over: [B] bool, it ended the game.
            sign: [B] -1 where the other player moves next.
        """
        row = self.written % self.rows
        part = slice(row * self.num_envs, (row + 1) * self.num_envs)
        self._board[part], self._legal[part] = position.board, position.legal
        self._policy[part], self._value[part] = position.policy, position.value
        self._weight[part] = position.learned.to(torch.float32)
        kept = used & position.kept.cpu().numpy()
        self._ready[row], self._kept[row], self._side[row] = False, kept, self._mover
        self.written += 1
        self._length = np.where(used, self._length + 1, 0)
        if over.any():
            self._settle(np.flatnonzero(over), row, reward * self._mover)
        self._mover = np.where(over | ~used, 1, self._mover * sign).astype(np.float32)
        self._length[over] = 0
        self._drawable = None

    def _settle(self, envs: np.ndarray, last: int, outcome: np.ndarray) -> None:
        """Give all rows of the games that are over in `envs` their value."""
        length = self._length[envs]
        back = np.arange(length.max())[:, None]  # [L, 1] rows before the last
        row, env = (last - back) % self.rows, np.broadcast_to(envs, (len(back), len(envs)))
        there = back < length  # [L, E]
        row, env = np.broadcast_to(row, there.shape)[there], env[there]
        self._ready[row, env] = True
        won = torch.from_numpy(outcome[env] * self._side[row, env]).to(self._device)
        place = torch.from_numpy(row * self.num_envs + env).to(self._device)
        self._value[place] += self._share * (won - self._value[place])

    def __len__(self) -> int:
        return len(self._places())

    def _places(self) -> Tensor:
        """Of all positions that may be drawn."""
        if self._drawable is None:
            place = np.flatnonzero(self._ready & self._kept)
            self._drawable = torch.from_numpy(place).to(self._device)
        return self._drawable

    def sample_indices(self, batch_size: int) -> Tensor:
        """Places of N positions, all alike [N]."""
        places = self._places()
        pick = torch.randint(
            len(places), (batch_size,), generator=self._generator, device=self._device
        )
        return places[pick]

    def sample(self, place: Tensor) -> Sampled:
        """The positions at places [N]."""
        return Sampled(
            self._board[place],
            self._legal[place],
            self._policy[place],
            self._weight[place],
            self._value[place],
        )

    def state_dict(self) -> dict[str, Any]:
        """The rows in use, and the running games."""
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
        """The inverse of `state_dict`.

        Raises:
            ConfigError: the state is of a memory of another size.
        """
        if state["shape"] != [self.rows, self.num_envs]:
            raise ConfigError(
                f"the replay saved has {state['shape']} rows and envs, this one "
                f"{[self.rows, self.num_envs]}; resume with the replay_size and num_envs of the run"
            )
        for name in _TENSORS:
            getattr(self, f"_{name}")[: len(state[name])].copy_(torch.from_numpy(state[name]))
        for name in _ARRAYS:
            getattr(self, f"_{name}")[: len(state[name])] = state[name]
        self._mover, self._length = np.array(state["mover"]), np.array(state["length"])
        self._generator.set_state(state["generator"])
        self.written, self._drawable = state["written"], None


_TENSORS = ("board", "legal", "policy", "value", "weight")
_ARRAYS = ("side", "ready", "kept")
