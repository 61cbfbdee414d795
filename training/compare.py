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
from ludus.training.run import TrainOptions
from ludus.training.statistics import Score, human_normalised, summarise
from ludus.training.train import Session, load


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


def compare(
    env_id: str,
    agents: Sequence[str],
    *,
    steps: int,
    seeds: int,
    episodes: int,
    epsilon: float,
    options: EnvOptions,
    out: Path,
    root: Path,
    device: str,
    quiet: bool,
    say: Callable[[str], None],
) -> list[Result]:
    """Train, evaluate, tabulate; results go to `out`.

    Args:
        env_id: what is played.
        agents: presets' names, see `ludus list agents`.
        steps: env steps of each training.
        seeds: trainings of each agent.
        episodes: held-out games that each trained agent plays, the same for all.
        epsilon: probability of a random action in those games.
        options: changes to the protocol.
        out: folder of results.json and curves.png.
        root: where run folders are made.
        device: auto, cpu or cuda.
        quiet: no progress.
        say: called with a line on each stage.
    """
    probe = make(env_id, 1, 0, options)
    protocol = probe.protocol
    configs = {agent: presets.preset(agent, probe) for agent in agents}  # refuses before any work
    kind = presets.family(probe)
    probe.close()
    out.mkdir(parents=True, exist_ok=True)
    results, curves = [], {}
    for agent in agents:
        runs, returns, speeds = [], [], []
        trains = agent != "random"
        for seed in range(seeds):
            t = TrainOptions(
                steps=steps if trains else 1,
                seed=seed,
                num_envs=presets.num_envs(agent, kind),
                device=device,
                eval_episodes=0,
            )
            say(f"{agent} on {env_id}, seed {seed}: training for {t.steps:,} steps")
            session = Session.start(
                agent, env_id, t, options, configs[agent], root, quiet=quiet or not trains
            )
            session.run_to_end()
            run = session.run
            say(f"{agent} on {env_id}, seed {seed}: playing {episodes} held-out games")
            player = load(run.path, device=device)
            played = evaluate(player, env_id, options, episodes=episodes, epsilon=epsilon)
            run.write_status("finished", t.steps, played.mean)
            returns.append(played.returns)
            if trains:
                runs.append(run)
                speeds.append(session.steps_per_second)
        score = summarise(np.array(returns))
        rom = protocol.get("rom")
        results.append(
            Result(
                agent,
                [str(run.path) for run in runs],
                returns,
                score,
                human_normalised(rom, score.iqm) if rom else None,
                float(np.mean(speeds)) if speeds else None,
                asdict(configs[agent]),
            )
        )
        if runs:
            curves[agent] = [Episodes.read(run.path / "episodes.csv") for run in runs]
    levels = {r.agent: r.score.mean for r in results if not r.runs}
    learning_curves(curves, levels, f"{env_id}, {seeds} seed(s)", out / "curves.png")
    told = {
        "env": env_id,
        "protocol": protocol,
        "steps": steps,
        "seeds": seeds,
        "episodes": episodes,
        "epsilon": epsilon,
        "results": [asdict(result) for result in results],
    }
    write_atomically(out / "results.json", json.dumps(told, indent=2))
    return results


def table(results: Sequence[Result], title: str) -> Table:
    """The comparison as a table."""
    shown = Table(title=title, title_justify="left")
    atari = any(r.human is not None for r in results)
    columns = ["agent", "mean", "IQM", "95% interval of the IQM", "interval over"]
    for name in [*columns, *(["human-normalised"] if atari else []), "env steps/s"]:
        shown.add_column(name, justify="left" if name == "agent" else "right")
    for r in results:
        cells = [r.agent, f"{r.score.mean:.1f}", f"{r.score.iqm:.1f}"]
        cells += [f"{r.score.low:.1f} to {r.score.high:.1f}", r.score.over]
        if atari:
            cells.append("-" if r.human is None else f"{100 * r.human:.1f}%")
        cells.append("-" if r.steps_per_second is None else f"{r.steps_per_second:.0f}")
        shown.add_row(*cells)
    return shown
