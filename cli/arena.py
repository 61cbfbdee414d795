"""`ludus arena RUN_OR_PLAYER ...`: a round robin of a board game, with Elo ratings."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from ludus.cli.options import parse, print_json
from ludus.comparison.arena import contender, round_robin
from ludus.envs.board import spiel
from ludus.envs.errors import UsageError
from ludus.evaluation.match import Match
from ludus.training.checkpoint import write_atomically


@dataclass(frozen=True)
class Arguments:
    """Who plays what."""

    contenders: Positional[tuple[str, ...]]
    """folders of runs, RUN@STEPS for earlier checkpoints, and players: random, greedy, mcts:100"""
    game: str = "connect_four"
    """OpenSpiel's name and parameters"""
    games: int = 100
    """of each pair; each side begins half of them"""
    epsilon: float = 0.05
    """probability of a random move of a trained agent, so that games differ"""
    simulations: int = 0
    """of agents that search, for each move; 0 for its own number"""
    seed: int = 0
    """of all chance"""
    out: Path | None = None
    """file for the results as JSON"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""


def run(argv: list[str]) -> int:
    """Play, and print the standings."""
    given = parse(Arguments, argv, command="arena", about="Let agents and players play each other.")
    for name, ok in (
        ("games", given.games >= 1),
        ("seed", given.seed >= 0),
        ("simulations", given.simulations >= 0),
        ("epsilon", 0 <= given.epsilon <= 1),
    ):
        if not ok:
            raise UsageError(f"{name} is {getattr(given, name)}, which is out of range")
    if len(given.contenders) < 2:
        raise UsageError("an arena needs two contenders or more: folders of runs, or players")
    if len(set(given.contenders)) < len(given.contenders):
        raise UsageError("a contender was named twice; name each once")
    spiel.load(given.game)
    everyone = [
        contender(name, given.game, epsilon=given.epsilon, simulations=given.simulations)
        for name in given.contenders
    ]
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def after(first: str, second: str, match: Match) -> None:
        if not given.json:
            wins, losses = (sum(r * sign > 0 for r in match.returns) for sign in (1, -1))
            drawn = len(match.returns) - wins - losses
            console.print(f"{first} against {second}: {wins} won, {drawn} drawn, {losses} lost")

    standings, points = round_robin(everyone, given.game, given.games, given.seed, after)
    told = {
        **{"game": given.game, "games": given.games, "seed": given.seed},
        **{"epsilon": given.epsilon, "simulations": given.simulations},
        **{"contenders": list(given.contenders)},
        "standings": [asdict(standing) for standing in standings],
        "points": points.tolist(),
    }
    if given.out is not None:
        write_atomically(given.out, json.dumps(told, indent=1))
    if given.json:
        print_json(told)
        return 0
    table = Table(box=None)
    for column in ("contender", "won", "drawn", "lost", "Elo", "95% interval", "ms a move"):
        table.add_column(column, overflow="fold")
    for s in standings:
        table.add_row(
            *(s.name, str(s.wins), str(s.draws), str(s.losses), f"{s.elo:+.0f}"),
            *(f"{s.low:+.0f} to {s.high:+.0f}", f"{s.milliseconds:.2f}"),
        )
    Console().print(table)
    return 0
