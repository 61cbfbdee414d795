"""Train agents for the same steps under the same protocol and lay their scores side by side."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ludus.agents import presets
from ludus.envs.make import EnvOptions, make
from ludus.training.checkpoint import write_atomically
from ludus.training.evaluate import evaluate
from ludus.training.logger import Episodes
from ludus.training.plots import learning_curves
from ludus.training.run import TrainOptions, versions
from ludus.training.statistics import Score, human_normalised, summarise
from ludus.training.train import Session, device_of, load


@dataclass(frozen=True)
class Result:
    """One agent of a comparison."""

    agent: str
    runs: list[str]  # folders; none for an agent that does not train
    returns: list[list[float]]  # [seeds][games]
    score: Score
    human: float | None  # normalised IQM, Atari only
    steps_per_second: float | None  # of training, mean over seeds
    settings: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is compared, and how."""

    env_id: str
    agents: Sequence[str]  # presets' names, see `ludus list agents`
    steps: int  # env steps of each training
    seeds: int  # trainings of each agent
    episodes: int  # held-out games after each training, the same for all
    epsilon: float  # probability of a random action in those games
    options: EnvOptions  # changes to the protocol
    root: Path  # where run folders are made
    device: str  # auto, cpu or cuda
    quiet: bool  # no progress


def compare(plan: Plan, out: Path, say: Callable[[str], None]) -> list[Result]:
    """Train, evaluate, tabulate.

    Args:
        plan: what and how.
        out: folder of results.json and curves.png.
        say: called with a line on each stage.
    """
    probe = make(plan.env_id, 1, 0, plan.options)
    kind, protocol = presets.family(probe), probe.protocol
    configs = {a: presets.preset(a, probe) for a in plan.agents}  # refuses before any work
    probe.close()
    out.mkdir(parents=True, exist_ok=True)
    results = []
    curves: dict[str, list[np.ndarray]] = {}
    for agent, config in configs.items():
        seeds = [_one_seed(plan, agent, kind, config, seed, say) for seed in range(plan.seeds)]
        score = summarise(np.array([played for played, _ in seeds]))
        runs = [session.run.path for _, session in seeds if session]
        speeds = [session.steps_per_second for _, session in seeds if session]
        results.append(
            Result(
                agent,
                [str(run) for run in runs],
                [played for played, _ in seeds],
                score,
                human_normalised(protocol["rom"], score.iqm) if "rom" in protocol else None,
                float(np.mean(speeds)) if speeds else None,
                asdict(config),
            )
        )
        if runs:
            curves[agent] = [Episodes.read(run / "episodes.csv") for run in runs]
        _write(plan, protocol, results, out)
    levels = {r.agent: r.score.mean for r in results if not r.runs}
    trainings = "1 training each" if plan.seeds == 1 else f"{plan.seeds} trainings each"
    learning_curves(curves, levels, f"{plan.env_id}, {trainings}", out / "curves.png")
    return results


def _write(plan: Plan, protocol: dict[str, Any], results: list[Result], out: Path) -> None:
    """All that is known so far, after each agent: hours of training must not wait for the last."""
    told = {
        "env": plan.env_id,
        "protocol": protocol,
        "steps": plan.steps,
        "seeds": plan.seeds,
        "episodes": plan.episodes,
        "epsilon": plan.epsilon,
        "versions": versions(),
        "results": [asdict(result) for result in results],
    }
    write_atomically(out / "results.json", json.dumps(told, indent=2))


def _one_seed(
    plan: Plan,
    agent: str,
    kind: presets.Family,
    config: presets.Config,
    seed: int,
    say: Callable[[str], None],
) -> tuple[list[float], Session | None]:
    """The held-out scores of one training of one agent, and its session if it trains."""
    session = None
    if agent == "random":
        env = make(plan.env_id, 1, 0, plan.options)
        player: presets.AnyAgent = presets.build(
            config, env, device=device_of("cpu"), seed=seed, steps=plan.steps
        )
        env.close()
    else:
        say(f"{agent} on {plan.env_id}, seed {seed}: training for {plan.steps:,} steps")
        train_options = TrainOptions(
            steps=plan.steps,
            seed=seed,
            num_envs=presets.num_envs(agent, kind),
            device=plan.device,
            eval_episodes=0,
        )
        session = Session.start(
            agent, plan.env_id, train_options, plan.options, config, plan.root, quiet=plan.quiet
        )
        session.run_to_end()
        player = load(session.run.path, device=plan.device)
    say(f"{agent} on {plan.env_id}, seed {seed}: playing {plan.episodes} held-out games")
    played = evaluate(
        player, plan.env_id, plan.options, episodes=plan.episodes, epsilon=plan.epsilon
    )
    if session is not None:
        session.run.write_status("finished", session.agent.env_steps, played.mean)
    return played.returns, session


def table(results: Sequence[Result], title: str) -> Table:
    """The comparison as a table of at most 80 columns."""
    atari = any(r.human is not None for r in results)
    over = results[0].score.over
    caption = f"95% bootstrap interval of the interquartile mean (IQM), over {over}"
    if atari:
        caption += "; human: (IQM - random) / (human - random)"
    shown = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    columns = ["agent", "mean", "IQM", "95% interval", *(["human"] if atari else []), "steps/s"]
    for name in columns:
        shown.add_column(name, justify="left" if name == "agent" else "right", no_wrap=True)
    for r in results:
        cells = [r.agent, f"{r.score.mean:.1f}", f"{r.score.iqm:.1f}"]
        cells += [f"{r.score.low:.1f} to {r.score.high:.1f}"]
        if atari:
            cells.append("-" if r.human is None else f"{100 * r.human:.1f}%")
        cells.append("-" if r.steps_per_second is None else f"{r.steps_per_second:.0f}")
        shown.add_row(*cells)
    return shown
