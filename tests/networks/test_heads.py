import math

import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from ludus.networks.heads import (
    CategoricalHead,
    HeadNoise,
    ImplicitQuantileHead,
    QHead,
    QuantileHead,
    Streams,
    in_float32,
)
from ludus.networks.policies import ActionKind, GameHead, PolicyHead


def _head(dim, actions, hidden, dueling=False):
    return QHead(Streams(dim, actions, hidden=hidden, dueling=dueling))


def _fill(linear, weight, bias):
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight))
        linear.bias.copy_(torch.tensor(bias))


def test_dueling_by_hand():
    head = _head(2, 3, 0, dueling=True)
    _fill(head.streams.value.layers[0], [[1.0, 2.0]], [0.5])
    _fill(head.streams.advantage.layers[0], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 0.0, 3.0])
    # x = (1, 2): v = 1 + 4 + 0.5 = 5.5; a = (1, 2, 6), mean 3; q = v + a - 3
    q = head(torch.tensor([1.0, 2.0])).q
    torch.testing.assert_close(q, torch.tensor([3.5, 4.5, 8.5]))


def test_dueling_of_each_of_k_outputs_by_hand():
    streams = Streams(1, 2, 3, dueling=True)
    _fill(streams.value.layers[0], [[1.0], [2.0], [3.0]], [0.0, 0.0, 10.0])
    # two actions of three outputs each
    _fill(streams.advantage.layers[0], [[1.0], [1.0], [1.0], [3.0], [5.0], [1.0]], [0.0] * 6)
    # x = 1: v = (1, 2, 13); a = (1, 1, 1) and (3, 5, 1), of mean (2, 3, 1)
    y = streams(torch.tensor([1.0]), None)
    torch.testing.assert_close(y, torch.tensor([[0.0, 0.0, 13.0], [2.0, 4.0, 13.0]]))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
@pytest.mark.parametrize("outputs", [1, 4])
def test_the_mean_over_actions_is_the_value(shape, outputs):
    streams = Streams(5, 3, outputs, hidden=8, dueling=True)
    x = torch.randn(shape)
    y, v = streams(x, None), streams.value(x, None)
    assert y.shape == (*shape[:-1], 3, *([outputs] if outputs > 1 else []))
    assert v.abs().max() > 0.01
    v = v if outputs > 1 else v.squeeze(-1)
    torch.testing.assert_close(y.mean(len(shape) - 1), v, rtol=0, atol=1e-6)


def test_advantages_are_given_apart_by_differences_only():
    head = _head(5, 4, 0, dueling=True)
    x = torch.randn(6, 5)
    before = head(x).q
    with torch.no_grad():
        head.streams.advantage.layers[0].bias += 100.0
    torch.testing.assert_close(head(x).q, before, rtol=0, atol=1e-4)


def test_a_hidden_layer_by_hand():
    head = _head(1, 2, 2)
    _fill(head.streams.advantage.layers[0], [[1.0], [-1.0]], [0.0, 0.0])
    _fill(head.streams.advantage.layers[1], [[1.0, 0.0], [0.0, 1.0]], [10.0, 20.0])
    torch.testing.assert_close(head(torch.tensor([[3.0]])).q, torch.tensor([[13.0, 20.0]]))
    torch.testing.assert_close(head(torch.tensor([[-3.0]])).q, torch.tensor([[10.0, 23.0]]))


def test_no_hidden_layer_is_linear():
    head = _head(3, 2, 0)
    x = torch.randn(4, 3)
    zero = head(torch.zeros(3)).q
    torch.testing.assert_close(head(2 * x).q - zero, 2 * (head(x).q - zero))
    assert sum(p.numel() for p in head.parameters()) == 3 * 2 + 2


def test_layer_norm_comes_before_the_relu_of_the_hidden_layer():
    plain = Streams(5, 4, hidden=6, dueling=True)
    normal = Streams(5, 4, hidden=6, dueling=True, layer_norm=True)
    x = 30 * torch.randn(7, 5)
    for stream in (normal.value, normal.advantage):
        first, last = stream.layers
        before = first(x)
        centred = before - before.mean(-1, keepdim=True)
        scaled = centred / (before.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(stream(x, None), last(F.relu(scaled)), rtol=1e-4, atol=1e-5)
    assert plain.value.norm is None
    assert Streams(5, 4, layer_norm=True).advantage.norm is None  # nothing hidden to normalise


@pytest.mark.parametrize("outputs", [1, 3])
def test_rescaling_changes_the_gradient_that_leaves_both_streams_alone(outputs):
    """Wang et al. 2016, section 4.2: 1/sqrt(2) on what enters the last convolution."""
    plain, rescaled = (
        Streams(5, 4, outputs, hidden=6, dueling=True, rescale_dueling=on) for on in (False, True)
    )
    rescaled.load_state_dict(plain.state_dict())
    x = torch.randn(7, 5)
    results = []
    for streams in (plain, rescaled):
        features = x.clone().requires_grad_()
        y = streams(features, None)
        y.square().sum().backward()
        results.append((y.detach(), features.grad, [p.grad for p in streams.parameters()]))
    (y, into, within), (same, scaled, same_within) = results
    assert torch.equal(y, same)
    torch.testing.assert_close(scaled, into / 2**0.5)
    for a, b in zip(within, same_within, strict=True):
        torch.testing.assert_close(a, b)


def test_noise_reaches_every_layer_of_both_streams():
    streams = Streams(3, 4, hidden=6, dueling=True, sigma=0.5)
    assert streams.noise_size == (3 + 6) + (6 + 1) + (3 + 6) + (6 + 4)
    x, noise = torch.rand(5, 3), torch.randn(streams.noise_size)
    streams(x, noise).square().sum().backward()
    for name, parameter in streams.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_every_part_of_the_noise_is_of_use_once():
    streams = Streams(3, 4, 2, hidden=6, dueling=True, sigma=0.5)
    layers = [*streams.value.layers, *streams.advantage.layers]
    x, noise = torch.rand(5, 3), torch.randn(streams.noise_size)
    parts = noise.split([layer.dim + layer.out for layer in layers])

    def stream(first, second, one, two):
        return second(F.relu(first(x, one)), two)

    value, advantage = stream(*layers[:2], *parts[:2]), stream(*layers[2:], *parts[2:])
    advantage = advantage.unflatten(-1, (4, 2))
    expected = value.unsqueeze(-2) + advantage - advantage.mean(-2, keepdim=True)
    torch.testing.assert_close(streams(x, noise), expected)


def test_a_head_without_noisy_layers_has_no_noise():
    assert Streams(3, 4, hidden=6, dueling=True).noise_size == 0
    assert not any("sigma" in name for name, _ in Streams(3, 4, hidden=6).named_parameters())


HEADS = {
    "q": lambda sigma: QHead(Streams(3, 2, hidden=6, dueling=True, sigma=sigma)),
    "c51": lambda sigma: CategoricalHead(Streams(3, 2, 5, sigma=sigma), -2.0, 2.0),
    "qr": lambda sigma: QuantileHead(Streams(3, 2, 5, sigma=sigma)),
    "iqn": lambda sigma: ImplicitQuantileHead(Streams(3, 2, sigma=sigma), 8, 5),
}


@pytest.mark.parametrize("kind", HEADS)
def test_each_env_acts_by_its_own_noise(kind):
    head = HEADS[kind](3.0)
    x, noise = torch.rand(1, 4, 3), torch.randn(4, head.streams.noise_size)
    together = head(x, HeadNoise(noise)).q
    assert together.shape == (1, 4, 2)
    for b in range(4):
        alone = head(x[:, b : b + 1], HeadNoise(noise[b])).q
        torch.testing.assert_close(together[:, b : b + 1], alone, rtol=1e-4, atol=1e-5)
    same = head(x[:, :1].expand(1, 4, 3), HeadNoise(noise)).q
    assert len(same[0, :, 0].unique()) == 4
    without = head(x[:, :1].expand(1, 4, 3)).q
    torch.testing.assert_close(without, without[:, :1].expand_as(without))


@pytest.mark.parametrize("kind", HEADS)
def test_time_and_envs_are_not_mixed_up(kind):
    head, x = HEADS[kind](0.0), torch.randn(4, 6, 3)
    taus = torch.rand(7, 4, 6) if kind == "iqn" else None
    out = head(x, HeadNoise(None, taus))
    assert out.q.shape == (4, 6, 2)
    for t, b in ((0, 0), (3, 1), (1, 5)):
        own = None if taus is None else taus[:, t : t + 1, b : b + 1]
        alone = head(x[t : t + 1, b : b + 1], HeadNoise(None, own))
        torch.testing.assert_close(alone.q[0, 0], out.q[t, b])
        if kind != "q":
            torch.testing.assert_close(alone[1][0, 0], out[1][t, b])  # log_p or quantiles


def test_a_categorical_head_says_the_mean_of_its_distribution():
    head = CategoricalHead(Streams(3, 2, 5), -2.0, 2.0)
    out = head(torch.randn(4, 6, 3))
    assert out.log_p.shape == (4, 6, 2, 5)
    assert out.atoms.tolist() == [-2, -1, 0, 1, 2]
    p = out.log_p.exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(4, 6, 2))
    torch.testing.assert_close(out.q, (p * torch.tensor([-2.0, -1, 0, 1, 2])).sum(-1))


def test_a_categorical_head_by_hand():
    head = CategoricalHead(Streams(1, 2, 3), 0.0, 10.0)
    logits = [0.0, math.log(2), 0.0, math.log(7), 0.0, 0.0]
    _fill(head.streams.advantage.layers[0], [[0.0]] * 6, logits)
    # (1, 2, 1) / 4 over 0, 5, 10 and (7, 1, 1) / 9
    q = head(torch.zeros(1, 1, 1)).q
    torch.testing.assert_close(q, torch.tensor([[[5.0, 15 / 9]]]))


def test_a_quantile_head_lies_at_the_midpoints():
    out = QuantileHead(Streams(3, 2, 4))(torch.randn(5, 6, 3))
    assert out.quantiles.shape == (5, 6, 2, 4)
    assert out.taus.tolist() == [0.125, 0.375, 0.625, 0.875]
    torch.testing.assert_close(out.q, out.quantiles.mean(-1))


def test_the_implicit_head_by_hand():
    head = ImplicitQuantileHead(Streams(3, 2), samples=2, policy_samples=4)
    x, taus = torch.randn(2, 5, 3), torch.rand(6, 2, 5)
    out = head(x, HeadNoise(None, taus))
    assert out.quantiles.shape == (2, 5, 2, 6)
    for k in range(6):
        for t in range(2):
            for n in range(5):
                waves = torch.cos(torch.pi * torch.arange(64) * taus[k, t, n])
                phi = F.relu(head.embedding(waves))
                expected = head.streams(x[t, n] * phi, None)
                got = out.quantiles[t, n, :, k]
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
                assert out.taus[t, n, k] == taus[k, t, n]
    torch.testing.assert_close(out.q, out.quantiles.mean(-1))


def test_the_cosines_of_one_tau_by_hand():
    head = ImplicitQuantileHead(Streams(1, 1), samples=1, policy_samples=1)
    weights = torch.zeros(1, 64)
    weights[0, :4] = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    with torch.no_grad():
        head.embedding.weight.copy_(weights)
        head.embedding.bias.fill_(2000.0)
    _fill(head.streams.advantage.layers[0], [[1.0]], [0.0])
    # tau 1/3: cos 0, cos pi/3, cos 2 pi/3, cos pi = 1, 1/2, -1/2, -1; times the feature 2
    out = head(torch.tensor([[[2.0]]]), HeadNoise(None, torch.full((1, 1, 1), 1 / 3)))
    expected = 2 * (1 + 5 - 50 - 1000 + 2000)
    assert out.quantiles.item() == pytest.approx(expected, rel=1e-5)


def test_without_chance_the_implicit_head_is_at_the_midpoints():
    head = ImplicitQuantileHead(Streams(3, 2), samples=8, policy_samples=4)
    x = torch.randn(2, 5, 3)
    out = head(x)
    assert out.quantiles.shape == (2, 5, 2, 4)
    assert out.taus.flatten().tolist() == [0.125, 0.375, 0.625, 0.875]
    middles = torch.tensor([0.125, 0.375, 0.625, 0.875])[:, None, None].expand(4, 2, 5)
    torch.testing.assert_close(out.quantiles, head(x, HeadNoise(None, middles)).quantiles)
    assert torch.equal(head(x).q, out.q)


def test_the_last_layer_of_a_head_keeps_float32_in_mixed_precision():
    layer, x = nn.Linear(4, 3), torch.randn(5, 4)
    rounded = x.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(rounded).dtype == torch.bfloat16
        exact = in_float32(layer, rounded)
    assert exact.dtype == torch.float32
    assert torch.equal(exact, layer(rounded.float()))
    assert torch.equal(in_float32(layer, x), layer(x))


def test_a_head_s_values_are_float32_in_mixed_precision():
    x = torch.randn(2, 5, 8)
    heads = [
        QHead(Streams(8, 3, hidden=6, dueling=True)),
        QHead(Streams(8, 3, sigma=0.5)),
        PolicyHead(8, ActionKind(spaces.Discrete(3)), True, 0.0),
        GameHead(8, 3),
    ]
    for head in heads:
        with torch.autocast("cpu", torch.bfloat16):
            out = head(x)
        values = [out.q] if isinstance(head, QHead) else [out.logits, out.value]
        assert all(value.dtype == torch.float32 for value in values)
