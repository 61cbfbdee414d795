"""`ludus collect RUN`: games of a trained agent as a data set in Minari's format."""

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from tyro.conf import Positional

from ludus.cli.options import UsageError, parse, print_json
from ludus.training.dataset import collect
from ludus.training.run import Run
from ludus.training.train import load


@dataclass(frozen=True)
class Arguments:
    """Which run and how many games."""

    run: Positional[Path]
    """folder of the run"""
    episodes: int = 100
    """full games"""
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
    given = parse(Arguments, argv, verb="collect", about=about)
    for name, ok in (
        ("episodes", given.episodes >= 1),
        ("num_envs", given.num_envs >= 1),
        ("seed", 0 <= given.seed < 1 << 40),
        ("epsilon", 0 <= given.epsilon <= 1),
    ):
        if not ok:
            raise UsageError(f"{name} is {getattr(given, name)}, which is out of range")
    config = Run.open(given.run).config()
    env = config.env.replace("/", "-").replace(":", "-")
    stem = f"{env}/{config.agent.replace(':', '-')}"
    out, number = given.out, 0
    while out is None or (given.out is None and out.exists()):
        out = Path("runs/datasets") / f"{stem}-v{number}"
        dataset_id = f"{stem}-v{number}"
        number += 1
    if given.out is not None:
        dataset_id = f"{stem}-v0"
    agent = load(given.run, device=given.device)
    shown = track(
        range(given.episodes),
        f"{config.agent} on {config.env}, games",
        console=Console(stderr=True, quiet=given.quiet),
    )
    bar, total = iter(shown), 0.0

    def on_episode(done: int, episode_return: float) -> None:
        nonlocal total
        total += episode_return
        next(bar, None)

    collect(
        agent,
        config.env,
        config.options,
        out,
        dataset_id=dataset_id,
        agent=config.agent,
        episodes=given.episodes,
        seed=given.seed,
        epsilon=given.epsilon,
        num_envs=given.num_envs,
        on_episode=on_episode,
    )
    next(bar, None)
    mean = total / given.episodes
    if given.json:
        told = {"dataset": str(out), "id": dataset_id, "episodes": given.episodes, "mean": mean}
        print_json(told)
    else:
        print(f"{out}: {given.episodes} games, mean return {mean:.1f}")
        print(f"learn from it: ludus train dqn --dataset {out}", file=sys.stdout)
    return 0
