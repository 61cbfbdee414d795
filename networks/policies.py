"""Policies: distributions over actions, and the head that gives one together with a value.

A distribution is a tuple of tensors, and what is random in a sample comes in from outside.
"""

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

_ILLEGAL = -1e9  # as a logit: its probability is 0 in float32, and so is its gradient


class Distribution(Protocol):
    """Over the actions of one env, for any leading dimensions."""

    def sample(self, noise: Tensor) -> Tensor:
        """Actions [..., *action]; noise [..., chance_size] uniform in [0, 1) or normal."""

    def mode(self) -> Tensor:
        """The most likely actions [..., *action]."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Of actions [..., *action], [...]; a density where actions are continuous."""

    def entropy(self) -> Tensor:
        """In nats, [...]."""


def gumbel(noise: Tensor) -> Tensor:
    """Draws of the Gumbel distribution, [...] from noise [...] uniform in [0, 1)."""
    return -(-noise.clamp(min=1e-20).log()).log()


class Categorical(NamedTuple):
    """Over A actions, numbered from 0."""

    log_p: Tensor  # [..., A]

    def sample(self, noise: Tensor) -> Tensor:
        """[...] int64, by the Gumbel-max trick from noise [..., A] uniform in [0, 1)."""
        return (self.log_p + gumbel(noise)).argmax(-1)

    def mode(self) -> Tensor:
        """[...] int64."""
        return self.log_p.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """[...] of int64 [...]."""
        return self.log_p.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """[...]."""
        return -(self.log_p.exp() * self.log_p).sum(-1)


class MultiCategorical(NamedTuple):
    """Over K independent choices, each numbered from 0."""

    parts: tuple[Categorical, ...]  # K

    def sample(self, noise: Tensor) -> Tensor:
        """[..., K] int64 from noise [..., sum of A] uniform in [0, 1)."""
        chances = noise.split([p.log_p.shape[-1] for p in self.parts], dim=-1)
        return torch.stack([p.sample(c) for p, c in zip(self.parts, chances, strict=True)], -1)

    def mode(self) -> Tensor:
        """[..., K] int64."""
        return torch.stack([p.mode() for p in self.parts], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        """[...] of int64 [..., K]."""
        each = [p.log_prob(a) for p, a in zip(self.parts, action.unbind(-1), strict=True)]
        return torch.stack(each).sum(0)

    def entropy(self) -> Tensor:
        """[...]."""
        return torch.stack([p.entropy() for p in self.parts]).sum(0)


class Gaussian(NamedTuple):
    """Over D numbers, each with a normal distribution of its own."""

    mean: Tensor  # [..., D]
    log_std: Tensor  # [D], the same for every observation

    def sample(self, noise: Tensor) -> Tensor:
        """[..., D] from noise [..., D] standard normal."""
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        """[..., D]."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Density at [..., D], [...]."""
        deviation = (action - self.mean) * (-self.log_std).exp()
        each = -0.5 * deviation.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return each.sum(-1)

    def entropy(self) -> Tensor:
        """[...]."""
        total = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return total.expand(self.mean.shape[:-1])


class PolicyOut(NamedTuple):
    """What an actor-critic says of observations."""

    logits: Tensor  # [..., P] of all choices; means where actions are continuous
    log_std: Tensor | None  # [D], of continuous actions
    value: Tensor  # [...], in the units of the return


class ActionKind:
    """How the actions of a space are chosen: the numbers of a head become a distribution.

    Args:
        space: Discrete, MultiDiscrete or Box.

    Raises:
        ValueError: the space is another, or not of one dimension.
    """

    def __init__(self, space: spaces.Space) -> None:
        self.start: np.ndarray | int = 0  # what the first action is called
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
                raise ValueError(
                    f"the action space is {space}; this agent takes Discrete, and MultiDiscrete "
                    "or a Box of floats with one dimension"
                )
        self.continuous = self.low is not None
        self.outputs = len(self.low) if self.low is not None else sum(self.sizes)
        self._several = isinstance(space, spaces.MultiDiscrete)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """What a sample for so many observations is made of, [*shape, P]."""
        draw = torch.randn if self.continuous else torch.rand
        return draw(*shape, self.outputs, generator=generator, device=generator.device)

    def distribution(self, out: PolicyOut, legal: Tensor | None = None) -> Distribution:
        """The distribution that a head's numbers stand for.

        Args:
            out: of the head.
            legal: [..., P] bool, what the rules allow; in a choice where nothing is, all is.
        """
        if out.log_std is not None:
            return Gaussian(out.logits, out.log_std)
        allowed = [None] * len(self.sizes) if legal is None else legal.split(self.sizes, dim=-1)
        logits = out.logits.split(self.sizes, dim=-1) if self._several else [out.logits]
        parts = [_categorical(*part) for part in zip(logits, allowed, strict=True)]
        return MultiCategorical(tuple(parts)) if self._several else parts[0]

    def env_action(self, action: Tensor) -> np.ndarray:
        """Actions [B, *action] as the env takes them: from its first, and within its bounds."""
        chosen = action.cpu().numpy()
        if self.low is not None:
            return np.clip(chosen, self.low, self.high)
        return chosen + self.start


def _categorical(logits: Tensor, legal: Tensor | None) -> Categorical:
    if legal is not None:
        logits = logits.masked_fill(~legal & legal.any(-1, keepdim=True), _ILLEGAL)
    return Categorical(logits.log_softmax(-1))


class PolicyHead(nn.Module):
    """Features to a policy and a value, each a linear layer.

    The value is kept in the units of the return, while its layer learns it with mean 0 and
    deviation 1, where `rescale_value` is used (PopArt, https://arxiv.org/abs/1602.07714).

    Args:
        dim: features in.
        kind: of the actions.
        separate: the first half of the features is the policy's, the second the value's.
        log_std: where the deviation of continuous actions starts, in nats.
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
        """[..., dim] to what is made of it."""
        for_policy, for_value = (x, x) if self._split is None else x.split(self._split, dim=-1)
        value = self.value(for_value).squeeze(-1) * self.value_std + self.value_mean
        return PolicyOut(self.policy(for_policy), self.log_std, value)

    @torch.no_grad()
    def rescale_value(self, mean: Tensor, std: Tensor) -> None:
        """Take another mean and deviation of the return, without a change of any value."""
        self.value.weight.mul_(self.value_std / std)
        self.value.bias.mul_(self.value_std).add_(self.value_mean - mean).div_(std)
        self.value_mean.copy_(mean)
        self.value_std.copy_(std)


class GameHead(nn.Module):
    """A policy and a value from -1 to 1 for one who plays against another.

    Args:
        dim: features in.
        actions: A.
        hidden: units of the value's own layer.
    """

    def __init__(self, dim: int, actions: int, hidden: int = 64) -> None:
        super().__init__()
        self.policy = nn.Linear(dim, actions)
        self.value = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor, noise: object = None) -> PolicyOut:
        """[..., dim] to logits [..., A] and values [...]."""
        return PolicyOut(self.policy(x), None, self.value(x).squeeze(-1).tanh())
