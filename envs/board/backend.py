"""Two-player games as one stream: every move is a row, observed by the player to move.

`discount_sign` is -1 where the player to move changes. Values are always those of the player to
move, so a return changes its sign with each move: `discount = -gamma`.
"""

import numpy as np
import torch
from gymnasium import spaces

from ludus.envs.board.game import Board, Game
from ludus.envs.board.picture import render_board
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.vector import BackendStep


class BoardBackend:
    """B games in parallel on the CPU; observations include the `action_mask`.

    Args:
        game: the rules.
        num_envs: B.
    """

    def __init__(self, game: Game, num_envs: int) -> None:
        self.game, self.num_envs = game, num_envs
        self.observation_space = observation_space(game)
        self.action_space = spaces.Discrete(game.num_actions)
        self.action_names: tuple[str, ...] = ()  # a move's name depends on the position
        self.board: Board = game.init(num_envs)
        self._second = np.zeros(num_envs, bool)  # [B] the second player is to move
        self._raw: BackendStep | None = None

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new games where mask [B] is true; return all observations. Seeds have no effect."""
        self.board[mask] = self.game.init(int(mask.sum()))
        self._second[mask] = False
        return observations(self.game, self.observation_space, self.board)

    def send(self, actions: np.ndarray) -> None:
        """Make the moves [B]."""
        action = torch.from_numpy(actions)
        legal = self.game.legal_actions(self.board)  # [B, A]
        # Only a game that is over or replayed as idle gets an illegal move here, and its result is
        # not used. It makes any legal move instead, because the rules need not accept others.
        idle = ~legal.gather(1, action.unsqueeze(1)).squeeze(1)
        action = torch.where(idle, legal.to(torch.uint8).argmax(1), action)
        move = self.game.step(self.board, action)
        self.board, sign = move.board, move.discount_sign.numpy()
        self._second ^= sign < 0
        none = np.zeros(self.num_envs, bool)
        obs = observations(self.game, self.observation_space, self.board)
        self._raw = BackendStep(obs, move.reward.numpy(), move.terminated.numpy(), none, none, sign)

    def recv(self) -> BackendStep:
        """Return the result of the moves."""
        assert self._raw is not None
        return self._raw

    def render(self, index: int) -> np.ndarray:
        """Return an image of one game."""
        return render_board(self.game, self.board[index : index + 1], bool(self._second[index]))

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def observation_space(game: Game) -> PackedDict:
    """Return the observation space of a game: its own parts and the action mask."""
    mask = spaces.Box(0, 1, (game.num_actions,), np.uint8)
    return PackedDict({**game.parts, MASK: mask}, board_game=True)


def observations(game: Game, space: PackedDict, board: Board) -> np.ndarray:
    """Return observations [B, size] of positions."""
    parts = {key: part.cpu().numpy() for key, part in game.observation(board).items()}
    return space.pack({**parts, MASK: game.legal_actions(board).cpu().numpy()})
