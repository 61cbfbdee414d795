"""Tic-tac-toe, connect four and Othello as bitboards: a position is two 64-bit integers.

The first holds the stones of the player to move and the second the opponent's, so a move swaps
them. Everything is arithmetic on tensors [B], on a CPU or a GPU. The rules are OpenSpiel's.
"""

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.envs.board.game import BOARD, Move


def _stone(place: Tensor) -> Tensor:
    """Return the bit at `place` [B] as int64."""
    return torch.ones_like(place) << place


def _signed(bits: int) -> int:
    """Convert a pattern of 64 bits to a signed integer."""
    return bits - (1 << 64) if bits >= 1 << 63 else bits


class _Bits:
    """Common parts of the bitboard games.

    Args:
        name: name in OpenSpiel.
        places: bit of each cell [H, W], in the order of the observation.
        num_actions: A.
        max_moves: moves of the longest game.
        device: device of the boards.
    """

    def __init__(
        self, name: str, places: Tensor, num_actions: int, max_moves: int, device: torch.device
    ) -> None:
        self.name, self.num_actions = name, num_actions
        self.max_moves, self.device = max_moves, device
        self.shape = tuple(places.shape)
        self._places = places.flatten().to(device)  # [H * W]
        self.parts = {BOARD: spaces.Box(0, 1, (2, *self.shape), np.uint8)}

    def observation(self, board: Tensor) -> dict[str, Tensor]:
        """Return the stones of the player to move and the opponent's, [B, 2, H, W] uint8."""
        return {BOARD: self._planes(board).to(torch.uint8).unflatten(-1, self.shape)}

    def opponent_observation(self, board: Tensor) -> dict[str, Tensor]:
        """Return the stones of the opponent and those of the player to move."""
        return self.observation(board.flip(1))

    def from_observation(self, observation: dict[str, Tensor]) -> Tensor:
        """Return boards [B, 2] of planes [B, 2, H, W]."""
        return (observation[BOARD].flatten(2).to(torch.int64) << self._places).sum(-1)

    def _planes(self, board: Tensor) -> Tensor:  # [B, 2] to [B, 2, H * W] int64
        return (board.unsqueeze(-1) >> self._places) & 1

    def _other_moves(self, board: Tensor, won: Tensor, over: Tensor) -> Move:
        """Build a move after which the opponent moves; its player has won where won [B]."""
        return Move(
            board, won.to(torch.float32), over, torch.full_like(won, -1, dtype=torch.float32)
        )


class TicTacToe(_Bits):
    """Three in a row on 3 x 3; action i is the cell in row i // 3, column i % 3."""

    def __init__(self, device: torch.device) -> None:
        super().__init__("tic_tac_toe", torch.arange(9).view(3, 3), 9, 9, device)
        cells = np.arange(9).reshape(3, 3)
        rows = [*cells, *cells.T, cells.diagonal(), cells[::-1].diagonal()]
        self._rows = torch.tensor([sum(1 << int(c) for c in row) for row in rows], device=device)

    def init(self, batch: int) -> Tensor:
        """Return empty boards [B, 2]."""
        return torch.zeros(batch, 2, dtype=torch.int64, device=self.device)

    def legal_actions(self, board: Tensor) -> Tensor:
        """Return the empty cells, [B, 9] bool."""
        free = ((board.sum(1).unsqueeze(1) >> self._places) & 1) == 0
        return free & ~self._has_row(board[:, 1]).unsqueeze(1)

    def step(self, board: Tensor, action: Tensor) -> Move:
        """Put stones in cells `action` [B]."""
        own, other = board[:, 0] | _stone(action), board[:, 1]
        won = self._has_row(own)
        full = (own | other) == 0b111_111_111
        return self._other_moves(torch.stack([other, own], 1), won, won | full)

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """Return the eight symmetries of the square."""
        cells = square_symmetries(3).to(self.device)
        return torch.cat([cells, cells + 9], 1), cells

    def _has_row(self, stones: Tensor) -> Tensor:  # [B] to [B]
        return ((stones.unsqueeze(1) & self._rows) == self._rows).any(1)


class ConnectFour(_Bits):
    """Four in a row on 6 rows and 7 columns; action i drops a stone into column i.

    Columns are 7 bits apart, lowest row first. The unused seventh bit keeps shifted lines from
    running into the next column.
    """

    def __init__(self, device: torch.device) -> None:
        places = torch.arange(6).unsqueeze(1) + 7 * torch.arange(7)  # [row, column]
        super().__init__("connect_four", places, 7, 42, device)
        self._bottom = (1 << (7 * torch.arange(7, device=device))).to(torch.int64)
        self._top = self._bottom << 5
        self._full = sum(0b111_111 << 7 * column for column in range(7))

    def init(self, batch: int) -> Tensor:
        """Return empty boards [B, 2]."""
        return torch.zeros(batch, 2, dtype=torch.int64, device=self.device)

    def legal_actions(self, board: Tensor) -> Tensor:
        """Return the columns that are not full, [B, 7] bool."""
        room = (board.sum(1).unsqueeze(1) & self._top) == 0
        return room & ~_four(board[:, 1]).unsqueeze(1)

    def step(self, board: Tensor, action: Tensor) -> Move:
        """Drop stones into columns `action` [B]."""
        own, other = board.unbind(1)
        lowest = self._bottom[action]
        # Adding 1 at the bottom of a column carries through its stones to the first empty cell.
        stone = ((own | other) + lowest) & (lowest * 0b111_111)
        own = own | stone
        won = _four(own)
        return self._other_moves(
            torch.stack([other, own], 1), won, won | ((own | other) == self._full)
        )

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """Return the identity and the mirror image."""
        columns = torch.arange(7, device=self.device)
        columns = torch.stack([columns, columns.flip(0)])  # [2, 7]
        cells = columns.unsqueeze(1) + 7 * torch.arange(12, device=self.device).unsqueeze(1)
        return cells.flatten(1), columns


def _four(stones: Tensor) -> Tensor:
    """Return whether four stones are in a row, in any direction: [B] to [B] bool."""
    found = torch.zeros_like(stones)
    for step in (1, 6, 7, 8):  # vertical, diagonals, horizontal
        pairs = stones & (stones >> step)
        found |= pairs & (pairs >> 2 * step)
    return found != 0


class Othello(_Bits):
    """8 x 8; action i < 64 is the cell in row i // 8, column i % 8, and 64 passes."""

    def __init__(self, device: torch.device) -> None:
        super().__init__("othello", torch.arange(64).view(8, 8), 65, 128, device)
        # Four directions and their opposites. Lines with a horizontal part must not wrap around the
        # sides, so they may pass through the inner columns only.
        inner = _signed(sum(0b01111110 << 8 * row for row in range(8)))
        shifts = [1, 7, 8, 9]
        through = [inner, inner, -1, inner]
        self._shift = torch.tensor(shifts, device=device).unsqueeze(1)  # [4, 1]
        self._inner = torch.tensor(through, device=device).unsqueeze(1)
        # `>>` on signed integers copies the sign bit; these are the bits to keep after it.
        kept = [(1 << (64 - shift)) - 1 for shift in shifts]
        self._kept = torch.tensor(kept, device=device).unsqueeze(1)

    def init(self, batch: int) -> Tensor:
        """Return boards [B, 2] with four stones in the middle; black moves first."""
        black, white = (1 << 28) | (1 << 35), (1 << 27) | (1 << 36)
        start = torch.tensor([black, white], dtype=torch.int64, device=self.device)
        return start.repeat(batch, 1)

    def legal_actions(self, board: Tensor) -> Tensor:
        """Return the cells where a stone flips others, or else passing; [B, 65] bool."""
        here, there = self._cells(board), self._cells(board.flip(1))
        cells = ((here.unsqueeze(1) >> self._places) & 1) == 1
        passes = (here == 0) & (there != 0)
        return torch.cat([cells, passes.unsqueeze(1)], 1)

    def step(self, board: Tensor, action: Tensor) -> Move:
        """Put stones in cells `action` [B] and flip the enclosed ones; 64 passes."""
        own, other = board.unbind(1)
        stone = torch.where(action < 64, _stone(action % 64), 0)
        turned = self._turned(own, other, stone)
        own, other = own | stone | turned, other & ~turned
        after = torch.stack([other, own], 1)
        over = (self._cells(after) | self._cells(after.flip(1))) == 0
        lead = self._planes(after).sum(-1)  # [B, 2]
        reward = torch.where(over, (lead[:, 1] - lead[:, 0]).sign(), 0)
        return self._other_moves(after, reward, over)

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """Return the eight symmetries of the square."""
        cells = square_symmetries(8).to(self.device)
        passing = torch.full((len(cells), 1), 64, device=self.device)
        return torch.cat([cells, cells + 64], 1), torch.cat([cells, passing], 1)

    def _left(self, stones: Tensor) -> Tensor:  # [4, B], each towards higher bits
        return stones << self._shift

    def _right(self, stones: Tensor) -> Tensor:  # [4, B], each towards lower bits
        return (stones >> self._shift) & self._kept

    def _runs(self, start: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Return the opponent's stones in unbroken lines from `start` [B], [4, B] up and down."""
        through = other & self._inner  # [4, B]
        up, down = self._left(start) & through, self._right(start) & through
        for _ in range(5):  # a line has at most six between two ends
            up, down = up | (self._left(up) & through), down | (self._right(down) & through)
        return up, down

    def _cells(self, board: Tensor) -> Tensor:
        """Return the cells [B] where the player to move may put a stone."""
        own, other = board.unbind(1)
        up, down = self._runs(own, other)
        ends = self._left(up) | self._right(down)  # [4, B]
        first, second = ends[0] | ends[1], ends[2] | ends[3]
        return (first | second) & ~(own | other)

    def _turned(self, own: Tensor, other: Tensor, stone: Tensor) -> Tensor:
        """Return the opponent's stones [B] that a new stone encloses."""
        up, down = self._runs(stone, other)
        up = torch.where((self._left(up) & own) != 0, up, 0)
        down = torch.where((self._right(down) & own) != 0, down, 0)
        both = up | down
        return both[0] | both[1] | both[2] | both[3]


def square_symmetries(side: int) -> Tensor:
    """Return the source of each cell under the square's eight symmetries, [8, side * side]."""
    cells = torch.arange(side * side).view(side, side)
    turned = [cells.rot90(k) for k in range(4)]
    return torch.stack([t.flatten() for cell in turned for t in (cell, cell.flip(1))])
