"""Copies from the host to the device: all arrays of a row at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes, of each array within a buffer
_BUFFERS = 2  # used in turn, so that the host fills one while the other is being copied
_LAYOUTS = 8  # kept, the newest


class _Buffer(NamedTuple):
    """Memory of the host that is copied to memory of the device."""

    host: Tensor  # [bytes] pinned
    arrays: list[np.ndarray]  # views of `host`
    device: Tensor  # [bytes]
    tensors: list[Tensor]  # views of `device`
    copied: torch.cuda.Event


class Staging:
    """Copies arrays to a device.

    A copy to a GPU waits unless it is asynchronous and from pinned memory, and each costs some
    microseconds. So the arrays of a row are packed into one pinned buffer and copied together.

    Args:
        device: where the copies live.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._layouts: dict[tuple[object, ...], list[_Buffer]] = {}

    def upload(self, *arrays: np.ndarray) -> list[Tensor]:
        """Return the arrays as tensors on the device.

        On a CPU they share memory with the arrays. On a GPU they are overwritten by the copy after
        the next one of arrays of the same shapes and types.
        """
        if self._device.type != "cuda":
            return [torch.from_numpy(np.ascontiguousarray(a)).to(self._device) for a in arrays]
        buffer = self._next_buffer(arrays)
        buffer.copied.synchronize()  # of two copies ago: hardly ever waits
        for staged, array in zip(buffer.arrays, arrays, strict=True):
            staged[...] = array
        buffer.device.copy_(buffer.host, non_blocking=True)
        buffer.copied.record()
        return list(buffer.tensors)

    def _next_buffer(self, arrays: Sequence[np.ndarray]) -> _Buffer:
        """Return the buffer for arrays of these shapes and types that was used least recently."""
        layout = tuple((array.shape, array.dtype) for array in arrays)
        buffers = self._layouts.get(layout)
        if buffers is None:
            if len(self._layouts) >= _LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            buffers = [self._make_buffer(arrays) for _ in range(_BUFFERS)]
            self._layouts[layout] = buffers
        buffers.append(buffers.pop(0))
        return buffers[-1]

    def _make_buffer(self, arrays: Sequence[np.ndarray]) -> _Buffer:
        ends = np.cumsum([-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays])
        host = torch.zeros(int(ends[-1]), dtype=torch.uint8, pin_memory=True)
        device = torch.zeros(int(ends[-1]), dtype=torch.uint8, device=self._device)
        staged, tensors = list[np.ndarray](), list[Tensor]()
        for start, array in zip([0, *ends[:-1].tolist()], arrays, strict=True):
            part = slice(start, start + array.nbytes)
            kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
            staged.append(host.numpy()[part].view(array.dtype).reshape(array.shape))
            tensors.append(device[part].view(kind).view(array.shape))
        return _Buffer(host, staged, device, tensors, torch.cuda.Event())
