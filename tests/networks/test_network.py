import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.networks.cores import make_core
from ludus.networks.encoders import make_encoder
from ludus.networks.heads import QHead, Streams
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
