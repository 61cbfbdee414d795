import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.networks.cores import make_core
from ludus.networks.encoders import make_encoder
from ludus.networks.heads import (
    CategoricalHead,
    HeadNoise,
    ImplicitQuantileHead,
    QHead,
    QuantileHead,
    Streams,
)
from ludus.networks.layers import SpectralConv2d
from ludus.networks.network import Network

ENCODERS = {
    "mlp": (5,),
    "dqn2013": (2, 30, 26),
    "nature": (2, 44, 36),
    "impala": (2, 20, 12),
    "minatar": (3, 10, 10),
}
PARTS = {"none": 0, "lstm": 2, "gru": 1}
STEPS, ENVS, ACTIONS, UNITS = 3, 4, 6, 10


def _count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("encoder", "core", "dueling"), itertools.product(ENCODERS, PARTS, (False, True))
)
def test_shapes_of_every_combination(encoder, core, dueling):
    shape = ENCODERS[encoder]
    space = spaces.Box(0, 255, shape, np.uint8)
    made = make_encoder(encoder, space, hidden=(8,))
    memory = make_core(core, made.dim, UNITS)
    head = QHead(Streams(memory.dim, ACTIONS, hidden=7, dueling=dueling))
    network = Network(made, memory, head)
    obs = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (STEPS, ENVS, *shape), np.uint8)
    )
    first = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    first[1, 2] = True
    out, state = network(obs, network.initial_state(ENVS), first)
    assert out.q.shape == (STEPS, ENVS, ACTIONS)
    assert out.q.dtype == torch.float32
    assert [s.shape for s in state] == [(ENVS, UNITS)] * PARTS[core]
    assert [s.shape for s in network.initial_state(ENVS)] == [(ENVS, UNITS)] * PARTS[core]
    # Time and envs are not mixed up: each observation alone says the same at t = 0.
    alone, _ = network(obs[:1, 2:3], network.initial_state(1), first[:1, 2:3])
    torch.testing.assert_close(out.q[0, 2], alone.q[0, 0])


def test_parameters_of_the_2015_network_counted_by_hand():
    encoder = make_encoder("nature", spaces.Box(0, 255, (4, 84, 84), np.uint8))
    network = Network(
        encoder, make_core("none", encoder.dim), QHead(Streams(encoder.dim, 6, hidden=512))
    )
    convolutions = (32 * 4 * 64 + 32) + (64 * 32 * 16 + 64) + (64 * 64 * 9 + 64)
    assert _count(network.encoder) == convolutions == 77_984
    assert _count(network.head) == (3136 * 512 + 512) + (512 * 6 + 6) == 1_609_222
    assert _count(network) == 1_687_206


def test_parameters_of_the_2013_network_counted_by_hand():
    encoder = make_encoder("dqn2013", spaces.Box(0, 255, (4, 84, 84), np.uint8))
    head = QHead(Streams(encoder.dim, 4, hidden=256))
    assert _count(encoder) == (16 * 4 * 64 + 16) + (32 * 16 * 16 + 32)
    assert _count(head) == (2592 * 256 + 256) + (256 * 4 + 4)


HEADS = {
    "c51": lambda dim: CategoricalHead(Streams(dim, ACTIONS, 7, sigma=0.5), -1.0, 1.0),
    "qr": lambda dim: QuantileHead(Streams(dim, ACTIONS, 7, dueling=True, sigma=0.5)),
    "iqn": lambda dim: ImplicitQuantileHead(Streams(dim, ACTIONS, hidden=9, sigma=0.5), 3, 7),
}


@pytest.mark.parametrize(("head", "core"), itertools.product(HEADS, PARTS))
def test_every_distribution_is_of_each_row_and_env(head, core):
    made = make_encoder("mlp", spaces.Box(-9, 9, (5,), np.float32), hidden=(8,))
    memory = make_core(core, made.dim, UNITS)
    network = Network(made, memory, HEADS[head](memory.dim))
    obs, first = torch.randn(STEPS, ENVS, 5), torch.zeros(STEPS, ENVS, dtype=torch.bool)
    noise = torch.randn(ENVS, network.head.streams.noise_size)
    taus = torch.rand(7, STEPS, ENVS) if head == "iqn" else None
    out, _ = network(obs, network.initial_state(ENVS), first, HeadNoise(noise, taus))
    assert out.q.shape == (STEPS, ENVS, ACTIONS)
    assert out[1].shape == (STEPS, ENVS, ACTIONS, 7)  # log-probabilities or quantiles
    own = None if taus is None else taus[:, :, 2:3]
    chance = HeadNoise(noise[2], own)
    alone, _ = network(obs[:, 2:3], network.initial_state(1), first[:, 2:3], chance)
    torch.testing.assert_close(out.q[:, 2:3], alone.q, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[1][:, 2:3], alone[1], rtol=1e-4, atol=1e-5)
    still, _ = network(obs, network.initial_state(ENVS), first)
    assert (still.q - out.q).abs().max() > 1e-3


def test_power_iteration_is_one_step_of_every_spectral_layer():
    space = spaces.Box(0, 255, ENCODERS["impala"], np.uint8)
    made = make_encoder("impala", space, spectral_norm=True)
    network = Network(made, make_core("none", made.dim), QHead(Streams(made.dim, ACTIONS)))
    layers = [m for m in network.modules() if isinstance(m, SpectralConv2d)]
    assert len(layers) == 12
    weights = [p.detach().clone() for p in network.parameters()]
    expected = []
    for layer in layers:
        v = torch.nn.functional.normalize(layer.weight.flatten(1).t() @ layer.u, dim=0)
        u = torch.nn.functional.normalize(layer.weight.flatten(1) @ v, dim=0)
        expected.append((u, v))
    network.power_iteration()
    for layer, (u, v) in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.u, u)
        torch.testing.assert_close(layer.v, v)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), weights, strict=True))
