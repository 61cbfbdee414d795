"""Proportional sampling by priorities whose sums are kept in two levels, in a few array operations.

P(i) = p_i^alpha / sum_k p_k^alpha (Schaul et al. 2016, https://arxiv.org/abs/1511.05952, eq. 1).
A flat running sum over a million float32 numbers rounds small priorities away, and a tree is a loop
of pointers: with blocks of sqrt(size), one search among the sums of the blocks and one within a
block are exact enough, and the same on a CPU and a GPU.
"""

import math

import numpy as np
import torch
from torch import Tensor

_FLOOR = 1e-6  # so that what is learned is not lost for ever


class Priorities:
    """Priorities of `size` places; a place that may not be sampled has none.

    Args:
        size: places.
        alpha: exponent; 0 is uniform.
        device: where they live.
    """

    def __init__(self, size: int, alpha: float, device: torch.device) -> None:
        self._size, self._alpha, self._block = size, alpha, max(1, math.isqrt(size))
        blocks = -(-size // self._block)
        if device.type == "cpu":  # zeros that take real memory only once written
            self._leaves = torch.from_numpy(np.zeros((blocks, self._block), np.float32))
        else:
            self._leaves = torch.zeros(blocks, self._block, device=device)
        self._sums = torch.zeros(blocks, dtype=torch.float64, device=device)
        self._largest = torch.ones(1, device=device)  # raw, of all that were ever given

    def admit(self, places: Tensor) -> None:
        """Give places [n] the largest priority there has been: each is to be seen soon."""
        self._write(places, self._largest.pow(self._alpha).expand(len(places)))

    def forget(self, places: Tensor) -> None:
        """Take places [n] out."""
        self._write(places, torch.zeros(len(places), device=places.device))

    def update(self, places: Tensor, priority: Tensor) -> None:
        """Set priority [n] > 0 of places [n]; of a place that is there twice the larger holds."""
        priority = priority.to(torch.float32) + _FLOOR
        torch.maximum(self._largest, priority.max(), out=self._largest)
        flat = self._leaves.view(-1)
        flat[places] = 0.0
        flat.scatter_reduce_(0, places, priority.pow(self._alpha), "amax")
        self._sum_again(places)

    def _write(self, places: Tensor, values: Tensor) -> None:
        self._leaves.view(-1)[places] = values
        self._sum_again(places)

    def _sum_again(self, places: Tensor) -> None:
        """From the leaves, so that no error adds up over millions of updates."""
        if len(places) >= len(self._sums):
            self._sums.copy_(self._leaves.sum(1, dtype=torch.float64))
            return
        blocks = places // self._block
        self._sums[blocks] = self._leaves[blocks].sum(1, dtype=torch.float64)

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Places [N] and their probabilities [N], one from each N-th of the sum.

        Args:
            uniforms: [N] float64 in [0, 1), where in its N-th each lies.
        """
        count = uniforms.shape[0]
        parts = torch.arange(count, dtype=torch.float64, device=uniforms.device)
        upto = self._sums.cumsum(0)  # [blocks]
        total = upto[-1:]
        wanted = (parts + uniforms) / count * total
        zero = torch.zeros_like(total)
        wanted = torch.minimum(wanted, torch.nextafter(total, zero))
        block = torch.searchsorted(upto, wanted, right=True)  # the first that goes beyond
        block = block.clamp(max=self._sums.shape[0] - 1)  # before the first is admitted none does
        within = wanted - (upto[block] - self._sums[block])
        leaves = self._leaves[block]  # [N, block]
        inner = leaves.cumsum(1, dtype=torch.float64)
        last = inner[:, -1]
        within = torch.minimum(within, torch.nextafter(last, torch.zeros_like(last)))
        at = torch.searchsorted(inner, within.clamp(min=0).unsqueeze(1), right=True)  # [N, 1]
        at = at.clamp(max=self._block - 1)
        probability = leaves.gather(1, at).squeeze(1) / total
        place = (block * self._block + at.squeeze(1)).clamp(max=self._size - 1)
        return place, probability

    def tensors(self) -> dict[str, Tensor]:
        """All that changes, by name."""
        return {"leaves": self._leaves, "sums": self._sums, "largest": self._largest}
