"""`ludus compare`: train several agents under the same conditions and report their scores."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from time import strftime
from typing import Annotated

from tyro.conf import OmitArgPrefixes

from ludus.cli.options import parse, tensorboard
from ludus.cli.output import print_json, print_message, print_result, print_table
from ludus.comparison.analysis import About
from ludus.comparison.compare import Plan, compare, tables
from ludus.comparison.groups import Training, mean_return
from ludus.comparison.report import write_report
from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, NON_NEGATIVE, check_bounds
from ludus.envs.errors import UsageError, describe_error
from ludus.envs.make import EnvOptions
from ludus.evaluation.video import most_steps, record
from ludus.training.film import film_title
from ludus.training.progress import task
from ludus.training.run import Run
from ludus.training.train import load

_VIDEO_STEPS = 2_000  # at most

ABOUT = """Train agents under the same conditions on one or more envs, and write a report.

examples:
  ludus compare --env CartPole-v1 --agents dqn ppo sb3:dqn --steps 30000
  ludus compare --env PongNoFrameskip-v4 --agents ppo_small sb3:ppo --minutes 30
  ludus compare --env MinAtar/Breakout-v1 --agents pqn --grid width=0.5,1,2
  ludus compare --runs RUN RUN

Finished trainings under --run-dir are reused and interrupted ones are resumed,
so the same command continues an interrupted comparison."""


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus compare`."""

    env: tuple[str, ...] = ()
    """env ids"""
    agents: tuple[str, ...] = ("dqn", "sb3:dqn", "random")
    """names of agents; `ludus list agents` lists all"""
    grid: tuple[str, ...] = ()
    """fields of the agents and their values, field=a,b,c: each combination is an agent"""
    steps: Annotated[int, AT_LEAST_ONE] = 100_000
    """env steps of each training, which schedules follow"""
    minutes: Annotated[float, NON_NEGATIVE] = 0.0
    """minutes after which a training ends before that, without evaluations; 0 for no limit"""
    seeds: Annotated[int, AT_LEAST_ONE] = 3
    """number of trainings of each agent on each env"""
    first_seed: Annotated[int, NON_NEGATIVE] = 0
    """seed of the first of these; each further one is 1 higher"""
    episodes: Annotated[int, AT_LEAST_ONE] = 20
    """number of held-out games that each trained agent plays"""
    epsilon: Annotated[float, FRACTION] = 0.0
    """probability of a random action in those games"""
    runs: tuple[Path, ...] = ()
    """folders of finished runs to include, however they were trained"""
    jobs: Annotated[int, NON_NEGATIVE] = 0
    """number of trainings in parallel; 0 for one per core, if memory allows"""
    ray: str | None = None
    """train on a Ray cluster: auto, local, or host:port; all machines must see run_dir"""
    out: Path | None = None
    """folder of the report (default: runs/compare/<env>-<time>)"""
    run_dir: Path = Path("runs")
    """folder of the run folders, new and finished"""
    record: bool = False
    """write an MP4 of the training with the highest mean, which the report contains"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    quiet: bool = False
    """print no progress"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""
    options: OmitArgPrefixes[EnvOptions] = field(default_factory=EnvOptions)
    """changes to the protocol of the envs"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)
        if not self.agents:
            raise UsageError("compare needs at least one agent after --agents")
        if not self.env and not self.runs:
            raise UsageError("compare needs --env, or --runs with folders of finished runs")
        for option, names in (("env", self.env), ("agents", self.agents), ("runs", self.runs)):
            if len(set(names)) < len(names):
                raise UsageError(f"--{option} contains a name twice; name each once")


def run(argv: list[str]) -> int:
    """Compare, print a table for each env and write the report. Return 1 if a training failed."""
    given = parse(Arguments, argv, command="compare", about=ABOUT)
    plan = Plan(
        envs=given.env,
        agents=given.agents,
        grid=given.grid,
        steps=given.steps,
        minutes=given.minutes,
        seeds=given.seeds,
        first_seed=given.first_seed,
        episodes=given.episodes,
        epsilon=given.epsilon,
        options=given.options,
        runs=given.runs,
        root=given.run_dir,
        device=given.device,
        jobs=given.jobs,
        quiet=given.quiet,
        ray=given.ray,
    )
    try:
        trainings, failed = compare(plan)
    except KeyboardInterrupt as stopped:
        stopped.add_note("the trainings have saved; the same command goes on")
        raise
    for sentence in failed:
        print_message(f"ludus: {sentence}")
    if not trainings:
        raise UsageError("no training has finished, so there is nothing to report")
    out = given.out or given.run_dir / "compare" / _stem(trainings)
    title = ", ".join(dict.fromkeys(t.agent for t in trainings))
    about = About.here(title, shlex.join(["ludus", "compare", *argv]), given.device)
    if not given.json:
        for table in tables(trainings):
            print_table(table)
    video = None
    try:
        video = _record(trainings, out, given) if given.record else None
    except Exception as error:  # whatever an env without a picture raises; the report matters more
        print_message(f"no video: {describe_error(error)}")
    written = write_report(out, trainings, about, video)
    if given.json:
        results = json.loads((out / "results.json").read_text())
        print_json(results | {"out": str(out), "video": str(video) if video else None})
        return 1 if failed else 0
    print_result(f"report           {written[0]}")
    print_result(f"scores           {out / 'results.json'}")
    if video:
        print_result(f"video            {video}")
    for folder in _run_dirs(trainings) or [given.run_dir]:
        print_result(f"more curves      {tensorboard()} --logdir {shlex.quote(str(folder))}")
        print_result(f"the agents       ludus watch --run-dir {shlex.quote(str(folder))}")
    return 1 if failed else 0


def _run_dirs(trainings: list[Training]) -> list[Path]:
    """Return the folders that contain the runs, each once."""
    return list(dict.fromkeys(Path(t.run).parents[2] for t in trainings if t.run is not None))


def _stem(trainings: list[Training]) -> str:
    """Return the name of the report's folder."""
    env = trainings[0].env.replace("/", "-").replace(":", "-")
    more = len({t.env for t in trainings}) - 1
    return f"{env}{f'-and-{more}-more' if more else ''}-{strftime('%Y%m%d-%H%M%S')}"


def _record(trainings: list[Training], out: Path, given: Arguments) -> Path | None:
    """Record a game of the training with the highest mean."""
    trained = [t for t in trainings if t.run is not None and t.returns]
    if not trained:
        return None
    shown = max(trained, key=mean_return)
    assert shown.run is not None
    config = Run.open(shown.run).config()
    video = out / f"{config.agent.replace(':', '-')}.mp4"
    if not given.quiet:
        print_message(f"recording {shown.run}")
    agent = load(shown.run, device=given.device)
    title = film_title(config, shown.done)
    out.mkdir(parents=True, exist_ok=True)
    steps = most_steps(config.env, _VIDEO_STEPS, None)
    with task("video", steps, "steps at most", quiet=given.quiet or given.json) as show:
        record(
            agent,
            config.env,
            config.options,
            video,
            title=title,
            epsilon=given.epsilon,
            max_steps=_VIDEO_STEPS,
            on_step=lambda step: show(step, ""),
        )
    return video
