"""Measure trainings that learn while they play against trainings in turns, and print a table.

python benchmarks/overlap.py
"""

import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ludus.agents import registry
from ludus.agents.agent import Agent
from ludus.agents.capture import capture
from ludus.agents.learner import Learner
from ludus.envs.make import make
from ludus.evaluation.evaluate import torch_settings
from ludus.training.loop import train_loop

CASES = [  # agent, env, env steps of a measurement
    ("ppo", "CartPole-v1", 30_000),
    ("ppo", "Pendulum-v1", 20_000),
    ("ppo", "MinAtar/Breakout-v1", 30_000),
    ("ppo", "MinAtar/SpaceInvaders-v1", 30_000),
    ("pqn", "MinAtar/Breakout-v1", 60_000),
    ("ppo_small", "PongNoFrameskip-v4", 8_000),
]
ROUNDS = 3


def rate(name: str, env_id: str, steps: int, *, overlap: bool) -> float:
    """Return the env steps per second of a training, after a third as many to warm up."""
    with closing(make(env_id, 1, 0)) as probe:
        preset = registry.preset(name, probe)
    with closing(make(env_id, preset.num_envs, 0)) as env:
        config = preset.config
        if name == "ppo_small":  # desired_kl needs it with overlap
            config = replace(config, vtrace=True)
        config = replace(config, overlap=overlap)
        agent = registry.build(config, env, device=torch.device("cpu"), seed=0, steps=1_000_000)
        assert isinstance(agent, Agent)
        stream: list[Any] = [env.reset(), agent.initial_state(env.num_envs)]

        def keep(row: Any, state: Any) -> bool:
            stream[:] = [row, state]
            return True

        with torch_settings(env, agent):
            capture(agent)
            train_loop(agent, env, stream[0], stream[1], steps // 3, keep)
            done, began = agent.env_steps, time.perf_counter()
            train_loop(agent, env, stream[0], stream[1], done + steps, keep)
            learner = getattr(agent, "learner", None)
            assert isinstance(learner, Learner)
            learner.finish()
            return (agent.env_steps - done) / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    print("| | in turns, env steps/s | overlap | ratio |\n|---|---|---|---|")
    for name, env_id, steps in CASES:
        rates = np.array(
            [[rate(name, env_id, steps, overlap=o) for o in (False, True)] for _ in range(ROUNDS)]
        )
        turns, overlap = np.median(rates, 0)
        ratio = np.median(rates[:, 1] / rates[:, 0])
        print(f"| {name}, {env_id} | {turns:,.0f} | {overlap:,.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
