"""The sanity check of saliency: correlations by hand, and networks whose answer is known."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import spearmanr
from torch import nn

from ludus.comparison.explain_page import blind_layers, verdict
from ludus.evaluation.randomisation import (
    check_saliency,
    layers_from_head,
    maps_of_check,
    rank_correlation,
)
from ludus.networks.cores import NoCore
from ludus.networks.heads import QOut
from ludus.networks.network import Network

SIDE = 12
SPACE = spaces.Box(-9, 9, (2, SIDE, SIDE), np.float32)


class _Encoder(nn.Module):
    """A convolution and a linear layer over its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 4, 3)
        self.mix, self.dim = nn.Linear(4 * (SIDE - 2) ** 2, 8), 8

    def forward(self, obs):
        return torch.relu(self.mix(torch.relu(self.layer(obs)).flatten(1)))


class _Image(nn.Module):
    """Its gradient is the image itself, whatever its weights: half the sum of squares."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dim = nn.Conv2d(2, 2, 1), 1

    def forward(self, obs):
        seen = []
        hook = self.layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        self.layer(obs)
        hook.remove()
        return 0.5 * (seen[0] ** 2).flatten(1).sum(1, keepdim=True)


class _Plain(nn.Module):
    def __init__(self, dim: int, scaled: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, 3)
        self.scaled = scaled

    def forward(self, x, chance):
        return QOut(self.layer(x) if self.scaled else x + 0 * self.layer(x))


class _Agent:
    def __init__(self, encoder: nn.Module, scaled: bool) -> None:
        self.network = Network(encoder, NoCore(encoder.dim), _Plain(encoder.dim, scaled))

    def weights(self):
        return dict(self.network.state_dict())

    def load_weights(self, weights):
        self.network.load_state_dict(weights)


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 2, SIDE, SIDE)).astype(np.float32)


def _check(agent, count: int = 24):
    return check_saliency(agent, SPACE, _images(count), kind="gradient", seed=0, examples=2)


def test_the_correlation_is_spearmans_of_absolute_values():
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(2, 5, 7, 7)).round(1)  # with ties
    own = [
        spearmanr(np.abs(a).ravel(), np.abs(b).ravel())[0]
        for a, b in zip(first, second, strict=True)
    ]
    assert rank_correlation(first, second) == pytest.approx(own)


def test_it_is_1_for_equal_maps_and_about_0_for_independent_ones():
    first, second = np.random.default_rng(2).random((2, 200, 20, 20))
    assert rank_correlation(first, -3 * first) == pytest.approx(np.ones(200))
    assert abs(rank_correlation(first, second).mean()) < 0.02
    assert rank_correlation(first, 1 - first) == pytest.approx(-np.ones(200))
    assert np.isnan(rank_correlation(first, np.ones_like(first))).all()


def test_a_map_of_the_weights_is_trusted_and_the_layers_go_from_the_head_on():
    torch.manual_seed(0)
    agent = _Agent(_Encoder(), scaled=True)
    assert layers_from_head(agent.network) == ["head.layer", "encoder.mix", "encoder.layer"]
    before = {name: tensor.clone() for name, tensor in agent.weights().items()}
    done = []
    found = check_saliency(
        agent, SPACE, _images(24), kind="gradient", seed=0, examples=2, on_map=done.append
    )
    assert done == list(range(24 * 4)) == list(range(maps_of_check(agent, 24)))
    assert [layer.layer for layer in found.layers] == layers_from_head(agent.network)
    assert abs(found.final) < 0.2
    assert found.trusted
    assert verdict(found).startswith("This map depends on the network's weights")
    assert "alike" not in verdict(found)
    same = found._replace(between_states=0.85)
    assert "maps of different states are much alike (0.85)" in verdict(same)
    assert found.examples.shape == (2, 4, SIDE, SIDE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.weights().items())
    again = _check(agent)
    assert again.layers == found.layers


def test_a_map_that_does_not_depend_on_weights_is_not_to_be_trusted():
    torch.manual_seed(0)
    found = _check(_Agent(_Image(), scaled=False))
    assert [layer.mean for layer in found.layers] == pytest.approx([1.0, 1.0])
    assert not found.trusted
    assert "Do not trust this map" in verdict(found)
    assert "1.00" in verdict(found)
    assert blind_layers(found) == ["head.layer", "encoder.layer"]
    assert abs(found.between_states) < 0.2  # the images differ


class _Flat(_Image):
    """Nothing depends on the image."""

    def forward(self, obs):
        return 0 * self.layer(obs).flatten(1).sum(1, keepdim=True)


def test_maps_without_variation_are_counted_and_not_trusted():
    found = _check(_Agent(_Flat(), scaled=False), count=6)
    assert [layer.constant for layer in found.layers] == [6, 6]
    assert not found.trusted
    assert "one value everywhere" in verdict(found)
