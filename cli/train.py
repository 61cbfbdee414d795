"""`ludus train AGENT ENV`: train an agent; `ludus train --resume RUN`: go on with a training."""

import contextlib
import io
from dataclasses import asdict, dataclass, field, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import OmitArgPrefixes

from ludus.agents import registry
from ludus.agents.random_agent import RandomConfig
from ludus.cli.options import parse, print_json, tensorboard
from ludus.envs.errors import UsageError
from ludus.envs.make import EnvOptions, make
from ludus.training.dataset import Dataset
from ludus.training.run import Run, TrainOptions
from ludus.training.session import Session
from ludus.training.train import resume_session, start_session

ABOUT = """Train AGENT on ENV in a new run folder, or go on with RUN.

ludus train AGENT ENV [options]     ludus train --resume RUN
ludus train AGENT [ENV] --dataset FOLDER_OR_MINARI_ID [options]

With a data set ENV is only where the agent is evaluated, and steps are updates.

`ludus list agents` and `ludus list envs` show what there is."""


@dataclass(frozen=True)
class _Common:
    """Where to and how loud."""

    run_dir: Path = Path("runs")
    """folder in which the run's own folder is made"""
    quiet: bool = False
    """no progress"""
    json: bool = False
    """print one JSON object on stdout and nothing else there"""


@dataclass(frozen=True)
class _Resume:
    """Go on with a training."""

    resume: Path
    """folder of the run to go on with"""
    quiet: bool = False
    """no progress"""
    json: bool = False
    """print one JSON object on stdout and nothing else there"""


def run(argv: list[str]) -> int:
    """Train; exits 130 or 143 after a signal, with everything saved."""
    if any(word.split("=")[0] == "--resume" for word in argv):
        resumed = parse(_Resume, argv, verb="train", about=ABOUT)
        session = resume_session(Run.open(resumed.resume), quiet=resumed.quiet)
        return _train(session, resumed.json)
    names: list[str] = []
    rest = list(argv)
    while rest and not rest[0].startswith("-") and len(names) < 2:
        names.append(rest.pop(0))
    dataset = _value_of("--dataset", rest)
    if len(names) == 1 and dataset is not None:
        names.append("")  # the env that the data set is from
    if len(names) < 2:
        if "--help" in argv or "-h" in argv:
            names = [names[0] if names else "dqn", "CartPole-v1"]
        else:
            raise UsageError(
                "train needs an agent and an env, and the options after them, as in "
                "`ludus train dqn CartPole-v1 --seed 3`, or --resume RUN"
            )
    agent, env_id = names
    verb = f"train {agent} {env_id}".strip()
    kind = _arguments(agent, env_id, dataset, _env_options(rest))
    given: Any = parse(kind, rest, verb=verb, about=ABOUT)
    config = given.config if hasattr(given, "config") else None
    common: _Common = given.common
    session = start_session(
        agent, env_id, given.train, given.options, config, common.run_dir, quiet=common.quiet
    )
    return _train(session, common.json)


def _value_of(option: str, words: list[str]) -> str | None:
    """What follows an option, before its others are known."""
    for word, after in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name == option and (equals or after):
            return value if equals else after
    return None


def _env_options(words: list[str]) -> EnvOptions:
    """The env's options, before the agent's are known."""
    cli: Any = tyro.cli  # its overloads do not know of the words that are left
    words = [word for word in words if word not in ("-h", "--help")]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return cli(EnvOptions, args=words, return_unknown_args=True)[0]
    except SystemExit:
        return EnvOptions()  # what is wrong is said when all of the line is read


def _arguments(agent: str, env_id: str, dataset: str | None, options: EnvOptions) -> type[Any]:
    """The options of that agent on that env, or for that data set, with their defaults."""
    probe = make(env_id, 1, 0, options) if dataset is None else Dataset(dataset, held_out=0)
    try:
        config = registry.preset(agent, probe).config
    finally:
        probe.close()
    train = TrainOptions(num_envs=registry.preset(agent, probe).num_envs)
    parts: list[Any] = [
        ("train", OmitArgPrefixes[TrainOptions], field(default=train)),
        ("options", OmitArgPrefixes[EnvOptions], field(default=EnvOptions())),
        ("common", OmitArgPrefixes[_Common], field(default=_Common())),
    ]
    if not isinstance(config, RandomConfig):
        flat: Any = OmitArgPrefixes
        parts.append(("config", flat[type(config)], field(default=config)))
    return make_dataclass("TrainArguments", parts, frozen=True)


def _train(session: Session, as_json: bool) -> int:
    made = session.run
    session.run_to_end()
    status = made.status()
    if as_json:
        evaluations = made.evaluations()
        print_json({"run": str(made.path), **asdict(status), "evaluations": evaluations})
    else:
        score = status.score
        shown = "not evaluated" if score is None else f"mean return {score:.1f} in evaluation"
        print(f"{made.path}: {status.env_steps:,} {session.config.train.unit}, {shown}")
        print(f"learning curves: {tensorboard()} --logdir {made.path}")
    return 0
