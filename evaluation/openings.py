"""Openings: moves with which the games of a match begin, so that the games differ."""

from pathlib import Path

import numpy as np

from ludus.envs.board import spiel
from ludus.envs.errors import UsageError

_TRIES = 100  # random openings for each that is asked for; short ones are soon all known


def random_openings(game: str, count: int, plies: int, seed: int) -> list[list[int]]:
    """Return different openings of random moves, after none of which the game is over.

    Args:
        game: OpenSpiel's name and parameters.
        count: number of openings; fewer are returned where there are not so many.
        plies: number of moves.
        seed: of the moves.
    """
    rules, generator = spiel.load(game), np.random.default_rng([seed, 8])
    found: dict[tuple[int, ...], None] = {}  # in order
    for _ in range(_TRIES * count):
        state = rules.new_initial_state()
        while not state.is_terminal() and len(state.history()) < plies:
            state.apply_action(int(generator.choice(state.legal_actions())))
        if not state.is_terminal():
            found[tuple(state.history())] = None
        if len(found) == count:
            break
    if not found:
        raise UsageError(f"{game} is over after {plies} random moves; ask for fewer")
    return [list(moves) for moves in found]


def read_openings(game: str, path: Path) -> list[list[int]]:
    """Read openings from a text file, one in each line: the numbers of its moves.

    Args:
        game: OpenSpiel's name and parameters.
        path: of the file; empty lines and what follows a `#` do not count.

    Raises:
        UsageError: the file cannot be read, or contains a line that is no opening.
    """
    rules, found = spiel.load(game), []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        state, where = rules.new_initial_state(), f"line {number} of {path}"
        for word in words:
            legal = [] if state.is_terminal() else state.legal_actions()
            if not word.isdecimal() or int(word) not in legal:
                raise UsageError(f"{where} has the move {word}, which is not legal there")
            state.apply_action(int(word))
        if state.is_terminal():
            raise UsageError(f"{where} is a whole game; an opening must leave moves to play")
        found.append([int(word) for word in words])
    if not found:
        raise UsageError(f"{path} contains no opening")
    return found
