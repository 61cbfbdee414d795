"""A board game as a PettingZoo AEC env; needs the extra `pettingzoo`."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import AECEnv

from ludus.envs.board import spiel
from ludus.envs.board.game import BOARD
from ludus.envs.board.picture import render_board
from ludus.envs.dict_observation import MASK


class BoardAEC(AECEnv[str, dict[str, np.ndarray], int]):
    """Two agents, player_0 and player_1, in turn.

    Observations are as PettingZoo's classic games have them: {"observation", "action_mask"}. A move
    against the rules loses the game.

    Args:
        game: OpenSpiel's name and parameters.
        render_mode: "ansi" for OpenSpiel's text, "rgb_array" for a picture.

    Raises:
        EnvError: there is no such game, or it does not fit.
    """

    def __init__(self, game: str = "tic_tac_toe", render_mode: str | None = None) -> None:
        super().__init__()
        self._spiel, self._game = spiel.load(game), spiel.make_game(game)
        self.metadata = {
            "name": game,
            "render_modes": ["ansi", "rgb_array"],
            "is_parallelizable": False,
        }
        self.render_mode = render_mode
        self.possible_agents = ["player_0", "player_1"]
        num_actions = self._game.num_actions
        seen: dict[str, spaces.Space[Any]] = {
            "observation": self._game.parts[BOARD],
            MASK: spaces.Box(0, 1, (num_actions,), np.int8),
        }
        self.observation_spaces = {a: spaces.Dict(seen) for a in self.possible_agents}
        self.action_spaces = {a: spaces.Discrete(num_actions) for a in self.possible_agents}

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Return the space, the same for both players."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Return the space, the same for both players."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        """Start a new game."""
        self.agents = self.possible_agents[:]
        self._state, self._board = self._spiel.new_initial_state(), self._game.init(1)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agent_selection = self.agents[self._state.current_player()]

    def observe(self, agent: str) -> dict[str, np.ndarray]:
        """Return the position as this player sees it, and the action mask.

        The mask is zero for the other player.
        """
        player = self.possible_agents.index(agent)
        shown = spiel.seen_by(self._game, self._board, self._state, player)
        mask = self._game.legal_actions(self._board)[0].numpy().astype(np.int8)
        if agent != self.agent_selection:
            mask = np.zeros_like(mask)
        return {"observation": shown, MASK: mask}

    def step(self, action: int | None) -> None:
        """Make the move of `agent_selection`."""
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        other = self.possible_agents[1 - self.possible_agents.index(agent)]
        assert action is not None
        if action not in self._state.legal_actions():
            self.rewards = {agent: -1.0, other: 1.0}
            self.terminations = dict.fromkeys(self.agents, True)
        else:
            self._state.apply_action(int(action))
            self._board = self._game.step(self._board, torch.tensor([int(action)])).board
            over = self._state.is_terminal()
            returns = self._state.returns() if over else (0.0, 0.0)
            self.rewards = dict(zip(self.possible_agents, map(float, returns), strict=True))
            over = over or self._state.move_number() >= self._game.max_moves
            self.terminations = dict.fromkeys(self.agents, over)
        player = self._state.current_player()
        self.agent_selection = other if player < 0 else self.possible_agents[player]
        self._accumulate_rewards()

    def render(self) -> Any:
        """Return OpenSpiel's text, or an image [height, width, 3] uint8."""
        if self.render_mode == "ansi":
            return str(self._state)
        return render_board(self._game, self._board, self.agent_selection == "player_1")

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
