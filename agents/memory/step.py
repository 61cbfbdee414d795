"""A step of B envs, and its way to the agent's device.

A copy to a GPU waits unless it is asynchronous and from pinned memory, and each costs some
microseconds. So the arrays of row t, the first of which its env has answered, are copied in one
piece with the newest frame of row t + 1, for which the agent acts next. The older frames of row
t + 1 are on the device already.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ludus.agents.memory.half import Half, stacked
from ludus.envs.stack import newest_frames

EVERY_ENV = slice(None)
Extras = dict[str, Any]  # what `act` passes on to `observe`; never kept on the agent

_ALIGNMENT = 16  # bytes, of each array within a buffer
_BUFFERS = 2  # of the host, used in turn: it fills one while the other is being copied
_LAYOUTS = 8  # kept, those used last


class Step(NamedTuple):
    """Row t of the stream, the action taken there and its outcome in row t + 1; B envs."""

    obs: np.ndarray  # [B, *obs], row t
    first: np.ndarray  # [B] bool, row t opens an episode
    valid: np.ndarray  # [B] bool, the action was used; False where row t ended the game
    action: np.ndarray  # [B, *action]
    reward: np.ndarray  # [B] float32, unclipped, of row t + 1
    terminated: np.ndarray  # [B] bool, of row t + 1: do not bootstrap from it
    extras: Extras
    discount_sign: np.ndarray | float = 1.0  # [B] float32, -1 where the other player moves next
    chosen_by_agent: np.ndarray | bool = True  # [B] bool, False where a rival chose the action
    next_obs: np.ndarray | None = None  # [B, *obs], row t + 1; None if the stream does not go on
    next_first: np.ndarray | None = None  # [B] bool, row t + 1 opens an episode


class _Pinned(NamedTuple):
    """Memory of the host that is copied to a device, or from it."""

    bytes: Tensor
    arrays: list[np.ndarray]  # views of it
    copied: torch.cuda.Event


class _Layout(NamedTuple):
    """Memory for arrays of fixed shapes and types."""

    pinned: list[_Pinned]  # the one used last comes last
    bytes: Tensor  # [bytes] of the device
    tensors: list[Tensor]  # views of it


class Staging:
    """Copies arrays to a device, and tensors from it.

    Args:
        device: where the tensors live.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._shares = device, device.type == "cpu"
        self._layouts: dict[tuple[object, ...], _Layout] = {}
        self._downloads: dict[tuple[object, ...], _Pinned] = {}

    def upload(self, *arrays: np.ndarray) -> list[Tensor]:
        """Return the arrays as tensors on the device.

        On a CPU they share memory with the arrays. On a GPU the next copy of arrays of the same
        shapes and types overwrites them.
        """
        if self.device.type != "cuda":
            tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
            return tensors if self._shares else [x.to(self.device) for x in tensors]
        layout = self._layout(arrays)
        pinned = layout.pinned.pop(0)
        layout.pinned.append(pinned)
        pinned.copied.synchronize()  # of two copies ago: hardly ever waits
        for staged, array in zip(pinned.arrays, arrays, strict=True):
            staged[...] = array
        layout.bytes.copy_(pinned.bytes, non_blocking=True)
        pinned.copied.record()
        return list(layout.tensors)

    def download(self, x: Tensor) -> np.ndarray:
        """Return a tensor as an array; waits for a GPU, but not for what it is asked to do later.

        On a CPU they may share memory.
        """
        if self.device.type != "cuda":
            return x.cpu().numpy()
        here = self._pinned_for(x)
        here.bytes.copy_(x, non_blocking=True)
        here.copied.record()
        here.copied.synchronize()
        return here.arrays[0].copy()

    def _pinned_for(self, x: Tensor) -> _Pinned:
        """Return memory of the host for a tensor of this shape and type."""
        key = (x.shape, x.dtype)
        if key not in self._downloads:
            while len(self._downloads) >= _LAYOUTS:
                del self._downloads[next(iter(self._downloads))]
            here = torch.zeros(x.shape, dtype=x.dtype, pin_memory=True)
            self._downloads[key] = _Pinned(here, [here.numpy()], torch.cuda.Event())
        return self._downloads[key]

    def _layout(self, arrays: Sequence[np.ndarray]) -> _Layout:
        """Return the memory for arrays of these shapes and types."""
        key = tuple((array.shape, array.dtype) for array in arrays)
        layout = self._layouts.pop(key, None)
        if layout is None:
            if len(self._layouts) >= _LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            layout = self._make_layout(arrays)
        self._layouts[key] = layout  # the last of the dictionary
        return layout

    def _make_layout(self, arrays: Sequence[np.ndarray]) -> _Layout:
        ends = np.cumsum([-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays])
        size = int(ends[-1])
        there = torch.zeros(size, dtype=torch.uint8, device=self.device)
        tensors = [
            there[part].view(torch.from_numpy(np.empty(0, array.dtype)).dtype).view(array.shape)
            for part, array in zip(_parts(ends, arrays), arrays, strict=True)
        ]
        pinned = []
        for _ in range(_BUFFERS):
            here = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
            views = [
                here.numpy()[part].view(array.dtype).reshape(array.shape)
                for part, array in zip(_parts(ends, arrays), arrays, strict=True)
            ]
            pinned.append(_Pinned(here, views, torch.cuda.Event()))
        return _Layout(pinned, there, tensors)


class RowStaging(Staging):
    """Copies the rows of a training, and holds the current observations of B envs on the device.

    Args:
        device: where the copies live.
        num_envs: B.
        obs_shape: of one observation.
        obs_dtype: of one observation.
        stack: frames in one observation, oldest first.
        store: writes a row into a memory, from its observations [B, *obs] and the tensors of the
            arrays that `write` was called with. On a GPU it may be captured: it must give the same
            result when it is called again, and may use no number of the host but theirs.
    """

    def __init__(
        self,
        device: torch.device,
        num_envs: int,
        obs_shape: tuple[int, ...],
        obs_dtype: np.dtype[Any],
        stack: int,
        store: Callable[..., None],
    ) -> None:
        super().__init__(device)
        self.num_envs, self._stack, self._store = num_envs, stack, store
        # `capture` replaces these by faster functions with the same results.
        self.advance: Callable[..., None] = self._advance
        self.store_before: Callable[..., None] = self._store_before
        self.halves: tuple[Half, Half] | None = None
        self._current: np.ndarray | None = None  # what `_obs` was copied from
        if device.type == "cuda":
            kind = torch.from_numpy(np.empty(0, obs_dtype)).dtype
            self._obs = torch.zeros(num_envs, *obs_shape, dtype=kind, device=device)
            self._first = torch.zeros(num_envs, dtype=torch.bool, device=device)

    def split(self) -> None:
        """Act for envs 0 to B/2 - 1 of a row first, and then for the others.

        The next row is then acted on before `write` stores this one. On a GPU only `begin` copies
        all frames there.
        """
        if self.device.type != "cuda":
            return
        middle = self.num_envs // 2
        self._acted_on = self._obs[:middle].clone(), self._first[:middle].clone()
        self.halves = (
            Half(self._obs, slice(0, middle), self._stack, self._acted_on),
            Half(self._obs, slice(middle, None), self._stack, self._acted_on),
        )

    def begin(self, obs: np.ndarray) -> None:
        """Continue at a row of observations [B, *obs], for which the agent has acted before."""
        if self.halves is not None:
            (there,) = self.upload(obs)
            for half, own in zip(self.halves, there.chunk(2), strict=True):
                half.obs.copy_(own)

    def observation(
        self, obs: np.ndarray, first: np.ndarray, envs: slice = EVERY_ENV
    ) -> Sequence[Tensor]:
        """Return observations [N, *obs] and `first` [N] of the training's envs on the device.

        They are there already if `obs` is the `next_obs` of the last `write`: the same array, not
        changed since.

        Args:
            obs: [N, *obs].
            first: [N] bool.
            envs: all, or one half after `split`.
        """
        if self.device.type != "cuda":
            return self.upload(obs, first)
        if self.halves is not None:
            half = self.halves[bool(envs.start)]
            half.advance(*self.upload(newest_frames(obs, self._stack), first))
            return self._acted_on
        if obs is not self._current:
            for held, copied in zip((self._obs, self._first), self.upload(obs, first), strict=True):
                held.copy_(copied)
            self._current = obs
        return [self._obs, self._first]

    def write(self, step: Step, *arrays: np.ndarray | Tensor) -> None:
        """Call `store` with the observations and arrays of a row, and copy the next observations.

        Args:
            step: the row.
            *arrays: what `store` takes besides the observations; tensors are on the device.
        """
        given = [a for a in arrays if not isinstance(a, Tensor)]
        if self.device.type != "cuda":
            obs, *copied = self.upload(step.obs, *given)
            self._store(obs, *_in_place_of(arrays, copied))
            return
        if self.halves is not None:
            self.store_before(*_in_place_of(arrays, self.upload(*given)))
            return
        self.observation(step.obs, step.first)
        if step.next_obs is None or step.next_first is None:
            self._store(self._obs, *_in_place_of(arrays, self.upload(*given)))
            return
        frame = newest_frames(step.next_obs, self._stack)
        frame_there, first_there, *copied = self.upload(frame, step.next_first, *given)
        self.advance(frame_there, first_there, *_in_place_of(arrays, copied))
        self._current = step.next_obs

    @torch.no_grad()
    def _advance(self, frame: Tensor, first: Tensor, *row: Tensor) -> None:
        """Store the current row, and make the next observations current.

        Args:
            frame: [B, size], the newest of each.
            first: [B] bool, see `stacked`.
            *row: what `store` takes besides the observations.
        """
        self._store(self._obs, *row)
        self._obs.copy_(stacked(self._obs, frame, first, self._stack))
        self._first.copy_(first)

    @torch.no_grad()
    def _store_before(self, *row: Tensor) -> None:
        """Store the row before the one that both halves are at."""
        assert self.halves is not None
        self._store(torch.cat([half.before for half in self.halves]), *row)

    def changes(self) -> list[Tensor]:
        """Return the tensors that a second call of `advance` would change again."""
        return [self._obs, self._first]


def _parts(ends: np.ndarray, arrays: Sequence[np.ndarray]) -> list[slice]:
    starts = [0, *ends[:-1].tolist()]
    return [slice(s, s + array.nbytes) for s, array in zip(starts, arrays, strict=True)]


def _in_place_of(arrays: Sequence[Any], copied: Sequence[Tensor]) -> list[Tensor]:
    """Return the arrays with each one of the host replaced by its copy."""
    rest = iter(copied)
    return [a if isinstance(a, Tensor) else next(rest) for a in arrays]
