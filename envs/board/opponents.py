"""Fixed players of board games, to learn against and to be measured by."""

from typing import Any, Protocol

import numpy as np
import pyspiel

from ludus.envs.errors import EnvError

OPPONENTS = {
    "random": "every legal move with the same probability",
    "greedy": "wins where it can, keeps the other from winning, takes what it can",
    "mcts:N": "OpenSpiel's Monte-Carlo tree search with N simulations",
    "minimax": "perfect play, where the rest of the game can be searched",
}
_POSITIONS = 3_000_000  # that minimax looks at before it gives up


class Opponent(Protocol):
    """Whoever chooses a move."""

    def choose(self, state: Any) -> int:
        """Return a legal move in a non-terminal OpenSpiel state."""


def make_opponent(name: str, game: pyspiel.Game, seed: int) -> Opponent:
    """Return the opponent of that name.

    Args:
        name: one of `OPPONENTS`, with a number in place of N.
        game: what is played.
        seed: of its chance.

    Raises:
        EnvError: there is no such player.
    """
    kind, _, number = name.partition(":")
    if kind == "mcts" and number.isdecimal() and 0 < int(number) <= 10_000_000:
        return MCTSOpponent(game, int(number), seed)
    match name:
        case "random":
            return RandomOpponent(seed)
        case "greedy":
            return GreedyOpponent(seed)
        case "minimax":
            return MinimaxOpponent()
    raise EnvError(f"there is no opponent {name}; there are {', '.join(OPPONENTS)}")


class RandomOpponent:
    """Any legal move, all alike."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def choose(self, state: Any) -> int:
        """Return a legal move."""
        return int(self._generator.choice(state.legal_actions()))


class GreedyOpponent:
    """One move ahead: win; else let the other not win; else take most of the other's pieces.

    Pieces are counted in OpenSpiel's text of the position, as the letters and signs that are no
    empty cell; a move that leaves fewer of them takes.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def choose(self, state: Any) -> int:
        """Return a legal move of the highest rank; ties are broken at random."""
        moves = state.legal_actions()
        ranks = [self._rank(state, move) for move in moves]
        best = max(ranks)
        return int(
            self._generator.choice([m for m, r in zip(moves, ranks, strict=True) if r == best])
        )

    def _rank(self, state: Any, move: int) -> tuple[float, int]:
        after = state.child(move)
        if after.is_terminal():
            return after.player_return(state.current_player()), 0
        loses = -1.0 if self._other_wins(after, state.current_player()) else 0.0
        return loses, -_pieces(after)

    def _other_wins(self, state: Any, player: int) -> bool:
        if state.current_player() == player:
            return False
        replies = (state.child(move) for move in state.legal_actions())
        return any(after.is_terminal() and after.player_return(player) < 0 for after in replies)


def _pieces(state: Any) -> int:
    return sum(letter not in " \n.-+_|/\\*#" for letter in str(state))


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

    Between moves of the same value it takes the first.
    """

    def __init__(self) -> None:
        self._table: dict[str, float] = {}

    def choose(self, state: Any) -> int:
        """Return a move that is optimal against perfect play.

        Raises:
            EnvError: the rest of the game has too many positions.
        """
        player = state.current_player()
        best, chosen = -np.inf, -1
        for move in state.legal_actions():
            value = self.value(state.child(move), player)
            if value > best:
                best, chosen = value, move
        return chosen

    def value(self, state: Any, player: int) -> float:
        """Return the return of `player` under perfect play of both from here."""
        if state.is_terminal():
            return float(state.player_return(player))
        key = f"{state.current_player()}{state}"
        known = self._table.get(key)
        if known is None:
            if len(self._table) >= _POSITIONS:
                raise EnvError(
                    f"minimax has seen {_POSITIONS:,} positions without reaching an end; "
                    "it is for small games and end games"
                )
            mover = state.current_player()
            known = max(self.value(state.child(move), mover) for move in state.legal_actions())
            self._table[key] = known if mover == 0 else -known
            return known if mover == player else -known
        return known if player == 0 else -known
