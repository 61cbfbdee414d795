"""Several processes that train one agent together: each plays and samples, all learn alike.

Each rank computes the gradient of its own part of a batch. The mean over the ranks is the gradient
of the whole batch, and every rank takes the same step with it, so that all keep the same weights.
Collectives are those of `torch.distributed`: gloo for tensors on a CPU, NCCL for those on a GPU.
"""

from __future__ import annotations  # a torch without distributed lacks their types

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from ludus.envs.errors import PeerError
from ludus.networks.running_stats import Moments

TIMEOUT = timedelta(hours=1)  # of one collective: an evaluation by rank 0 delays the next


class Ranks:
    """The ranks of one training, as seen by one of them.

    Every rank must call the same methods in the same order, and from one thread.

    Args:
        group: of `torch.distributed`; None for a single process, where a mean is what it is of.
    """

    def __init__(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank, self.size = (0, 1) if group is None else (group.rank(), group.size())

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of x over the ranks."""
        return self._reduced(x, "SUM")

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of x over the ranks."""
        return x if self._group is None else self.sum(x) / self.size

    def largest(self, x: Tensor) -> Tensor:
        """Return the maximum of x over the ranks."""
        return self._reduced(x, "MAX")

    def all(self, condition: bool) -> bool:
        """Return whether a condition holds on every rank."""
        return condition if self._group is None else bool(self.gather(int(condition)).all())

    def gather(self, *numbers: int) -> Tensor:
        """Return the integers of all ranks: [size, len(numbers)] int64."""
        mine = torch.tensor(numbers)
        if self._group is None:
            return mine.unsqueeze(0)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        self._call(torch.distributed.all_gather, parts, mine)
        return torch.stack(parts)

    def objects(self, value: Any) -> list[Any]:
        """Return the values of all ranks: of JSON's types."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.size
        self._call(torch.distributed.all_gather_object, values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """Return the value that rank 0 has: of JSON's types."""
        if self._group is None:
            return value
        values = [value]
        self._call(torch.distributed.broadcast_object_list, values, src=0)
        return values[0]

    def copy_from_first(self, x: Tensor) -> None:
        """Overwrite x by the tensor of rank 0."""
        if self._group is not None:
            self._call(torch.distributed.broadcast, x, src=0)

    def moments(self, own: Moments) -> Moments:
        """Return the moments of the batches of all ranks as one."""
        if self._group is None:
            return own
        as_numbers = isinstance(own.mean, float)
        mean, variance, count = (
            x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64) for x in own
        )
        count = count.to(mean.device)
        total = self.sum(count)
        share = count / total.clamp(min=1)
        joint = self.sum(mean * share)
        between = (mean - joint) ** 2
        if variance.shape != mean.shape:  # one for all numbers
            between = between.mean()
        spread = self.sum((variance + between) * share)
        if as_numbers:
            return Moments(float(joint), float(spread), float(total))
        return Moments(joint, spread.to(variance.dtype), float(total))

    def _reduced(self, x: Tensor, operation: str) -> Tensor:
        if self._group is None:
            return x
        x = x.contiguous().clone()
        reduce = getattr(torch.distributed.ReduceOp, operation)
        self._call(torch.distributed.all_reduce, x, op=reduce)
        return x

    def _call(self, collective: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Run a collective.

        Raises:
            PeerError: another rank has ended, or does not answer.
        """
        try:
            collective(*arguments, group=self._group, **options)
        except RuntimeError as error:
            reason = str(error).rpartition("cc:")[2].partition("] ")[2] or str(error)
            reason = reason.partition(". ")[0].partition("\n")[0][:200]
            raise PeerError(
                f"rank {self.rank} of {self.size} has lost another, whose own message says why: "
                f"{reason}"
            ) from error


ALONE = Ranks()
