"""`ludus compare`: several agents trained alike, their scores side by side."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import strftime

from rich.console import Console
from tyro.conf import OmitArgPrefixes

from ludus.cli.options import UsageError, parse, print_json, tensorboard
from ludus.envs.make import EnvOptions
from ludus.training.compare import Plan, compare, table
from ludus.training.train import load
from ludus.training.video import record


@dataclass(frozen=True)
class Arguments:
    """What is compared, and for how long."""

    env: str
    """env id"""
    agents: tuple[str, ...] = ("dqn", "sb3:dqn", "random")
    """agents, see `ludus list agents`"""
    steps: int = 100_000
    """env steps of each training"""
    seeds: int = 3
    """trainings of each agent"""
    episodes: int = 20
    """held-out games that each trained agent plays"""
    epsilon: float = 0.0
    """probability of a random action in those games"""
    out: Path | None = None
    """folder of the results; None for runs/compare/<env>-<time>"""
    run_dir: Path = Path("runs")
    """folder in which run folders are made"""
    record: bool = False
    """write an MP4 of the first agent that trains"""
    device: str = "auto"
    """auto, cpu or cuda"""
    quiet: bool = False
    """no progress"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""
    options: OmitArgPrefixes[EnvOptions] = field(default_factory=EnvOptions)
    """changes to the protocol"""


def run(argv: list[str]) -> int:
    """Compare and print the table."""
    given = parse(Arguments, argv, verb="compare", about="Train agents alike and compare them.")
    if given.seeds < 1 or given.episodes < 1 or given.steps < 1 or not given.agents:
        raise UsageError("seeds, episodes and steps must be 1 or more, and agents at least one")
    if not 0 <= given.epsilon <= 1:
        raise UsageError(f"epsilon is {given.epsilon}; it must be from 0 to 1")
    stem = f"{given.env.replace('/', '-').replace(':', '-')}-{strftime('%Y%m%d-%H%M%S')}"
    out = given.out or given.run_dir / "compare" / stem

    def say(line: str) -> None:
        if not given.quiet:
            print(line, file=sys.stderr)

    plan = Plan(
        given.env,
        given.agents,
        given.steps,
        given.seeds,
        given.episodes,
        given.epsilon,
        given.options,
        given.run_dir,
        given.device,
        given.quiet,
    )
    results = compare(plan, out, say)
    title = f"{given.env}, {given.steps:,} env steps, {given.episodes} held-out games a training"
    if not given.json:
        Console().print(table(results, title))
    video = None
    trained = [result for result in results if result.runs]
    if given.record and trained:
        path, video = trained[0].runs[0], out / f"{trained[0].agent.replace(':', '-')}.mp4"
        say(f"recording {path}")
        agent = load(path, device=given.device)
        record(agent, given.env, given.options, video, epsilon=given.epsilon)
    if given.json:
        told = json.loads((out / "results.json").read_text())
        print_json(told | {"out": str(out), "video": str(video) if video else None})
        return 0
    print(f"scores           {out / 'results.json'}")
    print(f"learning curves  {out / 'curves.png'}")
    if video:
        print(f"video            {video}")
    print(f"more curves      {tensorboard()} --logdir {given.run_dir}")
    return 0
