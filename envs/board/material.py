"""Material of board games in which pieces, discs, seeds or boxes can be counted."""

import re
from collections.abc import Callable
from typing import Any

_CHESS: dict[str, float] = {"p": 1, "n": 3, "b": 3, "r": 5, "q": 9, "k": 0}
# advisor, elephant, horse, chariot, cannon, soldier, general
_XIANGQI: dict[str, float] = {
    "a": 2,
    "e": 2,
    "b": 2,
    "h": 4,
    "n": 4,
    "r": 9,
    "c": 4.5,
    "s": 1,
    "p": 1,
    "k": 0,
}
_SHOGI: dict[str, float] = {"p": 1, "l": 3, "n": 3, "s": 5, "g": 6, "b": 8, "r": 10, "k": 0}


def _letters(values: dict[str, float], board: str) -> float:
    """Return the lead of the upper-case pieces on a board."""
    lead = 0.0
    for letter in board:
        value = values.get(letter.lower(), 0)
        lead += value if letter.isupper() else -value
    return lead


def _fen(values: dict[str, float], first_is_upper: bool) -> Callable[[Any], float]:
    sign = 1 if first_is_upper else -1

    def lead(state: Any) -> float:
        return sign * _letters(values, str(state).split(" ")[0])

    return lead


def _signs(first: str, second: str) -> Callable[[Any], float]:
    """Count the signs of the first and the second player in OpenSpiel's text of the board."""

    def lead(state: Any) -> float:
        # rows of the board begin with their number or with a frame, which are no pieces
        cells = "".join(re.findall(r"^[\d│](.*)$", str(state), re.MULTILINE))
        return sum(map(cells.count, first)) - sum(map(cells.count, second))

    return lead


def _oware(state: Any) -> float:
    second, first = (int(score) for score in re.findall(r"score = (\d+)", str(state)))
    return first - second


def _mancala(state: Any) -> float:
    second, first = (int(seeds) for seeds in re.split("-+", str(state).split("\n")[1].strip("-")))
    return first - second


def _men(state: Any) -> float:
    first, second = re.findall(r"Num men: (\d+) (\d+)", str(state))[0]
    return int(first) - int(second)


_LEADS: dict[str, Callable[[Any], float]] = {
    "breakthrough": _signs("b", "w"),
    "checkers": _signs("o88", "+**"),  # a king counts twice
    "chess": _fen(_CHESS, first_is_upper=False),
    "crazyhouse": _fen(_CHESS, first_is_upper=False),
    "dots_and_boxes": _signs("1", "2"),
    "mancala": _mancala,
    "nine_mens_morris": _men,
    "othello": _signs("x", "o"),
    "oware": _oware,
    "shogi": _fen(_SHOGI, first_is_upper=True),
    "xiangqi": _fen(_XIANGQI, first_is_upper=True),
}


def material_games() -> list[str]:
    """Return the games whose material is known."""
    return list(_LEADS)


def material_lead(game: str, state: Any, player: int) -> float:
    """Return a player's material minus the other's; 0 in games whose material is not known.

    Args:
        game: OpenSpiel's short name.
        state: OpenSpiel's state.
        player: 0 or 1, as OpenSpiel numbers players.
    """
    lead = _LEADS.get(game)
    if lead is None:
        return 0.0
    return lead(state) if player == 0 else -lead(state)
