"""Games of a match as text that other programs read: PGN for chess, SGF for go, numbers for others.

PGN is the standard of 1994, SGF that of https://www.red-bean.com/sgf/. A line of numbers can be the
line of a file of openings; what follows the `#` says who played.
"""

import re
import textwrap
from collections.abc import Sequence
from time import strftime
from typing import Any

from ludus.envs.board import spiel
from ludus.envs.board.gtp import COLUMNS
from ludus.evaluation.match import Match

_RESULTS = {1.0: "1-0", 0.5: "1/2-1/2", 0.0: "0-1"}


def game_records(game: str, names: Sequence[str], match: Match) -> str:
    """Return the games of a match as one text.

    Args:
        game: OpenSpiel's name of the game, and parameters.
        names: of the two sides.
        match: the match.
    """
    rules = spiel.load(game)
    write = {"chess": _pgn, "go": _sgf}.get(rules.get_type().short_name, _line)
    texts = []
    for number, (moves, score) in enumerate(zip(match.games, match.scores, strict=True)):
        turned = number % 2  # the second side moves first in every other game
        first, second = names[turned], names[1 - turned]
        result = _RESULTS[float(abs(turned - score))]
        texts.append(write(rules, moves, first, second, result))
    return "".join(texts)


def _pgn(rules: Any, moves: Sequence[int], first: str, second: str, result: str) -> str:
    tags = {
        "Event": "Ludus arena",
        "Site": "?",
        "Date": strftime("%Y.%m.%d"),
        "Round": "-",
        "White": first,
        "Black": second,
        "Result": result,
    }
    words, state = [], rules.new_initial_state()
    for ply, move in enumerate(moves):
        words += [f"{ply // 2 + 1}."] if ply % 2 == 0 else []
        words.append(state.action_to_string(state.current_player(), move))
        state.apply_action(move)
    head = [f'[{tag} "{_escaped(value, chr(34))}"]' for tag, value in tags.items()]
    lines = textwrap.wrap(" ".join([*words, result]), 79, break_on_hyphens=False)
    return "\n".join([*head, "", *lines, "", ""])


def _sgf(rules: Any, moves: Sequence[int], first: str, second: str, result: str) -> str:
    given = rules.get_parameters()
    size = given["board_size"]
    won = {"1-0": "B+", "0-1": "W+"}.get(result, "0")
    root = f"FF[4]GM[1]CA[UTF-8]AP[Ludus]SZ[{size}]KM[{given['komi']:g}]RU[Chinese]RE[{won}]"
    root += f"PB[{_escaped(first, ']')}]PW[{_escaped(second, ']')}]"
    nodes, state = [], rules.new_initial_state()
    for move in moves:
        colour, point = state.action_to_string(state.current_player(), move).split()
        at = ""
        if point != "PASS":
            row = size - int(point[1:])
            at = chr(ord("a") + COLUMNS.index(point[0])) + chr(ord("a") + row)
        nodes.append(f";{colour}[{at}]")
        state.apply_action(move)
    lines = ["".join(nodes[start : start + 12]) for start in range(0, len(nodes), 12)]
    return "\n".join([f"(;{root}", *lines]) + ")\n"


def _line(rules: Any, moves: Sequence[int], first: str, second: str, result: str) -> str:
    return f"{' '.join(map(str, moves))}  # {first} against {second}: {result}\n"


def _escaped(text: str, mark: str) -> str:
    """Return a name on one line, with a backslash before what would end it."""
    return re.sub(rf"[{re.escape(mark)}\\]", r"\\\g<0>", " ".join(text.split()))
