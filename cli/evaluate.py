"""`ludus evaluate RUN`: play full held-out games with a trained agent."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.table import Table
from tyro.conf import Positional

from ludus.agents.agent import Player
from ludus.cli.options import HELD_OUT_SEED, parse
from ludus.cli.output import print_json, print_result, print_table
from ludus.comparison.aggregates import Estimate, estimate, mean, summarise
from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, NON_NEGATIVE, check_bounds
from ludus.envs.errors import UsageError
from ludus.envs.make import make
from ludus.envs.trust import trust_programs
from ludus.evaluation.evaluate import (
    Evaluation,
    evaluate,
    step_limit,
    truncated_games,
    without_limit,
)
from ludus.evaluation.perturbation import (
    Frame,
    Perturber,
    describe_sizes,
    parse_perturbations,
    perturbed_frame,
    perturber,
)
from ludus.training.console import Terminal
from ludus.training.find_run import at_steps
from ludus.training.progress import task
from ludus.training.run import Run, RunConfig
from ludus.training.train import load


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus evaluate`."""

    run: Positional[Path]
    """folder of the run; RUN@STEPS for an earlier checkpoint"""
    episodes: Annotated[int, AT_LEAST_ONE] = 20
    """number of full games"""
    seed: Annotated[int, HELD_OUT_SEED] = 0
    """seed of the held-out games, which training never plays"""
    epsilon: Annotated[float, FRACTION] = 0.0
    """probability of a random action; 0 is the deterministic policy"""
    num_envs: Annotated[int, AT_LEAST_ONE] = 8
    """number of games played at the same time; with the seed it determines the games"""
    max_episode_steps: Annotated[int, NON_NEGATIVE] = 0
    """env steps after which a game is truncated; 0: 108,000 if the env has no limit"""
    opponent: str | None = None
    """board games: opponent in place of the run's own, as random, greedy or mcts:100"""
    perturb: str | None = None
    """play the same games again with each of these changes of the observations: fgsm:SIZE,
    noise:SIZE, shift:PIXELS, separated by commas"""
    simulations: int = 0
    """simulations of each move of a searching agent; 0 for the number of its configuration"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)
        if self.perturb is not None:
            parse_perturbations(self.perturb)


def run(argv: list[str]) -> int:
    """Evaluate the run and print its scores."""
    given = parse(Arguments, argv, command="evaluate", about="Play full held-out games with RUN.")
    opened = Run.open(at_steps(given.run)[0])
    config = opened.config()
    protocol = config.protocol
    if given.opponent is not None:
        trust_programs([given.opponent])
        config = replace(config, options=replace(config.options, opponent=given.opponent))
        protocol = make(config.env, 1, 0, config.options).protocol
    agent = load(given.run, device=given.device, simulations=given.simulations)
    frame, perturbers = _perturbers(given, agent, config)
    limit = step_limit(protocol, given.max_episode_steps)
    if limit is not None and not given.max_episode_steps and not given.json:
        message = without_limit(config.env, limit, "max-episode-steps")
        Terminal(stderr=True).print(message)
    result = _play(given, agent, config)
    perturbed = {name: _play(given, agent, config, name, p) for name, p in perturbers.items()}
    if given.json:
        scores: dict[str, Any] = {
            "run": str(given.run),
            "env": config.env,
            "protocol": protocol,
            "seed": given.seed,
            "epsilon": given.epsilon,
            **_scores(result),
        }
        if "opponent" in protocol:
            scores |= dict(zip(("won", "drawn", "lost"), _outcomes(result), strict=True))
        if frame is not None:
            scores["unit"] = None if frame.unit is None else frame.unit.tolist()
            scores["perturbed"] = {
                name: _scores(each) | {"difference": asdict(_difference(each, result))}
                for name, each in perturbed.items()
            }
        print_json(scores)
    else:
        print_result(f"{config.agent} on {config.env}, {_summary(result, protocol)}")
        if frame is not None:
            print_table(_table(result, perturbed))
            print_result(describe_sizes(frame))
    return 0


def _perturbers(
    given: Arguments, agent: Player, config: RunConfig
) -> tuple[Frame | None, dict[str, Perturber]]:
    """Return what is known of the observations and what changes them, by name.

    Raises:
        ConfigError: a perturbation does not suit the agent or the env.
    """
    if given.perturb is None:
        return None, {}
    frame = perturbed_frame(config.env, config.options)
    chosen = parse_perturbations(given.perturb)
    return frame, {str(each): perturber(each, agent, frame) for each in chosen}


def _play(
    given: Arguments,
    agent: Player,
    config: RunConfig,
    name: str = "",
    perturb: Perturber | None = None,
) -> Evaluation:
    """Play all games, under the perturbation of that name if there is one."""
    label = f"{config.agent} on {config.env}" + (name and f", {name}")
    with task(label, given.episodes, "games", quiet=given.json) as show:
        result = evaluate(
            agent,
            config.env,
            config.options,
            episodes=given.episodes,
            seed=given.seed,
            epsilon=given.epsilon,
            num_envs=given.num_envs,
            max_episode_steps=given.max_episode_steps,
            perturb=perturb,
            on_step=lambda games, steps: show(games, f"{steps:,} steps"),
        )
    if result.truncated and not given.json:
        Terminal(stderr=True).print(truncated_games(result) + (name and f", under {name}"))
    return result


def _scores(result: Evaluation) -> dict[str, Any]:
    """Return the scores of all games for JSON."""
    score = summarise(np.array([result.returns]))
    return {
        "mean": score.mean,
        "iqm": score.iqm,
        "interval": [score.low, score.high],
        "returns": result.returns,
        "lengths": result.lengths,
        "truncated": result.truncated,
    }


def _difference(perturbed: Evaluation, plain: Evaluation) -> Estimate:
    """Return the mean of what a perturbation adds to the return of each game."""
    return estimate(np.subtract(perturbed.returns, plain.returns)[:, None], mean)


def _table(plain: Evaluation, perturbed: dict[str, Evaluation]) -> Table:
    """Return a row for the plain agent and one for each perturbation."""
    table = Table(box=None)
    table.add_column("perturbation")
    for column in ("mean", "IQM", "95% interval", "difference", "95% interval"):
        table.add_column(column, justify="right")
    for name, result in {"none": plain, **perturbed}.items():
        score, difference = summarise(np.array([result.returns])), ["", ""]
        if result is not plain:
            d = _difference(result, plain)
            difference = [f"{d.value:+.1f}", f"{d.low:+.1f} to {d.high:+.1f}"]
        interval = f"{score.low:.1f} to {score.high:.1f}"
        table.add_row(name, f"{score.mean:.1f}", f"{score.iqm:.1f}", interval, *difference)
    return table


def _outcomes(result: Evaluation) -> tuple[int, int, int]:
    """Return the numbers of games won, drawn and lost."""
    won, lost = (sum(r * side > 0 for r in result.returns) for side in (1, -1))
    return won, len(result.returns) - won - lost, lost


def _summary(result: Evaluation, protocol: dict[str, Any]) -> str:
    """Return won, drawn and lost games against an opponent, else statistics of the returns."""
    returns = result.returns
    if "opponent" in protocol:
        won, drawn, lost = _outcomes(result)
        against = f"{len(returns)} games against {protocol['opponent']}"
        return f"{against}: {won} won, {drawn} drawn, {lost} lost"
    score = summarise(np.array([returns]))
    return (
        f"{len(returns)} games: mean {score.mean:.1f}, "
        f"IQM {score.iqm:.1f} (95% interval {score.low:.1f} to {score.high:.1f}), "
        f"lowest {min(returns):.1f}, highest {max(returns):.1f}"
    )
