"""A board game as a single-player Gymnasium env against a fixed opponent.

`gym.make("ludus/connect_four-v0", opponent="mcts:100")`. Who begins is drawn at each reset. The
legal moves are in `info["action_mask"]`; a move against the rules loses the game at once.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from ludus.envs.board import spiel
from ludus.envs.board.game import BOARD
from ludus.envs.board.opponents import make_opponent
from ludus.envs.board.picture import render_board
from ludus.envs.errors import EnvError
from ludus.envs.registration import register_envs


class BoardEnv(gymnasium.Env[np.ndarray, np.int64]):
    """One player's side of a game.

    Args:
        game: OpenSpiel's name and parameters.
        opponent: see `ludus.envs.board.opponent_names.OPPONENTS`.
        render_mode: "ansi" for OpenSpiel's text, "rgb_array" for a picture.

    Raises:
        EnvError: there is no such game or player, or the game does not fit.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 1}  # noqa: RUF012  Gymnasium's

    def __init__(
        self,
        game: str = "tic_tac_toe",
        opponent: str = "random",
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise EnvError(f"render_mode is {render_mode}; use ansi or rgb_array")
        self._spiel, self._game = spiel.load(game), spiel.make_game(game)
        self._opponent_name, self.render_mode = opponent, render_mode
        make_opponent(opponent, self._spiel, 0)  # an unknown one is refused now
        self.observation_space = self._game.parts[BOARD]
        self.action_space = spaces.Discrete(self._game.num_actions)

    def reset(
        self, *, seed: int | None = None, options: Any = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new game, in which the opponent may move first."""
        super().reset(seed=seed)
        self._state, self._side = self._spiel.new_initial_state(), int(self.np_random.integers(2))
        self._board = self._game.init(1)
        chance = int(self.np_random.integers(2**31 - 1))
        self._opponent = make_opponent(self._opponent_name, self._spiel, chance)
        self._let_opponent_move()
        return self._shown(), self._info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move, and let the opponent answer."""
        chosen = int(action)
        if self._over():
            raise EnvError("step was called after the game's end; call reset first")
        if chosen not in self._state.legal_actions():
            return self._shown(), -1.0, True, False, self._info() | {"illegal": True}
        self._move(chosen)
        self._let_opponent_move()
        won = float(self._state.player_return(self._side)) if self._state.is_terminal() else 0.0
        over = self._over()
        return self._shown(), won, over, False, self._info()

    def render(self) -> Any:
        """Return OpenSpiel's text, or an image [height, width, 3] uint8."""
        if self.render_mode == "ansi":
            return str(self._state)
        return render_board(self._game, self._board, spiel.next_player(self._state) == 1)

    def _over(self) -> bool:
        return self._state.is_terminal() or self._state.move_number() >= self._game.max_moves

    def _let_opponent_move(self) -> None:
        while not self._over() and self._state.current_player() != self._side:
            self._move(self._opponent.choose(self._state))

    def _move(self, action: int) -> None:
        self._state.apply_action(action)
        self._board = self._game.step(self._board, torch.tensor([action])).board

    def _shown(self) -> np.ndarray:
        return spiel.seen_by(self._game, self._board, self._state, self._side)

    def _info(self) -> dict[str, Any]:
        mask = self._game.legal_actions(self._board)[0].numpy()
        return {"action_mask": mask.astype(np.int8)}


register_envs()
