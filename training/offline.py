"""Offline training: the agent, its replay, and the env of the evaluations."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ludus.agents import registry
from ludus.agents.agent import AgentConfig, EnvLike, OfflineLearner
from ludus.agents.dqn_config import DQNConfig
from ludus.envs.errors import ConfigError, EnvError, RunError
from ludus.envs.make import EnvOptions, make
from ludus.envs.trust import require_trust
from ludus.training.dataset import Dataset
from ludus.training.run import TrainOptions
from ludus.training.session import Session


@dataclass(frozen=True)
class EvaluationEnv:
    """Env in which an agent that learns from a data set is evaluated."""

    env_id: str  # "dataset" if there is none
    options: EnvOptions
    protocol: dict[str, Any]
    missing: str  # why there is no evaluation; empty if there is one


def evaluation_env(data: Dataset, env_id: str, options: EnvOptions) -> EvaluationEnv:
    """Return the named env, or the data set's own if it can be made and has the same spaces.

    Options that are not given are those of the data set.

    Raises:
        EnvError: the named env cannot be made.
        RunError: its observations or actions differ from the data set's.
    """
    name = env_id or data.env_id
    given = {
        field.name: getattr(options, field.name)
        for field in fields(EnvOptions)
        if getattr(options, field.name) != field.default
    }
    options = replace(data.options, **given)
    missing, protocol = "" if env_id else data.why_no_env(), {}
    if not env_id and not missing:
        try:
            require_trust(name, options.wrapper, f"the data set {data.name}")
        except EnvError as error:
            missing = str(error)
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
        raise RunError(
            f"{missing}; name the env and the options that the data set was collected with"
        )
    if missing:  # the name must not lead to a different env later
        name, protocol = "dataset", {}
    return EvaluationEnv(name, options, {**protocol, "dataset": data.source}, missing)


def _other_spaces(data: Dataset, env: EnvLike) -> str:
    """Return how the env's spaces differ from the data set's; empty if they do not."""
    here, there = env.observation_space, data.observation_space
    if (here.shape, here.dtype) != (there.shape, there.dtype):
        return (
            f"{env.env_id} has observations {here.dtype}{list(here.shape)}, the data set "
            f"{there.dtype}{list(there.shape)}"
        )
    if env.action_space != data.action_space:
        return f"{env.env_id} has actions {env.action_space}, the data set {data.action_space}"
    return ""


def offline_agent(
    name: str, config: AgentConfig, data: Dataset, device: torch.device, t: TrainOptions
) -> OfflineLearner:
    """Build an agent whose replay holds the episodes to learn from.

    Raises:
        RunError: this agent cannot learn from a data set.
        ConfigError: the configuration does not suit the data set, or the data set is damaged or
            too large.
    """
    if not isinstance(config, DQNConfig):
        raise RunError(
            f"{name} cannot learn from a data set; dqn and its family can, see `ludus list agents`"
        )
    data.refuse_if_too_large(device)
    least = 2 * config.batch_size + config.successors + data.stack + 1  # a DQN's minimum
    rows = max(data.rows(config.successors), least)
    sized = replace(config, replay_size=rows)
    # With `steps=rows` the replay gets all its rows; schedules follow `study`'s progress instead.
    agent = registry.build(sized, data, device=device, seed=t.seed, steps=rows)
    data.fill(agent)
    return agent


class OfflineTraining:
    """An agent that learns from a data set, see `Mode`.

    Its clock is its updates: `env_steps` counts them.

    Args:
        agent: its memory holds the data set.
        data: the data set.
    """

    resumable = True

    def __init__(self, agent: OfflineLearner, data: Dataset) -> None:
        self.agent, self.source = agent, data

    def sentences(self) -> list[str]:
        """Return sentences about the data set."""
        return self.source.sentences()

    def close(self) -> None:
        """Close the data set."""
        self.source.close()

    def train(self, session: Session, tree: dict[str, Any] | None) -> None:
        """Train until the session's end, from a checkpoint's tree if there is one."""
        agent, steps = self.agent, session.config.train.steps
        if tree is not None:
            with session.restoring():
                self._restore(tree)
            session.record_changes()
        while agent.updates < steps and not session.ended:
            agent.study(1, agent.updates / steps)
            agent.env_steps = agent.updates
            if session.log.due(agent.updates):
                session.write_metrics(self._metrics())
            if session.after_step():
                session.save(self._tree())
            session.raise_if_stopping()

    def _metrics(self) -> dict[str, float]:
        """Return the agent's metrics and its TD error on the held-out episodes."""
        found, error = self.agent.metrics(), self.source.td_error(self.agent)
        del found["exploration_rate"]  # it does not act
        return found if error is None else found | {"validation/td_error": error}

    def _tree(self) -> dict[str, Any]:
        """Return the agent's state without the transitions, which the data set has."""
        whole = self.agent.state_dict()
        memory = {
            name: value
            for name, value in whole["memory"].items()
            if name.startswith(("generator", "priority_"))
        }
        return {"agent": {**whole, "memory": memory}, "checksum": self.source.checksum}

    def _restore(self, tree: dict[str, Any]) -> None:
        """Load a checkpoint's tree.

        Raises:
            ConfigError: the data set has changed.
        """
        if tree["checksum"] != self.source.checksum:
            raise ConfigError(
                f"{self.source.source} is not the data set that this run started with; restore "
                "that, or start a new run"
            )
        memory = self.agent.memory.state_dict() | tree["agent"]["memory"]
        self.agent.load_state_dict({**tree["agent"], "memory": memory})
