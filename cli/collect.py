"""`ludus collect RUN`: write games of a trained agent as a data set in Minari's format."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from ludus.cli.options import HELD_OUT_SEED, parse
from ludus.cli.output import print_json, print_result
from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, check_bounds
from ludus.envs.errors import UsageError
from ludus.training.collect import collect
from ludus.training.dataset import ROOT
from ludus.training.progress import Bar
from ludus.training.run import Run, RunConfig
from ludus.training.train import load


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus collect`."""

    run: Positional[Path]
    """folder of the run"""
    episodes: Annotated[int | None, AT_LEAST_ONE] = None
    """number of full games (default: 100, or as many as `steps` takes)"""
    steps: Annotated[int | None, AT_LEAST_ONE] = None
    """env steps, in place of episodes; running games are then played to their end"""
    epsilon: Annotated[float, FRACTION] = 0.0
    """probability of a random action"""
    seed: Annotated[int, HELD_OUT_SEED] = 0
    """seed of the games, which neither training nor evaluation plays"""
    out: Path | None = None
    """folder of the data set (default: runs/datasets/<env>/<agent>-v<n>)"""
    num_envs: Annotated[int, AT_LEAST_ONE] = 8
    """number of games played at the same time"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    quiet: bool = False
    """print no progress"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)
        if self.episodes is not None and self.steps is not None:
            raise UsageError("episodes and steps are both given; give one of them")


def run(argv: list[str]) -> int:
    """Play the games and write the data set."""
    about = "Write a data set of games played by RUN, in Minari's format."
    given = parse(Arguments, argv, command="collect", about=about)
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
    except KeyboardInterrupt as stopped:
        if out.exists():
            stopped.add_note(f"{out} has the games that had ended")
        raise
    finally:
        bar.close()
    mean = returns / games
    if given.json:
        summary = {
            "dataset": str(out),
            "id": dataset_id,
            "episodes": games,
            "steps": played,
            "mean": mean,
        }
        print_json(summary)
    else:
        print_result(f"{out}: {games:,} games, {played:,} steps, mean return {mean:.1f}")
        print_result(f"train on it: ludus train dqn --dataset {out}")
    return 0


def _named(out: Path | None, config: RunConfig) -> tuple[Path, str]:
    """Return the data set's folder and its Minari id, which is the path relative to `ROOT`."""
    names = [config.env, config.agent]
    env, agent = (re.sub(r"[^\w-]", "-", name) for name in names)
    number = 0
    while out is None:
        free = ROOT / env / f"{agent}-v{number}"
        out = None if free.exists() or free.with_name(f".{free.name}.tmp").exists() else free
        number += 1
    below = out.relative_to(ROOT).as_posix() if out.is_relative_to(ROOT) else out.name
    return out, below if re.fullmatch(r"[\w/-]+-v\d+", below) else f"{env}/{agent}-v0"
