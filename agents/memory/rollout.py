"""Rollout buffer: the last T rows of B envs, for on-policy agents.

It holds one row more than T. The last step bootstraps from that row, which then opens the next
rollout: no step is lost and none is used twice.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import EnvLike
from ludus.agents.memory.following import Following, following_rows
from ludus.agents.memory.replay import free_bytes
from ludus.agents.memory.step import RowStaging, Step
from ludus.agents.ranks import ALONE, Ranks
from ludus.agents.seeding import restore_generator
from ludus.envs.errors import ConfigError
from ludus.networks.cores import State

_CHUNK = 256  # observations in one forward pass of all rows


class Minibatch(NamedTuple):
    """Single rows (L = 1), or with a recurrent core all L = T rows of N envs."""

    obs: Tensor  # [L, N, *obs]
    first: Tensor  # [L, N] bool, the row opens an episode
    weight: Tensor  # [L, N] float32, of `Rollout.weigh`; 0 where the agent did not act
    action: Tensor  # [L, N, *action]
    extras: dict[str, Tensor]  # [L, N] float32 each
    state: State  # of the core before row 0, [N, units] each

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of x [L, N] over the rows where the agent acted; 0 without any."""
        assert x.shape == self.weight.shape
        return (x * self.weight).sum()


class Rollout:
    """T + 1 rows in preallocated tensors, [T + 1, B, ...] each.

    Args:
        length: T.
        env: B envs; Discrete actions are numbered from 0 here.
        gamma: discount per step.
        device: where the rows live.
        seed: of the order of the minibatches.
        minibatches: number of equal parts of an epoch.
        state: of the core for all envs, [B, units] each; not empty: minibatches are whole envs.
        extras: names of values that `act` returns for each row.
        targets: names of values that the agent computes for each row.

    Raises:
        ConfigError: the minibatches do not divide the rollout, or it exceeds the free memory.
    """

    def __init__(
        self,
        length: int,
        env: EnvLike,
        *,
        gamma: float,
        device: torch.device,
        seed: int,
        minibatches: int = 1,
        state: State = (),
        extras: Sequence[str] = (),
        targets: Sequence[str] = (),
    ) -> None:
        num_envs, observation_space, action_space = (
            env.num_envs,
            env.observation_space,
            env.action_space,
        )
        self.length, self.num_envs, self._gamma = length, num_envs, np.float32(gamma)
        self.obs_shape = observation_space.shape
        self._sequences, self._minibatches, self._device = bool(state), minibatches, device
        self._size = num_envs if state else num_envs * length  # of an epoch
        self._check(observation_space)
        self.obs = self._zeros(observation_space.shape, observation_space.dtype)
        self.action = self._zeros(action_space.shape or (), action_space.dtype)
        self.first, self.valid = self._zeros((), bool), self._zeros((), bool)
        self.chosen_by_agent = self._zeros((), bool)
        self.reward = self._zeros((), np.float32)  # of the next row
        # gamma times the sign of the next player, 0 where the next row is terminal
        self.discount = self._zeros((), np.float32)
        names = (*extras, *targets, "weight")
        self._values = self._zeros((len(names),), np.float32)  # one gather for all
        self.extras = dict(zip(names, self._values.unbind(-1), strict=True))  # [T + 1, B] each
        self._from_act = tuple(extras)
        self._states = tuple(torch.stack([s, s]) for s in state)  # before row 0 and before row T
        self._rows = {
            "obs": self.obs,
            "action": self.action,
            "first": self.first,
            "valid": self.valid,
            "chosen_by_agent": self.chosen_by_agent,
            "reward": self.reward,
            "discount": self.discount,
            **{name: self.extras[name] for name in extras},
        }
        self.staging = RowStaging(
            device,
            num_envs,
            observation_space.shape,
            observation_space.dtype,
            env.stack,
            self._store,
        )
        self._generator = torch.Generator(device).manual_seed(seed)
        self.filled = 0  # rows

    def _check(self, space: spaces.Box) -> None:
        if self._size % self._minibatches:
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
        """Whether all T + 1 rows are there."""
        return self.filled == self.length + 1

    @property
    def state(self) -> State:
        """State of the core before row 0, [B, units] each."""
        return tuple(stored[0] for stored in self._states)

    def add(self, step: Step, state: State) -> None:
        """Append one row; `state` is the core's before it, [B, units] each."""
        assert not self.full, "a full rollout must be restarted"
        row = self.filled
        if row in (0, self.length):
            for stored, now in zip(self._states, state, strict=True):
                stored[min(row, 1)] = now
        values = step._asdict() | {name: step.extras[name] for name in self._from_act}
        values["discount"] = np.where(
            step.terminated, np.float32(0), self._gamma * step.discount_sign
        )
        arrays = [values[name] for name in self._rows if name != "obs"]
        arrays = [a if isinstance(a, Tensor) else np.asarray(a) for a in arrays]
        self.staging.write(step, np.array([row]), *arrays)
        self.filled += 1

    def _store(self, obs: Tensor, row: Tensor, *values: Tensor) -> None:
        """Write one row: `row` [1] int64, and the values in the order of `_rows`."""
        for stored, value in zip(self._rows.values(), (obs, *values), strict=True):
            stored[row] = value if value.dtype == stored.dtype else value.to(stored.dtype)

    def _stored(self) -> tuple[Tensor, ...]:
        """Return everything that steps have filled."""
        return *self._rows.values(), *self._states

    def copy_from(self, other: "Rollout") -> None:
        """Take the rows of another rollout of the same size."""
        for stored, values in zip(self._stored(), other._stored(), strict=True):
            stored.copy_(values)
        self.filled = other.filled

    def restart(self) -> None:
        """Start the next rollout with the last row of this one."""
        for stored in self._stored():
            stored[0] = stored[-1]
        self.filled = 1

    def epoch(self) -> Tensor:
        """Return a random order: the indices [M, N] of each minibatch's rows, or envs."""
        order = torch.randperm(self._size, generator=self._generator, device=self._device)
        return order.view(self._minibatches, -1)

    def weigh(self, epoch: Tensor, ranks: Ranks = ALONE) -> None:
        """Give each row of an epoch [M, N] its weight in the mean over its minibatch's decisions.

        Once for all minibatches, so that an update has fewer operations. A minibatch has a part on
        each rank: the mean over the ranks of their weighted sums is the mean over all decisions.
        """
        counted = (self.valid & self.chosen_by_agent)[:-1].to(torch.float32)  # [T, B]
        count = ranks.mean(self.sums(counted, epoch)).clamp(min=1 / ranks.size)
        self.extras["weight"][:-1] = counted * self.of_each_row(1 / count, epoch)

    def sums(self, x: Tensor, epoch: Tensor) -> Tensor:
        """Return the sums [M] of x [T, B] over the rows of each minibatch of an epoch [M, N]."""
        parts = x.sum(0) if self._sequences else x.flatten()  # [size]
        return parts[epoch].sum(1)

    def of_each_row(self, x: Tensor, epoch: Tensor) -> Tensor:
        """Return x [M] of the minibatch of each row [T, B], 0 where a row is in none."""
        parts = x.new_zeros(self._size)
        parts[epoch] = x.unsqueeze(1).expand_as(epoch)
        return parts.view(-1, self.num_envs).expand(self.length, -1)

    def env_chunks(self) -> Sequence[Tensor]:
        """Return the indices [n] of some envs at a time, whose rows fit a CPU's cache."""
        envs = torch.arange(self.num_envs, device=self._device)
        return envs.split(max(1, _CHUNK // len(self.obs)))

    def example(self) -> tuple[Tensor]:
        """Return fixed indices, of the shape of all others."""
        return (torch.arange(self._size // self._minibatches, device=self._device),)

    def select(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the rows of x [T or T + 1, B, *] at indices [N] of a minibatch: [L, N, *]."""
        if self._sequences:
            return x[: self.length].index_select(1, index)
        return x.flatten(0, 1).index_select(0, index).unsqueeze(0)

    def following(self, index: Tensor, steps: int) -> Following:
        """Return the K = `steps` rows after each row of a minibatch at indices [N]."""
        if self._sequences:
            return following_rows(
                self.obs.index_select(1, index),
                self.action.index_select(1, index),
                self.valid.index_select(1, index),
                self.length,
                steps,
            )
        ahead = torch.arange(steps, device=self._device).unsqueeze(1)
        row = index // self.num_envs + ahead  # [K, N], of the action
        inside, env = row < self.length, index % self.num_envs
        row = row.clamp(max=self.length - 1)
        return Following(
            self.obs[row + 1, env].flatten(0, 1),
            torch.arange(row.numel(), device=self._device).view_as(row),
            self.action[row, env],
            (self.valid[row, env] & inside).cumprod(0).to(torch.bool),
        )

    @property
    def rows_of_minibatch(self) -> int:
        """Number of rows L * N of a minibatch."""
        return self.num_envs * self.length // self._minibatches

    def minibatch(self, index: Tensor) -> Minibatch:
        """Return a minibatch of an epoch that was weighed, of its indices [N]."""
        values = dict(zip(self.extras, self.select(self._values, index).unbind(-1), strict=True))
        return Minibatch(
            self.select(self.obs, index),
            self.select(self.first, index),
            values["weight"],
            self.select(self.action, index),
            values,
            tuple(stored[index] for stored in self.state),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, as arrays that share memory where possible."""
        return {
            "shape": [self.length, self.num_envs],
            "rows": {
                name: stored[: self.filled].contiguous().cpu().numpy()
                for name, stored in self._rows.items()
            },
            "states": [stored.cpu().numpy() for stored in self._states],
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`.

        Raises:
            ConfigError: the state is of a rollout of another size.
        """
        if state["shape"] != [self.length, self.num_envs]:
            raise ConfigError(
                f"the saved rollout has {state['shape']} rows and envs, this one "
                f"{[self.length, self.num_envs]}; resume with the rollout_length and num_envs of "
                "the run"
            )
        self.filled = len(state["rows"]["obs"])
        for name, stored in self._rows.items():
            stored[: self.filled].copy_(torch.from_numpy(state["rows"][name]))
        for stored, saved in zip(self._states, state["states"], strict=True):
            stored.copy_(torch.from_numpy(saved))
        restore_generator(self._generator, state["generator"])
