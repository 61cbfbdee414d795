"""Networks of a user, as a module of theirs."""

import torch
from torch import nn


class TwoLayers(nn.Module):
    """Vectors to 24 features."""

    def __init__(self, space):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(space.shape[0], 24), nn.Tanh())

    def forward(self, obs):
        return self.layers(obs)


class Planes(nn.Module):
    """MinAtar's planes, as bytes, to features."""

    def __init__(self, space):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(space.shape[0], 3, 3), nn.ReLU(), nn.Flatten())

    def forward(self, obs):
        return self.layers(obs.float())


def planes(space):
    """Return a network for MinAtar's planes."""
    return Planes(space)


class Broken(nn.Module):
    """Is for no observation."""

    def __init__(self, space):
        super().__init__()

    def forward(self, obs):
        return torch.zeros(3)[obs]


def flat(space):
    """Return a network without a batch."""
    return nn.Flatten(0)


class Decides(TwoLayers):
    """Features that depend on a number of the batch."""

    def forward(self, obs):
        return self.layers(obs) if obs.sum() > 0 else self.layers(-obs)


class Small(TwoLayers):
    """Vectors to 3 features."""

    def __init__(self, space):
        super().__init__(space)
        self.layers = nn.Linear(space.shape[0], 3)


class Doubles(nn.Module):
    """Vectors to features of another dtype."""

    def forward(self, obs):
        return obs.double()


def doubles(space):
    """Return a network whose features are of another dtype."""
    return Doubles()


NUMBER = 3
