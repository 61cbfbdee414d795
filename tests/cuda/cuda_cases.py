"""Agents and envs of the tests on a CUDA device."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ludus.agents import registry
from ludus.agents.agent import Agent
from ludus.envs.make import EnvOptions, make
from ludus.training.loop import train_loop

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
ENVS = 4
REPLAY = {"learning_starts": 24, "batch_size": 8, "replay_size": 2_000, "target_interval": 7}
RESETS = REPLAY | {"reset_interval": 9, "horizon_updates": 5, "replay_ratio": 0.25, "spr_steps": 2}
ROLLOUT = {"rollout_length": 8, "epochs": 2, "minibatches": 2}
GTRXL = ROLLOUT | {"core": "gtrxl"}
SEQUENCES = {**REPLAY, "replay_ratio": 0.25, "sequence_length": 6, "burn_in": 2}
GAMES = {"learning_starts": 30, "batch_size": 8, "replay_size": 2_000, "replay_ratio": 0.25}
GAMES |= {"simulations": 2, "play_simulations": 2, "blocks": 1, "tower_channels": 8}
MINATAR, PONG = "MinAtar/Breakout-v1", "PongNoFrameskip-v4"


class Case(NamedTuple):
    """An agent, its env and changes to its preset."""

    agent: str
    env: str = "CartPole-v1"
    changes: dict[str, Any] = {}  # noqa: RUF012  # never changed

    def __str__(self) -> str:
        """Name the test."""
        changes = [str(v) for k, v in self.changes.items() if k not in {*REPLAY, *ROLLOUT, *GAMES}]
        return "-".join([self.agent, self.env, *changes])


def build(
    case: Case, device: torch.device = CUDA, seed: int = 0, options: EnvOptions | None = None
) -> tuple[Agent, Any]:
    env = make(case.env, ENVS, 0, options or EnvOptions())
    config = replace(registry.preset(case.agent, env).config, **case.changes)
    agent = registry.build(config, env, device=device, seed=seed, steps=1_000)
    assert isinstance(agent, Agent)
    return agent, env


def play(agent: Agent, env: Any, steps: int) -> None:
    train_loop(agent, env, env.reset(), agent.initial_state(ENVS), steps, lambda *_: True)


def on_host(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight.detach().cpu() for name, weight in weights.items()}
