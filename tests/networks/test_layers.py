import pytest
import torch
from torch.nn import functional as F

from ludus.networks.heads import (
    CategoricalHead,
    HeadChance,
    ImplicitQuantileHead,
    QuantileHead,
    Streams,
)
from ludus.networks.layers import NoisyLinear, SpectralConv2d


def _scaled(noise):
    return noise.sign() * noise.abs().sqrt()


def _by_matrix(layer, x, noise):
    """The paper's equation 9 with its matrices written out, for one noise."""
    inwards, outwards = _scaled(noise[: layer.dim]), _scaled(noise[layer.dim :])
    weight = layer.weight + layer.weight_sigma * torch.outer(outwards, inwards)
    return F.linear(x, weight, layer.bias + layer.bias_sigma * outwards)


@pytest.mark.parametrize("rows", [3, 500])  # few rows take two products, many one noisy matrix
def test_one_noise_for_all_rows_equals_the_noisy_matrix(rows):
    layer = NoisyLinear(5, 4, 0.5)
    x, noise = torch.randn(rows, 5), torch.randn(9)
    torch.testing.assert_close(layer(x, noise), _by_matrix(layer, x, noise), rtol=1e-4, atol=1e-5)


def test_each_row_may_have_its_own_noise():
    layer = NoisyLinear(5, 4, 0.5)
    x, noise = torch.randn(7, 5), torch.randn(7, 9)
    expected = torch.stack([_by_matrix(layer, x[i], noise[i]) for i in range(7)])
    torch.testing.assert_close(layer(x, noise), expected, rtol=1e-4, atol=1e-5)


def test_without_noise_the_means_speak():
    layer = NoisyLinear(5, 4, 0.5)
    x = torch.randn(7, 5)
    assert torch.equal(layer(x, None), F.linear(x, layer.weight, layer.bias))


def test_a_noisy_layer_starts_as_the_paper_says():
    layer = NoisyLinear(16, 300, 0.4)
    assert layer.weight.abs().max() <= 0.25
    assert layer.weight.abs().max() > 0.24
    assert (layer.weight_sigma == 0.1).all()
    assert (layer.bias_sigma == 0.1).all()


@pytest.mark.parametrize("rows", [3, 500])
def test_both_ways_have_the_same_gradient(rows):
    layer = NoisyLinear(5, 4, 0.5)
    x, noise = torch.randn(rows, 5), torch.randn(9)
    parameters = list(layer.parameters())
    ours = torch.autograd.grad(layer(x, noise).square().sum(), parameters)
    theirs = torch.autograd.grad(_by_matrix(layer, x, noise).square().sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_spectral_norm_is_one_after_the_power_iteration():
    layer = SpectralConv2d(4, 6, 3)
    for _ in range(200):
        layer.power_iteration()
    sigma = torch.linalg.svdvals(layer.weight.flatten(1))[0]
    x = torch.randn(2, 4, 8, 8)
    expected = F.conv2d(x, layer.weight / sigma, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-4)


def test_a_forward_pass_changes_no_vector():
    layer = SpectralConv2d(4, 6, 3)
    before = [b.clone() for b in layer.buffers()]
    layer(torch.randn(2, 4, 8, 8)).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), before, strict=True))


@pytest.mark.parametrize("outputs", [1, 5])
def test_the_mean_over_actions_of_two_streams_is_the_value(outputs):
    streams = Streams(3, 4, outputs, hidden=6, dueling=True)
    x = torch.randn(2, 7, 3)
    y = streams(x, None)
    value = streams.value(x, None)
    over = -1 if outputs == 1 else -2
    mean = y.mean(over, keepdim=outputs == 1)
    torch.testing.assert_close(mean, value, rtol=0, atol=1e-6)
    assert y.shape == ((2, 7, 4) if outputs == 1 else (2, 7, 4, outputs))


def test_noise_reaches_every_layer_of_both_streams():
    streams = Streams(3, 4, hidden=6, dueling=True, sigma=0.5)
    assert streams.noise_size == (3 + 6) + (6 + 1) + (3 + 6) + (6 + 4)
    x, noise = torch.rand(5, 3), torch.randn(streams.noise_size)
    streams(x, noise).square().sum().backward()
    for name, parameter in streams.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_a_categorical_head_says_the_mean_of_its_distribution():
    head = CategoricalHead(Streams(3, 2, 5), -2.0, 2.0)
    out = head(torch.randn(4, 6, 3))
    assert out.log_p.shape == (4, 6, 2, 5)
    assert out.atoms.tolist() == [-2, -1, 0, 1, 2]
    p = out.log_p.exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(4, 6, 2))
    torch.testing.assert_close(out.q, (p * torch.tensor([-2.0, -1, 0, 1, 2])).sum(-1))


def test_a_quantile_head_lies_at_the_midpoints():
    out = QuantileHead(Streams(3, 2, 4))(torch.randn(1, 6, 3))
    assert out.taus.tolist() == [0.125, 0.375, 0.625, 0.875]
    torch.testing.assert_close(out.q, out.quantiles.mean(-1))


def test_the_implicit_head_by_hand():
    head = ImplicitQuantileHead(Streams(3, 2), samples=2, policy_samples=4)
    x, taus = torch.randn(1, 5, 3), torch.rand(2, 1, 5)
    out = head(x, HeadChance(None, taus))
    assert out.quantiles.shape == (1, 5, 2, 2)
    for k in range(2):
        for n in range(5):
            waves = torch.cos(torch.pi * torch.arange(64) * taus[k, 0, n])
            phi = F.relu(head.embedding(waves))
            expected = head.streams(x[0, n] * phi, None)
            torch.testing.assert_close(out.quantiles[0, n, :, k], expected, rtol=1e-4, atol=1e-5)
            assert out.taus[0, n, k] == taus[k, 0, n]
    torch.testing.assert_close(out.q, out.quantiles.mean(-1))
    without = head(x)
    assert without.quantiles.shape == (1, 5, 2, 4)
    assert without.taus.flatten().tolist() == [0.125, 0.375, 0.625, 0.875]
