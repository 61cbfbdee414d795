"""Heads: features to action values. Every value head emits `.q`; other kinds add extras to it."""

from typing import NamedTuple

from torch import Tensor, nn


class QOut(NamedTuple):
    """What a value head says of each action."""

    q: Tensor  # [..., A]


def _stream(dim: int, hidden: int, out: int) -> nn.Sequential:
    """One hidden layer with ReLU (none where hidden is 0), then a linear layer."""
    if hidden == 0:
        return nn.Sequential(nn.Linear(dim, out))
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out))


class QHead(nn.Module):
    """One stream from features to the values of all actions."""

    def __init__(self, dim: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.layers = _stream(dim, hidden, actions)

    def forward(self, x: Tensor) -> QOut:
        """[..., dim] to q [..., A]."""
        return QOut(self.layers(x))


class DuelingHead(nn.Module):
    """q = v + a - mean(a), Wang et al. 2016 (https://arxiv.org/abs/1511.06581), equation 9."""

    def __init__(self, dim: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.value = _stream(dim, hidden, 1)
        self.advantage = _stream(dim, hidden, actions)

    def forward(self, x: Tensor) -> QOut:
        """[..., dim] to q [..., A]."""
        advantage = self.advantage(x)  # [..., A]
        centred = advantage - advantage.mean(dim=-1, keepdim=True)
        return QOut(self.value(x) + centred)
