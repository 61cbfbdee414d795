"""Train agents for equal env steps or time under one protocol, and collect their held-out games.

Each training has its own run folder and its own process. An interrupted comparison can be continued
by the same call: finished runs are reused, and unfinished runs are resumed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ludus.agents import registry
from ludus.agents.sb3_config import SB3Config
from ludus.comparison.analysis import finding
from ludus.comparison.groups import Group, Training, group_trainings, score_agents
from ludus.comparison.jobs import Job, make_executor, run_jobs
from ludus.comparison.search_space import grid
from ludus.envs.errors import ConfigError, EnvError, FormatError, RunError
from ludus.envs.make import EnvOptions, make
from ludus.envs.trust import consent_arguments, modules_of, trust_modules
from ludus.evaluation.evaluate import evaluate
from ludus.training.checkpoint import check_resumable
from ludus.training.device import device_of
from ludus.training.distinguish import LEARNING_OPTIONS
from ludus.training.logger import Episodes
from ludus.training.provenance import commit, versions
from ludus.training.run import Run, RunConfig, TrainOptions, all_runs
from ludus.training.train import nothing_left

# a resume may change these of a run, and the run still counts as a training with its config
_HARMLESS = {
    "ray",
    "hosts",
    "patience",
    "until",
    "device",
    "log_every",
    "log",
    "video_every",
    "checkpoint_seconds",
    "keep_checkpoints",
} | {
    *("eval_every", "eval_episodes", "eval_epsilon", "eval_max_episode_steps"),
}
_NAMED_SETTINGS = 3  # the most that a name lists


@dataclass(frozen=True)
class Plan:
    """Agents, envs and protocol of a comparison."""

    envs: Sequence[str]
    """env ids"""
    agents: Sequence[str]
    """names of presets, see `ludus list agents`"""
    steps: int
    """env steps of each training"""
    minutes: float
    """minutes after which a training ends before that, without evaluations; 0 for no limit"""
    seeds: int
    """number of trainings of each agent on each env"""
    first_seed: int
    """seed of the first of these; each further one is 1 higher"""
    episodes: int
    """number of held-out games after each training"""
    epsilon: float
    """probability of a random action in the held-out games"""
    options: EnvOptions
    """changes to the protocol"""
    runs: Sequence[Path]
    """folders of finished runs that are added to the comparison"""
    root: Path
    """folder in which run folders are created and searched"""
    device: str
    """auto, cpu, cuda or mps"""
    jobs: int
    """maximum number of trainings in parallel; 0 for one per core, as far as memory allows"""
    quiet: bool
    """show no progress"""
    grid: Sequence[str] = ()
    """`field=a,b,c` each: every agent is trained with each combination of these values"""
    ray: str | None = None
    """run the trainings on a Ray cluster: auto, local or host:port; None: on this machine"""
    configs: Sequence[RunConfig] = ()
    """further trainings, of any configuration"""


@dataclass(frozen=True)
class _Entry:
    """One run of a comparison."""

    run: Run
    reused: bool
    """whether it had finished before this comparison"""


def compare(plan: Plan) -> tuple[list[Training], list[str]]:
    """Run the missing trainings of a comparison.

    Returns:
        All trainings, and a sentence on each training that failed.

    Raises:
        RunError, EnvError, ConfigError: The plan is invalid. Raised before any training starts.
        KeyboardInterrupt: After all trainings have stopped and, where possible, saved.
    """
    device = device_of(plan.device).type
    if plan.ray is not None:  # other machines have another working folder
        plan = replace(plan, root=plan.root.absolute())
    for env_id in plan.envs:  # the caller named them
        trust_modules(modules_of(env_id, plan.options.wrapper))
    configs = [*_training_configs(plan, device), *plan.configs]
    existing = _readable_runs(plan.root)
    added = _added_runs(plan)
    jobs, entries = [], list[_Entry]()
    for config in configs:
        run, finished = _find_run(config, existing)
        run = run or Run.create(plan.root, config)
        if not finished:
            command = ["train", "--resume", str(run.path), "--quiet", *_consent(config)]
            jobs.append(Job(run, config, command, trains=True))
        entries.append(_Entry(run, reused=finished))
    planned = {entry.run.path.resolve() for entry in entries}
    entries += [entry for entry in added if entry.run.path.resolve() not in planned]
    replays = {
        entry.run.path: _evaluation_job(entry.run, plan)
        for entry in entries
        if entry.reused and not _has_games(entry.run, plan)
    }
    first = [*jobs, *replays.values()]
    if first:
        executor = make_executor(plan.ray, plan.jobs, len(first), device)
        run_jobs(first, executor, len(entries), quiet=plan.quiet)
    # A resumed training plays the games of the options it was created with, which may be others.
    trained = [job.run for job in jobs if not job.error]
    late = {run.path: _evaluation_job(run, plan) for run in trained if not _has_games(run, plan)}
    second = list(late.values())
    if second:
        executor = make_executor(plan.ray, plan.jobs, len(second), device)
        run_jobs(second, executor, len(entries), quiet=plan.quiet)
    replays |= late
    failures = {job.run.path: f"{job.name}: {job.error}" for job in first + second if job.error}
    trainings = [
        _read_training(entry, plan, replays.get(entry.run.path))
        for entry in entries
        if entry.run.path not in failures
    ]
    sentences = list(failures.values())
    for env_id in plan.envs if "random" in plan.agents else ():
        try:
            trainings += list(_random_trainings(plan, env_id))
        except EnvError as error:
            sentences.append(f"random on {env_id}: {error}")
    return _distinguish_agents(trainings), sentences


def _added_runs(plan: Plan) -> list[_Entry]:
    """Open the finished runs that the plan adds, each once."""
    runs = {run.path.resolve(): run for run in map(Run.open, plan.runs)}
    entries = [_Entry(run, reused=True) for run in runs.values()]
    for entry in entries:
        if entry.run.status().state != "finished":
            raise RunError(f"{entry.run.path} is not finished; resume it or leave it out")
    return entries


def _evaluation_job(run: Run, plan: Plan) -> Job:
    """Return a job that plays held-out games with a finished run."""
    command = ["evaluate", str(run.path), "--episodes", str(plan.episodes), "--json"]
    command += ["--epsilon", str(plan.epsilon), "--device", plan.device]
    config = run.config()
    return Job(run, config, [*command, *_consent(config)])


def _consent(config: RunConfig) -> list[str]:
    """Return the arguments that let the process of a job import what this one may."""
    return consent_arguments(config.env, config.imported)


def _distinguish_agents(trainings: list[Training]) -> list[Training]:
    """Rename agents of one name with several configurations on an env by their differences.

    Where these are too many for a name, it is that of the first run with the configuration.
    """
    variants: dict[tuple[str, str], list[Training]] = {}
    for t in trainings:
        firsts = variants.setdefault((t.env, t.agent), [])
        if all(t.settings != first.settings for first in firsts):
            firsts.append(t)
    renamed = []
    for t in trainings:
        firsts = variants[t.env, t.agent]
        first = next(each for each in firsts if each.settings == t.settings)
        every = [each.settings for each in firsts]
        keys = [k for k in t.settings if any(s.get(k) != every[0].get(k) for s in every)]
        name = ", ".join(f"{k} {t.settings[k]}" for k in keys)
        if len(keys) > _NAMED_SETTINGS and first.run is not None:
            short = [Path(each.run).name for each in firsts if each.run is not None]
            name = f"as {first.run if len(set(short)) < len(short) else Path(first.run).name}"
        renamed.append(replace(t, agent=f"{t.agent} ({name})") if keys else t)
    return renamed


def _training_configs(plan: Plan, device: str) -> list[RunConfig]:
    """Return the config of each training.

    The loop over seeds is the outermost, so that early results include all agents and envs. Unknown
    agents, envs and options raise an error here.
    """
    configs = []
    for env_id in plan.envs:
        env = make(env_id, 1, 0, plan.options)
        try:
            for agent in plan.agents:
                preset = registry.preset(agent, env)
                if agent == "random":
                    continue
                options = TrainOptions(
                    steps=plan.steps,
                    minutes=plan.minutes,
                    num_envs=preset.num_envs,
                    device=device,
                    eval_episodes=plan.episodes,
                    eval_epsilon=plan.epsilon,
                )
                configs += [
                    RunConfig(agent, env_id, options, plan.options, config, env.protocol)
                    for config in _grid(agent, preset.config, plan.grid)
                ]
        finally:
            env.close()
    return [
        replace(config, train=replace(config.train, seed=seed))
        for seed in range(plan.first_seed, plan.first_seed + plan.seeds)
        for config in configs
    ]


def _grid(agent: str, config: Any, axes: Sequence[str]) -> list[Any]:
    try:
        return grid(config, axes)
    except ConfigError as error:
        raise ConfigError(f"{agent}: {error}") from error


def _readable_runs(root: Path) -> list[tuple[Run, RunConfig]]:
    """Return the runs under root with their configs."""
    runs = []
    for run in all_runs(root):
        try:
            config = run.config()
            if not run.changed() - _HARMLESS:  # else it is no training with this config alone
                runs.append((run, config))
        except RunError:  # e.g. a run of another version
            continue
    return runs


def _find_run(wanted: RunConfig, runs: list[tuple[Run, RunConfig]]) -> tuple[Run | None, bool]:
    """Find a run with the wanted config.

    Returns:
        A finished run, else one that can be resumed or waited for, else None; and whether it has
        finished.
    """
    matching = [run for run, config in runs if _is_equivalent(config, wanted)]
    states = {run.path: run.status().state for run in matching}
    for run in matching:
        if states[run.path] == "finished" and nothing_left(run, run.config()):
            return run, True  # and not one that a callback ended
    resumable = ["waiting", "running"]
    if not isinstance(wanted.config, SB3Config):  # a stopped SB3 run cannot be resumed
        resumable.append("stopped")
    for run in matching:
        if states[run.path] in resumable and _is_resumable(run):
            return run, False
    return None, False


def _is_resumable(run: Run) -> bool:
    """Return whether this version of Ludus can continue from the checkpoints of a run."""
    try:
        check_resumable(run.checkpoints)
    except FormatError:
        return False
    return True


def _is_equivalent(run: RunConfig, wanted: RunConfig) -> bool:
    """Return whether two configs lead to the same training.

    Options of logging, evaluation and checkpoints do not matter.
    """
    w = wanted.train
    train = replace(
        run.train,
        ray=w.ray,
        hosts=w.hosts,
        patience=w.patience,
        log_every=w.log_every,
        log=w.log,
        video_every=w.video_every,
        eval_every=w.eval_every,
        eval_episodes=w.eval_episodes,
        eval_epsilon=w.eval_epsilon,
        eval_max_episode_steps=w.eval_max_episode_steps,
        checkpoint_seconds=w.checkpoint_seconds,
        keep_checkpoints=w.keep_checkpoints,
    )
    return replace(run, train=train) == wanted


def _has_games(run: Run, plan: Plan) -> bool:
    """Return whether the final evaluation of a run has the games that the plan asks for."""
    evaluations, config = run.evaluations(), run.config()
    final = bool(evaluations) and evaluations[-1]["env_steps"] >= run.status().env_steps
    return (
        final
        and len(evaluations[-1]["returns"]) == plan.episodes
        and config.train.eval_epsilon == plan.epsilon
    )


def _read_training(entry: _Entry, plan: Plan, replay: Job | None) -> Training:
    """Read the results of a run.

    Args:
        entry: the run.
        plan: plan of the comparison.
        replay: job that played the held-out games; None if the run's own evaluation is used.
    """
    run, config, status = entry.run, entry.run.config(), entry.run.status()
    stored = json.loads((run.path / "config.json").read_text())
    games = run.evaluations()[-1] if replay is None else json.loads(replay.output)
    options = {k: stored["train"][k] for k in LEARNING_OPTIONS if k in stored["train"]}
    return Training(
        env=config.env,
        agent=config.agent,
        seed=config.train.seed,
        run=str(run.path),
        steps=config.train.steps,
        minutes=config.train.minutes,
        done=status.env_steps,
        returns=games["returns"],
        lengths=games["lengths"],
        episodes=Episodes.read(run.path / "episodes.csv"),
        seconds=status.seconds,
        protocol=config.protocol | {"epsilon": plan.epsilon, "episodes": plan.episodes},
        settings=stored["config"] | options,
        versions=stored["versions"],
        commit=stored["commit"],
        reused=entry.reused,
    )


def _random_trainings(plan: Plan, env_id: str) -> Iterator[Training]:
    """Play held-out games with the random agent, one set for each seed."""
    env = make(env_id, 1, 0, plan.options)
    try:
        config, protocol = registry.preset("random", env).config, env.protocol
        for seed in range(plan.first_seed, plan.first_seed + plan.seeds):
            agent = registry.build(
                config, env, device=device_of("cpu"), seed=seed, steps=plan.steps, training=False
            )
            games = evaluate(
                agent, env_id, plan.options, episodes=plan.episodes, epsilon=plan.epsilon
            )
            yield Training(
                env=env_id,
                agent="random",
                seed=seed,
                run=None,
                steps=0,
                minutes=0.0,
                done=0,
                returns=games.returns,
                lengths=games.lengths,
                episodes=np.zeros((0, 4)),
                seconds=None,
                protocol=protocol | {"epsilon": plan.epsilon, "episodes": plan.episodes},
                settings={},
                versions=versions(),
                commit=commit(),
                reused=False,
            )
    finally:
        env.close()


def tables(trainings: Sequence[Training]) -> Iterator[Table]:
    """Yield a table for the terminal, at most 80 columns wide, for each group of trainings."""
    for group in group_trainings([t for t in trainings if t.returns]):
        yield _table(group)


def _table(group: Group) -> Table:
    rom = group.protocol.get("rom")
    rows, interval_over = [], set()
    for row in score_agents(group):
        agent, trainings = row.agent, group.agents[row.agent]
        score = row.score
        interval_over.add(score.over)
        cells = [agent, f"{score.mean:.1f}", f"{score.iqm:.1f}"]
        cells += [f"{score.low:.1f} to {score.high:.1f}"]
        if rom is not None:
            cells.append("-" if row.human is None else f"{100 * row.human:.1f}%")
        rates = [t.done / t.seconds for t in trainings if t.seconds]
        cells.append(f"{np.mean(rates):.0f}" if rates else "-")
        rows.append(cells)
    caption = "95% bootstrap interval of the interquartile mean (IQM), "
    caption += f"over {', '.join(sorted(interval_over))}"
    if rom is not None:
        caption += "; human: (mean - random) / (human - random)"
    caption = f"{caption}. {finding(group)}".strip()
    table = Table(title=group.label, title_justify="left", caption=caption, caption_justify="left")
    columns = ["agent", "mean", "IQM", "95% interval", *(["human"] if rom else []), "steps/s"]
    for name in columns:
        table.add_column(name, justify="left" if name == "agent" else "right", no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    return table
