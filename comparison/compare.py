"""Train agents for the same steps under the same protocol, several at once, and gather their games.

Each training is a run folder of its own and a process of its own. So a comparison that was
interrupted goes on where it stood: what has finished is taken as it is, what had begun is resumed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ludus.agents import presets
from ludus.agents.sb3 import SB3Config
from ludus.comparison.aggregates import human_normalised, summarise
from ludus.comparison.groups import Group, Training, group_trainings
from ludus.comparison.jobs import Job, room, run_all
from ludus.envs.errors import EnvError, RunError
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.evaluate import evaluate
from ludus.training.logger import Episodes
from ludus.training.run import Run, RunConfig, TrainOptions, all_runs, commit, versions
from ludus.training.train import device_of

_LEARNING = ("num_envs", "init_from", "rivals", "dataset")  # options that change what is learned


@dataclass(frozen=True)
class Plan:
    """What is compared, and how."""

    envs: Sequence[str]  # env ids
    agents: Sequence[str]  # presets' names, see `ludus list agents`
    steps: int  # env steps of each training
    seeds: int  # trainings of each agent on each env
    episodes: int  # held-out games after each training, the same for all
    epsilon: float  # probability of a random action in those games
    options: EnvOptions  # changes to the protocol
    runs: Sequence[Path]  # finished runs that are taken in as they are
    root: Path  # where run folders are made and looked for
    device: str  # auto, cpu or cuda
    jobs: int  # trainings at once; 0 for as many as the machine has room for
    quiet: bool  # no progress


def compare(plan: Plan) -> tuple[list[Training], list[str]]:
    """Train what is missing and return every training, and a sentence on each that failed.

    Raises:
        RunError, EnvError, ConfigError: what is asked for cannot be; before any work.
        KeyboardInterrupt: with all trainings stopped, and saved where that can be.
    """
    device = device_of(plan.device).type
    wanted, found = _configs(plan, device), _finished(plan.root)
    once = {run.path.resolve(): run for run in map(Run.open, plan.runs)}
    given = [(run, run.config(), True) for run in once.values()]
    for other, _, _ in given:
        if other.status().state != "finished":
            raise RunError(f"{other.path} is not finished; go on with it or leave it out")
    jobs, trained = [], list[tuple[Run, RunConfig, bool]]()
    for config in wanted:
        run, over = _match(config, found)
        if run is not None and over:
            trained.append((run, config, True))
            continue
        run = run or Run.create(plan.root, config)
        jobs.append(
            Job(run, config, ["train", "--resume", str(run.path), "--quiet"], config.train.steps)
        )
        trained.append((run, config, False))
    taken = {run.path.resolve() for run, _, _ in trained}
    trained += [one for one in given if one[0].path.resolve() not in taken]
    replayed = {
        run.path: _games(run, plan)
        for run, _, reused in trained
        if reused and not _has_games(run, plan)
    }
    work = [*jobs, *replayed.values()]
    run_all(work, plan.jobs or room(len(work), device), len(trained), quiet=plan.quiet)
    # a training that was gone on with has played the games that it was begun with
    ended = [job.run for job in jobs if not job.failed]
    late = {run.path: _games(run, plan) for run in ended if not _has_games(run, plan)}
    others = list(late.values())
    run_all(others, plan.jobs or room(len(late), device), len(trained), quiet=plan.quiet)
    replayed |= late
    failed = {job.run.path: f"{job.name}: {job.failed}" for job in work + others if job.failed}
    results = [
        _gather(run, reused, plan, replayed.get(run.path))
        for run, _, reused in trained
        if run.path not in failed
    ]
    sentences = list(failed.values())
    for env_id in plan.envs if "random" in plan.agents else ():
        try:
            results += list(_random(plan, env_id))
        except EnvError as error:
            sentences.append(f"random on {env_id}: {error}")
    return _told_apart(results), sentences


def _games(run: Run, plan: Plan) -> Job:
    """Play held-out games with a finished run."""
    words = ["evaluate", str(run.path), "--episodes", str(plan.episodes), "--json"]
    words += ["--epsilon", str(plan.epsilon), "--device", plan.device]
    return Job(run, run.config(), words)


def _told_apart(trainings: list[Training]) -> list[Training]:
    """One agent of two configurations on the same env is two agents, named by what differs."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for t in trainings:
        alike = kinds.setdefault((t.env, t.agent), [])
        if t.settings not in alike:
            alike.append(t.settings)
    named = []
    for t in trainings:
        alike = kinds[t.env, t.agent]
        differ = [k for k in t.settings if any(s.get(k) != alike[0].get(k) for s in alike)]
        more = ", ".join(f"{k} {t.settings[k]}" for k in differ)
        named.append(replace(t, agent=f"{t.agent} ({more})") if more else t)
    return named


def _configs(plan: Plan, device: str) -> list[RunConfig]:
    """What each training would be started with; seeds outermost, so that early results are of all.

    An unknown agent, env or option is refused here.
    """
    made = []
    for env_id in plan.envs:
        probe = make(env_id, 1, 0, plan.options)
        try:
            for agent in plan.agents:
                config = presets.preset(agent, probe)
                if agent == "random":
                    continue
                t = TrainOptions(
                    steps=plan.steps,
                    num_envs=presets.num_envs(agent, presets.family(probe)),
                    device=device,
                    eval_episodes=plan.episodes,
                    eval_epsilon=plan.epsilon,
                )
                made.append(RunConfig(agent, env_id, t, plan.options, config, probe.protocol))
        finally:
            probe.close()
    return [
        replace(config, train=replace(config.train, seed=seed))
        for seed in range(plan.seeds)
        for config in made
    ]


def _finished(root: Path) -> list[tuple[Run, RunConfig]]:
    """All runs under root whose config can be read."""
    found = []
    for run in all_runs(root):
        try:
            found.append((run, run.config()))
        except RunError:  # of another version
            continue
    return found


def _match(wanted: RunConfig, found: list[tuple[Run, RunConfig]]) -> tuple[Run | None, bool]:
    """A run that is what is wanted and has finished; else one that can be gone on with."""
    alike = [run for run, config in found if _same(config, wanted)]
    states = {run.path: run.status().state for run in alike}
    for run in alike:
        if states[run.path] == "finished":
            return run, True
    own = not isinstance(wanted.config, SB3Config)
    for run in alike:
        if states[run.path] in ("waiting", "running") or (own and states[run.path] == "stopped"):
            return run, False
    return None, False


def _same(run: RunConfig, wanted: RunConfig) -> bool:
    """Whether a run learned as is wanted; how often it logged and was evaluated is no matter."""
    w = wanted.train
    learned = replace(
        run.train,
        log_every=w.log_every,
        video_every=w.video_every,
        eval_every=w.eval_every,
        eval_episodes=w.eval_episodes,
        eval_epsilon=w.eval_epsilon,
        checkpoint_seconds=w.checkpoint_seconds,
        keep_checkpoints=w.keep_checkpoints,
    )
    return replace(run, train=learned) == wanted


def _has_games(run: Run, plan: Plan) -> bool:
    """Whether a run's last evaluation is of as many held-out games as are asked for."""
    played, config = run.evaluations(), run.config()
    over = bool(played) and played[-1]["env_steps"] >= config.train.steps
    return (
        over
        and len(played[-1]["returns"]) == plan.episodes
        and config.train.eval_epsilon == plan.epsilon
    )


def _gather(run: Run, reused: bool, plan: Plan, replayed: Job | None) -> Training:
    """All that the report says of a run."""
    config, status = run.config(), run.status()
    told = json.loads((run.path / "config.json").read_text())
    games = run.evaluations()[-1] if replayed is None else json.loads(replayed.said)
    fixed = {"epsilon": plan.epsilon, "episodes": plan.episodes}
    return Training(
        env=config.env,
        agent=config.agent,
        seed=config.train.seed,
        run=str(run.path),
        steps=config.train.steps,
        returns=games["returns"],
        lengths=games["lengths"],
        episodes=Episodes.read(run.path / "episodes.csv"),
        seconds=status.seconds,
        protocol=config.protocol | fixed,
        settings=told["config"]
        | {k: told["train"].get(k) for k in _LEARNING if k in told["train"]},
        versions=told["versions"],
        commit=told["commit"],
        reused=reused,
    )


def _random(plan: Plan, env_id: str) -> Iterator[Training]:
    """Held-out games of the player that does not learn, as many sets as there are seeds."""
    env = make(env_id, 1, 0, plan.options)
    try:
        config, protocol = presets.preset("random", env), env.protocol
        for seed in range(plan.seeds):
            player = presets.build(
                config, env, device=device_of("cpu"), seed=seed, steps=plan.steps, training=False
            )
            played = evaluate(
                player, env_id, plan.options, episodes=plan.episodes, epsilon=plan.epsilon
            )
            fixed = {"epsilon": plan.epsilon, "episodes": plan.episodes}
            yield Training(
                env=env_id,
                agent="random",
                seed=seed,
                run=None,
                steps=0,
                returns=played.returns,
                lengths=played.lengths,
                episodes=np.zeros((0, 4)),
                seconds=None,
                protocol=protocol | fixed,
                settings={},
                versions=versions(),
                commit=commit(),
                reused=False,
            )
    finally:
        env.close()


# -- the table in the terminal ------------------------------------------------------------------


def tables(trainings: Sequence[Training]) -> Iterator[Table]:
    """For each env and protocol a table of at most 80 columns."""
    for group in group_trainings([t for t in trainings if t.returns]):
        yield _table(group)


def _table(group: Group) -> Table:
    rom = group.protocol.get("rom")
    rows, over = [], set()
    for agent, mine in group.agents.items():
        games = min(len(t.returns) for t in mine)
        score = summarise(np.array([t.returns[:games] for t in mine]))
        over.add(score.over)
        cells = [agent, f"{score.mean:.1f}", f"{score.iqm:.1f}"]
        cells += [f"{score.low:.1f} to {score.high:.1f}"]
        if rom is not None:
            human = human_normalised(rom, score.iqm)
            cells.append("-" if human is None else f"{100 * human:.1f}%")
        rates = [t.steps / t.seconds for t in mine if t.seconds]
        cells.append(f"{np.mean(rates):.0f}" if rates else "-")
        rows.append(cells)
    caption = f"95% bootstrap interval of the interquartile mean (IQM), over {', '.join(over)}"
    if rom is not None:
        caption += "; human: (IQM - random) / (human - random)"
    shown = Table(title=group.label, title_justify="left", caption=caption, caption_justify="left")
    columns = ["agent", "mean", "IQM", "95% interval", *(["human"] if rom else []), "steps/s"]
    for name in columns:
        shown.add_column(name, justify="left" if name == "agent" else "right", no_wrap=True)
    for cells in rows:
        shown.add_row(*cells)
    return shown
