"""An interactive board game against an agent, with its advice and undo."""

from typing import Any

import numpy as np

from ludus.agents.agent import Advice, Advisor
from ludus.envs.board import spiel
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.make import make


class InteractiveGame:
    """One board game in progress.

    Undo replays the game from its start, so that the agent's recurrent state is right.

    Args:
        agent: advises on every position, for either player, as in self-play.
        name: OpenSpiel's name and parameters.
    """

    def __init__(self, agent: Advisor, name: str) -> None:
        self.agent, self.name = agent, name
        self._rules = spiel.load(name)
        self.replay([])

    def replay(self, moves: list[int]) -> None:
        """Restart the game and play these moves."""
        self.moves = list[int]()
        self.state = self._rules.new_initial_state()
        self._env = make(self.name, 1, 0)
        self._agent_state: Any = None
        self._row = self._env.reset()
        self._advice: Advice | None = None
        for move in moves:
            self.play(move)

    @property
    def advice(self) -> Advice:
        """Return the agent's advice on the current position, for a batch of one."""
        if self._advice is None:
            self._advice, self._agent_state = self.agent.advise(
                self._row.obs, self._agent_state, self._row.first
            )
        return self._advice

    def play(self, move: int) -> None:
        """Play a legal move."""
        if not self.over:
            _ = self.advice  # updates the agent's recurrent state
        self.state.apply_action(move)
        self.moves.append(move)
        self._env.send(np.array([move]))
        self._row = self._env.recv()
        self._advice = None

    def undo(self, player: int) -> bool:
        """Go back to before the last move of a player, 0 or 1; return False if there is none."""
        state, own = self._rules.new_initial_state(), []
        for number, move in enumerate(self.moves):
            if state.current_player() == player:
                own.append(number)
            state.apply_action(move)
        if not own:
            return False
        self.replay(self.moves[: own[-1]])
        return True

    @property
    def over(self) -> bool:
        """Return whether the game has ended."""
        return bool(self._row.game_over[0])

    @property
    def current_player(self) -> int:
        """Return the player to move; 0 moved first."""
        return int(self.state.current_player())

    def result(self, player: int) -> float:
        """Return the result of the ended game for a player: 1, 0 or -1."""
        first = float(self._row.episode_return[0])  # of the player who moved first
        return first if player == 0 else -first

    def legal_moves(self) -> list[int]:
        """Return the legal moves."""
        space = self._env.observation_space
        assert isinstance(space, PackedDict)
        mask = space.parts[MASK]
        return np.flatnonzero(self._row.obs[0, mask.start : mask.end]).tolist()

    def move_name(self, move: int) -> str:
        """Return the name of a legal move."""
        return str(self.state.action_to_string(self.current_player, move))
