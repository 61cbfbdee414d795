"""`ludus list`: list the available agents, envs, board games or runs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from ludus.cli.options import parse
from ludus.cli.output import print_json, print_result, print_table
from ludus.envs.errors import UsageError
from ludus.envs.suggest import closest

KINDS = ("agents", "envs", "games", "runs")


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus list`."""

    what: Positional[Literal["agents", "envs", "games", "runs"]] = "runs"
    """what to list"""
    run_dir: Path = Path("runs")
    """folder that contains the runs"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""


def run(argv: list[str]) -> int:
    """List what was asked for."""
    words = [word for word in argv if not word.startswith("-")]
    if words and words[0] not in KINDS and words[0] == argv[0]:
        raise UsageError(closest(words[0], KINDS, "list of"))
    about = "List the available agents, envs, board games or runs."
    given = parse(Arguments, argv, command="list", about=about)
    rows = {"agents": _agents, "envs": _envs, "games": _games, "runs": _runs}[given.what](
        given.run_dir
    )
    if given.json:
        print_json({given.what: rows})
        return 0
    if not rows:
        print_result(f"no runs in {given.run_dir} yet; `ludus train dqn CartPole-v1` starts one")
        return 0
    if given.what == "envs":
        print_result("\n".join(row["env"] for row in rows))
        return 0
    _print_table(rows)
    return 0


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows under the names of their fields."""
    from rich.table import Table

    table = Table(box=None)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    print_table(table)


def _agents(_: Path) -> list[dict[str, Any]]:
    import ludus

    return [{"agent": name, "what": about} for name, about in ludus.list_agents().items()]


def _envs(_: Path) -> list[dict[str, Any]]:
    from ludus.envs.make import known_ids

    return [{"env": name} for name in known_ids()]


def _games(_: Path) -> list[dict[str, Any]]:
    from ludus.envs.board import spiel

    rows = []
    for name in spiel.names():
        game = spiel.make_game(name)
        rules = "OpenSpiel's" if isinstance(game, spiel.SpielGame) else "ours, on bitboards"
        parameters = ", ".join(sorted(spiel.parameters(name)))
        rows.append(
            {
                "game": name,
                "actions": game.num_actions,
                "maximum moves": game.max_moves,
                "rules": rules,
                "parameters": parameters or None,
            }
        )
    return rows


def _runs(root: Path) -> list[dict[str, Any]]:
    from ludus.training.run import all_runs

    return [{"run": str(run.path), **asdict(run.status())} for run in all_runs(root)]
