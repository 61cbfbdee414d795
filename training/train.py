"""Train an agent in a run folder, resume it bit for bit, load it to act."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from ludus.agents import registry
from ludus.agents.agent import (
    Agent,
    AgentConfig,
    AnyAgent,
    Searching,
    SelfTraining,
    Transferable,
)
from ludus.agents.ahead import ActingAhead
from ludus.agents.capture import capture
from ludus.agents.preset import Preset
from ludus.envs.board.spiel import is_game
from ludus.envs.env_object import PREFIX, PassedEnv, env_name
from ludus.envs.errors import EnvError, RunError
from ludus.envs.halves import Halves, make_halves
from ludus.envs.make import EnvOptions, make
from ludus.envs.only_with import check_effect
from ludus.envs.remote import make_remote, open_hosts
from ludus.envs.trust import modules_of, require_trust, trust_modules
from ludus.envs.vector import VectorEnv
from ludus.evaluation.rivals import Rivals
from ludus.training.agent_file import read_agent
from ludus.training.baseline import BaselineTraining
from ludus.training.callbacks import Callback
from ludus.training.checkpoint import check_resumable, write_atomically
from ludus.training.dataset import Dataset
from ludus.training.device import arithmetic, device_of
from ludus.training.find_run import at_steps
from ludus.training.follower import Follower
from ludus.training.gang import Gang, form_gang, join, own_device, run_before_restart
from ludus.training.launcher import ranks_started
from ludus.training.mode import Mode
from ludus.training.offline import OfflineTraining, evaluation_env, offline_agent
from ludus.training.online import OnlineTraining, TrainingInHalves
from ludus.training.run import Run, RunConfig, TrainOptions
from ludus.training.session import Session, console
from ludus.training.settings import Settings
from ludus.training.sinks import check_sinks
from ludus.training.transfer import sentences_without_source, transfer

# what a training that goes on cannot change: it decides which envs, games and rows there are
_FIXED = ("seed", "num_envs", "halves", "init_from", "rivals", "dataset", "held_out")


def preset(agent: str, env_id: str, dataset: str | None, options: EnvOptions) -> Preset:
    """Return the preset of an agent for an env, or for a data set in its place.

    Args:
        agent: name of the preset.
        env_id: id of the env.
        dataset: folder of `ludus collect` or a Minari id; None to learn from the env.
        options: changes to the env's protocol.
    """
    registry.entry(agent)  # a wrong name is refused before an env is made
    probe = make(env_id, 1, 0, options) if dataset is None else Dataset(dataset, held_out=0)
    try:
        return registry.preset(agent, probe)
    finally:
        probe.close()


def start_session(
    agent: str,
    env_id: str,
    train_options: TrainOptions,
    options: EnvOptions,
    config: AgentConfig | None,
    root: Path,
    *,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> Session | Follower:
    """Prepare a new training; its run folder is made last, once everything else has worked.

    Processes that `torchrun` restarts go on with the run that they had made before.

    Args:
        agent: name of a preset.
        env_id: id of the env; "" with a data set for the data set's own.
        train_options: length and circumstances of the training.
        options: changes to the env's protocol.
        config: replaces the preset's configuration.
        root: folder in which the run folder is made.
        callbacks: called during the training.
        quiet: show no progress.
    """
    device = own_device(device_of(train_options.device))
    check_sinks(train_options.log)
    t = replace(train_options, device=device.type)  # so that a resume uses the same
    network = getattr(config, "encoder", "")
    trust_modules(modules_of(env_id, (*options.wrapper, network)))  # the caller named them
    gang = form_gang(device)
    if gang.size > 1 and registry.trains_itself(agent):
        raise RunError(f"{agent} trains in one process, and torchrun started {gang.size}")
    before = run_before_restart(gang, root)
    if before is not None:
        return resume_session(before, callbacks=callbacks, quiet=quiet)
    source = _open(env_id, t, options, gang, quiet)
    try:
        chosen = registry.preset(agent, source).config if config is None else config
        sentences = [] if t.init_from is not None else sentences_without_source(chosen)
        if isinstance(source, Dataset):
            evaluation = evaluation_env(source, env_id, options)
            env_id, options = evaluation.env_id, evaluation.options
            protocol = evaluation.protocol
            t = replace(t, dataset=source.source)  # so that a resume may run in another folder
            if evaluation.missing:
                t = replace(t, eval_episodes=0, eval_every=0)
                sentences += [f"no evaluation: {evaluation.missing}"]
        else:
            protocol = source.protocol
            t = replace(t, num_envs=source.num_envs * gang.size)  # of an object, its own
        run_config = RunConfig(agent, env_id, t, options, chosen, protocol)
        mode = _make_mode(run_config, source, device, gang)
        taken = None
        if t.init_from is not None:
            if not isinstance(mode.agent, Transferable):
                raise RunError(f"{agent} cannot start from another run; leave out --init-from")
            taken = transfer(mode.agent, chosen, Run.open(t.init_from), source)
            sentences += taken.sentences()
        if not gang.leads:
            run = Run(Path(gang.rows.from_first(None)))
            return _follower(run, run_config, mode, gang, resumed=False)
        run = Run.create(root, run_config)
        if taken is not None:
            write_atomically(run.path / "transfer.json", json.dumps(taken.as_dict()))
        session = Session(run, run_config, mode, callbacks, quiet=quiet, resumed=False, gang=gang)
        gang.rows.from_first(str(run.path.absolute()))
    except BaseException:
        source.close()
        raise
    for sentence in () if quiet else sentences:
        console.print(sentence)
    return session


def changed_config(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with which a run goes on.

    Args:
        config: of the run.
        settings: new values of fields of `TrainOptions` and of the agent's configuration.

    Raises:
        RunError: one of them cannot change.
        ConfigError: there is no such setting, or a value cannot work.
    """
    for name in settings:
        if name in _FIXED or name in EnvOptions.__dataclass_fields__:
            raise RunError(f"{name} cannot change when a training goes on; start a new one")
    given = Settings(settings)
    train, agent = given.apply(config.train), given.apply(config.config)
    given.require_used(config.agent, (train, agent))
    check_effect(agent, config.config)
    if settings.keys() & {"encoder", "network"}:  # the caller named it
        trust_modules(modules_of(getattr(agent, "encoder", "")))
    if "device" in settings:
        train = replace(train, device=device_of(train.device).type)
    return replace(config, train=train, config=agent)


def _require_training(run: Run) -> None:
    """Refuse to train in a packed run.

    Raises:
        RunError: the run is packed.
    """
    if run.packed:
        raise RunError(
            f"{run.path} is packed: it has no memory and no optimizer to go on with; a new "
            "training starts from it with --init-from"
        )


def nothing_left(run: Run, config: RunConfig) -> str:
    """Return a sentence if a run has finished and `config` lets it train no further, else ""."""
    status, t = run.status(), config.train
    timed_out = bool(t.minutes) and (status.seconds or 0) >= 60 * t.minutes
    _require_training(run)
    if status.state != "finished" or not (status.env_steps >= t.end or timed_out):
        return ""
    limit = f"minutes above {t.minutes:g}, or 0 for no limit," if timed_out else "more steps"
    if not timed_out and t.end < t.steps:
        limit = f"until above {t.until:,}, or 0 for no limit,"
    return (
        f"{run.path} has finished, with {status.env_steps:,} {t.unit}; "
        f"{limit} would train it further"
    )


def resume_session(
    run: Run,
    settings: Mapping[str, Any] = MappingProxyType({}),
    *,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> Session | Follower:
    """Prepare to continue a training from its newest checkpoint, or from its start without one.

    Args:
        run: the run.
        settings: see `changed_config`.
        callbacks: called during the training.
        quiet: show no progress.
    """
    config = changed_config(run.config(), settings)
    _require_training(run)
    check_resumable(run.checkpoints, ranks_started())
    env_id = (
        config.env if config.train.dataset is None else ""
    )  # a data set makes no env but its own
    require_trust(env_id, config.imported, f"the run {run.path}")
    place = own_device(device_of(config.train.device))
    check_sinks(config.train.log)
    gang = form_gang(place)
    source = _open(config.env, config.train, config.options, gang, quiet)
    try:
        if isinstance(source, VectorEnv) and source.num_envs * gang.size != config.train.num_envs:
            raise RunError(
                f"{run.path} trains in {config.train.num_envs} envs; what was passed as "
                f"{config.env} has {source.num_envs}"
            )
        mode = _make_mode(config, source, place, gang)
        if not mode.resumable and run.status().state != "waiting":
            raise RunError(f"{run.path} is an SB3 run; it cannot be resumed, only evaluated")
        resumed = gang.rows.from_first(any(run.checkpoints.glob("[0-9]*")))
        if not resumed and config.train.init_from is not None:
            raise RunError(
                f"{run.path} started from another run's weights and saved no checkpoint; start anew"
            )
        if not gang.leads:
            return _follower(run, config, mode, gang, resumed=resumed)
        session = Session(run, config, mode, callbacks, quiet=quiet, resumed=resumed, gang=gang)
        if not resumed:
            run.stamp()  # with the lock held: another process may train in this folder
        return session
    except BaseException:
        source.close()
        raise


def _follower(run: Run, config: RunConfig, mode: Mode, gang: Gang, *, resumed: bool) -> Follower:
    assert isinstance(mode, OnlineTraining | TrainingInHalves)
    return Follower(run, config, mode, resumed=resumed, gang=gang)


def _open(
    env_id: str, t: TrainOptions, options: EnvOptions, gang: Gang, quiet: bool = True
) -> VectorEnv | Halves | Dataset:
    """Open the data set, or this rank's envs."""
    if gang.size > 1 and (t.dataset is not None or env_id.startswith(PREFIX)):
        what = "a data set" if t.dataset is not None else "an env that is an object"
        raise RunError(f"{what} is for one process, and torchrun started {gang.size}")
    if t.ray is not None and (gang.size > 1 or t.dataset is not None):
        what = "a data set" if t.dataset is not None else "torchrun"
        raise RunError(f"ray is for one process that plays in envs; leave it out with {what}")
    first = gang.first_env(t.num_envs)
    t = gang.part_of_options(t)
    if t.halves and t.dataset is not None:
        raise RunError("halves are for a training in an env; leave them out with a data set")
    if t.dataset is not None:
        return Dataset(t.dataset, t.held_out, t.seed)
    if t.ray is not None and not quiet:
        console.print("waiting for Ray's processes ...")
    hosts = None if t.ray is None else open_hosts(t.ray, t.hosts, t.patience, _warn)
    if t.halves:
        return make_halves(env_id, t.num_envs, t.seed, options, first_env=first, hosts=hosts)
    if hosts is not None:
        return make_remote(env_id, t.num_envs, t.seed, options, hosts)
    return make(env_id, t.num_envs, t.seed, options, first_env=first)


def _warn(sentence: str) -> None:
    console.print(sentence, style="yellow")


def _make_mode(
    config: RunConfig, source: VectorEnv | Halves | Dataset, device: torch.device, gang: Gang
) -> Mode:
    """Build the agent and choose how it gets its data."""
    t = config.train
    board_game = is_game(config.env) and not isinstance(source, Dataset)
    if t.rivals and not board_game:
        raise RunError(f"rivals are for board games; leave them out for {config.env}")
    if isinstance(source, Dataset):
        learner = offline_agent(config.agent, config.config, source, device, t)
        _capture(learner, t, device)
        return OfflineTraining(learner, source)
    part, seed = gang.part_of_config(config.config), gang.seed(t.seed)
    agent = registry.build(part, source, device=device, seed=seed, steps=t.steps)
    if gang.size > 1:
        join(agent, config.agent, gang)
    if isinstance(source, Halves):
        if not isinstance(agent, Agent):
            raise RunError(f"halves are not for {config.agent}; leave them out")
        ahead = ActingAhead(agent)
        _capture(agent, t, device)
        return TrainingInHalves(ahead, source)
    self_training = isinstance(agent, SelfTraining)
    if not source.resets_alone and (self_training or t.eval_max_episode_steps):
        needs = f"{config.agent} needs" if self_training else "eval_max_episode_steps needs"
        raise RunError(
            f"{config.env} has the autoreset mode NEXT_STEP, in which no env is reset alone, as "
            f"{needs} it; make it with AutoresetMode.DISABLED"
        )
    if isinstance(agent, SelfTraining):
        if t.precision != "float32" or t.deterministic or t.compile:
            raise RunError(
                f"precision, compile and deterministic are not for {config.agent}; leave them out"
            )
        return BaselineTraining(agent, source)
    _capture(agent, t, device)
    rivals = _make_rivals(config, source, device, seed) if board_game else None
    return OnlineTraining(agent, source, rivals)


def _capture(agent: Agent, t: TrainOptions, device: torch.device) -> None:
    """Replace the agent's update by a faster one, with the arithmetic of the options."""
    with arithmetic(device.type, t.precision, deterministic=t.deterministic):
        capture(agent, bfloat16=t.precision == "bfloat16", compiled=t.compile)


def _make_rivals(config: RunConfig, env: VectorEnv, device: torch.device, seed: int) -> Rivals:
    """Return the opponents of a self-play training."""
    t = config.train

    def make_past() -> Agent:
        return registry.build(
            config.config, env, device=device, seed=seed, steps=t.steps, training=False
        )

    names = t.rivals or registry.preset(config.agent, env).rivals
    return Rivals(names, config.env, env.num_envs, seed, make_past, every=t.steps // 20)


def load(
    path: Path | str,
    env: PassedEnv | None = None,
    *,
    device: str = "cpu",
    simulations: int = 0,
    config: RunConfig | None = None,
    modules: Sequence[str] = (),
) -> AnyAgent:
    """Load the agent of a run, to act with `predict`.

    Args:
        path: the run's folder, `RUN@ENV_STEPS` for one of its earlier checkpoints, or a file of
            `save_agent`.
        env: the env, if it was passed to `train`, see `ludus.resume`.
        device: auto, cpu, cuda or mps.
        simulations: simulations per move of an agent that searches; 0 for its own number.
        config: of the run, if it has been read before.
        modules: Python modules that the run may name in its env id and its wrappers; they are
            imported.

    Raises:
        EnvError: the run names another module; its env was passed and is not passed now.
        RunError: the path is no run, has no weights yet, or its agent does not search.
    """
    return load_saved(
        path, env, device=device, simulations=simulations, config=config, modules=modules
    ).agent


def open_source(config: RunConfig) -> VectorEnv | Dataset:
    """Open one env of a run, or its data set where the env is not installed; to be closed."""
    try:
        return make(config.env, 1, 0, config.options)
    except EnvError:
        if config.train.dataset is None:
            raise
        return Dataset(config.train.dataset, held_out=0, download=False)


class LoadedAgent(NamedTuple):
    """An agent that was loaded, and where it is from."""

    agent: AnyAgent
    config: RunConfig
    env_steps: int
    run: Run | None  # None for a file


def saved_config(path: Path | str) -> RunConfig:
    """Return the configuration of a run or of a file of `save_agent`."""
    folder, _ = at_steps(path)
    return read_agent(folder).config if folder.is_file() else Run.open(folder).config()


def load_saved(
    path: Path | str,
    env: PassedEnv | None = None,
    *,
    device: str = "cpu",
    simulations: int = 0,
    config: RunConfig | None = None,
    modules: Sequence[str] = (),
) -> LoadedAgent:
    """Load an agent with its configuration, see `load`."""
    trust_modules(modules)
    folder, steps = at_steps(path)
    run: Run | None = None
    if folder.is_file():
        saved, weights, steps = read_agent(folder)
        config = config or saved
    else:
        run = Run.open(folder)
        config = config or run.config()
        weights = run.newest_weights() if steps is None else run.weights_at(steps)
        steps = run.status().env_steps if steps is None else steps
    if env is not None:
        env_name(env, config.env)
    require_trust(config.env, config.imported, f"the run {folder}")
    source = open_source(config)
    try:
        agent = registry.build(
            config.config,
            source,
            device=device_of(device),
            seed=config.train.seed,
            steps=config.train.steps,
            training=False,
        )
    finally:
        source.close()
    try:
        agent.load_weights(weights)
    except RuntimeError as error:  # torch's, about names or shapes
        text = " ".join(str(error).split())
        raise RunError(f"the weights of {path} do not fit its config or env: {text}") from error
    if simulations < 0:
        raise RunError(f"simulations is {simulations}; it must be 0 or more")
    if simulations:
        if not isinstance(agent, Searching):
            raise RunError(f"{config.agent} does not search; leave simulations out for {path}")
        agent.simulations = simulations
    return LoadedAgent(agent, config, steps, run)
