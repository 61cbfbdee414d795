"""`ludus list`: the agents, envs, board games or runs there are."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from ludus.cli.options import closest, parse, print_json
from ludus.envs.errors import UsageError

KINDS = ("agents", "envs", "games", "runs")


@dataclass(frozen=True)
class Arguments:
    """What to list."""

    what: Positional[Literal["agents", "envs", "games", "runs"]] = "runs"
    """agents, envs, games or runs"""
    run_dir: Path = Path("runs")
    """folder of the runs"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""


def run(argv: list[str]) -> int:
    """List."""
    words = [word for word in argv if not word.startswith("-")]
    if words and words[0] not in KINDS and words[0] == argv[0]:
        raise UsageError(closest(words[0], KINDS, "list of"))
    given = parse(
        Arguments, argv, verb="list", about="Show the agents, envs, games or runs there are."
    )
    rows = {"agents": _agents, "envs": _envs, "games": _games, "runs": _runs}[given.what](
        given.run_dir
    )
    if given.json:
        print_json({given.what: rows})
        return 0
    if not rows:
        print(f"no runs in {given.run_dir} yet; `ludus train dqn CartPole-v1` makes one")
        return 0
    if given.what == "envs":
        print("\n".join(row["env"] for row in rows))
        return 0
    shown = Table(box=None)
    for name in rows[0]:
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*("-" if value is None else str(value) for value in row.values()))
    Console().print(shown)
    return 0


def _agents(_: Path) -> list[dict[str, Any]]:
    from ludus.agents import registry

    return [{"agent": name, "what": about} for name, about in registry.names().items()]


def _envs(_: Path) -> list[dict[str, Any]]:
    from ludus.envs.make import known_ids

    return [{"env": name} for name in known_ids()]


def _games(_: Path) -> list[dict[str, Any]]:
    from ludus.envs.board import spiel

    rows = []
    for name in spiel.names():
        game = spiel.make_game(name)
        rules = "OpenSpiel's" if isinstance(game, spiel.SpielGame) else "our own, on bits"
        parameters = ", ".join(sorted(spiel.load(name).get_parameters()))
        rows.append(
            {
                "game": name,
                "actions": game.num_actions,
                "moves at most": game.max_moves,
                "rules": rules,
                "parameters": parameters or None,
            }
        )
    return rows


def _runs(root: Path) -> list[dict[str, Any]]:
    from ludus.training.run import all_runs

    return [{"run": str(run.path), **asdict(run.status())} for run in all_runs(root)]
