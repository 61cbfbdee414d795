"""Matches of a board game between two players, batched; each moves first in half of the games."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ludus.agents.agent import Player
from ludus.agents.value_policy import epsilon_greedy
from ludus.envs.board import spiel
from ludus.envs.board.gtp import RESIGN
from ludus.envs.board.opponent_names import GTP
from ludus.envs.board.opponents import Opponent, make_opponent
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.make import make
from ludus.envs.vector import Row


class Side(Protocol):
    """One of the two players of a match, in all its games."""

    def moves(self, row: Row, legal: np.ndarray, states: list[Any], mine: np.ndarray) -> np.ndarray:
        """Return moves [B] or `RESIGN`; they are ignored where mine [B] is false.

        Args:
            row: current row of all games.
            legal: [B, A] bool, the legal moves.
            states: OpenSpiel's state of each game.
            mine: [B] bool, this side is to move and the game is not over.
        """


class AgentSide:
    """Side of an agent. As in self-play, its state is updated with every row, its own move or not.

    Args:
        agent: the agent.
        deterministic: use its deterministic policy.
        epsilon: probability of a random legal move.
        seed: seed of the random moves.
    """

    def __init__(
        self, agent: Player, *, deterministic: bool, epsilon: float = 0.0, seed: int = 0
    ) -> None:
        self._agent, self._deterministic, self._epsilon = agent, deterministic, epsilon
        self._generator = np.random.default_rng([seed, 3])
        self._state: Any = None

    def moves(self, row: Row, legal: np.ndarray, states: list[Any], mine: np.ndarray) -> np.ndarray:
        """Return the agent's move in every game."""
        actions, self._state = self._agent.predict(
            row.obs, self._state, row.first, deterministic=self._deterministic
        )
        if not self._epsilon:
            return actions
        return epsilon_greedy(actions, self._epsilon, legal.shape[1], self._generator, legal)


class FixedSide:
    """Side of a fixed player, with its own random numbers in each game."""

    def __init__(self, name: str, game: str, num_games: int, seed: int) -> None:
        rules, self._players = spiel.load(game), list[Opponent]()
        if name.startswith(GTP):  # one process for all games: an engine may fill a GPU
            self._players = [make_opponent(name, rules, seed)] * num_games
            return
        seeds = np.random.SeedSequence([seed, 4]).generate_state(num_games) >> 1
        self._players = [make_opponent(name, rules, int(s)) for s in seeds]

    def moves(self, row: Row, legal: np.ndarray, states: list[Any], mine: np.ndarray) -> np.ndarray:
        """Return the player's move in each game in which it is to move, 0 in the others."""
        actions = np.zeros(len(mine), np.int64)
        for i in np.flatnonzero(mine):
            actions[i] = self._players[i].choose(states[i])
        return actions


@dataclass
class Match:
    """Results of a match, from the view of the first side."""

    returns: list[float] = field(default_factory=list)  # in the order of the games
    lengths: list[int] = field(default_factory=list)  # moves of both sides
    games: list[list[int]] = field(default_factory=list)  # the moves of each game
    openings: list[int] = field(default_factory=list)  # how many of them neither side chose
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])  # total of each side
    moves: list[int] = field(default_factory=lambda: [0, 0])  # total of each side

    @property
    def scores(self) -> np.ndarray:
        """Return the points of each game, [games]: 1 for a win, 0.5 for a draw."""
        return (np.sign(self.returns) + 1) / 2

    @property
    def points(self) -> float:
        """Return the mean points of a game."""
        return float(self.scores.mean())

    def describe(self) -> str:
        """Return won, drawn and lost games in words."""
        won, drawn, lost = (int((self.scores == value).sum()) for value in (1, 0.5, 0))
        return f"{won} won, {drawn} drawn, {lost} lost"


class MatchStopped(Exception):
    """Raised when a match is aborted before its last game."""


def play_match(
    sides: tuple[Side, Side],
    game: str,
    games: int,
    *,
    seed: int,
    openings: Sequence[Sequence[int]] = (),
    stop: Callable[[], bool] | None = None,
) -> Match:
    """Play all games in one batch; the first side moves first in those of even number.

    Args:
        sides: the two players; a `FixedSide` must be made for the same number of games.
        game: OpenSpiel's name and parameters.
        games: number of games, 1 or more.
        seed: seed of the env.
        openings: moves that games begin with. Two games in a row have the same one, so that each
            side plays it from both sides; after the last comes the first again.
        stop: called at every move; return True to abort.

    Raises:
        MatchStopped: `stop` returned True.
    """
    env, rules = make(game, games, seed), spiel.load(game)
    states = [rules.new_initial_state() for _ in range(games)]
    second = np.arange(games) % 2 == 1  # [B] the second side is to move
    began, over = second.copy(), np.zeros(games, bool)  # [B] the second side moved first
    given = [list(openings[i // 2 % len(openings)]) if openings else [] for i in range(games)]
    left = np.array([len(moves) for moves in given])  # [B] moves left of the opening
    result = Match([0.0] * games, [0] * games, openings=left.tolist())
    space = env.observation_space
    assert isinstance(space, PackedDict)
    mask = space.parts[MASK]
    row = env.reset()
    try:
        while not over.all():
            if stop is not None and stop():
                raise MatchStopped
            legal = row.obs[:, mask.start : mask.end] > 0  # [B, A]
            action = legal.argmax(1)  # used where a game is over
            for i in np.flatnonzero(left):
                action[i] = given[i][-left[i]]
            for index, side in enumerate(sides):
                mine = (second == bool(index)) & ~over & (left == 0)
                # an agent must see the row all the same: its recurrent state depends on it
                if not mine.any() and isinstance(side, FixedSide):
                    continue
                since = time.perf_counter()
                chosen = side.moves(row, legal, states, mine)
                result.seconds[index] += time.perf_counter() - since
                result.moves[index] += int(mine.sum())
                action = np.where(mine, chosen, action)
            for i in np.flatnonzero(action == RESIGN):
                result.returns[i] = rules.max_utility() * (1 if second[i] else -1)
                result.lengths[i] = states[i].move_number()
                over[i], action[i] = True, legal[i].argmax()
            left = np.maximum(left - 1, 0)
            for i in np.flatnonzero(~over):
                states[i].apply_action(int(action[i]))
            env.send(action)
            row = env.recv()
            for i in np.flatnonzero(row.game_over & ~over):
                sign = -1.0 if began[i] else 1.0  # a return is the first player's
                result.returns[i] = sign * float(row.episode_return[i]) + 0.0  # no -0.0
                result.lengths[i] = int(row.episode_length[i])
            over |= row.game_over
            second ^= row.discount_sign < 0  # the turn passes to the other side
    finally:
        env.close()
    result.games = [state.history() for state in states]
    return result
