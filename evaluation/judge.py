"""Moves held against perfect play: how many of them keep the value of the game.

A move keeps it if the player still wins, or still draws, under perfect play of both. Where every
legal move does, there is nothing to get wrong.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ludus.envs.board import spiel
from ludus.envs.board.perfect import make_solver
from ludus.evaluation.match import Match

_RESAMPLES = 1_000


@dataclass(frozen=True)
class JudgedMove:
    """A move of one side of a match."""

    game: int
    """number of the game"""
    ply: int
    """moves that were made before it"""
    kept: bool
    """whether the value of the game is what it was"""
    free: bool
    """whether every legal move would have kept it"""


@dataclass(frozen=True)
class Share:
    """Share of the moves that keep the value, among those that could have lost it."""

    moves: int
    """all moves"""
    chances: int
    """moves that could have lost the value"""
    kept: int
    """those of the chances that kept it"""
    low: float | None
    """95% bootstrap interval of the share, over games; None without chances"""
    high: float | None

    @property
    def value(self) -> float | None:
        """Return the share; None without chances."""
        return self.kept / self.chances if self.chances else None


def judge(
    match: Match, side: int, game: str, on_game: Callable[[int], None] = lambda number: None
) -> list[JudgedMove]:
    """Judge the moves of one side of a match; those of openings do not count.

    Args:
        match: the match.
        side: 0 or 1; side 0 moved first in the games of even number.
        game: OpenSpiel's name of the game, and parameters.
        on_game: called with the number of each game before its moves are judged.

    Raises:
        EnvError: perfect play of the game is not known, or the solver is not installed.
    """
    solver, rules, judged = make_solver(game), spiel.load(game), []
    for number, (moves, opening) in enumerate(zip(match.games, match.openings, strict=True)):
        on_game(number)
        state = rules.new_initial_state()
        for ply, move in enumerate(moves):
            if ply >= opening and (ply + number + side) % 2 == 0:
                scores = solver.scores(state)
                values = {column: np.sign(score) for column, score in scores.items()}
                best = max(values.values())
                free = min(values.values()) == best
                judged.append(JudgedMove(number, ply, bool(values[move] == best), bool(free)))
            state.apply_action(move)
    return judged


def share(moves: Iterable[JudgedMove], seed: int = 0) -> Share:
    """Return the share of moves that keep the value."""
    moves = list(moves)
    games = {number: i for i, number in enumerate(dict.fromkeys(m.game for m in moves))}
    kept, chances = np.zeros(len(games)), np.zeros(len(games))
    for m in moves:
        if not m.free:
            chances[games[m.game]] += 1
            kept[games[m.game]] += m.kept
    low = high = None
    if chances.sum():
        generator = np.random.default_rng(seed)
        picked = generator.integers(len(games), size=(_RESAMPLES, len(games)))
        with np.errstate(invalid="ignore"):
            shares = kept[picked].sum(1) / chances[picked].sum(1)
        low, high = (float(x) for x in np.nanpercentile(shares, [2.5, 97.5]))
    return Share(len(moves), int(chances.sum()), int(kept.sum()), low, high)
