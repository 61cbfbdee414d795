"""`ludus list`: list the available agents, envs, board games or runs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from ludus.cli.options import parse
from ludus.cli.output import print_json, print_result, print_table
from ludus.envs.errors import RunError, UsageError
from ludus.envs.suggest import closest
from ludus.training.find_run import RunState

if TYPE_CHECKING:
    from ludus.training.run import Run

KINDS = ("agents", "envs", "games", "runs", "pretrained")
Order = Literal["time", "score", "mean_return", "env_steps", "env", "agent"]


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus list`."""

    what: Positional[Literal["agents", "envs", "games", "runs", "pretrained"]] = "runs"
    """what to list"""
    run_dir: Path = Path("runs")
    """folder that contains the runs"""
    env: str | None = None
    """runs: only those on envs whose id contains this"""
    agent: str | None = None
    """runs: only those of this agent"""
    state: RunState | None = None
    """runs: only those in this state"""
    sort: Order = "time"
    """runs: time is that of the last change; the newest, or the largest number, is the last"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""


def run(argv: list[str]) -> int:
    """List what was asked for."""
    words = [word for word in argv if not word.startswith("-")]
    if words and words[0] not in KINDS and words[0] == argv[0]:
        raise UsageError(closest(words[0], KINDS, "list of"))
    about = "List the available agents, envs, board games, runs or pretrained agents."
    given = parse(Arguments, argv, command="list", about=about)
    listed = {"agents": _agents, "envs": _envs, "games": _games, "runs": _runs}
    rows = (listed | {"pretrained": _pretrained})[given.what](given)
    if given.json:
        print_json({given.what: rows})
    elif not rows:
        if given.env or given.agent or given.state:
            print_result(f"no such runs in {given.run_dir}")
        else:
            hint = "`ludus train dqn CartPole-v1` starts one"
            print_result(f"no runs in {given.run_dir} yet; {hint}")
    elif given.what == "envs":
        print_result("\n".join(row["env"] for row in rows))
    elif given.what == "runs":
        _print_runs(rows)
    elif given.what == "pretrained":
        _print_pretrained(rows)
    else:
        _print_table(rows)
    return 0


def _print_runs(rows: list[dict[str, Any]]) -> None:
    """Print one line for each run."""
    lines: list[tuple[str, ...]] = [("state", "steps", "score", "mean of 100", "minutes", "run")]
    longest = max(len(row["run"]) for row in rows)
    for row in rows:
        minutes = None if row["seconds"] is None else row["seconds"] / 60
        numbers = (row["score"], row["mean_return"], minutes)
        shown = ["-" if x is None else f"{x:.1f}" for x in numbers]
        run = f"{row['run']:{longest}}  {row['distinction']}".rstrip()
        lines.append((row["state"], f"{row['env_steps']:,}", *shown, run))
    _print_lines(lines)


def _print_pretrained(rows: list[dict[str, Any]]) -> None:
    """Print one line for each agent that comes with Ludus."""
    lines: list[tuple[str, ...]] = [("env", "agent", "env steps", "score", "opponent", "name")]
    for row in rows:
        score = "-" if row["score"] is None else f"{row['score']:.1f}"
        steps = f"{row['env steps']:,}"
        lines.append((row["env"], row["agent"], steps, score, row["opponent"] or "-", row["name"]))
    _print_lines(lines)


def _print_lines(lines: list[tuple[str, ...]]) -> None:
    """Print columns; the last word of a line is whole, to be copied."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *middle, last in lines:
        right = [text.rjust(width) for text, width in zip(middle, widths[1:-1], strict=True)]
        print_result("  ".join([first.ljust(widths[0]), *right, last]))


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows under the names of their fields."""
    from rich.table import Table

    table = Table(box=None)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    print_table(table)


def _agents(_: Arguments) -> list[dict[str, Any]]:
    import ludus

    return [{"agent": name, "what": about} for name, about in ludus.list_agents().items()]


def _envs(_: Arguments) -> list[dict[str, Any]]:
    from ludus.envs.make import known_ids

    return [{"env": name} for name in known_ids()]


def _games(_: Arguments) -> list[dict[str, Any]]:
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


def _runs(given: Arguments) -> list[dict[str, Any]]:
    from ludus.training.distinguish import distinctions
    from ludus.training.find_run import changed_at
    from ludus.training.run import all_runs

    rows = []
    for run in all_runs(given.run_dir):
        env, agent = _names_of(run)
        status = run.status()
        wanted = (
            (given.env or "").lower() in env.lower()
            and given.agent in (None, agent)
            and given.state in (None, status.state)
        )
        if wanted:
            row = {"run": str(run.path), "env": env, "agent": agent, **asdict(status)}
            rows.append((changed_at(run.path), run, row))
    rows.sort(key=lambda found: found[0], reverse=True)  # the newest first
    differences = distinctions([_settings_of(run) for _, run, _ in rows])
    listed = [
        (changed, row | {"distinction": difference})
        for (changed, _, row), difference in zip(rows, differences, strict=True)
    ]
    listed.sort(key=lambda pair: _rank(pair[0] if given.sort == "time" else pair[1][given.sort]))
    return [row for _, row in listed]


def _pretrained(_: Arguments) -> list[dict[str, Any]]:
    from ludus.training.find_run import PRETRAINED, pretrained_runs
    from ludus.training.run import Run

    rows = []
    for name, folder in pretrained_runs().items():
        run = Run(folder)
        config, status = run.config(), run.status()
        score = None if status.score is None else round(status.score, 2)
        rows.append(
            {
                "name": PRETRAINED + name,
                "env": config.env,
                "agent": config.agent,
                "env steps": status.env_steps,
                "score": score,
                "opponent": config.protocol.get("opponent"),
            }
        )
    return rows


def _names_of(run: "Run") -> tuple[str, str]:
    """Return env and agent of a run; those of its folder if its configuration cannot be read."""
    try:
        config = run.config()
        return config.env, config.agent
    except RunError:
        return run.path.parts[-3], run.path.parts[-2]


def _settings_of(run: "Run") -> dict[str, Any]:
    """Return the settings that distinguish a run from others; none if they cannot be read."""
    from ludus.training.distinguish import learning_settings
    from ludus.training.files import read_json

    try:
        return learning_settings(read_json(run.path / "config.json"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _rank(value: Any) -> tuple[bool, Any]:
    """Return a key that sorts missing values before all others."""
    return value is not None, value
