"""Replay of sequences from the ring of `Replay`, with the recurrent state at their start.

A sequence starts at every `period`-th row of each env, so that neighbours overlap. It may contain
the ends of episodes: `first` marks where the state is reset, `valid` which rows were decisions
(Kapturowski et al. 2019, R2D2, https://openreview.net/forum?id=r1lyTjAqYX, section 2.3).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ludus.agents.memory.priority import Priorities
from ludus.agents.memory.replay import Replay
from ludus.agents.memory.step import Step
from ludus.agents.seeding import restore_generator
from ludus.envs.errors import ConfigError
from ludus.networks.cores import State
from ludus.networks.dtypes import widest_float


class SequenceBatch(NamedTuple):
    """N sequences of T rows."""

    obs: Tensor  # [T, N, *obs]
    first: Tensor  # [T, N] bool, the row opens an episode
    valid: Tensor  # [T, N] bool, the action was used
    action: Tensor  # [T, N] int64
    reward: Tensor  # [T, N] float32, of the next row
    discount: Tensor  # [T, N] float32, gamma, or 0 where the next row is terminal
    state: State  # of the core before row 0, [N, units] each
    indices: Tensor  # [N] int64, for `Priorities.update`
    probability: Tensor  # [N] float64


class Sequences:
    """Sequences of rows of a ring.

    Args:
        ring: stores the rows; its own sampling is not used.
        length: T, rows of a sequence.
        period: rows between the starts of two neighbours.
        state: of the core for one env, [1, units] each.
        alpha: exponent of the priorities; 0 is uniform.
        seed: of the sampling generator.

    Raises:
        ConfigError: the ring is too small for one sequence.
    """

    def __init__(
        self, ring: Replay, length: int, period: int, state: State, alpha: float, seed: int
    ) -> None:
        self.ring, self.length, self._period = ring, length, period
        self._starts = ring.rows // period  # in the ring at once, for each env
        if ring.rows % period or ring.rows < length + ring.stack:
            raise ConfigError(
                f"replay_size gives {ring.rows} rows of {ring.num_envs} envs; it must be a "
                f"multiple of {period} rows and hold a sequence of {length} rows"
            )
        total = self._starts * ring.num_envs
        self._states = tuple(s.new_zeros(total, s.shape[1]) for s in state)
        self.priorities = Priorities(total, alpha, ring.device)
        self._generator = torch.Generator(ring.device).manual_seed(seed)
        self._rows = torch.arange(length, device=ring.device).unsqueeze(1)  # [T, 1]
        self._envs = torch.arange(ring.num_envs, device=ring.device)

    def __len__(self) -> int:
        """Return the number of sequences that can be sampled now."""
        first = -(-self._oldest() // self._period)
        after = max(0, self.ring.written - self.length) // self._period + 1
        whole = self.ring.written >= self.length
        return max(0, after - first) * self.ring.num_envs if whole else 0

    def _oldest(self) -> int:
        """Return the first row, counted from the start, whose frames are all in the ring."""
        lost = self.ring.written - self.ring.rows
        return lost + self.ring.stack - 1 if lost > 0 else 0

    def add(self, step: Step, state: State) -> None:
        """Append one row; `state` is the core's before it, [B, units] each."""
        row, oldest = self.ring.written, self._oldest()
        if row % self._period == 0:
            at = self._indices(row)
            for stored, now in zip(self._states, state, strict=True):
                stored[at] = now
        self.ring.add(step)
        # Sequences whose first row lost a frame to the ring can no longer be sampled.
        for start in range(oldest, self._oldest()):
            if start % self._period == 0:
                self.priorities.forget(self._indices(start))
        # A sequence can be sampled once its last row is there.
        start = self.ring.written - self.length
        if start >= 0 and start % self._period == 0:
            self.priorities.admit(self._indices(start))

    def _indices(self, row: int) -> Tensor:
        """Return the indices [B] of the sequences that start at a row, counted from the start."""
        return (row // self._period % self._starts) * self.ring.num_envs + self._envs

    def uniforms(self, batch_size: int) -> Tensor:
        """Return the randomness of one sample: [batch_size] float64, uniform in [0, 1)."""
        return torch.rand(
            batch_size,
            generator=self._generator,
            device=self.ring.device,
            dtype=widest_float(self.ring.device),
        )

    def sample(self, uniforms: Tensor) -> SequenceBatch:
        """Return sequences sampled by `uniforms` [N]."""
        index, probability = self.priorities.sample(uniforms)
        return self.gather(index, probability)

    def gather(self, index: Tensor, probability: Tensor) -> SequenceBatch:
        """Return the sequences at indices [N]."""
        ring = self.ring
        start = index // ring.num_envs * self._period  # [N] row in the ring
        rows = (start + self._rows) % ring.rows  # [T, N]
        at = rows * ring.num_envs + index % ring.num_envs  # [T, N] indices of the ring
        obs = ring.observations(at.flatten()).unflatten(0, at.shape)
        first, valid, action, reward, discount = ring.fields(at)
        state = tuple(stored[index] for stored in self._states)
        return SequenceBatch(obs, first, valid, action, reward, discount, state, index, probability)

    def state_dict(self) -> dict[str, Any]:
        """Return the ring, the recurrent states and the priorities."""
        return {
            "shape": [self.length, self._period],
            "ring": self.ring.state_dict(),
            "states": [stored.cpu().numpy() for stored in self._states],
            "generator": self._generator.get_state(),
            "priorities": {k: v.cpu().numpy() for k, v in self.priorities.tensors().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`.

        Raises:
            ConfigError: the state is of sequences of another length.
        """
        shape = [self.length, self._period]
        if state.get("shape", shape) != shape:  # absent in older checkpoints
            raise ConfigError(
                f"the saved sequences have {state['shape'][0]} rows, these {self.length}; resume "
                "with the sequence_length, burn_in and n_step of the run"
            )
        self.ring.load_state_dict(state["ring"])
        for stored, saved in zip(self._states, state["states"], strict=True):
            stored[: len(saved)] = torch.from_numpy(saved).to(stored.device)
        restore_generator(self._generator, state["generator"])
        self.priorities.load(state["priorities"])
