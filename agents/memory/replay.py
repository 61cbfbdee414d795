"""Replay memory: a ring of single frames, n-step returns at sampling time, uniform or prioritised.

Row t holds the newest frame of B observations, the actions there, and the reward and termination of
row t + 1. Observations are stacked again when sampled. A row that ended a game (its action was
ignored) is kept for bootstrapping and never sampled (Lin 1992; Mnih et al. 2015).
"""

from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor

from ludus.agents.agent import Batch, Step
from ludus.agents.memory.priority import Priorities
from ludus.agents.returns import n_step_return
from ludus.envs.errors import ConfigError

_PER_TRANSITION = 8 + 4 + 4 + 8 + 3 + 4  # bytes: action, reward, discount, slot, flags, priority


class Sample(NamedTuple):
    """A batch, where it came from, and how likely that was."""

    batch: Batch
    place: Tensor  # [N] int64, of the ring, for `Priorities.update`
    scaled_probability: (
        Tensor | None
    )  # [N] float64, probability times size: 1 if all were alike; or None


class Replay:
    """The last `capacity` transitions of B envs.

    Args:
        capacity: transitions; rounded down to whole rows of B.
        num_envs: B.
        obs_shape: of one observation; with stack > 1, axis 0 is the stack, oldest frame first.
        obs_dtype: of one observation.
        stack: frames in one observation.
        n_step: steps of the return.
        gamma: discount per step.
        device: where the memory lives and batches come out.
        seed: of the sampling generator.
        alpha: exponent of the priorities; None for uniform sampling.

    Raises:
        ConfigError: the capacity is too small for a batch of windows, or does not fit in memory.
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
    ) -> None:
        self.rows, self.num_envs = capacity // num_envs, num_envs
        if self.rows < n_step + stack + 1:
            raise ConfigError(
                f"replay_size is {capacity}; with {num_envs} envs, stack {stack} and n_step "
                f"{n_step} it must be at least {num_envs * (n_step + stack + 1)}"
            )
        self.stack, self.n_step, self.device = stack, n_step, device
        self._gamma = np.float32(gamma)
        self.obs_shape = obs_shape
        self._frame_shape = obs_shape[1:] if stack > 1 else obs_shape
        size = int(np.prod(self._frame_shape, dtype=np.int64))
        total = self.rows * num_envs
        _refuse_if_too_large(total, size * obs_dtype.itemsize, device)
        # One frame more than transitions: the last stays zero and stands for "before the episode".
        self._frames = self._zeros((total + 1, size), obs_dtype)
        self._action = self._zeros((total,), np.dtype(np.int64))
        self._reward = self._zeros((total,), np.dtype(np.float32))
        self._discount = self._zeros((total,), np.dtype(np.float32))
        self._first = self._zeros((total,), np.dtype(bool))
        self._valid = self._zeros((total,), np.dtype(bool))
        # The places that may be sampled, oldest first, as a ring of their own.
        self._slots = self._zeros((total,), np.dtype(np.int64))
        self._head = self._tail = 0  # of the slots, counted for ever
        # The same two on the device, so that sampling waits for nothing: first slot, slots in use.
        self._window = torch.zeros(2, dtype=torch.int64, device=device)
        self._used = np.zeros((self.rows, num_envs), bool)  # `_valid`, for the host
        self._forgotten = 0  # rows whose slots are gone, counted for ever
        self.written = 0  # rows, counted for ever
        self.priorities = None if alpha is None else Priorities(total, alpha, device)
        self._generator = torch.Generator(device).manual_seed(seed)
        # How far back in the ring the frames of a stack lie, and how far ahead a window
        self._back = torch.arange(stack - 1, -1, -1, device=device).unsqueeze(1) * num_envs
        self._ahead = torch.arange(n_step, device=device).unsqueeze(1) * num_envs

    def _zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        """Zeros that take real memory only once written, on a CPU."""
        if self.device.type == "cpu":
            return torch.from_numpy(np.zeros(shape, dtype))
        like = torch.from_numpy(np.empty(0, dtype)).dtype
        return torch.zeros(shape, dtype=like, device=self.device)

    def __len__(self) -> int:
        """Transitions that can be sampled now."""
        return self._head - self._tail

    @property
    def capacity(self) -> int:
        """Transitions that fit."""
        return self.rows * self.num_envs

    def add(self, step: Step) -> None:
        """Append one row of B transitions."""
        row = self.written % self.rows
        if self.written >= self.rows:
            self._forget(self.written - self.rows + self.stack)
        at = slice(row * self.num_envs, (row + 1) * self.num_envs)
        frame = step.obs[:, -1] if self.stack > 1 else step.obs
        self._frames[at] = torch.from_numpy(frame.reshape(self.num_envs, -1)).to(self.device)
        self._action[at] = torch.from_numpy(step.action)
        self._reward[at] = torch.from_numpy(step.reward)
        self._discount[at] = torch.from_numpy(
            np.where(step.terminated, 0, self._gamma * step.discount_sign)
        )
        self._first[at] = torch.from_numpy(step.first)
        self._valid[at] = torch.from_numpy(step.valid)
        self._used[row] = step.valid
        self.written += 1
        self._admit(self.written - 1 - self.n_step)

    def _admit(self, row: int) -> None:
        """Row `row`, counted for ever, now has all its n successors: it may be sampled."""
        if row < 0:
            return
        row %= self.rows
        places = np.flatnonzero(self._used[row]) + row * self.num_envs  # [count]
        at = (np.arange(len(places)) + self._head) % self.capacity
        slots = torch.from_numpy(places).to(self.device)
        self._slots[torch.from_numpy(at).to(self.device)] = slots
        if self.priorities is not None and len(places):
            self.priorities.admit(slots)
        self._head += len(places)
        self._mark()

    def _forget(self, until: int) -> None:
        """Rows before `until`, counted for ever, lose their history to the ring: their slots go."""
        for row in range(self._forgotten, until):
            at = row % self.rows
            self._tail += int(self._used[at].sum())
            if self.priorities is not None:
                first = at * self.num_envs
                self.priorities.forget(
                    torch.arange(first, first + self.num_envs, device=self.device)
                )
        self._forgotten = until

    def _mark(self) -> None:
        self._window.copy_(torch.tensor([self._tail % self.capacity, len(self)]))

    def uniforms(self, batch_size: int) -> Tensor:
        """The uniforms of one sample: [batch_size] float64, uniform in [0, 1)."""
        return torch.rand(
            batch_size, generator=self._generator, device=self.device, dtype=torch.float64
        )

    def sample(self, uniforms: Tensor) -> Sample:
        """The transitions that `uniforms` [N] from `uniforms` picks, with replacement."""
        tail, size = self._window
        if self.priorities is not None:
            place, probability = self.priorities.sample(uniforms)
            return Sample(self.gather(place), place, probability * size)
        pick = (uniforms * size).to(torch.int64) + tail
        place = self._slots[pick % self.capacity]
        return Sample(self.gather(place), place, None)

    def gather(self, place: Tensor) -> Batch:
        """The transitions at places [N] of the ring."""
        if self.n_step == 1:
            reward, discount = self._reward[place], self._discount[place]
            following = (place + self.num_envs) % self.capacity
        else:
            window = (place + self._ahead) % self.capacity  # [n, N]
            after = (window + self.num_envs) % self.capacity
            back = n_step_return(self._reward[window], self._discount[window], ~self._valid[after])
            reward, discount = back.reward, back.discount
            following = (place + back.steps * self.num_envs) % self.capacity  # [N]
        return Batch(
            self.observations(place),
            self._action[place],
            reward,
            discount,
            self.observations(following),
        )

    def observations(self, place: Tensor) -> Tensor:
        """[N, *obs]: the stack that ends at each place, zeros before the episode's first frame."""
        if self.stack == 1:
            return self._frames[place].unflatten(1, self._frame_shape)
        index = (place - self._back) % self.capacity  # [stack, N] oldest first
        opens = self._first[index[1:]]  # [stack - 1, N]: the next frame opened the episode
        # A frame is before the episode if any later frame of the stack opened it.
        before = opens.flip(0).cumsum(0).flip(0) > 0
        index[:-1] = torch.where(before, self.capacity, index[:-1])
        frames = self._frames.index_select(0, index.t().reshape(-1))
        return frames.view(len(place), self.stack, *self._frame_shape)

    def fields(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """First, valid, action, reward and discount at places of any shape."""
        arrays = (self._first, self._valid, self._action, self._reward, self._discount)
        first, valid, action, reward, discount = (array[place] for array in arrays)
        return first, valid, action, reward, discount

    def state_dict(self) -> dict[str, Any]:
        """The rows in use, as arrays that share memory where they can."""
        used = min(self.written, self.rows) * self.num_envs
        names = ("frames", "action", "reward", "discount", "first", "valid")
        arrays = {name: getattr(self, f"_{name}")[:used].cpu().numpy() for name in names}
        if self.priorities is not None:
            kept = self.priorities.tensors().items()
            arrays |= {f"priority_{name}": tensor.cpu().numpy() for name, tensor in kept}
        return {
            "written": self.written,
            "shape": [self.rows, self.num_envs],
            "generator": self._generator.get_state(),
            **arrays,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; the slots follow from the rows.

        Raises:
            ConfigError: the state is of a memory of another size.
        """
        if state["shape"] != [self.rows, self.num_envs]:
            raise ConfigError(
                f"the replay saved has {state['shape']} rows and envs, this one "
                f"{[self.rows, self.num_envs]}; resume with the replay_size and num_envs of the run"
            )
        used = len(state["action"])
        for name in ("frames", "action", "reward", "discount", "first", "valid"):
            getattr(self, f"_{name}")[:used].copy_(torch.from_numpy(state[name]))
        self._generator.set_state(state["generator"])
        self.written = state["written"]
        rows = used // self.num_envs
        self._used[:rows] = state["valid"].reshape(rows, self.num_envs)
        oldest = self.written - self.rows
        self._forgotten = oldest + self.stack - 1 if oldest > 0 else 0
        row = np.arange(self._forgotten, max(self._forgotten, self.written - self.n_step))
        row %= self.rows
        place = (row[:, None] * self.num_envs + np.arange(self.num_envs))[self._used[row]]
        self._slots[: len(place)] = torch.from_numpy(place).to(self.device)
        self._head, self._tail = len(place), 0
        self._mark()
        if self.priorities is None:
            return
        if len(place):
            self.priorities.admit(self._slots[: len(place)])
        for name, tensor in self.priorities.tensors().items():
            if f"priority_{name}" in state:  # not there in a data set, where all are new
                tensor.copy_(torch.from_numpy(state[f"priority_{name}"]))


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device now."""
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
