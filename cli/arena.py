"""`ludus arena RUN_OR_PLAYER ...`: run a round robin of a board game, with Elo ratings."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from rich.table import Table
from tyro.conf import Positional

from ludus.cli.options import parse
from ludus.cli.output import print_json, print_table
from ludus.comparison.arena import contender, round_robin
from ludus.envs.board import spiel
from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, NON_NEGATIVE, check_bounds
from ludus.envs.errors import UsageError
from ludus.evaluation.match import Match
from ludus.training.checkpoint import write_atomically
from ludus.training.console import Terminal


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


def run(argv: list[str]) -> int:
    """Play all games and print the standings."""
    given = parse(
        Arguments, argv, command="arena", about="Run a round robin of agents and players."
    )
    spiel.load(given.game)
    contenders = [
        contender(name, given.game, epsilon=given.epsilon, simulations=given.simulations)
        for name in given.contenders
    ]
    terminal = Terminal(stderr=True)

    def print_match(first: str, second: str, match: Match) -> None:
        if not given.json:
            wins, losses = (sum(r * sign > 0 for r in match.returns) for sign in (1, -1))
            drawn = len(match.returns) - wins - losses
            terminal.print(f"{first} against {second}: {wins} won, {drawn} drawn, {losses} lost")

    standings, points = round_robin(contenders, given.game, given.games, given.seed, print_match)
    results = {
        "game": given.game,
        "games": given.games,
        "seed": given.seed,
        "epsilon": given.epsilon,
        "simulations": given.simulations,
        "contenders": list(given.contenders),
        "standings": [asdict(standing) for standing in standings],
        "points": points.tolist(),
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
    return 0
