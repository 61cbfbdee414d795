from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

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
    for mean in (layer.weight, layer.bias):  # uniform between +- 1 / sqrt(16)
        values = mean.detach().flatten().numpy()
        assert stats.kstest(values, "uniform", (-0.25, 0.5)).pvalue > 1e-3
    assert (layer.weight_sigma == 0.1).all()  # 0.4 / sqrt(16)
    assert (layer.bias_sigma == 0.1).all()
    assert layer.weight_sigma.requires_grad
    assert layer.bias_sigma.requires_grad


def test_noise_is_that_of_the_papers_f():
    layer = NoisyLinear(1, 1, 0.5)
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), (2.0, 1.0, 0.5, 0.1), strict=True):
            parameter.fill_(value)
    # f(4) = 2 in, f(-9) = -3 out: (2 + 0.5 * 2 * -3) x + 1 + 0.1 * -3
    y = layer(torch.tensor([[10.0]]), torch.tensor([4.0, -9.0]))
    torch.testing.assert_close(y, torch.tensor([[-10.0 + 0.7]]))


@pytest.mark.parametrize("many", [False, True])
def test_the_noise_of_each_env_holds_for_all_its_time_and_quantiles(many):
    layer, envs = NoisyLinear(5, 4, 0.5), 40 if many else 2
    x, noise = torch.randn(3, 2, envs, 5), torch.randn(envs, 9)
    y = layer(x, noise)
    assert y.shape == (3, 2, envs, 4)
    for b in range(envs):
        expected = _by_matrix(layer, x[:, :, b], noise[b])
        torch.testing.assert_close(y[:, :, b], expected, rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_values_and_gradients_equal_torchs_own_spectral_norm(kernel):
    layer = SpectralConv2d(4, 6, kernel)
    theirs = spectral_norm(nn.Conv2d(4, 6, kernel, padding=kernel // 2)).eval()
    kept = theirs.parametrizations.weight
    with torch.no_grad():
        kept.original.copy_(layer.weight)
        theirs.bias.copy_(layer.bias)
        kept[0]._u.copy_(layer.u)
        kept[0]._v.copy_(layer.v)
    x = torch.randn(2, 4, 8, 7)
    y, expected = layer(x), theirs(x)
    assert y.shape == (2, 6, 8, 7)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    ahead = torch.randn_like(y)
    ours = torch.autograd.grad(y, [layer.weight, layer.bias], ahead)
    for got, want in zip(
        ours, torch.autograd.grad(expected, [kept.original, theirs.bias], ahead), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_the_power_iteration_approaches_the_largest_singular_value():
    layer = SpectralConv2d(8, 16, 3)
    with torch.no_grad():
        layer.weight.normal_()  # as if it had moved far in an update
    largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]

    def error():
        with torch.no_grad():
            return float(1 - layer.u @ layer.weight.flatten(1) @ layer.v / largest)

    errors = [error()]
    for _ in range(100):
        layer.power_iteration()
        errors.append(error())
        assert float(layer.u.norm()) == pytest.approx(1, rel=1e-5)
        assert float(layer.v.norm()) == pytest.approx(1, rel=1e-5)
    assert errors[0] > 0.3  # never above: no unit vectors give more
    assert min(errors) > -1e-5
    assert all(after <= before + 1e-6 for before, after in pairwise(errors[1:]))
    assert errors[-1] < 1e-3


def test_a_new_layer_begins_near_its_norm():
    for _ in range(5):
        layer = SpectralConv2d(16, 16, 3)
        largest = torch.linalg.svdvals(layer.weight.flatten(1))[0]
        sigma = layer.u @ layer.weight.flatten(1) @ layer.v
        torch.testing.assert_close(sigma, largest, rtol=0.05, atol=0)


def test_the_vectors_travel_with_the_weights():
    layer, other = SpectralConv2d(4, 6, 3), SpectralConv2d(4, 6, 3)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(layer(x), other(x))
    assert layer.state_dict().keys() == {"weight", "bias", "u", "v"}
