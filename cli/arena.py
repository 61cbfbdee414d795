"""`ludus arena RUN_OR_PLAYER ...`: run a round robin of a board game, with Elo ratings."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.table import Table
from tyro.conf import Positional

from ludus.cli.options import check_file, parse
from ludus.cli.output import print_json, print_result, print_table
from ludus.comparison.arena import (
    BATCH,
    Contender,
    Played,
    Standing,
    contender,
    expand,
    rate,
    rating_curves,
    round_robin,
    until_decided,
)
from ludus.comparison.arena_report import CURVE, write_arena_report, write_curve
from ludus.comparison.sprt import ERROR, SequentialTest
from ludus.envs.board import spiel
from ludus.envs.board.perfect import make_solver
from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, NON_NEGATIVE, check_bounds
from ludus.envs.errors import UsageError
from ludus.envs.trust import trust_programs
from ludus.evaluation.game_records import game_records
from ludus.evaluation.judge import JudgedMove, Share, judge, share
from ludus.evaluation.openings import random_openings, read_openings
from ludus.training.checkpoint import write_atomically
from ludus.training.console import Terminal
from ludus.training.progress import task

_GAMES = 100
_MOST_GAMES = 20_000  # of a sequential test
_PLIES = 6  # of a row of the table of value-keeping moves


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus arena`."""

    contenders: Positional[tuple[str, ...]]
    """run folders, RUN@STEPS for an earlier checkpoint, RUN@all for all that were kept, and
    players: random, greedy, mcts:100, or "gtp:COMMAND" for an engine of go"""
    game: str = "connect_four"
    """name of the game in OpenSpiel, with parameters"""
    games: Annotated[int | None, AT_LEAST_ONE] = None
    """number of games of each pair (default: 100), of which each side begins half; with --sprt the
    most (default: 20,000)"""
    sprt: tuple[float, float] | None = None
    """two contenders: play until it is decided whether the first is stronger by the second of
    these differences in Elo rather than by the first, as in --sprt 0 30"""
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
    report: Path | None = None
    """folder of a page of the results, arena.html, with the rating curves of runs"""
    save: Path | None = None
    """file of all games: chess as PGN, go as SGF, others as the numbers of their moves"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)
        if len(self.contenders) < 2 and not any(c.endswith("@all") for c in self.contenders):
            raise UsageError("an arena needs two contenders or more: folders of runs, or players")
        if len(set(self.contenders)) < len(self.contenders):
            raise UsageError("a contender is named twice; name each once")
        if self.sprt is not None:
            if len(self.contenders) != 2:
                raise UsageError(
                    f"--sprt compares two; there are {len(self.contenders)} contenders"
                )
            if not self.sprt[0] < self.sprt[1]:
                low, high = self.sprt
                raise UsageError(f"--sprt is {low:g} {high:g}; the first must be the smaller")
            if self.games is not None and self.games % 2:
                raise UsageError(f"games is {self.games}; --sprt counts pairs, so it must be even")
            if not self.epsilon and self.openings == "0":
                raise UsageError("--sprt needs games that differ: add --openings 4")
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
    for path in (given.out, given.save):  # or hours of games would be lost
        if path is not None:
            check_file(path)
    spiel.load(given.game)
    trust_programs(given.contenders)
    given = replace(given, contenders=tuple(expand(given.contenders)))  # checked again
    if given.perfect:
        make_solver(given.game)  # or one sentence why not, before the games
    contenders = [
        contender(name, given.game, epsilon=given.epsilon, simulations=given.simulations)
        for name in given.contenders
    ]
    test = None if given.sprt is None else SequentialTest(*given.sprt)
    played = _play_all(given, contenders) if test is None else _play_until(given, contenders, test)
    standings, points = rate(contenders, played, given.seed)
    curves = rating_curves(standings)
    judged = _judge(given, played) if given.perfect else {}
    results = _results(given, standings, points, judged, test)
    decision = "" if test is None else _decision(given, test)
    if given.save is not None:
        records = [
            game_records(given.game, [given.contenders[i] for i in (p.first, p.second)], p.match)
            for p in played
        ]
        write_atomically(given.save, "".join(records))
    if given.out is not None:
        write_atomically(given.out, json.dumps(results, indent=1))
    if given.json:
        print_json(results)
    else:
        print_table(_standings_table(standings))
        for name, stages in curves.items():
            print_result(f"\n{name} over its training:")
            print_table(_curve_table(stages))
        if given.perfect:
            print_table(_perfect_table(judged))
        if decision:
            print_result(decision)
    terminal = Terminal(stderr=True)
    if given.report is not None:
        page = write_arena_report(given.report, results, standings, decision)
        terminal.print(f"{page} is the report")
    for name, stages in curves.items():
        try:
            folder = write_curve(name, stages)
        except OSError as error:  # a run of others, say; the results are there all the same
            terminal.print(f"{name} gets no curve for TensorBoard: {error}")
            continue
        if folder is None:
            terminal.print(f"{name} is packed and gets no curve; --out and --report have it")
        else:
            terminal.print(f"{folder} has the curve {CURVE} for TensorBoard")
    return 0


def _results(
    given: Arguments,
    standings: list[Standing],
    points: np.ndarray,
    judged: dict[str, list[JudgedMove]],
    test: SequentialTest | None,
) -> dict[str, Any]:
    """Return everything for JSON; points [N, N] are those of each against each."""
    results: dict[str, Any] = {
        "game": given.game,
        "games": int(points[0, 1] + points[1, 0]),  # of each pair
        "seed": given.seed,
        "epsilon": given.epsilon,
        "simulations": given.simulations,
        "openings": given.openings,
        "contenders": list(given.contenders),
        "standings": [asdict(standing) for standing in standings],
        "points": points.tolist(),
        "curves": {
            name: [
                {"env_steps": steps, "elo": s.elo, "low": s.low, "high": s.high}
                for steps, s in stages.items()
            ]
            for name, stages in rating_curves(standings).items()
        },
    }
    if given.perfect:
        results["perfect"] = {
            name: [asdict(part) | {"plies": plies} for plies, part in _by_ply(moves)]
            for name, moves in judged.items()
        }
    if test is not None:
        results["sprt"] = {
            "low": test.low,
            "high": test.high,
            "log_ratio": test.log_ratio,
            "bound": test.bound,
            "accepted": test.accepted,
            "pairs": test.pairs.tolist(),
        }
    return results


def _standings_table(standings: list[Standing]) -> Table:
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
    return table


def _curve_table(stages: Mapping[int, Standing]) -> Table:
    table = Table(box=None)
    for column in ("env steps", "Elo", "95% interval"):
        table.add_column(column, justify="right")
    for steps, s in stages.items():
        table.add_row(f"{steps:,}", f"{s.elo:+.0f}", f"{s.low:+.0f} to {s.high:+.0f}")
    return table


def _play_all(given: Arguments, contenders: list[Contender]) -> list[Played]:
    """Play the round robin, and print the result of each match."""
    terminal, played = Terminal(stderr=True), []
    games = given.games or _GAMES
    openings = _openings(given, games, given.seed)
    for each in round_robin(contenders, given.game, games, given.seed, openings):
        played.append(each)
        if not given.json:
            first, second = contenders[each.first].name, contenders[each.second].name
            terminal.print(f"{first} against {second}: {each.match.describe()}")
    return played


def _play_until(
    given: Arguments, contenders: list[Contender], test: SequentialTest
) -> list[Played]:
    """Play until the test is decided, and show how far it is."""
    games = given.games or _MOST_GAMES

    listed = None if given.openings.isdecimal() else _openings(given, games, given.seed)

    def openings(number: int) -> list[list[int]]:
        if listed is None:
            return _openings(given, BATCH, given.seed + number)
        start = number * BATCH // 2 % len(listed)  # goes on where the match before ended
        return listed[start:] + listed[:start]

    played, done = [], 0
    with task("test", games, "games at most", quiet=given.json) as show:
        for each in until_decided(contenders, given.game, games, given.seed, test, openings):
            played.append(each)
            done += len(each.match.returns)
            show(done, f"log ratio {test.log_ratio:+.2f} of {test.bound:.2f}")
    return played


def _decision(given: Arguments, test: SequentialTest) -> str:
    """Return what a sequential test says, in a sentence."""
    first, second = given.contenders
    games = 2 * int(test.pairs.sum())
    ratio = f"log likelihood ratio {test.log_ratio:+.2f}, bounds {test.bound:.2f}"
    if test.accepted is None:
        return f"not decided after {games:,} games: {ratio}; raise --games to go on"
    other = test.low if test.accepted == test.high else test.high
    return (
        f"{first} is stronger than {second} by {test.accepted:g} Elo rather than by {other:g}: "
        f"{games:,} games, {ratio}, errors of {ERROR:.0%}"
    )


def _openings(given: Arguments, games: int, seed: int) -> list[list[int]]:
    """Return the openings that were asked for."""
    if not given.openings.isdecimal():
        found = read_openings(given.game, Path(given.openings))
        return [found[i] for i in np.random.default_rng(seed).permutation(len(found))]
    plies = int(given.openings)
    return random_openings(given.game, -(-games // 2), plies, seed) if plies else []


def _judge(given: Arguments, played: list[Played]) -> dict[str, list[JudgedMove]]:
    """Judge all moves of each contender; games are numbered through."""
    judged: dict[str, list[JudgedMove]] = {name: [] for name in given.contenders}
    games = sides = 0
    total = 2 * sum(len(each.match.returns) for each in played)

    def on_game(number: int) -> None:
        show(sides + number, "")

    with task("perfect play", total, "sides of games", quiet=given.json) as show:
        for each in played:
            for side, who in enumerate((each.first, each.second)):
                moves = judge(each.match, side, given.game, on_game)
                judged[given.contenders[who]] += [replace(m, game=games + m.game) for m in moves]
                sides += len(each.match.returns)
            games += len(each.match.returns)
    return judged


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
            cells = ["-", "-"]
            if part.value is not None:
                cells = [f"{part.value:.1%}", f"{part.low:.1%} to {part.high:.1%}"]
            table.add_row(name, plies, str(part.moves), str(part.chances), *cells)
    return table
