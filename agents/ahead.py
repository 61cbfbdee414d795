"""Act for one row while the agent learns from those before it, for envs that play in two halves.

An agent that learns from a memory acts by a copy of its network. The copy takes over the weights
before the updates of each row, so it lacks the updates of that one row, whatever the clock does. On
a GPU it acts on a stream of its own, beside the updates. An agent that learns from rollouts changes
its network between two of them only, and acts by it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ludus.agents.agent import ActsInParts, Agent, LearnsFromMemory
from ludus.agents.capture import SideStream
from ludus.agents.memory.step import Extras
from ludus.agents.value_policy import ValuePolicy
from ludus.envs.errors import ConfigError
from ludus.networks.network import TargetNetwork


class ActingAhead:
    """An agent that acts for the next row before it stores and learns from this one.

    Args:
        agent: must not have acted yet; call `capture` after this.

    Raises:
        ConfigError: the agent cannot act for a part of its envs.
    """

    def __init__(self, agent: Agent) -> None:
        learner = getattr(agent, "learner", None)
        actor = getattr(learner, "actor", None)
        if learner is None or actor is None:
            raise ConfigError("this agent acts for all its envs at once; leave halves out")
        self.agent: ActsInParts = agent  # type: ignore[assignment]  # its policy can
        self._staging = actor.staging
        self._staging.split()
        self._copy: TargetNetwork[Any] | None = None
        self._side: SideStream | None = None
        if isinstance(agent, LearnsFromMemory):
            assert isinstance(actor, ValuePolicy)
            self._copy = TargetNetwork(*learner.acting)
            actor.acting_network = self._copy.network
            if learner.flat.is_cuda:
                self._side = SideStream()

    def begin(self, obs: np.ndarray | None) -> None:
        """Begin, or continue at a row for which the agent has acted before.

        Args:
            obs: the row's observations [B, *obs]; None to begin.
        """
        if obs is not None:
            self._staging.begin(obs)
        elif self._copy is not None:
            self._copy.update(1.0)  # the weights may have been loaded
        if self._side is not None:
            self._side.follow()

    def learn(self) -> None:
        """Do the updates that are due; what acts takes over the weights from before them."""
        if self._copy is not None:
            self._copy.update(1.0)
        if self._side is not None:
            self._side.follow()
        self.agent.learn()

    def acting(self) -> AbstractContextManager[None]:
        """Return the context in which the agent acts for the halves of a row."""
        return nullcontext() if self._side is None else self._side.running()

    def hand_over(self, extras: Extras) -> None:
        """Let `observe` read what the agent made when it acted for the next row and for this one.

        Args:
            extras: of the next row.
        """
        if self._side is not None:
            self._side.hand_over(_tensors(extras))

    def to_device(self, extras: Extras) -> Extras:
        """Return extras of a checkpoint on the agent's device."""
        moved: Extras = _moved(extras, self._staging.device)
        return moved

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights that act."""
        return {} if self._copy is None else dict(self._copy.network.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a state returned by `state_dict`."""
        if self._copy is not None:
            self._copy.network.load_state_dict(state)


def joined(parts: Sequence[Any]) -> Any:
    """Return values of some envs as those of all: arrays and tensors, nested; always a copy."""
    one = parts[0]
    if isinstance(one, Tensor):
        return torch.cat(list(parts))
    if isinstance(one, np.ndarray):
        return np.concatenate(parts)
    if isinstance(one, dict):
        return {key: joined([part[key] for part in parts]) for key in one}
    columns = [joined(column) for column in zip(*parts, strict=True)]
    return type(one)(*columns) if hasattr(one, "_fields") else tuple(columns)


def _moved(x: Any, device: torch.device) -> Any:
    """Return nested values with tensors on a device, and tuples for lists."""
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, dict):
        return {key: _moved(value, device) for key, value in x.items()}
    return tuple(_moved(value, device) for value in x) if isinstance(x, list | tuple) else x


def _tensors(x: Any) -> list[Tensor]:
    """Return the tensors of nested dictionaries and sequences."""
    if isinstance(x, Tensor):
        return [x]
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
