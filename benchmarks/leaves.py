"""Let AlphaZero play against itself with another number of leaves in a forward pass.

python benchmarks/leaves.py RUN RUN ... --leaves 8 --games 1000

Prints the points of that number against 1, with the same simulations: a win is 1, a draw 0.5.
"""

import argparse
import json
import math
from dataclasses import replace
from typing import Literal

import numpy as np

from ludus.agents.alphazero import AlphaZero
from ludus.evaluation.match import AgentSide, play_match
from ludus.training.run import Run
from ludus.training.train import load

RULES: tuple[Literal["gumbel", "puct"], ...] = ("gumbel", "puct")


def points(
    run: str,
    rule: Literal["gumbel", "puct"],
    leaves: int,
    simulations: int,
    games: int,
    seed: int,
    epsilon: float,
) -> np.ndarray:
    """Return the points [games] of an agent with that many leaves against itself with 1.

    Args:
        run: folder of a run of AlphaZero.
        rule: of the search.
        leaves: positions of a game in one forward pass.
        simulations: per move, of both.
        games: number of games; each side begins half of them.
        seed: of all random numbers.
        epsilon: probability of a random move, of both.
    """
    sides = []
    for number, count in enumerate((leaves, 1)):
        agent = load(run)
        assert isinstance(agent, AlphaZero)
        agent.config = replace(agent.config, search=rule, play_leaves=count)
        agent.simulations = simulations
        sides.append(AgentSide(agent, deterministic=True, epsilon=epsilon, seed=2 * seed + number))
    game = Run.open(run).config().env
    match = play_match((sides[0], sides[1]), game, games, seed=seed)
    return (np.sign(match.returns) + 1) / 2


def main() -> None:
    """Play the matches and print a line of JSON for each, and one for each rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--rules", nargs="+", default=RULES, choices=RULES)
    parser.add_argument("--leaves", type=int, default=8)
    parser.add_argument("--simulations", type=int, default=64)
    parser.add_argument("--games", type=int, default=1000)
    parser.add_argument("--epsilon", type=float, default=0.1)
    given = parser.parse_args()
    for rule in given.rules:
        each = []
        for seed, run in enumerate(given.runs):
            each.append(
                points(run, rule, given.leaves, given.simulations, given.games, seed, given.epsilon)
            )
            print(json.dumps({"run": run, "rule": rule, **_summary(each[-1])}), flush=True)
        print(json.dumps({"rule": rule, "leaves": given.leaves, **_summary(np.concatenate(each))}))


def _summary(scores: np.ndarray) -> dict[str, float]:
    """Return mean and 95% interval of the points of independent games."""
    mean, half = float(scores.mean()), 1.96 * float(scores.std()) / math.sqrt(len(scores))
    return {
        "games": len(scores),
        "points": round(mean, 4),
        "low": round(mean - half, 4),
        "high": round(mean + half, 4),
    }


if __name__ == "__main__":
    main()
