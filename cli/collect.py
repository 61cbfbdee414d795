"""`ludus collect RUN`: games of a trained agent as a data set in Minari's format."""

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ludus.cli.options import parse, print_json
from ludus.envs.errors import UsageError
from ludus.training.collect import collect
from ludus.training.dataset import ROOT
from ludus.training.logger import Bar
from ludus.training.run import Run, RunConfig
from ludus.training.train import load


@dataclass(frozen=True)
class Arguments:
    """Which run and how many games."""

    run: Positional[Path]
    """folder of the run"""
    episodes: int | None = None
    """full games; 100 where steps is not given"""
    steps: int | None = None
    """env steps in place of episodes; the games that run then are played to their end"""
    epsilon: float = 0.0
    """probability of a random action"""
    seed: int = 0
    """of the games; neither trainings nor evaluations play them"""
    out: Path | None = None
    """folder of the data set; None for runs/datasets/<env>/<agent>-v<n>"""
    num_envs: int = 8
    """games at the same time"""
    device: str = "auto"
    """auto, cpu or cuda"""
    quiet: bool = False
    """no progress"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""


def run(argv: list[str]) -> int:
    """Play and write."""
    about = "Write a data set of games that RUN plays, in Minari's format."
    given = parse(Arguments, argv, command="collect", about=about)
    for name, ok in (
        ("episodes", given.episodes is None or given.episodes >= 1),
        ("steps", given.steps is None or given.steps >= 1),
        ("num_envs", given.num_envs >= 1),
        ("seed", 0 <= given.seed < 1 << 40),
        ("epsilon", 0 <= given.epsilon <= 1),
    ):
        if not ok:
            raise UsageError(f"{name} is {getattr(given, name)}, which is out of range")
    if given.episodes is not None and given.steps is not None:
        raise UsageError("episodes and steps are both given; give one of them")
    episodes = 100 if given.episodes is None and given.steps is None else given.episodes
    config = Run.open(given.run).config()
    out, dataset_id = _named(given.out, config)
    total, unit = (episodes, "games") if episodes is not None else (given.steps, "steps")
    assert total is not None
    agent = load(given.run, device=given.device)
    bar = Bar(f"{config.agent} on {config.env}", total, 0, given.quiet, unit)
    played, returns = 0, 0.0

    def on_game(games: int, steps: int, episode_return: float) -> None:
        nonlocal played, returns
        played, returns = steps, returns + episode_return
        bar.update(games if unit == "games" else steps, returns / games)

    try:
        games = collect(
            agent,
            config.env,
            config.options,
            out,
            dataset_id=dataset_id,
            agent=config.agent,
            episodes=math.inf if episodes is None else episodes,
            steps=math.inf if given.steps is None else given.steps,
            seed=given.seed,
            epsilon=given.epsilon,
            num_envs=given.num_envs,
            on_game=on_game,
        )
    except KeyboardInterrupt:
        if out.exists():
            print(f"ludus: {out} has the games that had ended", file=sys.stderr)
        raise
    finally:
        bar.close()
    mean = returns / games
    if given.json:
        told = {"dataset": str(out), "id": dataset_id, "episodes": games, "steps": played}
        print_json(told | {"mean": mean})
    else:
        print(f"{out}: {games:,} games, {played:,} steps, mean return {mean:.1f}")
        print(f"learn from it: ludus train dqn --dataset {out}")
    return 0


def _named(out: Path | None, config: RunConfig) -> tuple[Path, str]:
    """The folder, and Minari's name for what is in it: below `ROOT` the path from there."""
    names = [config.env, config.agent]
    env, agent = (re.sub(r"[^\w-]", "-", name) for name in names)
    number = 0
    while out is None:
        free = ROOT / env / f"{agent}-v{number}"
        out = None if free.exists() or free.with_name(f".{free.name}.tmp").exists() else free
        number += 1
    below = out.relative_to(ROOT).as_posix() if out.is_relative_to(ROOT) else out.name
    return out, below if re.fullmatch(r"[\w/-]+-v\d+", below) else f"{env}/{agent}-v0"
