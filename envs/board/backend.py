"""Games of two players as one stream: every move is a row, seen by the one who is to move.

A row's `sign` is -1 where the other player moves, so that a value is always the mover's and a
return turns its sign with each move: `discount = -gamma`.
"""

import numpy as np
import torch
from gymnasium import spaces

from ludus.envs.board.game import Board, Game
from ludus.envs.board.picture import render_board
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.vector import BackendStep


class BoardBackend:
    """B games side by side, on the CPU; an observation has the `action_mask` in it.

    Args:
        game: the rules.
        num_envs: B.
    """

    def __init__(self, game: Game, num_envs: int) -> None:
        self.game, self.num_envs = game, num_envs
        self.observation_space = observation_space(game)
        self.action_space = spaces.Discrete(game.num_actions)
        self.action_names: tuple[str, ...] = ()  # what a move is called depends on the position
        self.board: Board = game.init(num_envs)
        self._second = np.zeros(num_envs, bool)  # [B] who moves
        self._raw: BackendStep | None = None

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new games where mask [B] is true; nothing in them is left to chance."""
        self.board[mask] = self.game.init(int(mask.sum()))
        self._second[mask] = False
        return observations(self.game, self.observation_space, self.board)

    def send(self, actions: np.ndarray) -> None:
        """Make the moves [B]."""
        action = torch.from_numpy(actions)
        legal = self.game.legal_actions(self.board)  # [B, A]
        idle = ~legal.gather(1, action.unsqueeze(1)).squeeze(1)  # a game not in use makes any move
        action = torch.where(idle, legal.to(torch.uint8).argmax(1), action)
        move = self.game.step(self.board, action)
        self.board, sign = move.board, move.discount_sign.numpy()
        self._second ^= sign < 0
        none = np.zeros(self.num_envs, bool)
        obs = observations(self.game, self.observation_space, self.board)
        self._raw = BackendStep(obs, move.reward.numpy(), move.terminated.numpy(), none, none, sign)

    def recv(self) -> BackendStep:
        """What the moves led to."""
        assert self._raw is not None
        return self._raw

    def render(self, index: int) -> np.ndarray:
        """The picture of one game."""
        return render_board(self.game, self.board[index : index + 1], bool(self._second[index]))

    def close(self) -> None:
        """Nothing to free."""


def observation_space(game: Game) -> PackedDict:
    """What is shown of a game: its own parts, and which actions are legal."""
    return PackedDict({**game.parts, MASK: spaces.Box(0, 1, (game.num_actions,), np.uint8)})


def observations(game: Game, space: PackedDict, board: Board) -> np.ndarray:
    """Observations [B, size] of positions."""
    parts = {key: part.cpu().numpy() for key, part in game.observation(board).items()}
    return space.pack({**parts, MASK: game.legal_actions(board).cpu().numpy()})
