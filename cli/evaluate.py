"""`ludus evaluate RUN`: play full held-out games with a trained agent."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional

from ludus.cli.options import HELD_OUT_SEED, parse
from ludus.cli.output import print_json, print_result
from ludus.comparison.aggregates import Score, summarise
from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, NON_NEGATIVE, check_bounds
from ludus.envs.errors import UsageError
from ludus.envs.make import make
from ludus.envs.trust import trust_programs
from ludus.evaluation.evaluate import evaluate, step_limit, truncated_games, without_limit
from ludus.training.console import Terminal
from ludus.training.find_run import at_steps
from ludus.training.progress import task
from ludus.training.run import Run
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
    simulations: int = 0
    """simulations of each move of a searching agent; 0 for the number of its configuration"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)


def run(argv: list[str]) -> int:
    """Evaluate the run and print its scores."""
    given = parse(Arguments, argv, command="evaluate", about="Play full held-out games with RUN.")
    opened = Run.open(at_steps(given.run)[0])
    config = opened.config()
    options, protocol = config.options, config.protocol
    if given.opponent is not None:
        trust_programs([given.opponent])
        options = replace(options, opponent=given.opponent)
        protocol = make(config.env, 1, 0, options).protocol
    agent = load(given.run, device=given.device, simulations=given.simulations)
    limit = step_limit(protocol, given.max_episode_steps)
    terminal = Terminal(stderr=True)
    if limit is not None and not given.max_episode_steps and not given.json:
        terminal.print(without_limit(config.env, limit, "max-episode-steps"))
    name = f"{config.agent} on {config.env}"
    with task(name, given.episodes, "games", quiet=given.json) as show:
        result = evaluate(
            agent,
            config.env,
            options,
            episodes=given.episodes,
            seed=given.seed,
            epsilon=given.epsilon,
            num_envs=given.num_envs,
            max_episode_steps=given.max_episode_steps,
            on_step=lambda games, steps: show(games, f"{steps:,} steps"),
        )
    if result.truncated and not given.json:
        terminal.print(truncated_games(result))
    score = summarise(np.array([result.returns]))
    if given.json:
        scores: dict[str, Any] = {
            "run": str(given.run),
            "env": config.env,
            "protocol": protocol,
            "seed": given.seed,
            "epsilon": given.epsilon,
            "mean": score.mean,
            "iqm": score.iqm,
            "interval": [score.low, score.high],
            "returns": result.returns,
            "lengths": result.lengths,
            "truncated": result.truncated,
        }
        print_json(scores)
    else:
        print_result(f"{config.agent} on {config.env}, {_summary(result.returns, protocol, score)}")
    return 0


def _summary(returns: list[float], protocol: dict[str, Any], score: Score) -> str:
    """Return won, drawn and lost games against an opponent, else statistics of the returns."""
    if "opponent" in protocol:
        won, lost = (sum(r * side > 0 for r in returns) for side in (1, -1))
        drawn = len(returns) - won - lost
        against = f"{len(returns)} games against {protocol['opponent']}"
        return f"{against}: {won} won, {drawn} drawn, {lost} lost"
    return (
        f"{len(returns)} games: mean {score.mean:.1f}, "
        f"IQM {score.iqm:.1f} (95% interval {score.low:.1f} to {score.high:.1f}), "
        f"lowest {min(returns):.1f}, highest {max(returns):.1f}"
    )
