"""Matches of a board game between two players, batched; each begins half of the games."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ludus.agents.agent import Player
from ludus.agents.value_policy import epsilon_greedy
from ludus.envs.board import spiel
from ludus.envs.board.opponents import Opponent, make_opponent
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.make import make
from ludus.envs.vector import Row


class Seat(Protocol):
    """One side of all games of a match."""

    def moves(self, row: Row, legal: np.ndarray, states: list[Any], mine: np.ndarray) -> np.ndarray:
        """Moves [B]; those where mine [B] is false are not used.

        Args:
            row: where the games stand.
            legal: [B, A] bool, moves that the rules allow.
            states: OpenSpiel's, one a game.
            mine: [B] bool, this side moves and the game is not over.
        """


class AgentSeat:
    """An agent at the board. It sees each row, its own or not, as it does in self-play.

    Args:
        agent: who plays.
        deterministic: without the agent's own chance.
        epsilon: probability of a random legal move.
        seed: of those.
    """

    def __init__(
        self, agent: Player, *, deterministic: bool, epsilon: float = 0.0, seed: int = 0
    ) -> None:
        self._agent, self._deterministic, self._epsilon = agent, deterministic, epsilon
        self._generator = np.random.default_rng([seed, 3])
        self._state: Any = None

    def moves(self, row: Row, legal: np.ndarray, states: list[Any], mine: np.ndarray) -> np.ndarray:
        """The agent's choice everywhere."""
        actions, self._state = self._agent.predict(
            row.obs, self._state, row.first, deterministic=self._deterministic
        )
        if not self._epsilon:
            return actions
        return epsilon_greedy(actions, self._epsilon, legal.shape[1], self._generator, legal)


class PlayerSeat:
    """A fixed player at the board, in each game with a chance of its own."""

    def __init__(self, name: str, game: str, num_games: int, seed: int) -> None:
        rules = spiel.load(game)
        seeds = np.random.SeedSequence([seed, 4]).generate_state(num_games) >> 1
        self._players: list[Opponent] = [make_opponent(name, rules, int(s)) for s in seeds]

    def moves(self, row: Row, legal: np.ndarray, states: list[Any], mine: np.ndarray) -> np.ndarray:
        """The player's choice where it moves."""
        actions = np.zeros(len(mine), np.int64)
        for i in np.flatnonzero(mine):
            actions[i] = self._players[i].choose(states[i])
        return actions


@dataclass
class Match:
    """What a match came to, from the view of the one who was named first."""

    returns: list[float] = field(default_factory=list)  # in the order of the games
    lengths: list[int] = field(default_factory=list)  # moves of both
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of each side, in all
    moves: list[int] = field(default_factory=lambda: [0, 0])  # of each side, in all

    @property
    def points(self) -> float:
        """Share of the points: 1 for a win, a half for a draw."""
        return float(np.mean([(np.sign(r) + 1) / 2 for r in self.returns]))


class MatchStopped(Exception):
    """A match was given up on before its last game."""


def play_match(
    seats: tuple[Seat, Seat],
    game: str,
    games: int,
    *,
    seed: int,
    stop: Callable[[], bool] | None = None,
) -> Match:
    """Play all games side by side; the first seat begins those of even number.

    Args:
        seats: who plays; a `PlayerSeat` is made for as many games.
        game: OpenSpiel's name and parameters.
        games: 1 or more.
        seed: of the env.
        stop: asked at every move; the match is given up on where it says so.

    Raises:
        MatchStopped: `stop` said so.
    """
    env, rules = make(game, games, seed), spiel.load(game)
    states = [rules.new_initial_state() for _ in range(games)]
    second = np.arange(games) % 2 == 1  # [B] who moves: the second seat
    began, over = second.copy(), np.zeros(games, bool)
    result = Match([0.0] * games, [0] * games)
    space = env.observation_space
    assert isinstance(space, PackedDict)
    mask = space.parts[MASK]
    row = env.reset()
    try:
        while not over.all():
            if stop is not None and stop():
                raise MatchStopped
            legal = row.obs[:, mask.start : mask.end] > 0  # [B, A]
            action = legal.argmax(1)  # where a game is over, anything goes on
            for side, seat in enumerate(seats):
                mine = (second == bool(side)) & ~over
                if not mine.any() and isinstance(seat, PlayerSeat):
                    continue
                since = time.perf_counter()
                chosen = seat.moves(row, legal, states, mine)
                result.seconds[side] += time.perf_counter() - since
                result.moves[side] += int(mine.sum())
                action = np.where(mine, chosen, action)
            for i in np.flatnonzero(~over):
                states[i].apply_action(int(action[i]))
            env.send(action)
            row = env.recv()
            for i in np.flatnonzero(row.game_over & ~over):
                side_ = -1.0 if began[i] else 1.0
                result.returns[i] = side_ * float(row.episode_return[i])
                result.lengths[i] = int(row.episode_length[i])
            over |= row.game_over
            second ^= row.discount_sign < 0
    finally:
        env.close()
    return result
