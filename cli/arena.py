"""`ludus arena RUN_OR_PLAYER ...`: run a round robin of a board game, with Elo ratings."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from rich.table import Table
from tyro.conf import Positional

from ludus.cli.options import parse
from ludus.cli.output import print_json, print_table
from ludus.comparison.arena import contender, round_robin
from ludus.envs.board import spiel
from ludus.envs.board.perfect import make_solver
from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, NON_NEGATIVE, check_bounds
from ludus.envs.errors import UsageError
from ludus.evaluation.judge import JudgedMove, Share, judge, share
from ludus.evaluation.match import Match
from ludus.evaluation.openings import random_openings, read_openings
from ludus.training.checkpoint import write_atomically
from ludus.training.console import Terminal

_PLIES = 6  # of a row of the table of value-keeping moves


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus arena`."""

    contenders: Positional[tuple[str, ...]]
    """run folders, RUN@STEPS for earlier checkpoints, and players: random, greedy, mcts:100"""
    game: str = "connect_four"
    """name of the game in OpenSpiel, with parameters"""
    games: Annotated[int, AT_LEAST_ONE] = 100
    """number of games of each pair; each side begins half of them"""
    epsilon: Annotated[float, FRACTION] = 0.05
    """probability of a random move of a trained agent, which makes the games differ"""
    simulations: Annotated[int, NON_NEGATIVE] = 0
    """simulations of each move of a searching agent; 0 for the number of its configuration"""
    openings: str = "0"
    """number of random moves that each two games begin with, or a file of openings, one in each
    line: the numbers of its moves"""
    perfect: bool = False
    """connect four: count the moves that keep the value of the game, against a solver"""
    seed: Annotated[int, NON_NEGATIVE] = 0
    """seed of all random numbers"""
    out: Path | None = None
    """JSON file of the results"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)
        if len(self.contenders) < 2:
            raise UsageError("an arena needs two contenders or more: folders of runs, or players")
        if len(set(self.contenders)) < len(self.contenders):
            raise UsageError("a contender is named twice; name each once")
        if self.perfect and self.epsilon:
            raise UsageError(
                "--perfect counts moves that an agent chose: let it make none at random by "
                "--epsilon 0, and let the games differ by --openings 4"
            )


def run(argv: list[str]) -> int:
    """Play all games and print the standings."""
    given = parse(
        Arguments, argv, command="arena", about="Run a round robin of agents and players."
    )
    spiel.load(given.game)
    if given.perfect:
        make_solver(given.game)  # or one sentence why not, before the games
    contenders = [
        contender(name, given.game, epsilon=given.epsilon, simulations=given.simulations)
        for name in given.contenders
    ]
    terminal = Terminal(stderr=True)
    judged: dict[str, list[JudgedMove]] = {name: [] for name in given.contenders}
    played = 0

    def print_match(first: str, second: str, match: Match) -> None:
        nonlocal played
        if given.perfect:
            for side, name in enumerate((first, second)):
                moves = judge(match, side, given.game)
                judged[name] += [replace(move, game=played + move.game) for move in moves]
        played += len(match.returns)
        if not given.json:
            wins, losses = (sum(r * sign > 0 for r in match.returns) for sign in (1, -1))
            drawn = len(match.returns) - wins - losses
            terminal.print(f"{first} against {second}: {wins} won, {drawn} drawn, {losses} lost")

    standings, points = round_robin(
        contenders, given.game, given.games, given.seed, print_match, _openings(given)
    )
    results = {
        "game": given.game,
        "games": given.games,
        "seed": given.seed,
        "epsilon": given.epsilon,
        "simulations": given.simulations,
        "contenders": list(given.contenders),
        "standings": [asdict(standing) for standing in standings],
        "points": points.tolist(),
        "openings": given.openings,
    }
    if given.perfect:
        results["perfect"] = {
            name: [asdict(part) | {"plies": plies} for plies, part in _by_ply(moves)]
            for name, moves in judged.items()
        }
    if given.out is not None:
        write_atomically(given.out, json.dumps(results, indent=1))
    if given.json:
        print_json(results)
        return 0
    table = Table(box=None)
    for column in ("contender", "won", "drawn", "lost", "Elo", "95% interval", "ms per move"):
        table.add_column(column, overflow="fold")
    for s in standings:
        table.add_row(
            s.name,
            str(s.wins),
            str(s.draws),
            str(s.losses),
            f"{s.elo:+.0f}",
            f"{s.low:+.0f} to {s.high:+.0f}",
            f"{s.milliseconds:.2f}",
        )
    print_table(table)
    if given.perfect:
        print_table(_perfect_table(judged))
    return 0


def _openings(given: Arguments) -> list[list[int]]:
    """Return the openings that were asked for."""
    if not given.openings.isdecimal():
        return read_openings(given.game, Path(given.openings))
    plies = int(given.openings)
    return random_openings(given.game, -(-given.games // 2), plies, given.seed) if plies else []


def _by_ply(moves: list[JudgedMove]) -> list[tuple[str, Share]]:
    """Return the share of value-keeping moves of the whole games, and of each stretch of them."""
    parts = [("all", share(moves))]
    for start in range(0, max((move.ply for move in moves), default=0) + 1, _PLIES):
        within = [move for move in moves if start <= move.ply < start + _PLIES]
        parts.append((f"{start + 1} to {start + _PLIES}", share(within)))
    return parts


def _perfect_table(judged: dict[str, list[JudgedMove]]) -> Table:
    caption = "A chance is a position in which a legal move loses the value of the game."
    table = Table(box=None, title="Moves that keep the value of the game", caption=caption)
    for column in ("contender", "plies", "moves", "chances", "kept", "95% interval"):
        table.add_column(column, overflow="fold")
    for name, moves in judged.items():
        for plies, part in _by_ply(moves):
            cells = [f"{part.value:.1%}", f"{part.low:.1%} to {part.high:.1%}"]
            cells = cells if part.chances else ["-", "-"]
            table.add_row(name, plies, str(part.moves), str(part.chances), *cells)
    return table
