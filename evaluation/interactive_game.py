"""An interactive board game against an agent, with its advice and undo."""

from typing import Any, NamedTuple

import numpy as np

from ludus.agents.agent import Advice, Advisor, Agent
from ludus.envs.board import spiel
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.make import make
from ludus.envs.vector import Row


class PlayedMove(NamedTuple):
    """A move of a game."""

    action: int
    name: str  # OpenSpiel's, in the position in which it was played
    side: int  # who played it: 0 for the player who moved first, else 1


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
        # An agent without a state advises on any position as it is, without those before it.
        self._has_state = not isinstance(agent, Agent) or bool(agent.initial_state(1))
        self.replay([])

    def replay(self, moves: list[int]) -> None:
        """Restart the game and play these moves."""
        self.moves = list[PlayedMove]()
        self.state = self._rules.new_initial_state()
        self._env = make(self.name, 1, 0)
        self._agent_state: Any = None
        self._row = self._env.reset()
        self._unseen = list[Row]()  # rows before this one that the agent's state does not include
        self._advice: Advice | None = None
        for move in moves:
            self.play(move)

    @property
    def advice(self) -> Advice:
        """Return the agent's advice on the current position, for a batch of one."""
        if self._advice is None:
            for row in (*self._unseen, self._row):
                self._advice, self._agent_state = self.agent.advise(
                    row.obs, self._agent_state, row.first
                )
            self._unseen.clear()
        assert self._advice is not None
        return self._advice

    def play(self, move: int) -> None:
        """Play a legal move, without waiting for the agent to think about it."""
        if self._has_state and self._advice is None:
            self._unseen.append(self._row)
        self.moves.append(PlayedMove(move, self.move_name(move), self.side_to_move))
        self.state.apply_action(move)
        self._env.send(np.array([move]))
        self._row = self._env.recv()
        self._advice = None

    def undo(self, side: int) -> bool:
        """Go back to before the last move of a side, 0 or 1; return False if there is none."""
        own = [number for number, move in enumerate(self.moves) if move.side == side]
        if not own:
            return False
        self.replay([move.action for move in self.moves[: own[-1]]])
        return True

    @property
    def obs(self) -> np.ndarray:
        """Return the observation of the current position, [1, size]."""
        return self._row.obs

    @property
    def over(self) -> bool:
        """Return whether the game has ended."""
        return bool(self._row.game_over[0])

    @property
    def side_to_move(self) -> int:
        """Return who is to move: 0 for the player who moved first, else 1."""
        return spiel.side_of(self.state, int(self.state.current_player()))

    def result(self, side: int) -> float:
        """Return the result of the ended game for a side: 1, 0 or -1."""
        first = float(self._row.episode_return[0])  # of the player who moved first
        return first if side == 0 else -first

    def picture(self) -> np.ndarray:
        """Render the board, [height, width, 3] uint8."""
        return self._env.render(0)

    def legal_moves(self) -> list[int]:
        """Return the legal moves."""
        space = self._env.observation_space
        assert isinstance(space, PackedDict)
        mask = space.parts[MASK]
        return np.flatnonzero(self._row.obs[0, mask.start : mask.end]).tolist()

    def move_name(self, move: int) -> str:
        """Return the name of a legal move."""
        return str(self.state.action_to_string(self.state.current_player(), move))


class AgentOpponent:
    """An agent as a fixed player, which chooses a move of any position of one game.

    Args:
        agent: chooses by its advice.
        name: OpenSpiel's name and parameters.
    """

    def __init__(self, agent: Advisor, name: str) -> None:
        self._game = InteractiveGame(agent, name)

    def choose(self, state: Any) -> int:
        """Return the agent's move in a non-terminal OpenSpiel state."""
        return int(self.advice(state).action[0])

    def advice(self, state: Any) -> Advice:
        """Return the agent's advice on an OpenSpiel state, for a batch of one."""
        moves, known = state.history(), [move.action for move in self._game.moves]
        if moves[: len(known)] == known:
            for move in moves[len(known) :]:
                self._game.play(move)
        else:
            self._game.replay(moves)
        return self._game.advice
