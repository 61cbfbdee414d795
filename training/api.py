"""The Python API: train, resume, load and save agents, play games with them, read their numbers."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ludus.agents import registry
from ludus.agents.agent import AgentConfig, AnyAgent
from ludus.envs.env_object import PREFIX, PassedEnv, env_name
from ludus.envs.errors import RunError
from ludus.envs.make import EnvOptions
from ludus.envs.only_with import check_effect
from ludus.envs.trust import trust_modules, trust_programs
from ludus.evaluation.evaluate import Evaluation
from ludus.evaluation.evaluate import evaluate as play_games
from ludus.evaluation.perturbation import parse_perturbation, perturbed_frame, perturber
from ludus.evaluation.video import SUFFIXES, Overlay, Recording
from ludus.evaluation.video import record as record_game
from ludus.networks.names import PASSED
from ludus.networks.own import OwnNetwork, network_name
from ludus.training.callbacks import Callback, check_callbacks
from ludus.training.film import film_title
from ludus.training.follower import Follower
from ludus.training.logger import Episodes
from ludus.training.run import Run, TrainOptions
from ludus.training.session import Session, console
from ludus.training.settings import Settings
from ludus.training.train import (
    changed_config,
    load_saved,
    nothing_left,
    preset,
    resume_session,
    saved_config,
    start_session,
)
from ludus.training.trained_agent import TrainedAgent


def train(
    agent: str,
    env: str | PassedEnv,
    *,
    steps: int = 100_000,
    seed: int = 0,
    config: AgentConfig | None = None,
    options: EnvOptions | None = None,
    train_options: TrainOptions | None = None,
    callbacks: Sequence[Callback] = (),
    root: Path | str = "runs",
    quiet: bool = False,
    **settings: Any,
) -> TrainedAgent:
    """Train an agent on an env and return it.

        ludus.train("dqn", "CartPole-v1", steps=50_000, learning_rate=1e-3, num_envs=4)

    Args:
        agent: name of a preset, see `ludus.list_agents`.
        env: env, see `ludus.make`; with a data set the env of the evaluations, "" for the data
            set's own.
        steps: env steps; updates with a data set.
        seed: of everything random.
        config: replaces the preset's configuration.
        options: changes to the env's protocol.
        train_options: further options; their `steps` and `seed` are ignored.
        callbacks: called during the training, see `ludus.Callback`.
        root: folder in which run folders are made.
        quiet: show no progress.
        settings: fields of the agent's configuration, of `TrainOptions` and of `EnvOptions`, as on
            the command line; `env_kwargs` may be a dictionary, and `wrapper` a list of classes.
            `network` is an `nn.Module`, or a class or function that gets the observation space
            and returns one, in place of the encoder: from observations [N, *obs] to [N, dim].

    Raises:
        ConfigError: there is no such agent or setting, or a value cannot work.
        EnvError: there is no such env, or it breaks.
    """
    known = (
        config is None or agent in registry.names()
    )  # a configuration may have a name of its own
    check_callbacks(callbacks)
    env, given = env_name(env), Settings(settings)
    options = given.apply(options or EnvOptions())
    chosen = given.apply(train_options or TrainOptions())
    chosen = Settings({"steps": steps, "seed": seed}).apply(chosen)
    if known and (config is None or train_options is None):
        presets = preset(agent, env, chosen.dataset, options)
        config = config or presets.config
        if train_options is None and "num_envs" not in settings:
            chosen = replace(chosen, num_envs=presets.num_envs)
    assert config is not None
    base, config = config, given.apply(config)
    check_effect(config, base)
    given.require_used(agent, (config, chosen, options))
    return _run(
        start_session(
            agent, env, chosen, options, config, Path(root), callbacks=callbacks, quiet=quiet
        )
    )


def resume(
    path: Path | str,
    env: PassedEnv | None = None,
    *,
    network: OwnNetwork | None = None,
    modules: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    **settings: Any,
) -> TrainedAgent:
    """Continue a training from its newest checkpoint and return its agent.

        ludus.resume("runs/CartPole-v1/dqn/0-20261121-031500", steps=200_000)

    Args:
        path: the run's folder.
        env: the env, if it was passed to `train` as an object, or as a class without a name that
            can be imported.
        network: the network, if it was passed to `train` and cannot be imported by its name.
        modules: Python modules that the run may name, see `load`.
        callbacks: called during the training, see `ludus.Callback`.
        quiet: show no progress.
        settings: new values, as for `train`, which are kept in the run's `config.json`: `steps` or
            `minutes` train a finished run further, `device` moves it to another device, where it
            goes on from the same state but not bit for bit. What decides which games there are
            (the env's protocol, `seed`, `num_envs`) cannot change, nor the shapes of weights.

    Raises:
        EnvError: the run names another module; its env was passed and is not passed now, or does
            not lead to the same observations again.
        RunError: the path is no run, or one that cannot be resumed.
        ConfigError: there is no such setting, or a value cannot work.
    """
    trust_modules(modules)
    check_callbacks(callbacks)
    run = Run.open(path)
    if env is not None:
        env_name(env, run.config().env)
    _pass_again(run.path, network)
    finished = nothing_left(run, changed_config(run.config(), settings))
    if finished:
        if not quiet:
            console.print(finished)
        return load(run.path, env, network=network)
    return _run(resume_session(run, settings, callbacks=callbacks, quiet=quiet))


def _pass_again(path: Path | str, network: OwnNetwork | None) -> None:
    """Make a network known under the name that a run has for it.

    Raises:
        RunError: the run knows its network by a name that can be imported, or has one of ours.
    """
    if network is None:
        return
    name = getattr(saved_config(path).config, "encoder", "")
    if not name.startswith(PASSED):
        raise RunError(f"{path} has the encoder {name}; leave network out")
    network_name(network, name)


def _run(session: Session | Follower) -> TrainedAgent:
    agent = session.run_to_end()
    return TrainedAgent(agent, session.config, agent.env_steps, session.run)


def load(
    path: Path | str,
    env: PassedEnv | None = None,
    *,
    network: OwnNetwork | None = None,
    device: str = "cpu",
    simulations: int = 0,
    modules: Sequence[str] = (),
) -> TrainedAgent:
    """Load an agent, to act with `predict`.

    Args:
        path: a run's folder, `RUN@ENV_STEPS` for one of its earlier checkpoints, or a file that
            `TrainedAgent.save` wrote.
        env: the env, if it was passed to `train`, see `resume`.
        network: the network, if it was passed to `train` and cannot be imported by its name.
        device: auto, cpu, cuda or mps.
        simulations: simulations per move of an agent that searches; 0 for its own number.
        modules: Python modules that the run may name in its env id and its wrappers; they are
            imported.

    Raises:
        EnvError: the run names another module; its env was passed and is not passed now.
        RunError: there is no agent at that path, or it does not search.
    """
    _pass_again(path, network)
    found = load_saved(path, env, device=device, simulations=simulations, modules=modules)
    return TrainedAgent(found.agent, found.config, found.env_steps, found.run)


def evaluate(
    agent: TrainedAgent | Path | str,
    env: str | PassedEnv | None = None,
    *,
    episodes: int = 20,
    seed: int = 0,
    epsilon: float = 0.0,
    perturb: str | None = None,
    **settings: Any,
) -> Evaluation:
    """Play full held-out games with the deterministic policy.

    Args:
        agent: the agent, or where to load it from.
        env: env; None for that of its training.
        episodes: number of games, which training never plays.
        seed: of the set of games.
        epsilon: probability of a random action.
        perturb: change of what the agent observes, as "fgsm:2", "noise:4" or "shift:2"; the games
            are the same as without it.
        settings: changes to the protocol, as for `train`, such as `opponent="mcts:100"`.

    Returns:
        The games' `returns` and `lengths`, and their `mean`.

    Raises:
        ConfigError: there is no such perturbation, or it does not suit the agent or the env.
    """
    _check_games(seed, epsilon, episodes, "episodes")
    parsed = None if perturb is None else parse_perturbation(perturb)
    trust_programs([str(settings.get("opponent"))])
    player, env_id, options = _player(agent, env, settings)
    change = None
    if parsed is not None:
        change = perturber(parsed, player, perturbed_frame(env_id, options))
    return play_games(
        player, env_id, options, episodes=episodes, seed=seed, epsilon=epsilon, perturb=change
    )


def record(
    agent: TrainedAgent | Path | str,
    path: Path | str,
    env: str | PassedEnv | None = None,
    *,
    seed: int | None = None,
    epsilon: float = 0.0,
    max_steps: int = 2_000,
    overlay: Overlay = "gradient",
    panel: bool = True,
    **settings: Any,
) -> Recording:
    """Record a video of one held-out game.

    Args:
        agent: the agent, or where to load it from.
        path: of the video, .mp4 or .gif.
        env: env; None for that of its training.
        seed: of the game; None for the one with the median return of 5.
        epsilon: probability of a random action.
        max_steps: env steps after which the video ends.
        overlay: saliency map drawn over images: gradient, perturbation or none.
        panel: show the agent, the actions, the value and the return beside the game.
        settings: changes to the protocol, as for `train`.

    Returns:
        Return and length of the game so far, and its seed.
    """
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise RunError(f"{file} does not end in {' or '.join(SUFFIXES)}")
    if not file.parent.is_dir():
        raise RunError(f"the folder {file.parent} does not exist; create it first")
    _check_games(seed or 0, epsilon, max_steps, "max_steps")
    agent = agent if isinstance(agent, TrainedAgent) else load(agent)
    player, env_id, options = _player(agent, env, settings)
    return record_game(
        player,
        env_id,
        options,
        file,
        title=film_title(replace(agent.config, env=env_id), agent.env_steps),
        seed=seed,
        epsilon=epsilon,
        max_steps=max_steps,
        overlay=overlay,
        panel=panel,
    )


def _player(
    agent: TrainedAgent | Path | str, env: str | PassedEnv | None, settings: dict[str, Any]
) -> tuple[AnyAgent, str, EnvOptions]:
    """Return an agent with the env and the protocol that it plays."""
    if isinstance(agent, TrainedAgent):
        found = agent
    else:
        passed = saved_config(agent).env.startswith(PREFIX) and not isinstance(env, str)
        found = load(agent, env if passed else None)  # type: ignore[arg-type]  # no id
    c, given = found.config, Settings(settings)
    env_id = c.env if env is None else env_name(env)
    options = given.apply(c.options if env_id == c.env else EnvOptions())
    given.require_used(c.agent, (options,))
    return found.algorithm, env_id, options


def _check_games(seed: int, epsilon: float, count: int, name: str) -> None:
    """Refuse numbers that no games can be played with.

    Raises:
        RunError: one is out of bounds.
    """
    for what, value, low, high in [
        ("seed", seed, 0, 1 << 40),
        ("epsilon", epsilon, 0, 1),
        (name, count, 1, math.inf),
    ]:
        whole = what == "epsilon" or isinstance(value, int | np.integer)
        if not whole or not low <= value <= high:
            kind = "" if what == "epsilon" else "a whole number "
            raise RunError(f"{what} is {value}; it must be {kind}from {low} to {high}")


class FinishedGames(NamedTuple):
    """The finished games of a training, in their order."""

    env_steps: np.ndarray  # [games] of the whole training, at the end of the game
    seconds: np.ndarray  # [games] of training, without evaluations
    returns: np.ndarray  # [games] unclipped
    lengths: np.ndarray  # [games] env steps


class Curve(NamedTuple):
    """One curve of TensorBoard."""

    env_steps: np.ndarray  # [points]
    values: np.ndarray  # [points]


def episodes(run: TrainedAgent | Run | Path | str) -> FinishedGames:
    """Return the finished games of a run.

    Raises:
        RunError: there is no run, or it has no log yet.
    """
    folder = folder_of(run)
    try:
        columns = Episodes.read(folder / "episodes.csv").T
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} has no log that can be read: {error}") from error
    return FinishedGames(columns[0].astype(int), columns[1], columns[2], columns[3].astype(int))


def scalars(run: TrainedAgent | Run | Path | str) -> dict[str, Curve]:
    """Return the curves of a run's TensorBoard log by their tags, such as `train/loss`.

    Raises:
        RunError: there is no run.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder_of(run)), size_guidance={"scalars": 0, "tensors": 0})
    log.Reload()
    curves = {}
    for tag in log.Tags()["scalars"]:
        points = log.Scalars(tag)
        steps, values = [p.step for p in points], [p.value for p in points]
        curves[tag] = Curve(np.array(steps, int), np.array(values, float))
    return curves


def folder_of(run: TrainedAgent | Run | Path | str) -> Path:
    """Return the folder of a run.

    Raises:
        RunError: there is none.
    """
    if isinstance(run, TrainedAgent):
        if run.run is None:
            raise RunError(f"{run!r} was loaded from a file, which has no log")
        return run.run.path
    return Run.open(run.path if isinstance(run, Run) else run).path
