"""Replay memory: a ring of single frames with n-step returns, uniform or prioritised.

Row t holds the newest frame of B observations, the actions there, and the reward and termination of
row t + 1. Frames are stacked when they are sampled. A row that ended a game (its action was
ignored) is kept for bootstrapping and never sampled (Lin 1992; Mnih et al. 2015).

An index is a row of the ring times B, plus the env.
"""

from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor

from ludus.agents.memory.following import Following
from ludus.agents.memory.priority import Priorities
from ludus.agents.memory.ring_rows import RingRows, rows_of
from ludus.agents.memory.step import RowStaging, Step
from ludus.agents.returns import n_step_return
from ludus.agents.seeding import restore_generator
from ludus.envs.errors import ConfigError
from ludus.networks.dtypes import widest_float

_PER_TRANSITION = 8 + 4 + 4 + 8 + 3 + 4  # bytes: action, reward, discount, index, flags, priority
_ARRAYS = ("frames", "action", "reward", "discount", "first", "valid")


class Batch(NamedTuple):
    """N transitions of n steps; the target is reward + discount * value(next_obs)."""

    obs: Tensor  # [N, *obs]
    action: Tensor  # [N] int64
    reward: Tensor  # [N] float32, discounted sum of up to n rewards
    discount: Tensor  # [N] float32, gamma^k, negative for the other player, 0 where terminated
    next_obs: Tensor  # [N, *obs]


class Sample(NamedTuple):
    """A batch with its origin."""

    batch: Batch
    indices: Tensor  # [N] int64
    probability: Tensor | None  # [N] float64; None for uniform sampling


class Horizon(NamedTuple):
    """A return that changes over the training. Scalars on the device, which `gather` reads."""

    steps: Tensor  # int64, 1 to the memory's n_step
    gamma_ratio: Tensor  # float32, the present discount per step over that of the memory


class Replay:
    """The last `capacity` transitions of B envs.

    Args:
        capacity: transitions; rounded down to whole rows of B.
        num_envs: B.
        obs_shape: of one observation; with stack > 1, axis 0 is the stack, oldest frame first.
        obs_dtype: of one observation.
        stack: frames in one observation.
        n_step: steps of the return, at most.
        gamma: discount per step, of the rows as they are stored.
        device: where the memory lives and batches are returned.
        seed: of the sampling generator.
        alpha: exponent of the priorities; None for uniform sampling.
        rows_ahead: rows that `following` is asked for, at most.

    Raises:
        ConfigError: the capacity is too small for one n-step window, or exceeds the free memory.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        obs_shape: tuple[int, ...],
        obs_dtype: np.dtype[Any],
        *,
        stack: int,
        n_step: int,
        gamma: float,
        device: torch.device,
        seed: int,
        alpha: float | None = None,
        rows_ahead: int = 0,
    ) -> None:
        self._successors = max(n_step, rows_ahead)  # before a row can be sampled
        self.rows, self.num_envs = capacity // num_envs, num_envs
        if self.rows < self._successors + stack + 1:
            raise ConfigError(
                f"replay_size is {capacity}; with {num_envs} envs, stack {stack} and "
                f"{self._successors} rows after each it must be at least "
                f"{num_envs * (self._successors + stack + 1)}"
            )
        self.stack, self.n_step, self.device = stack, n_step, device
        self._gamma = np.float32(gamma)
        self.horizon: Horizon | None = None  # of an agent whose n or gamma changes
        self.obs_shape = obs_shape
        self._obs_shape = obs_shape
        size = int(np.prod(obs_shape, dtype=np.int64)) // stack
        total = self.rows * num_envs
        _refuse_if_too_large(total, size * obs_dtype.itemsize, device)
        # One frame more than transitions: the last stays zero, for frames before an episode.
        self._frames = self._zeros((total + 1, size), obs_dtype)
        self._action = self._zeros((total,), np.dtype(np.int64))
        self._reward = self._zeros((total,), np.dtype(np.float32))
        self._discount = self._zeros((total,), np.dtype(np.float32))
        self._first = self._zeros((total,), np.dtype(bool))
        self._valid = self._zeros((total,), np.dtype(bool))
        # The indices that may be sampled, oldest first, in a ring of their own: sampling is uniform
        # without rejection, so it needs no data-dependent loop.
        self._sampleable = self._zeros((total + 1,), np.dtype(np.int64))
        self._head = self._tail = 0  # of that ring, counted from the start of the training
        # The tail and the length on the device, so that sampling does not synchronise.
        self._range = torch.zeros(2, dtype=torch.int64, device=device)
        self.staging = RowStaging(device, num_envs, obs_shape, obs_dtype, stack, self._store)
        self._envs = torch.arange(num_envs, device=device)
        self._valid_on_host = np.zeros((self.rows, num_envs), bool)
        self._forgotten = 0  # rows that left `_sampleable`, counted from the start
        self.written = 0  # rows, counted from the start
        self.priorities = None if alpha is None else Priorities(total, alpha, device)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._uniform_dtype = widest_float(device)
        # Offsets of a stack's frames, back in the ring, and of an n-step window's rows, ahead.
        self._back = torch.arange(stack - 1, -1, -1, device=device).unsqueeze(1) * num_envs
        self._ahead = torch.arange(n_step, device=device).unsqueeze(1) * num_envs

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        """Return zeros; on a CPU they take physical memory only once they are written."""
        if self.device.type == "cpu":
            return torch.from_numpy(np.zeros(shape, dtype))
        like = torch.from_numpy(np.empty(0, dtype)).dtype
        return torch.zeros(shape, dtype=like, device=self.device)

    def __len__(self) -> int:
        """Return the number of transitions that can be sampled now."""
        return self._head - self._tail

    @property
    def capacity(self) -> int:
        """Number of transitions that fit."""
        return self.rows * self.num_envs

    def add(self, step: Step) -> None:
        """Append one row of B transitions."""
        row = self.written % self.rows
        forgotten = np.full(self.stack, row)  # cannot be sampled: nothing is forgotten
        if self.written >= self.rows:
            # The row about to be overwritten holds the oldest frame of the `stack - 1` rows after
            # it, so those can no longer be stacked either.
            forgotten = (row + np.arange(self.stack)) % self.rows
            self._forget(self.written - self.rows + self.stack)
        discount = np.where(step.terminated, np.float32(0), self._gamma * step.discount_sign)
        self._valid_on_host[row] = step.valid
        # A row can be sampled once its successors are there, which give its return and its
        # bootstrap observation.
        ready = self.written - self._successors
        admitted = self._valid_on_host[ready % self.rows] & (ready >= 0)  # [B]
        place = (self._head + admitted.cumsum() - 1) % self.capacity
        self._head += int(admitted.sum())
        self.written += 1
        self.staging.write(
            step,
            np.asarray(step.action, np.int64),
            np.asarray(step.reward, np.float32),
            discount,
            step.first,
            step.valid,
            np.array([row, ready % self.rows, *forgotten]),
            admitted,
            np.where(admitted, place, self.capacity),  # the last place is never sampled
            np.array([self._tail % self.capacity, len(self)]),
        )

    def _store(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        first: Tensor,
        valid: Tensor,
        rows: Tensor,
        admitted: Tensor,
        places: Tensor,
        bounds: Tensor,
    ) -> None:
        """Write one row of B transitions, see `add`.

        Args:
            obs: [B, *obs].
            action: [B] int64.
            reward: [B].
            discount: [B].
            first: [B] bool.
            valid: [B] bool.
            rows: [2 + stack] int64 in the ring: this row, one to admit, and those to forget.
            admitted: [B] bool, the transitions of the last that can be sampled.
            places: [B] int64 in `_sampleable`, of each of them.
            bounds: [2] int64, the tail and the length of that ring.
        """
        indices = rows.unsqueeze(1) * self.num_envs + self._envs  # [2 + stack, B]
        at, ready = indices[0], indices[1]
        frame = obs.flatten(1)[:, -self._frames.shape[1] :]  # the newest of the stack
        row = (frame, action, reward, discount, first, valid)
        for name, value in zip(_ARRAYS, row, strict=True):
            getattr(self, f"_{name}")[at] = value
        self._sampleable[places] = ready
        if self.priorities is not None:
            self.priorities.forget(indices[2:].flatten())
            self.priorities.admit(ready, admitted)
        self._range.copy_(bounds)

    def _forget(self, until: int) -> None:
        """Make the rows before `until`, counted from the start, unsampleable."""
        rows = np.arange(self._forgotten, until) % self.rows
        self._tail += int(self._valid_on_host[rows].sum())
        self._forgotten = until

    def uniforms(self, batch_size: int) -> Tensor:
        """Return the randomness of one sample: [batch_size] float64, uniform in [0, 1)."""
        return torch.rand(
            batch_size,
            generator=self._generator,
            device=self.device,
            dtype=self._uniform_dtype,
        )

    def sample(self, uniforms: Tensor) -> Sample:
        """Return transitions sampled with replacement by `uniforms` [N]."""
        tail, size = self._range
        if self.priorities is not None:
            index, probability = self.priorities.sample(uniforms)
            return Sample(self.gather(index), index, probability)
        position = (uniforms * size).to(torch.int64) + tail
        index = self._sampleable[position % self.capacity]
        return Sample(self.gather(index), index, None)

    def gather(self, index: Tensor) -> Batch:
        """Return the transitions at indices [N]."""
        if self.n_step == 1:
            reward, discount = self._reward[index], self._discount[index]
            if self.horizon is not None:
                discount = discount * self.horizon.gamma_ratio
            next_index = (index + self.num_envs) % self.capacity
        else:
            window = (index + self._ahead) % self.capacity  # [n, N]
            after = (window + self.num_envs) % self.capacity
            # A row whose successor is not valid was cut off by a time limit or ended the game.
            discount, stops = self._discount[window], ~self._valid[after]  # [n, N]
            if self.horizon is not None:
                discount = discount * self.horizon.gamma_ratio
                stops = stops | (self._ahead >= (self.horizon.steps - 1) * self.num_envs)
            n_step = n_step_return(self._reward[window], discount, stops)
            reward, discount = n_step.reward, n_step.discount
            next_index = (index + n_step.steps * self.num_envs) % self.capacity  # [N]
        return Batch(
            self.observations(index),
            self._action[index],
            reward,
            discount,
            self.observations(next_index),
        )

    def following(self, index: Tensor, steps: int) -> Following:
        """Return the K = `steps` rows after the transitions at indices [N]."""
        ahead = torch.arange(steps, device=self.device).unsqueeze(1) * self.num_envs
        before = (index + ahead) % self.capacity  # [K, N]
        after = (before + self.num_envs) % self.capacity
        return Following(
            self.observations(after.flatten()),
            torch.arange(after.numel(), device=self.device).view_as(after),
            self._action[before],
            self._valid[before].cumprod(0).to(torch.bool),
        )

    def observations(self, index: Tensor) -> Tensor:
        """Return [N, *obs]: the stack ending at each index, zeros before the episode."""
        if self.stack == 1:
            return self._frames[index].unflatten(1, self._obs_shape)
        frame = (index - self._back) % self.capacity  # [stack, N] oldest first
        # A frame lies before the episode if any later frame of its stack opened the episode: a
        # cumulative sum from the newest frame to the oldest.
        opens = self._first[frame[1:]]  # [stack - 1, N]
        before = opens.flip(0).cumsum(0).flip(0) > 0
        frame[:-1] = torch.where(before, self.capacity, frame[:-1])  # the frame of zeros
        frames = self._frames.index_select(0, frame.t().reshape(-1))
        return frames.view(len(index), *self._obs_shape)

    def fields(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return first, valid, action, reward and discount at indices of any shape."""
        return (
            self._first[index],
            self._valid[index],
            self._action[index],
            self._reward[index],
            self._discount[index],
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the rows in use, which later rows may replace, and the priorities."""
        total = self.capacity
        rows = {
            name: rows_of(
                getattr(self, f"_{name}")[:total],
                self.written * self.num_envs,
                lambda: self.written * self.num_envs,
            )
            for name in _ARRAYS
        }
        tensors = {} if self.priorities is None else self.priorities.tensors()
        return {
            "written": self.written,
            "shape": [self.rows, self.num_envs],
            "generator": self._generator.get_state(),
            **rows,
            **{f"priority_{name}": tensor.cpu().numpy() for name, tensor in tensors.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`; the sampleable indices follow from the rows.

        Raises:
            ConfigError: the state does not fit.
        """
        check_fits(state, self.rows, self.num_envs)
        for name in _ARRAYS:
            rows, ring = state[name], getattr(self, f"_{name}")
            if isinstance(rows, RingRows):
                rows.copy_to(ring)
            else:  # of a data set
                ring[: len(rows)].copy_(torch.from_numpy(rows))
        restore_generator(self._generator, state["generator"])
        self.written = state["written"]
        self._valid_on_host[:] = self._valid[: self.capacity].cpu().numpy().reshape(self.rows, -1)
        oldest = self.written - self.rows
        self._forgotten = oldest + self.stack - 1 if oldest > 0 else 0
        row = np.arange(self._forgotten, max(self._forgotten, self.written - self._successors))
        row %= self.rows
        indices = row[:, None] * self.num_envs + np.arange(self.num_envs)
        indices = indices[self._valid_on_host[row]]
        self._sampleable[: len(indices)] = torch.from_numpy(indices).to(self.device)
        self._head, self._tail = len(indices), 0
        self._range.copy_(torch.tensor([self._tail % self.capacity, len(self)]))
        if self.priorities is None:
            return
        if len(indices):
            self.priorities.admit(self._sampleable[: len(indices)])
        if "priority_leaves" in state:  # absent in a data set, where all are new
            names = self.priorities.tensors()
            self.priorities.load({name: state[f"priority_{name}"] for name in names})


def check_fits(state: dict[str, Any], rows: int, num_envs: int) -> None:
    """Check that a saved memory fits: of as many rows, or of fewer that were never replaced.

    A longer training may have a larger memory, with each saved row at its old place.

    Args:
        state: of the memory; its `shape` is rows and envs, and `written` the rows so far.
        rows: of the memory that it is loaded into.
        num_envs: of that memory.

    Raises:
        ConfigError: it does not fit.
    """
    saved_rows, saved_envs = state["shape"]
    grows = saved_rows < rows and state["written"] <= saved_rows
    if saved_envs != num_envs or not (saved_rows == rows or grows):
        raise ConfigError(
            f"the saved replay has {state['shape']} rows and envs, this one {[rows, num_envs]}; "
            "resume with the replay_size and num_envs of the run, and no fewer steps"
        )


def free_bytes(device: torch.device) -> int:
    """Return the free memory of the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _refuse_if_too_large(transitions: int, frame_bytes: int, device: torch.device) -> None:
    need, free = transitions * (frame_bytes + _PER_TRANSITION), free_bytes(device)
    if need > 0.95 * free:  # the network and the emulators need some too
        fits = int(transitions * 0.8 * free / need)
        raise ConfigError(
            f"a replay of {transitions:,} transitions needs {need / 1e9:.1f} GB, and only "
            f"{free / 1e9:.1f} GB are free on {device}; a replay_size of {fits:,} fits"
        )
