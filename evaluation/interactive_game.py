"""One board game with an agent that says what it thinks; moves can be taken back."""

from typing import Any

import numpy as np

from ludus.agents.agent import Advice, Advisor
from ludus.envs.board import spiel
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.make import make


class InteractiveGame:
    """A game where it stands; it is played again from its start when moves are taken back.

    Args:
        agent: looks at every position, so that what it remembers is of this game.
        name: OpenSpiel's name and parameters.
    """

    def __init__(self, agent: Advisor, name: str) -> None:
        self.agent, self.name = agent, name
        self._rules = spiel.load(name)
        self.go_to([])

    def go_to(self, moves: list[int]) -> None:
        """Stand where these moves lead from the start."""
        self.moves = list[int]()
        self.state = self._rules.new_initial_state()
        self._env = make(self.name, 1, 0)
        self._core: Any = None
        self._row = self._env.reset()
        self._advice: Advice | None = None
        for move in moves:
            self.make(move)

    @property
    def advice(self) -> Advice:
        """What the agent thinks of the position, of one game."""
        if self._advice is None:
            told = self.agent.advise(self._row.obs, self._core, self._row.first)
            self._advice, self._core = told
        return self._advice

    def make(self, move: int) -> None:
        """Make a legal move."""
        if not self.over:
            _ = self.advice  # so that its memory has seen every position
        self.state.apply_action(move)
        self.moves.append(move)
        self._env.send(np.array([move]))
        self._row = self._env.recv()
        self._advice = None

    def take_back(self, player: int) -> bool:
        """Go back before the last move of a player (0 began); False where there is none."""
        state, own = self._rules.new_initial_state(), []
        for number, move in enumerate(self.moves):
            if state.current_player() == player:
                own.append(number)
            state.apply_action(move)
        if not own:
            return False
        self.go_to(self.moves[: own[-1]])
        return True

    @property
    def over(self) -> bool:
        """Whether the game has ended."""
        return bool(self._row.game_over[0])

    @property
    def mover(self) -> int:
        """Who is to move: 0 began, 1 is the other."""
        return int(self.state.current_player())

    def result(self, player: int) -> float:
        """What the ended game is worth to a player: 1, 0 or -1."""
        first = float(self._row.episode_return[0])  # of who began
        return first if player == 0 else -first

    def legal(self) -> list[int]:
        """The moves that the rules allow."""
        space = self._env.observation_space
        assert isinstance(space, PackedDict)
        mask = space.parts[MASK]
        return np.flatnonzero(self._row.obs[0, mask.start : mask.end]).tolist()

    def action(self, move: int) -> str:
        """What a legal move is called."""
        return str(self.state.action_to_string(self.mover, move))
