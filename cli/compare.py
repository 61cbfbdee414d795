"""`ludus compare`: several agents trained alike, their scores side by side, and a report."""

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import strftime

from rich.console import Console
from tyro.conf import OmitArgPrefixes

from ludus.cli.options import parse, print_json, tensorboard
from ludus.comparison.analysis import About
from ludus.comparison.compare import Plan, compare, tables
from ludus.comparison.groups import Training
from ludus.comparison.report import write_report
from ludus.envs.errors import UsageError
from ludus.envs.make import EnvOptions
from ludus.evaluation.video import record
from ludus.training.run import Run, commit, hardware, versions
from ludus.training.train import device_of, load

ABOUT = """Train agents alike on one env or several, and write a report.

Trainings that have finished under --run-dir are taken as they are, those that were stopped go on:
the same command continues an interrupted comparison."""


@dataclass(frozen=True)
class Arguments:
    """What is compared, and for how long."""

    env: tuple[str, ...] = ()
    """env ids"""
    agents: tuple[str, ...] = ("dqn", "sb3:dqn", "random")
    """agents, see `ludus list agents`"""
    steps: int = 100_000
    """env steps of each training"""
    seeds: int = 3
    """trainings of each agent on each env"""
    episodes: int = 20
    """held-out games that each trained agent plays"""
    epsilon: float = 0.0
    """probability of a random action in those games"""
    runs: tuple[Path, ...] = ()
    """folders of finished runs that are laid beside the others, however they were trained"""
    jobs: int = 0
    """trainings at once; 0 for one a core, where memory allows"""
    out: Path | None = None
    """folder of the report; None for runs/compare/<env>-<time>"""
    run_dir: Path = Path("runs")
    """folder in which run folders are made and looked for"""
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
    """Compare, print a table for each env, write the report; 1 where a training failed."""
    given = parse(Arguments, argv, verb="compare", about=ABOUT)
    if given.seeds < 1 or given.episodes < 1 or given.steps < 1 or not given.agents:
        raise UsageError("seeds, episodes and steps must be 1 or more, and agents at least one")
    if not 0 <= given.epsilon <= 1:
        raise UsageError(f"epsilon is {given.epsilon}; it must be from 0 to 1")
    if given.jobs < 0:
        raise UsageError(f"jobs is {given.jobs}; it must be 0 or more")
    if not given.env and not given.runs:
        raise UsageError("compare needs --env, or --runs with folders of finished runs")
    for what, names in (("env", given.env), ("agents", given.agents), ("runs", given.runs)):
        if len(set(names)) < len(names):
            raise UsageError(f"--{what} names one of them twice; name each once")
    plan = Plan(
        envs=given.env,
        agents=given.agents,
        steps=given.steps,
        seeds=given.seeds,
        episodes=given.episodes,
        epsilon=given.epsilon,
        options=given.options,
        runs=given.runs,
        root=given.run_dir,
        device=given.device,
        jobs=given.jobs,
        quiet=given.quiet,
    )
    trainings, failed = compare(plan)
    for sentence in failed:
        print(f"ludus: {sentence}", file=sys.stderr)
    if not trainings:
        raise UsageError("no training has finished, so there is nothing to report")
    out = given.out or given.run_dir / "compare" / _stem(trainings)
    about = About(
        title=", ".join(dict.fromkeys(t.agent for t in trainings)),
        command=shlex.join(["ludus", "compare", *argv]),
        hardware={k: str(v) for k, v in hardware(device_of(given.device)).items() if v},
        versions=versions(),
        commit=commit(),
        date=strftime("%Y-%m-%d"),
    )
    written = write_report(out, trainings, about)
    if not given.json:
        for table in tables(trainings):
            Console().print(table)
    video = _film(trainings, out, given) if given.record else None
    if given.json:
        told = json.loads((out / "results.json").read_text())
        print_json(told | {"out": str(out), "video": str(video) if video else None})
        return 1 if failed else 0
    print(f"report           {written[0]}")
    print(f"scores           {out / 'results.json'}")
    if video:
        print(f"video            {video}")
    print(f"more curves      {tensorboard()} --logdir {given.run_dir}")
    return 1 if failed else 0


def _stem(trainings: list[Training]) -> str:
    env = trainings[0].env.replace("/", "-").replace(":", "-")
    more = len({t.env for t in trainings}) - 1
    return f"{env}{f'-and-{more}-more' if more else ''}-{strftime('%Y%m%d-%H%M%S')}"


def _film(trainings: list[Training], out: Path, given: Arguments) -> Path | None:
    """A game of the first agent that trained."""
    shown = next((t for t in trainings if t.run is not None), None)
    if shown is None or shown.run is None:
        return None
    config = Run.open(shown.run).config()
    video = out / f"{config.agent.replace(':', '-')}.mp4"
    if not given.quiet:
        print(f"recording {shown.run}", file=sys.stderr)
    agent = load(shown.run, device=given.device)
    record(agent, config.env, config.options, video, epsilon=given.epsilon)
    return video
