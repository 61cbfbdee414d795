"""Running mean and variance, and the normalisation of observations and rewards with them.

Batches are merged with the parallel algorithm of Chan et al. (1979). With the share
w = n / (N + n) of a batch of n numbers among all N + n:

mean <- mean + w (mean_batch - mean)
variance <- (1 - w) variance + w variance_batch + w (1 - w) (mean_batch - mean)^2
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ludus.networks.dtypes import widest_float

_Number = TypeVar("_Number", float, Tensor)
_EPSILON = 1e-8  # added to a variance before its root
CLIP = 10.0  # bound of a normalised number, in deviations


class Moments(NamedTuple):
    """Mean and variance of a batch, and how many numbers it has."""

    mean: Any  # float, or a tensor [*shape]
    variance: Any  # float, or a tensor of that shape, or [] where it is shared
    size: float


Join = Callable[[Moments], Moments]  # takes one part of a batch, returns the whole batch's moments


def whole(batch: Moments) -> Moments:
    """Return the moments of a batch that has no other parts."""
    return batch


def merge_moments(
    mean: _Number,
    variance: _Number,
    count: _Number,
    batch_mean: _Number,
    batch_variance: _Number,
    batch_count: float,
    *,
    shared_variance: bool = False,
) -> tuple[_Number, _Number, _Number]:
    """Merge the statistics of a batch into running ones.

    Args:
        mean: [*shape], running.
        variance: [*shape], or [] where it is shared.
        count: numbers behind the running statistics.
        batch_mean: [*shape].
        batch_variance: of the shape of `variance`.
        batch_count: n, at least 1.
        shared_variance: use one variance for all of [*shape].

    Returns:
        The merged mean, variance and count.
    """
    total = count + batch_count
    share = batch_count / total
    delta = batch_mean - mean
    between = delta**2
    if shared_variance:
        assert isinstance(between, Tensor)
        between = between.mean()
    merged = variance * (1 - share) + batch_variance * share + between * share * (1 - share)
    return mean + delta * share, merged, total


class RunningMeanStd:
    """Running mean and variance of a stream of numbers."""

    def __init__(self) -> None:
        self.mean, self.variance, self.count = 0.0, 1.0, 0.0

    def update(self, values: np.ndarray, forget: float = 0.0, join: Join = whole) -> None:
        """Merge values [N]; earlier values lose the fraction `forget` of their weight."""
        batch = Moments(0.0, 0.0, 0)
        if len(values):
            mean = float(np.mean(values, dtype=np.float64))
            batch = Moments(mean, float(np.var(values)), len(values))
        batch = join(batch)
        if batch.size:
            self.mean, self.variance, self.count = merge_moments(
                self.mean, self.variance, self.count * (1 - forget), *batch
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics."""
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the statistics that `state_dict` returned."""
        self.mean, self.variance, self.count = state["mean"], state["variance"], state["count"]


class RewardScale:
    """Divide rewards by the running deviation of the discounted return, and clip them to +-10.

    Continuous actions, detail 6, of "The 37 implementation details of PPO":
    https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/

    Args:
        gamma: discount per step.
        num_envs: B.
    """

    def __init__(self, gamma: float, num_envs: int) -> None:
        self._gamma, self._returns = gamma, np.zeros(num_envs)
        self._moments = RunningMeanStd()

    def __call__(
        self, reward: np.ndarray, valid: np.ndarray, terminated: np.ndarray, join: Join = whole
    ) -> np.ndarray:
        """Return scaled rewards [B] float32; a row that is not valid opens the next game."""
        self._returns = self._returns * self._gamma + reward
        self._moments.update(self._returns[valid], join=join)
        self._returns[~valid | terminated] = 0.0
        scale = (self._moments.variance + _EPSILON) ** -0.5
        return np.clip(reward * scale, -CLIP, CLIP).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return the running returns and their statistics."""
        return {"returns": self._returns, "moments": self._moments.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._returns = np.array(state["returns"])
        self._moments.load_state_dict(state["moments"])


class Normalise(nn.Module):
    """Normalise observations with their running mean and variance, and clip them to +-10.

    Only `update_statistics`, which the agent calls, changes the statistics. `forward` never does,
    so an evaluation uses those of the last training step.

    Args:
        shape: of one observation.
        shared_variance: use one variance for all numbers. Suits images: most pixels hardly ever
            change, and a filter must find the same shape everywhere.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], shared_variance: bool = False) -> None:
        super().__init__()
        self._shared = shared_variance
        mean = torch.zeros(shape)
        if shared_variance and len(shape) == 3:  # channels last, as images lie in memory
            mean = torch.zeros(*shape[1:], shape[0]).permute(2, 0, 1)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", torch.ones(() if shared_variance else shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update_statistics(self, rows: Tensor, join: Join = whole) -> None:
        """Merge observations [N, *obs] into the statistics."""
        wide = widest_float(rows.device)
        if self._shared:  # stays in float32: images in float64 would need 8 times as much
            batch_mean = rows.mean(0)
            batch_variance = (rows - batch_mean).square_().mean()
        else:
            rows = rows.to(wide)
            batch_mean, batch_variance = rows.mean(0), rows.var(0, correction=0)
        batch = join(Moments(batch_mean, batch_variance, len(rows)))
        mean, variance, _ = merge_moments(
            self.mean, self.variance, self.count.to(wide), *batch, shared_variance=self._shared
        )
        self.mean.copy_(mean)
        self.variance.copy_(variance)
        self.count.add_(int(batch.size))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, *obs] to the same shape, float32."""
        scale = (self.variance + _EPSILON).rsqrt()
        return ((x - self.mean) * scale).clamp(-CLIP, CLIP)

    def in_place(self, x: Tensor, unit: float) -> Tensor:
        """Compute `forward(x / unit)` within x [N, *obs] float32: 3 passes over memory, not 5."""
        scale = (self.variance + _EPSILON).rsqrt() / unit
        return x.sub_(self.mean * unit).mul_(scale).clamp_(-CLIP, CLIP)


def leave_constants(network: nn.Module) -> None:
    """Do not scale what has been constant: any change would be as large as the bounds allow."""
    for layer in network.modules():
        if isinstance(layer, Normalise):
            layer.variance.masked_fill_(layer.variance < _EPSILON, 1.0)
