"""Policies: distributions over actions, and heads that output a policy and a value.

A distribution is a tuple of tensors. The random numbers of a sample are an input.
"""

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from ludus.envs.errors import ConfigError
from ludus.networks.heads import in_float32

_ILLEGAL = -1e9  # as a logit: its probability is 0 in float32, and so is its gradient


class Distribution(Protocol):
    """Distribution over the actions of one env, with any leading dimensions."""

    def sample(self, noise: Tensor) -> Tensor:
        """Sample actions [..., *action]; noise [..., P] uniform in [0, 1), or normal for a Box."""

    def mode(self) -> Tensor:
        """Return the most likely actions [..., *action]."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log-probabilities [...] of actions [..., *action]; densities if continuous."""

    def entropy(self) -> Tensor:
        """Return the entropy in nats, [...]."""


def gumbel(noise: Tensor) -> Tensor:
    """Transform noise [...] uniform in [0, 1) to samples of the standard Gumbel distribution."""
    return -(-noise.clamp(min=1e-20).log()).log()


class Categorical(NamedTuple):
    """Categorical distribution over A actions, numbered from 0."""

    log_p: Tensor  # [..., A]

    def sample(self, noise: Tensor) -> Tensor:
        """Sample [...] int64 with the Gumbel-max trick; noise [..., A] uniform in [0, 1)."""
        return (self.log_p + gumbel(noise)).argmax(-1)

    def mode(self) -> Tensor:
        """Return the most likely actions [...] int64."""
        return self.log_p.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log-probabilities [...] of actions [...] int64."""
        return self.log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, [...]."""
        return -(self.log_p.exp() * self.log_p).sum(-1)


class MultiCategorical(NamedTuple):
    """K independent categorical distributions, each over actions numbered from 0."""

    parts: tuple[Categorical, ...]  # K

    def sample(self, noise: Tensor) -> Tensor:
        """Sample [..., K] int64; noise [..., sum of A] uniform in [0, 1)."""
        split = noise.split([p.log_p.shape[-1] for p in self.parts], dim=-1)
        return torch.stack([p.sample(n) for p, n in zip(self.parts, split, strict=True)], -1)

    def mode(self) -> Tensor:
        """Return the most likely actions [..., K] int64."""
        return torch.stack([p.mode() for p in self.parts], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log-probabilities [...] of actions [..., K] int64."""
        each = [p.log_prob(a) for p, a in zip(self.parts, action.unbind(-1), strict=True)]
        return torch.stack(each).sum(0)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, [...]."""
        return torch.stack([p.entropy() for p in self.parts]).sum(0)


class Gaussian(NamedTuple):
    """Normal distribution over D numbers with a diagonal covariance."""

    mean: Tensor  # [..., D]
    log_std: Tensor  # [D], the same for every observation

    def sample(self, noise: Tensor) -> Tensor:
        """Sample [..., D]; noise [..., D] standard normal."""
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        """Return the means [..., D]."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log-densities [...] of actions [..., D]."""
        deviation = (action - self.mean) * (-self.log_std).exp()
        each = -0.5 * deviation.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return each.sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, [...]."""
        total = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return total.expand(self.mean.shape[:-1])


class PolicyOut(NamedTuple):
    """Output of an actor-critic head."""

    logits: Tensor  # [..., P] over all choices; means if actions are continuous
    log_std: Tensor | None  # [D] of continuous actions
    value: Tensor  # [...], in the units of the return


class ActionKind:
    """Conversion between an action space and the outputs of a policy head.

    Args:
        space: Discrete, MultiDiscrete or Box.

    Raises:
        ConfigError: the space is of another kind, or does not have one dimension.
    """

    def __init__(self, space: spaces.Space) -> None:
        self.start: np.ndarray | int = 0  # number of the first action in the env
        self.low: np.ndarray | None = None  # bounds of continuous actions
        self.high: np.ndarray | None = None
        match space:
            case spaces.Discrete():
                self.sizes, self.start = [int(space.n)], int(space.start)
            case spaces.MultiDiscrete() if len(space.shape) == 1:
                self.sizes, self.start = [int(n) for n in space.nvec], np.asarray(space.start)
            case spaces.Box() if len(space.shape) == 1 and space.dtype.kind == "f":
                self.sizes, self.low, self.high = [], space.low, space.high
            case _:
                raise ConfigError(
                    f"the action space is {space}; this agent takes Discrete, and MultiDiscrete "
                    "or a Box of floats with one dimension"
                )
        self.continuous = self.low is not None
        self.outputs = len(self.low) if self.low is not None else sum(self.sizes)
        self._several = isinstance(space, spaces.MultiDiscrete)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Generate the noise for samples of that shape, [*shape, P]."""
        size = (*shape, self.outputs)
        if self.continuous:
            return torch.randn(size, generator=generator, device=generator.device)
        return torch.rand(size, generator=generator, device=generator.device)

    def distribution(self, out: PolicyOut, legal: Tensor | None = None) -> Distribution:
        """Build the distribution from a head's output.

        Args:
            out: output of the head.
            legal: [..., P] bool, legal actions; a choice without one is not masked.
        """
        if out.log_std is not None:
            return Gaussian(out.logits, out.log_std)
        if not self._several:
            return _categorical(out.logits, legal)
        logits = out.logits.split(self.sizes, dim=-1)
        masks = [None] * len(logits) if legal is None else legal.split(self.sizes, dim=-1)
        pairs = zip(logits, masks, strict=True)
        return MultiCategorical(tuple(_categorical(choice, mask) for choice, mask in pairs))

    def env_action(self, action: np.ndarray) -> np.ndarray:
        """Convert actions [B, *action] to the env's: add its first action, clip to its bounds."""
        if self.low is not None:
            return np.clip(action, self.low, self.high)
        return action + self.start


def _categorical(logits: Tensor, legal: Tensor | None) -> Categorical:
    if legal is not None:
        logits = logits.masked_fill(~legal & legal.any(-1, keepdim=True), _ILLEGAL)
    return Categorical(logits.log_softmax(-1))


class PolicyHead(nn.Module):
    """Policy and value, each a linear layer.

    The output value is in the units of the return. With `rescale_value` (PopArt,
    https://arxiv.org/abs/1602.07714) its layer learns a target of mean 0 and deviation 1.

    Args:
        dim: input features.
        kind: kind of the actions.
        separate: use the first half of the features for the policy and the second for the value.
        log_std: initial logarithm of the standard deviation of continuous actions.
    """

    value_mean: Tensor
    value_std: Tensor

    def __init__(self, dim: int, kind: ActionKind, separate: bool, log_std: float = 0.0) -> None:
        super().__init__()
        self._split = [dim // 2, dim // 2] if separate else None
        each = dim // 2 if separate else dim
        self.policy, self.value = nn.Linear(each, kind.outputs), nn.Linear(each, 1)
        start = torch.full((kind.outputs,), log_std)
        self.log_std = nn.Parameter(start) if kind.continuous else None
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_std", torch.ones(()))

    def forward(self, x: Tensor, noise: object = None) -> PolicyOut:
        """Map [..., dim] to logits [..., P] and values [...]."""
        for_policy, for_value = (x, x) if self._split is None else x.split(self._split, dim=-1)
        value = in_float32(self.value, for_value).squeeze(-1) * self.value_std + self.value_mean
        return PolicyOut(in_float32(self.policy, for_policy), self.log_std, value)

    @torch.no_grad()
    def rescale_value(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and the standard deviation of the return, and keep every output value.

        With value = (w x + b) * std + mean, new w and b compensate the new mean and std.
        """
        self.value.weight.mul_(self.value_std / std)
        self.value.bias.mul_(self.value_std).add_(self.value_mean - mean).div_(std)
        self.value_mean.copy_(mean)
        self.value_std.copy_(std)


class GameHead(nn.Module):
    """Policy and value for a two-player game; the value is in (-1, 1).

    Args:
        dim: input features.
        actions: number of actions, A.
        hidden: units of the value's hidden layer.
    """

    def __init__(self, dim: int, actions: int, hidden: int = 64) -> None:
        super().__init__()
        self.policy = nn.Linear(dim, actions)
        self.value = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor, noise: object = None) -> PolicyOut:
        """Map [..., dim] to logits [..., A] and values [...]."""
        value = in_float32(self.value, x).squeeze(-1).tanh()
        return PolicyOut(in_float32(self.policy, x), None, value)
