"""Perfect play of connect four, by the solver BitBully (https://github.com/MarkusThill/BitBully).

Its opening book has 12 plies; positions after that take up to some seconds each. BitBully is under
the AGPL, and is installed by the extra `perfect`.
"""

from functools import cache
from typing import Any

import numpy as np
import pyspiel

from ludus.envs.errors import EnvError

_GAME = "connect_four()"


class Solver:
    """Solves positions of connect four."""

    def __init__(self) -> None:
        from bitbully import BitBully

        self._solver = BitBully()
        self._known: dict[str, dict[int, int]] = {}  # positions are asked for by both sides

    def scores(self, state: Any) -> dict[int, int]:
        """Return a score of each legal move under perfect play of both.

        Above 0 the player to move wins, at 0 it draws, below 0 it loses. A higher score wins sooner
        or loses later.
        """
        from bitbully import Board

        key = str(state)
        if key not in self._known:
            board = Board()
            for column in state.history():
                board.play(column)
            self._known[key] = self._solver.score_all_moves(board)
        return self._known[key]


@cache
def make_solver(game: str) -> Solver:
    """Return the solver of a game, which keeps what it has solved.

    Args:
        game: OpenSpiel's name of it, with parameters.

    Raises:
        EnvError: the game is not solved, or BitBully is not installed.
    """
    if str(pyspiel.load_game(game)) != _GAME:
        raise EnvError(f"perfect play is known of connect_four only; the game is {game}")
    try:
        return Solver()
    except ImportError as error:
        raise EnvError(
            "perfect play needs the package bitbully: pip install -e '.[perfect]'"
        ) from error


class PerfectOpponent:
    """Perfect play: wins as soon, or loses as late, as it can; ties are broken at random."""

    def __init__(self, game: pyspiel.Game, seed: int) -> None:
        self._solver = make_solver(str(game))
        self._generator = np.random.default_rng(seed)

    def choose(self, state: Any) -> int:
        """Return one of the best moves."""
        scores = self._solver.scores(state)
        best = max(scores.values())
        return int(self._generator.choice([m for m, score in scores.items() if score == best]))
