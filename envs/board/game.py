"""The interface of a board game, batched, from the view of the player to move."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from gymnasium import spaces
from torch import Tensor

# B positions, each from the view of its player to move: a tensor [B, *] or an array of B objects.
# Both can be indexed, and assigned to, by an index over B.
Board = Any
BOARD = "board"


class Move(NamedTuple):
    """Result of one move in each of B games."""

    board: Board  # the positions after it, from the view of the next player
    reward: Tensor  # [B] float32, of the player who moved
    terminated: Tensor  # [B] bool, the game is over
    discount_sign: Tensor  # [B] float32, -1 where the other player moves next, else 1


class Game(Protocol):
    """The rules of a two-player, zero-sum game without chance or hidden information.

    Stepping a game that is over must not raise; the result is not used.
    """

    @property
    def name(self) -> str:
        """Name and parameters in OpenSpiel."""

    @property
    def num_actions(self) -> int:
        """Number of actions over all positions, A."""

    @property
    def max_moves(self) -> int:
        """Largest number of moves of a game."""

    @property
    def parts(self) -> Mapping[str, spaces.Box]:
        """Observation space of one position by key; networks receive the key `BOARD`."""

    def init(self, batch: int) -> Board:
        """Return the first positions of B games."""

    def legal_actions(self, board: Board) -> Tensor:
        """Return the legal actions [B, A] bool; none where the game is over."""

    def step(self, board: Board, action: Tensor) -> Move:
        """Make the legal moves `action` [B] int64; the given positions are not changed."""

    def observation(self, board: Board) -> dict[str, Tensor]:
        """Return the observations of the players to move by key, each [B, *shape]."""

    def opponent_observation(self, board: Board) -> dict[str, Tensor]:
        """Return the observations of the players who are not to move."""

    def from_observation(self, observation: dict[str, Tensor]) -> Board:
        """Return the positions of observations; the inverse of `observation`."""

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """Return the symmetries of the board as permutations, the first of them the identity.

        Returns:
            Source index of each number of the transformed `BOARD` [S, size], and of each action of
            the transformed policy [S, A].
        """
