"""The last T rows of B envs, for agents that learn from what they have just played.

One row more than T is kept: the last step is bootstrapped from it, and it is the first row of the
next rollout, so that no step is lost and none is used twice.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import Step
from ludus.agents.memory.replay import free_bytes
from ludus.envs.errors import ConfigError
from ludus.networks.cores import State


class Minibatch(NamedTuple):
    """L rows of N envs: single rows (L = 1), or with a core all T rows of some envs."""

    obs: Tensor  # [L, N, *obs]
    first: Tensor  # [L, N] bool, the row opens an episode
    weight: Tensor  # [L, N] float32, 1 / their number where the agent acted, else 0
    action: Tensor  # [L, N, *action]
    extras: dict[str, Tensor]  # [L, N] float32 each
    state: State  # of the core before row 0, [N, units] each

    def mean(self, x: Tensor) -> Tensor:
        """Mean of x [L, N] over the rows where the agent acted; 0 where there are none."""
        assert x.shape == self.weight.shape
        return (x * self.weight).sum()


class Rollout:
    """T + 1 rows in preallocated tensors, [T + 1, B, ...] each.

    Args:
        length: T.
        num_envs: B.
        observation_space: of one env.
        action_space: of one env; a Discrete one's actions count from 0 here.
        minibatches: parts of equal size that the T rows are learned from in.
        gamma: discount per step.
        state: of the core for all envs, [B, units] each; with one, minibatches are whole envs.
        device: where the rows live.
        seed: of the order of the minibatches.
        extras: names of what `act` remembers for the learner, a number for each env.
        targets: names of what the learner computes for each row, which lies beside them.

    Raises:
        ConfigError: the minibatches do not divide the rollout, or it does not fit in memory.
    """

    def __init__(
        self,
        length: int,
        num_envs: int,
        observation_space: spaces.Box,
        action_space: spaces.Space[Any],
        *,
        minibatches: int,
        gamma: float,
        state: State,
        device: torch.device,
        seed: int,
        extras: Sequence[str] = (),
        targets: Sequence[str] = (),
    ) -> None:
        self.length, self.num_envs, self._gamma = length, num_envs, np.float32(gamma)
        self.obs_shape = observation_space.shape
        self._sequences, self._minibatches, self._device = bool(state), minibatches, device
        self._size = num_envs if state else num_envs * length  # what minibatches are drawn from
        self._refuse(observation_space)
        self.obs = self._zeros(observation_space.shape, observation_space.dtype)
        self.action = self._zeros(action_space.shape or (), action_space.dtype)
        self.first, self.valid = self._zeros((), bool), self._zeros((), bool)
        self.chosen_by_agent = self._zeros((), bool)  # the agent chose the action
        self.reward = self._zeros((), np.float32)  # of the next row
        self.discount = self._zeros(
            (), np.float32
        )  # gamma times the sign, 0 where the next row is terminal
        names = (*extras, *targets)
        self._numbers = self._zeros((len(names),), np.float32)  # a minibatch takes all at once
        self.extras = dict(zip(names, self._numbers.unbind(-1), strict=True))  # [T + 1, B] each
        self._from_act = tuple(extras)
        self._states = tuple(torch.stack([s, s]) for s in state)  # before row 0 and before row T
        self._rows = {
            **{"obs": self.obs, "action": self.action, "first": self.first, "valid": self.valid},
            "chosen_by_agent": self.chosen_by_agent,
            **{"reward": self.reward, "discount": self.discount},
            **{name: self.extras[name] for name in extras},
        }
        self._generator = torch.Generator(device).manual_seed(seed)
        self.filled = 0  # rows

    def _refuse(self, space: spaces.Box) -> None:
        if self._size % self._minibatches:  # with a core a minibatch is whole envs
            of = "" if self._sequences else f" x {self.length} rows"
            raise ConfigError(
                f"minibatches is {self._minibatches}, which does not divide {self.num_envs} envs"
                f"{of}; choose num_envs, rollout_length and minibatches so that it does"
            )
        rows = (self.length + 1) * self.num_envs
        need = rows * (int(np.prod(space.shape)) * np.dtype(space.dtype).itemsize + 32)
        free = free_bytes(self._device)
        if need > 0.95 * free:
            raise ConfigError(
                f"a rollout of {rows:,} rows needs {need / 1e9:.1f} GB, and only "
                f"{free / 1e9:.1f} GB are free on {self._device}; use fewer envs or a shorter "
                "rollout_length"
            )

    def _zeros(self, shape: tuple[int, ...], dtype: Any) -> Tensor:
        like = torch.from_numpy(np.empty(0, dtype)).dtype
        return torch.zeros(self.length + 1, self.num_envs, *shape, dtype=like, device=self._device)

    @property
    def full(self) -> bool:
        """All T rows are there, and the one that they are bootstrapped from."""
        return self.filled == self.length + 1

    @property
    def state(self) -> State:
        """Of the core before row 0, [B, units] each."""
        return tuple(kept[0] for kept in self._states)

    def add(self, step: Step, state: State) -> None:
        """Append one row; `state` is the core's before it, [B, units] each."""
        assert not self.full, "a full rollout must be learned from and restarted"
        row = self.filled
        if row in (0, self.length):
            for kept, now in zip(self._states, state, strict=True):
                kept[min(row, 1)] = now
        values = step._asdict() | {name: step.extras[name] for name in self._from_act}
        values["discount"] = np.where(
            step.terminated, np.float32(0), self._gamma * step.discount_sign
        )
        for name, kept in self._rows.items():
            kept[row].copy_(torch.as_tensor(values[name]), non_blocking=True)
        self.filled += 1

    def restart(self) -> None:
        """Begin the next rollout with the row that this one was bootstrapped from."""
        for kept in (*self._rows.values(), *self._states):
            kept[0] = kept[-1]
        self.filled = 1

    def minibatch_indices(self) -> Sequence[Tensor]:
        """An epoch: for each minibatch an index [N] of rows, or of envs where there is a core."""
        order = torch.randperm(self._size, generator=self._generator, device=self._device)
        return order.split(self._size // self._minibatches)

    def example(self) -> Tensor:
        """An index of the shape of all others, without chance."""
        return torch.arange(self._size // self._minibatches, device=self._device)

    def select(self, x: Tensor, index: Tensor) -> Tensor:
        """Of x [T or T + 1, B, *] what an index [N] of `minibatch_indices` picks, [L, N, *]."""
        if self._sequences:
            return x[: self.length].index_select(1, index)
        return x.flatten(0, 1).index_select(0, index).unsqueeze(0)

    def minibatch(self, index: Tensor) -> Minibatch:
        """What an index [N] of `minibatch_indices` picks."""
        valid = self.select(self.valid & self.chosen_by_agent, index).to(torch.float32)
        numbers = self.select(self._numbers, index).unbind(-1) if self.extras else ()
        return Minibatch(
            self.select(self.obs, index),
            self.select(self.first, index),
            valid / valid.sum().clamp(min=1),
            self.select(self.action, index),
            dict(zip(self.extras, numbers, strict=True)),
            tuple(kept[index] for kept in self.state),
        )

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, as arrays that share memory where they can."""
        return {
            "shape": [self.length, self.num_envs],
            "rows": {
                name: kept[: self.filled].contiguous().cpu().numpy()
                for name, kept in self._rows.items()
            },
            "states": [kept.cpu().numpy() for kept in self._states],
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ConfigError: the state is of a rollout of another size.
        """
        if state["shape"] != [self.length, self.num_envs]:
            raise ConfigError(
                f"the rollout saved has {state['shape']} rows and envs, this one "
                f"{[self.length, self.num_envs]}; resume with the rollout_length and num_envs of "
                "the run"
            )
        self.filled = len(state["rows"]["obs"])
        for name, kept in self._rows.items():
            kept[: self.filled].copy_(torch.from_numpy(state["rows"][name]))
        for kept, saved in zip(self._states, state["states"], strict=True):
            kept.copy_(torch.from_numpy(saved))
        self._generator.set_state(state["generator"])
