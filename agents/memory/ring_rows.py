"""The rows of a ring as a checkpoint stores them: those that are new, and references to the older.

Row n, counted from the start of the training, lies at n % size until row n + size takes its place.
Files that hold rows by their number therefore never change once they are full.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_COPIED_AT_ONCE = 32 << 20  # bytes


class RowsReplacedError(Exception):
    """Rows of a ring were replaced before they were read."""


class RingRows(NamedTuple):
    """The rows that a ring holds, or held when it was saved."""

    size: int  # rows that fit
    written: int  # rows since the start of the training
    shape: tuple[int, ...]  # of one row
    dtype: np.dtype[Any]
    read: Callable[[int, int], np.ndarray]
    """returns a copy of the rows [start, stop), which must be held"""

    @property
    def first(self) -> int:
        """Number of the oldest row."""
        return max(0, self.written - self.size)

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes."""
        return max(1, int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize)

    def copy_to(self, ring: Tensor) -> None:
        """Copy the rows to their places in a ring [size, *shape]."""
        for start, stop in self._spans():
            at = start % self.size
            ring[at : at + stop - start].copy_(torch.from_numpy(self.read(start, stop)))

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Yield parts of the rows that lie together in the ring and are not too large."""
        start, most = self.first, max(1, _COPIED_AT_ONCE // self.row_bytes)
        while start < self.written:
            stop = min(start + most, self.written, start - start % self.size + self.size)
            yield start, stop
            start = stop


def rows_of(ring: Tensor, written: int, now: Callable[[], int]) -> RingRows:
    """Return the rows that a ring [size, *shape] holds; later ones may replace them.

    Args:
        ring: in memory or on a device.
        written: rows since the start of the training.
        now: returns this number at any later time, so that `read` can refuse replaced rows.
    """
    size = len(ring)

    def read(start: int, stop: int) -> np.ndarray:
        at, count = start % size, stop - start
        last = ring[at : at + count].cpu()  # up to the end of the ring
        rows = torch.cat([last, ring[: count - len(last)].cpu()]).numpy()
        if now() > start + size:
            raise RowsReplacedError
        return rows

    dtype = torch.empty(0, dtype=ring.dtype).numpy().dtype
    return RingRows(size, written, tuple(ring.shape[1:]), dtype, read)
