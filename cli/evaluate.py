"""`ludus evaluate RUN`: full held-out games with a trained agent."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import Positional

from ludus.cli.options import parse, print_json
from ludus.comparison.aggregates import Score, summarise
from ludus.envs.errors import UsageError
from ludus.envs.make import make
from ludus.evaluation.evaluate import evaluate
from ludus.training.run import Run, at_steps
from ludus.training.train import load


@dataclass(frozen=True)
class Arguments:
    """Which run and how many games."""

    run: Positional[Path]
    """folder of the run; RUN@STEPS for an earlier checkpoint"""
    episodes: int = 20
    """full games"""
    seed: int = 0
    """of the held-out games; training never plays them"""
    epsilon: float = 0.0
    """probability of a random action; 0 is the deterministic policy"""
    num_envs: int = 8
    """games at the same time; with the seed it fixes which games are played"""
    opponent: str | None = None
    """board games: who is played against, in place of the training's; random, greedy, mcts:100"""
    simulations: int = 0
    """of an agent that searches, for each move; 0 for its own number"""
    device: str = "auto"
    """auto, cpu or cuda"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""


def run(argv: list[str]) -> int:
    """Evaluate and print the scores."""
    given = parse(Arguments, argv, command="evaluate", about="Play full held-out games with RUN.")
    for name, ok in (
        ("episodes", given.episodes >= 1),
        ("num_envs", given.num_envs >= 1),
        ("seed", 0 <= given.seed < 1 << 40),
        ("epsilon", 0 <= given.epsilon <= 1),
    ):
        if not ok:
            raise UsageError(f"{name} is {getattr(given, name)}, which is out of range")
    opened = Run.open(at_steps(given.run)[0])
    config = opened.config()
    options, protocol = config.options, config.protocol
    if given.opponent is not None:
        options = replace(options, opponent=given.opponent)
        protocol = make(config.env, 1, 0, options).protocol
    agent = load(given.run, device=given.device, simulations=given.simulations)
    result = evaluate(
        agent,
        config.env,
        options,
        episodes=given.episodes,
        seed=given.seed,
        epsilon=given.epsilon,
        num_envs=given.num_envs,
    )
    score = summarise(np.array([result.returns]))
    if given.json:
        told: dict[str, Any] = {
            "run": str(given.run),
            "env": config.env,
            "protocol": protocol,
        }
        told |= {"seed": given.seed, "epsilon": given.epsilon, "mean": score.mean}
        told |= {"iqm": score.iqm, "interval": [score.low, score.high]}
        told |= {"returns": result.returns, "lengths": result.lengths}
        print_json(told)
    else:
        print(f"{config.agent} on {config.env}, {_summary(result.returns, protocol, score)}")
    return 0


def _summary(returns: list[float], protocol: dict[str, Any], score: Score) -> str:
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
