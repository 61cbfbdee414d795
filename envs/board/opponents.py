"""Fixed players of board games, to learn against and to be measured by."""

from typing import Any, Protocol

import numpy as np
import pyspiel

from ludus.envs.board.gtp import GtpOpponent
from ludus.envs.board.material import material_lead
from ludus.envs.board.opponent_names import GTP, OPPONENTS, simulations_of
from ludus.envs.board.perfect import PerfectOpponent
from ludus.envs.errors import EnvError
from ludus.envs.trust import require_program

_POSITIONS = 300_000  # that minimax searches for one move before it gives up
_DEPTH = 200  # moves that minimax looks ahead before it gives up


class Opponent(Protocol):
    """Whoever chooses a move."""

    def choose(self, state: Any) -> int:
        """Return a legal move in a non-terminal OpenSpiel state; an engine may return `RESIGN`."""


def make_opponent(name: str, game: pyspiel.Game, seed: int) -> Opponent:
    """Return the opponent of that name.

    Args:
        name: one of `OPPONENTS`, with a number in place of N.
        game: what is played.
        seed: of its chance; an engine of go has its own.

    Raises:
        EnvError: there is no such player, or it is a program that the user has not named.
    """
    simulations = simulations_of(name)
    if simulations is not None:
        return MCTSOpponent(game, simulations, seed)
    if name.startswith(GTP):
        require_program(name)
        return GtpOpponent(name, game)
    match name:
        case "random":
            return RandomOpponent(seed)
        case "greedy":
            return GreedyOpponent(game, seed)
        case "minimax":
            return MinimaxOpponent(game)
        case "perfect":
            return PerfectOpponent(game, seed)
    raise EnvError(f"there is no opponent {name}; there are {', '.join(OPPONENTS)}")


class RandomOpponent:
    """Any legal move, all alike."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def choose(self, state: Any) -> int:
        """Return a legal move."""
        return int(self._generator.choice(state.legal_actions()))


class GreedyOpponent:
    """Looks one move and one reply ahead: wins, avoids a loss, keeps the most material.

    Material counts in the games of `material_games`. In others, moves that neither win nor lose at
    once are drawn at random.
    """

    def __init__(self, game: pyspiel.Game, seed: int) -> None:
        self._game = game.get_type().short_name
        self._generator = np.random.default_rng(seed)

    def choose(self, state: Any) -> int:
        """Return a legal move of the highest rank; ties are broken at random."""
        moves = state.legal_actions()
        ranks = [self._rank(state, move) for move in moves]
        best = max(ranks)
        return int(
            self._generator.choice([m for m, r in zip(moves, ranks, strict=True) if r == best])
        )

    def _rank(self, state: Any, move: int) -> tuple[float, float]:
        """Return the result of a move after the other's best reply: the return, the material."""
        player, after = state.current_player(), state.child(move)
        if after.is_terminal():
            return after.player_return(player), 0.0
        if after.current_player() == player:
            return 0.0, material_lead(self._game, after, player)
        return min(self._result(after.child(reply), player) for reply in after.legal_actions())

    def _result(self, state: Any, player: int) -> tuple[float, float]:
        if state.is_terminal():
            return min(state.player_return(player), 0.0), 0.0
        return 0.0, material_lead(self._game, state, player)


class MCTSOpponent:
    """OpenSpiel's search in C++ with random rollouts, as its own example plays it."""

    def __init__(self, game: pyspiel.Game, simulations: int, seed: int) -> None:
        evaluator = pyspiel.RandomRolloutEvaluator(1, seed)
        self._bot = pyspiel.MCTSBot(game, evaluator, 2.0, simulations, 1000, True, seed, False)

    def choose(self, state: Any) -> int:
        """Return the most visited move."""
        return int(self._bot.step(state))


class MinimaxOpponent:
    """Perfect play by alpha-beta search to the end, with a table of positions seen.

    Between moves of the same value it takes the first. https://doi.org/10.1016/0004-3702(75)90019-3
    """

    def __init__(self, game: pyspiel.Game) -> None:
        self._best = float(game.max_utility())
        self._table: dict[str, tuple[float, float]] = {}  # bounds of the mover's value
        self._searched = 0  # positions since the last move was asked for

    def choose(self, state: Any) -> int:
        """Return a move that is optimal against perfect play.

        Raises:
            EnvError: the rest of the game has too many positions, or lasts too long.
        """
        self._searched = 0
        player = state.current_player()
        best, chosen = -np.inf, -1
        for move in state.legal_actions():
            value = self.value(state.child(move), player, best)
            if value > best:
                best, chosen = value, move
            if best >= self._best:
                break
        return chosen

    def value(self, state: Any, player: int, alpha: float = -np.inf) -> float:
        """Return what `player` gets under perfect play of both; a bound if it is below alpha."""
        if state.is_terminal():
            return float(state.player_return(player))
        mover = state.current_player()
        if mover == player:
            return self._search(state, alpha, self._best, 1)
        return -self._search(state, -self._best, -alpha, 1)

    def _search(self, state: Any, alpha: float, beta: float, depth: int) -> float:
        """Return the mover's value; a bound where it is not between alpha and beta."""
        self._searched += 1
        if self._searched > _POSITIONS or depth > _DEPTH:
            limit = f"{_POSITIONS:,} positions" if depth <= _DEPTH else f"{_DEPTH} moves ahead"
            raise EnvError(
                f"minimax has searched {limit} without reaching an end; it is for small games and "
                "end games"
            )
        mover = state.current_player()
        key = f"{mover}{state}"
        low, high = self._table.get(key, (-np.inf, np.inf))
        if low >= beta or low == high:
            return low
        if high <= alpha:
            return high
        best, reached = -np.inf, max(alpha, low)
        for move in state.legal_actions():
            after = state.child(move)
            if after.is_terminal():
                value = float(after.player_return(mover))
            elif after.current_player() == mover:
                value = self._search(after, reached, beta, depth + 1)
            else:
                value = -self._search(after, -beta, -reached, depth + 1)
            best, reached = max(best, value), max(reached, value)
            if reached >= beta:
                break
        if best <= alpha:
            high = min(high, best)
        elif best >= beta:
            low = max(low, best)
        else:
            low = high = best
        self._table[key] = low, high
        return best
