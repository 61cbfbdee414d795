"""Proportional sampling with sums of priorities in two levels, in a few array operations.

P(i) = p_i^alpha / sum_k p_k^alpha (Schaul et al. 2016, https://arxiv.org/abs/1511.05952, eq. 1).
A flat cumulative sum of a million float32 numbers rounds small priorities away, and a sum tree
needs a loop over pointers. Blocks of sqrt(size) need one search among the sums of the blocks and
one within a block: exact enough, and the same on a CPU and a GPU.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ludus.networks.dtypes import widest_float

_FLOOR = 1e-6  # keeps priorities above zero, so every transition can still be sampled


def importance_weights(probability: Tensor, beta: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return importance weights [N] float32, normalised by their maximum, and that (section 3.4).

    The size of the memory, a factor of all weights in the paper, is left out: it cancels.

    Args:
        probability: [N].
        beta: exponent.
    """
    weight = probability.pow(-beta)
    largest = weight.max()
    return (weight / largest).to(torch.float32), largest


class Priorities:
    """Priorities of `size` indices; an index without a priority is never sampled.

    Args:
        size: number of indices.
        alpha: exponent; 0 is uniform.
        device: where the priorities live.
    """

    def __init__(self, size: int, alpha: float, device: torch.device) -> None:
        self._size, self._alpha, self._block = size, alpha, max(1, math.isqrt(size))
        blocks = -(-size // self._block)
        if device.type == "cpu":  # zeros that take physical memory only once they are written
            self._leaves = torch.from_numpy(np.zeros((blocks, self._block), np.float32))
        else:
            self._leaves = torch.zeros(blocks, self._block, device=device)
        self._dtype = widest_float(device)
        self._sums = torch.zeros(blocks, dtype=self._dtype, device=device)
        self._largest = torch.ones(1, device=device)  # without the exponent, so far

    def admit(self, indices: Tensor, where: Tensor | None = None) -> None:
        """Give indices [n] the largest priority so far, so that each is sampled soon.

        Those that are false in `where` [n] get none, so that the number of indices can be fixed.
        """
        largest = self._largest.pow(self._alpha).expand(len(indices))
        self._write(indices, largest if where is None else largest * where)

    def forget(self, indices: Tensor) -> None:
        """Remove indices [n]."""
        self._write(indices, torch.zeros(len(indices), device=indices.device))

    def update(self, indices: Tensor, priority: Tensor) -> None:
        """Set priorities [n] > 0 of indices [n]; a repeated index gets its largest."""
        priority = priority.to(torch.float32) + _FLOOR
        torch.maximum(self._largest, priority.max(), out=self._largest)
        flat = self._leaves.view(-1)
        flat.index_fill_(0, indices, 0.0)
        flat.scatter_reduce_(0, indices, priority.pow(self._alpha), "amax")
        self._sum_blocks(indices)

    def _write(self, indices: Tensor, values: Tensor) -> None:
        self._leaves.view(-1)[indices] = values
        self._sum_blocks(indices)

    def _sum_blocks(self, indices: Tensor) -> None:
        """Sum the blocks of `indices` anew, so that rounding does not accumulate over updates."""
        if len(indices) >= len(self._sums):
            self._sums.copy_(self._leaves.sum(1, dtype=self._dtype))
            return
        blocks = indices // self._block
        self._sums[blocks] = self._leaves[blocks].sum(1, dtype=self._dtype)

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return indices [N] and their probabilities [N], by stratified sampling.

        Args:
            uniforms: [N] float64 in [0, 1), the position within each of N equal strata of the sum.
        """
        count = uniforms.shape[0]
        strata = torch.arange(count, dtype=self._dtype, device=uniforms.device)
        cumulative = self._sums.cumsum(0)  # [blocks]
        total = cumulative[-1:]
        target = (strata + uniforms) / count * total
        # Rounding may reach the total, which lies beyond the last block: stay just below.
        target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
        # Level 1: the first block whose cumulative sum exceeds the target.
        block = torch.searchsorted(cumulative, target, right=True)
        block = block.clamp(max=self._sums.shape[0] - 1)  # all sums are 0 before the first admit
        within = target - (cumulative[block] - self._sums[block])
        # Level 2: the same search within each block.
        leaves = self._leaves[block]  # [N, block]
        inner = leaves.cumsum(1, dtype=self._dtype)
        last = inner[:, -1]
        within = torch.minimum(within, torch.nextafter(last, torch.zeros_like(last)))
        at = torch.searchsorted(inner, within.clamp(min=0).unsqueeze(1), right=True)  # [N, 1]
        at = at.clamp(max=self._block - 1)
        probability = leaves.gather(1, at).squeeze(1) / total
        index = (block * self._block + at.squeeze(1)).clamp(max=self._size - 1)
        return index, probability

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Load what `tensors` returned, of as many indices or of fewer."""
        leaves = torch.from_numpy(tensors["leaves"]).flatten()
        count = min(len(leaves), self._leaves.numel())  # the last block may be padded
        self._leaves.view(-1)[:count] = leaves[:count].to(self._leaves.device)
        self._largest.copy_(torch.from_numpy(tensors["largest"]))
        if len(leaves) == self._leaves.numel():
            self._sums.copy_(torch.from_numpy(tensors["sums"]))
        else:
            self._sums.copy_(self._leaves.sum(1, dtype=self._dtype))

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that changes, by name."""
        return {"leaves": self._leaves, "sums": self._sums, "largest": self._largest}
