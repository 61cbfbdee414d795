"""`ludus train AGENT ENV` starts a training; `ludus train --resume RUN` continues one."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ludus.cli.options import (
    check_agents,
    flush_denormals,
    is_agent,
    join_repeated,
    parse,
    tensorboard,
    values_of,
)
from ludus.cli.output import named_while_slow, print_json, print_message, print_result
from ludus.envs.errors import UsageError
from ludus.envs.only_with import check_effect
from ludus.envs.trust import require_trust
from ludus.training.files import read_json

if TYPE_CHECKING:  # torch is imported only after the agent's name has been checked
    from ludus.agents.agent import AgentConfig
    from ludus.envs.make import EnvOptions
    from ludus.training.follower import Follower
    from ludus.training.run import Run, RunConfig, TrainOptions
    from ludus.training.session import Session

ABOUT = """Train AGENT on ENV in a new run folder, or go on with a run.

examples:
  ludus train dqn CartPole-v1 --steps 50000
  ludus train ppo_small PongNoFrameskip-v4 --minutes 30
  ludus train --resume latest                 go on where a training stopped
  ludus train --resume latest --steps 200000  train a finished run further
  ludus train --config my.json                options as JSON, or a run's config
  ludus train dqn --dataset FOLDER            learn from a data set: steps count
                                              updates, an ENV is for evaluation

`ludus list agents` and `ludus list envs` list all agents and envs."""


@dataclass(frozen=True)
class Common:
    """Options of a new training that the agent does not depend on."""

    run_dir: Path = Path("runs")
    """folder in which the run folder is created"""
    quiet: bool = False
    """print no progress"""
    json: bool = False
    """print one JSON object on stdout and nothing else there"""


@dataclass(frozen=True)
class _Resume:
    """Options of a resumed training that the agent does not depend on."""

    resume: str
    """run to resume: a folder, latest, or the beginning of a run's name"""
    quiet: bool = False
    """print no progress"""
    json: bool = False
    """print one JSON object on stdout and nothing else there"""


def run(argv: list[str]) -> int:
    """Train and print the score.

    After SIGINT or SIGTERM, save and exit with 130 or 143.
    """
    if any(word.split("=")[0] == "--resume" for word in argv):
        return _resume(argv)
    names: list[str] = []
    rest, file = _read_config(argv)
    while rest and not rest[0].startswith("-") and len(names) < 2:
        names.append(rest.pop(0))
    dataset = next(iter(values_of("--dataset", rest)), file.get("dataset"))
    names += [file[key] for key in ("agent", "env")[len(names) :] if key in file]
    if len(names) == 1 and dataset is not None:
        names.append("")  # the env that the data set was recorded on
    if len(names) < 2:
        if "--help" in argv or "-h" in argv:
            names = [names[0] if names else "dqn", "CartPole-v1"]
        else:
            raise UsageError(
                "train needs an agent and an env, and the options after them, as in "
                "`ludus train dqn CartPole-v1 --seed 3`, or --resume RUN, or --config FILE"
            )
    agent, env_id = names
    if is_agent(env_id) and not is_agent(agent):
        raise UsageError(f"the agent comes first: ludus train {env_id} {agent}")
    check_agents([agent])
    return _start(agent, env_id, dataset, rest, file)


def _read_config(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the words without `--config FILE`, and the settings in the file by name.

    The file is a JSON object of settings, with `agent` and `env`, or a run's config.json.

    Raises:
        UsageError: it cannot be read, or is no such object.
        EnvError: it names a module, which would be imported, and no `--modules` does.
    """
    named = values_of("--config", argv)
    if not any(word.partition("=")[0] == "--config" for word in argv):
        return list(argv), {}
    if len(named) != 1:
        raise UsageError("--config needs one file, as in `ludus train --config my.json`")
    at = next(i for i, word in enumerate(argv) if word.partition("=")[0] == "--config")
    rest = [*argv[:at], *argv[at + (1 if "=" in argv[at] else 2) :]]
    path = Path(named[0]) / "config.json" if Path(named[0]).is_dir() else Path(named[0])
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise UsageError(f"{path} holds no JSON object")
    if "config_type" in record:  # of a run
        parts = [record.get(name) for name in ("train", "options", "config")]
        names = {name: record.get(name) for name in ("agent", "env")}
        if not all(isinstance(part, dict) for part in parts):
            raise UsageError(f"{path} is no config.json of a run")
        record = dict(itertools.chain(names.items(), *(part.items() for part in parts if part)))
    if "network" in record:
        record["encoder"] = record.pop("network")
    if isinstance(record.get("wrapper"), str):
        record["wrapper"] = [record["wrapper"]]
    wrappers = record.get("wrapper", [])
    texts = [record.get(name, "") for name in ("agent", "env", "encoder")]
    texts.append(record.get("dataset") or "")
    if not isinstance(wrappers, list) or not all(isinstance(x, str) for x in [*texts, *wrappers]):
        raise UsageError(f"agent, env, encoder, wrapper and dataset of {path} must be text")
    require_trust(texts[1], [texts[2], *wrappers], f"the file {path}")
    return rest, record


def _resume(argv: list[str]) -> int:
    """Continue a run, with the settings that are given and not the run's own."""
    with named_while_slow("loading ..."):
        flush_denormals()
        from ludus.training.run import Run, changes
        from ludus.training.train import changed_config, nothing_left, resume_session

    named = values_of("--resume", argv)
    if len(named) != 1:
        raise UsageError("--resume needs one run, as in `ludus train --resume latest`")
    run = Run.open(named[0])
    config = run.config()
    kind = _settings_of(config.train, config.config, _Resume)
    given: Any = parse(kind, argv, command="train --resume RUN", about=ABOUT)
    wanted = replace(config, train=given.train, config=getattr(given, "config", config.config))
    settings = {name: new for name, (_, new) in changes(config, wanted).items()}
    common: _Resume = given.common
    finished = nothing_left(run, changed_config(config, settings))
    if finished:
        print_message(f"ludus: {finished}")
        return _print_score(run, config, common.json)
    return _train(resume_session(run, settings, quiet=common.quiet), common.json)


def _settings_of(train: "TrainOptions", config: "AgentConfig", common: type[Any]) -> type[Any]:
    """Return the dataclass of the options of a training and its agent, with these defaults."""
    from tyro.conf import OmitArgPrefixes

    flat: Any = OmitArgPrefixes
    parts: list[Any] = [
        ("common", flat[common]),
        ("train", flat[type(train)], field(default=train)),
    ]
    if fields(config):  # the random agent has no choices
        parts.append(("config", flat[type(config)], field(default=config)))
    return make_dataclass("ResumeArguments", parts, frozen=True)


def _start(
    agent: str, env_id: str, dataset: str | None, options: list[str], file: dict[str, Any]
) -> int:
    with named_while_slow("loading ..."):
        flush_denormals()
        from ludus.training.train import start_session

    kind = _arguments(agent, env_id, dataset, options, file)
    given: Any = parse(kind, options, command=f"train {agent} {env_id}".strip(), about=ABOUT)
    config = getattr(given, "config", None)  # the random agent has none
    if config is not None:
        check_effect(config, kind.config)
    common: Common = given.common
    session = start_session(
        agent,
        env_id,
        given.train,
        given.options,
        config,
        common.run_dir,
        quiet=common.quiet,
    )
    return _train(session, common.json)


def _env_options(words: list[str], default: "EnvOptions") -> "EnvOptions":
    """Parse the env's options, which the defaults of the agent's options depend on."""
    import contextlib
    import io

    import tyro

    from ludus.envs.make import EnvOptions

    cli: Any = tyro.cli  # its overloads do not describe return_unknown_args
    words = join_repeated(EnvOptions, [word for word in words if word not in ("-h", "--help")])
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return cli(EnvOptions, args=words, return_unknown_args=True, default=default)[0]
    except SystemExit:
        return default  # parsing the whole line reports the mistake


def _arguments(
    agent: str,
    env_id: str,
    dataset: str | None,
    words: Sequence[str] = (),
    file: Mapping[str, Any] = MappingProxyType({}),
) -> type[Any]:
    """Return the dataclass of the options of an agent on an env or a data set.

    Args:
        agent: name of the preset.
        env_id: id of the env.
        dataset: of the training, or None.
        words: the options that are given, of which the env's decide on the preset.
        file: settings that replace the preset's.
    """
    from tyro.conf import OmitArgPrefixes

    from ludus.envs.make import EnvOptions
    from ludus.training.run import TrainOptions
    from ludus.training.settings import Settings
    from ludus.training.train import preset

    given = Settings({k: value for k, value in file.items() if k not in ("agent", "env")})
    options = given.apply(EnvOptions())
    config, num_envs, _ = preset(agent, env_id, dataset, _env_options(list(words), options))
    train, config = given.apply(TrainOptions(num_envs=num_envs)), given.apply(config)
    given.require_used(agent, (train, options, config))
    parts: list[Any] = [
        ("train", OmitArgPrefixes[TrainOptions], field(default=train)),
        ("options", OmitArgPrefixes[EnvOptions], field(default=options)),
        ("common", OmitArgPrefixes[Common], field(default=Common())),
    ]
    if fields(config):  # the random agent has no choices
        flat: Any = OmitArgPrefixes
        parts.append(("config", flat[type(config)], field(default=config)))
    return make_dataclass("TrainArguments", parts, frozen=True)


def _train(session: "Session | Follower", as_json: bool) -> int:
    """Run a training to its end and print its score."""
    from ludus.training.session import Session

    session.run_to_end()
    if not isinstance(session, Session):
        return 0
    loss = session.log.latest.get("train/auxiliary_loss")
    return _print_score(session.run, session.config, as_json, loss)


def _print_score(
    run: "Run", config: "RunConfig", as_json: bool, auxiliary_loss: float | None = None
) -> int:
    """Print the score of a run; of one that learns from an auxiliary loss alone, that loss."""
    status = run.status()
    if as_json:
        evaluations = run.evaluations()
        print_json({"run": str(run.path), **asdict(status), "evaluations": evaluations})
    else:
        score = status.score
        shown = "not evaluated" if score is None else f"mean return {score:.1f} in evaluation"
        pretrained = getattr(config.config, "reward_free", False)
        if pretrained and auxiliary_loss is not None:
            shown += f", auxiliary loss {auxiliary_loss:.3g}"
        print_result(f"{run.path}: {status.env_steps:,} {config.train.unit}, {shown}")
        if pretrained:
            command = ["ludus", "train", "dqn", config.env, "--init-from", str(run.path)]
            print_result(f"go on with: {shlex.join(command)}")
        print_result(f"learning curves: {tensorboard()} --logdir {run.path}")
    return 0
