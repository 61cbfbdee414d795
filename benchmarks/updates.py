"""Measure an update in bfloat16, and one that is compiled, against the default, alternating.

python benchmarks/updates.py [--threads 1]
python benchmarks/updates.py --auxiliary [--threads 1]     # with each auxiliary loss
"""

import argparse
import os
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch

from ludus.agents import registry
from ludus.agents.agent import Agent
from ludus.agents.auxiliary_config import AuxiliaryName
from ludus.agents.capture import capture
from ludus.agents.learner import Learner
from ludus.envs.make import make
from ludus.training.loop import train_loop

CASES = [
    ("dqn", "PongNoFrameskip-v4", {"learning_starts": 400, "replay_size": 5_000}),
    ("dqn2013", "PongNoFrameskip-v4", {"learning_starts": 400, "replay_size": 5_000}),
    ("ppo", "PongNoFrameskip-v4", {}),
    ("ppo_small", "PongNoFrameskip-v4", {}),
    ("dqn", "MinAtar/Breakout-v1", {"learning_starts": 400, "replay_size": 5_000}),
    ("ppo", "MinAtar/Breakout-v1", {}),
    ("dqn", "CartPole-v1", {"learning_starts": 400, "replay_size": 5_000}),
    ("ppo", "CartPole-v1", {}),
]
AUXILIARY_CASES = [
    ("dqn", "MinAtar/Breakout-v1", {"learning_starts": 400, "replay_size": 5_000}),
    ("pqn", "MinAtar/Breakout-v1", {}),
    ("ppo", "MinAtar/Breakout-v1", {}),
    ("r2d2", "MinAtar/Breakout-v1", {"learning_starts": 400, "replay_size": 5_000}),
    ("dqn", "PongNoFrameskip-v4", {"learning_starts": 400, "replay_size": 5_000}),
    ("dqn2013", "PongNoFrameskip-v4", {"learning_starts": 400, "replay_size": 5_000}),
    ("ppo_small", "PongNoFrameskip-v4", {}),
    ("dqn", "CartPole-v1", {"learning_starts": 400, "replay_size": 5_000}),
]
ROUNDS, SECONDS = 5, 0.5  # of each measurement
ROWS = 600  # env steps before, which fill the memory


def trained(
    name: str,
    env_id: str,
    changes: Mapping[str, Any],
    *,
    bfloat16: bool = False,
    compiled: bool = False,
) -> tuple[Agent, float]:
    """Return an agent whose memory has rows in it, and the seconds that its capture took."""
    with closing(make(env_id, 1, 0)) as probe:
        preset = registry.preset(name, probe)
    with closing(make(env_id, preset.num_envs, 0)) as env:
        config = replace(preset.config, **changes)
        agent = registry.build(config, env, device=torch.device("cpu"), seed=0, steps=100_000)
        assert isinstance(agent, Agent)
        began = time.perf_counter()
        capture(agent, bfloat16=bfloat16, compiled=compiled)
        seconds = time.perf_counter() - began
        state = agent.initial_state(env.num_envs)
        train_loop(agent, env, env.reset(), state, ROWS, lambda *_: True)
    return agent, seconds


def milliseconds(agent: object) -> float:
    """Return the time of one update."""
    learner = getattr(agent, "learner", None)
    assert isinstance(learner, Learner)
    example = learner.agent.example()
    learner.update(*example)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        learner.update(*example)
        count += 1
    return (time.perf_counter() - began) / count * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--auxiliary", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    if given.auxiliary:
        measure_auxiliary_losses()
    else:
        measure_precisions()


def measure_auxiliary_losses() -> None:
    """Measure updates with each auxiliary loss against those without, and print."""
    losses = [name for name in get_args(AuxiliaryName) if name != "none"]
    print(f"| | ms an update | {' | '.join(losses)} |")
    print("|---" * (2 + len(losses)) + "|")
    for name, env_id, changes in AUXILIARY_CASES:
        made = [
            trained(name, env_id, {**changes, "auxiliary": loss})[0] for loss in ("none", *losses)
        ]
        times = np.array([[milliseconds(agent) for agent in made] for _ in range(ROUNDS)])
        ratios = np.median(times[:, 1:] / times[:, :1], 0)  # [rounds, losses] to [losses]
        shown = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {name}, {env_id} | {np.median(times[:, 0]):.2f} | {shown} |", flush=True)


def measure_precisions() -> None:
    """Measure updates in bfloat16 and compiled ones, and print."""
    print("| | ms an update | bfloat16, ratio | compiled, ratio | start of it, s |")
    print("|---|---|---|---|---|")
    with TemporaryDirectory() as cache:  # of TorchInductor, which is empty at the first start
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for name, env_id, changes in CASES:
            made = [
                trained(name, env_id, changes, bfloat16=half, compiled=compiled)
                for half, compiled in ((False, False), (True, False), (False, True))
            ]
            rounds = [[milliseconds(agent) for agent, _ in made] for _ in range(ROUNDS)]
            times = np.array(rounds)  # [rounds, 3]
            half, compiled = np.median(times[:, :1] / times[:, 1:], 0)
            print(
                f"| {name}, {env_id} | {np.median(times[:, 0]):.2f} | {half:.2f} | "
                f"{compiled:.2f} | {made[2][1]:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
