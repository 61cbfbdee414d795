"""Training from a data set: the agent, its memory, and where it is evaluated."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from ludus.agents import presets
from ludus.agents.dqn import DQN, DQNConfig
from ludus.envs.errors import ConfigError, EnvError, RunError
from ludus.envs.make import EnvOptions, make
from ludus.training.dataset import Dataset
from ludus.training.run import TrainOptions


@dataclass(frozen=True)
class Playground:
    """Where a learner from a data set is evaluated."""

    env_id: str  # "dataset" where there is none
    options: EnvOptions
    protocol: dict[str, Any]
    missing: str  # why there is no evaluation; empty where there is one


def playground(data: Dataset, env_id: str, options: EnvOptions) -> Playground:
    """The env named, or else the data set's own if it can be made and is the same.

    Raises:
        EnvError: the env named cannot be made.
        RunError: it has other observations or actions than the data set.
    """
    name = env_id or data.env_id
    options = data.options if options == EnvOptions() else options
    missing, protocol = "" if env_id else data.why_no_env(), {}
    if not missing:
        try:
            env = make(name, 1, 0, options)
            env.close()
            protocol, missing = env.protocol, _other_spaces(data, env)
        except EnvError as error:
            if env_id:
                raise
            missing = str(error)
    if env_id and missing:
        raise RunError(f"{missing}; name the env and the options that the data set is from")
    if missing:  # an env that is another one must not be taken for it later
        name, protocol = "dataset", {}
    return Playground(name, options, {**protocol, "dataset": data.source}, missing)


def _other_spaces(data: Dataset, env: presets.EnvLike) -> str:
    """How the env differs from the data set; empty where it does not."""
    here, there = env.observation_space, data.observation_space
    if (here.shape, here.dtype) != (there.shape, there.dtype):
        return (
            f"{env.env_id} shows observations {here.dtype}{list(here.shape)}, the data set "
            f"{there.dtype}{list(there.shape)}"
        )
    if env.action_space != data.action_space:
        return f"{env.env_id} takes {env.action_space}, the data set {data.action_space}"
    return ""


def learner(
    name: str, config: presets.Config, data: Dataset, device: torch.device, t: TrainOptions
) -> DQN:
    """An agent whose replay holds the episodes to learn from.

    Raises:
        RunError: such an agent cannot learn from a data set.
        ConfigError: the configuration does not suit the data set, or that is damaged or too large.
    """
    if not isinstance(config, DQNConfig):
        raise RunError(
            f"{name} cannot learn from a data set; dqn and its family can, see `ludus list agents`"
        )
    data.refuse_if_too_large(device)
    least = 2 * config.batch_size + config.n_step + data.stack + 1  # what a DQN asks for
    rows = max(data.rows(config.n_step), least)
    sized = replace(config, replay_size=rows)
    # `steps` so that no row is saved on: `study` is told how far the training is
    agent = presets.build(sized, data, device=device, seed=t.seed, steps=rows)
    assert isinstance(agent, DQN)
    data.fill(agent)
    return agent


def metrics(agent: DQN, data: Dataset) -> dict[str, float]:
    """The agent's, and its error on the held-out episodes."""
    said, error = agent.metrics(), data.td_error(agent)
    del said["exploration_rate"]  # it does not act
    return said if error is None else said | {"validation/td_error": error}


def checkpoint(agent: DQN, data: Dataset) -> dict[str, Any]:
    """All of the agent but what the data set holds."""
    whole = agent.state_dict()
    kept = {k: v for k, v in whole["memory"].items() if k.startswith(("generator", "priority_"))}
    return {"agent": {**whole, "memory": kept}, "checksum": data.checksum}


def go_on(agent: DQN, data: Dataset, tree: dict[str, Any]) -> None:
    """The inverse of `checkpoint`.

    Raises:
        ConfigError: the data set has changed.
    """
    if tree["checksum"] != data.checksum:
        raise ConfigError(
            f"{data.source} is not the data set that this run began with; put that back, or start "
            "a new run"
        )
    memory = agent.memory.state_dict() | tree["agent"]["memory"]
    agent.load_state_dict({**tree["agent"], "memory": memory})
