"""The contract of a board game, batched and seen by the one who is to move."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from gymnasium import spaces
from torch import Tensor

# B positions, each as its mover sees it. A tensor [B, *] or an array of B objects: either may be
# indexed, and assigned to, by an index over B.
Board = Any
BOARD = "board"


class Move(NamedTuple):
    """What one move led to, in B games."""

    board: Board  # the positions after it, as the next mover sees them
    reward: Tensor  # [B] float32, for the one who moved
    terminated: Tensor  # [B] bool, the game is over
    discount_sign: (
        Tensor  # [B] float32, -1 where the other player moves next, 1 where the same does
    )


class Game(Protocol):
    """The rules of a two-player, zero-sum game without chance or hidden information.

    A position whose game is over may be stepped on; what comes out then is of no use, and raises
    nothing.
    """

    @property
    def name(self) -> str:
        """OpenSpiel's name and parameters."""

    @property
    def num_actions(self) -> int:
        """A, over all positions."""

    @property
    def max_moves(self) -> int:
        """Moves after which a game is over at the latest."""

    @property
    def parts(self) -> Mapping[str, spaces.Box]:
        """What the mover sees of one position, by name; `BOARD` is what a network is shown."""

    def init(self, batch: int) -> Board:
        """The first position of B games."""

    def legal_actions(self, board: Board) -> Tensor:
        """Moves that the rules allow, [B, A] bool; none where the game is over."""

    def step(self, board: Board, action: Tensor) -> Move:
        """Make the legal moves `action` [B] int64."""

    def observation(self, board: Board) -> dict[str, Tensor]:
        """What the movers see, [B, *part] by name."""

    def from_observation(self, seen: dict[str, Tensor]) -> Board:
        """The positions that `observe` showed."""

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """Ways to turn the board that change nothing, the first of them no turn.

        Returns:
            Where each number of a turned `BOARD` comes from [S, size], and where each action of a
            turned policy does [S, A].
        """
