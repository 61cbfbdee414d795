import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.learner import Learner
from ludus.networks.cores import make_core
from ludus.networks.encoders import make_encoder
from ludus.networks.heads import HeadNoise, ImplicitQuantileHead, Streams
from ludus.networks.network import Network, TargetNetwork, flatten_parameters

SPACE = spaces.Box(0, 255, (2, 12, 10), np.uint8)


class _Agent:
    """The half of an agent that a learner asks for."""

    env_steps = updates = 0
    gradients = None

    def parts(self):
        return {}


class _Pair:
    """An online network, its target and its learner."""

    def __init__(self, network, frozen):
        self.network, flat = network, flatten_parameters(network)
        self.follower = TargetNetwork(network, flat)
        self.target, self.flat = self.follower.network, flat
        self.learner = Learner(
            _Agent(),
            network,
            flat,
            SPACE,
            optimizer="sgd",
            learning_rate=0.1,
            eps=1e-8,
            max_grad_norm=0.0,
            metrics=("loss",),
            target=self.follower,
            frozen_encoder=frozen,
        )
        self.trained = self.learner.trained


def _pair(frozen=False):
    """A network with convolutions laid out channels last, spectral vectors and noise."""
    encoder = make_encoder("impala", SPACE, pool=2, spectral_norm=True)
    head = ImplicitQuantileHead(Streams(encoder.dim, 3, hidden=6, sigma=0.5), 4, 5)
    return _Pair(Network(encoder, make_core("none", encoder.dim), head), frozen)


def _all(network):
    """Every parameter and every kept buffer by name, as copies."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def _out(network):
    """Values of six pictures, always the same, under a noise that is always the same."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randint(256, (1, 6, 2, 12, 10), generator=generator, dtype=torch.uint8)
    noise = torch.randn(network.head.streams.noise_size, generator=generator)
    first = torch.zeros(1, 6, dtype=torch.bool)
    return network(obs, network.initial_state(6), first, HeadNoise(noise))[0].q


def _shaken(frozen=False):
    """A pair of which everything that may differ does."""
    pair = _pair(frozen)
    pair.trained.add_(0.1 * torch.randn_like(pair.trained))
    for _ in range(3):
        pair.network.power_iteration()
    return pair


def _same(one, other):
    return {name for name in one if torch.equal(one[name], other[name])}


def test_the_target_starts_as_a_copy_and_shares_nothing():
    pair = _pair()
    assert torch.equal(_out(pair.network), _out(pair.target))
    before = _all(pair.target)
    pair.trained.add_(1.0)
    pair.network.power_iteration()
    assert _same(_all(pair.target), before) == set(before)
    assert not any(p.requires_grad for p in pair.target.parameters())
    assert all(p.requires_grad for p in pair.network.parameters())


def test_a_whole_step_makes_the_target_the_online_network():
    pair = _shaken()
    now = _all(pair.network)
    assert not _same(now, _all(pair.target))
    pair.follower.update(1.0)
    assert _same(_all(pair.target), now) == _same(_all(pair.network), now) == set(now)
    assert torch.equal(_out(pair.network), _out(pair.target))


def test_a_share_of_a_step_moves_weights_and_copies_the_spectral_vectors():
    pair = _shaken()
    online, target = _all(pair.network), _all(pair.target)
    pair.follower.update(0.25)
    for name, value in _all(pair.target).items():
        if name.endswith((".u", ".v")):
            assert torch.equal(value, online[name])
        else:
            torch.testing.assert_close(value, 0.75 * target[name] + 0.25 * online[name])


@pytest.mark.parametrize("frozen", [False, True])
def test_the_gradient_lies_as_what_is_trained(frozen):
    pair = _pair(frozen)
    slopes = torch.autograd.grad(_out(pair.network).square().sum(), pair.network.parameters())
    before = [p.detach().clone() for p in pair.network.parameters()]
    gradient = pair.learner.gradient(_out(pair.network).square().sum())
    assert gradient.shape == pair.trained.shape
    pair.trained.sub_(gradient)
    encoder = len(list(pair.network.encoder.parameters()))
    for depth, (p, old, slope) in enumerate(
        zip(pair.network.parameters(), before, slopes, strict=True)
    ):
        if frozen and depth < encoder:
            assert torch.equal(p, old)
        else:
            torch.testing.assert_close(p, old - slope, rtol=1e-4, atol=1e-5)


def test_a_frozen_encoder_is_moved_to_as_well():
    pair = _shaken(frozen=True)
    with torch.no_grad():
        for p in pair.network.encoder.parameters():
            p.add_(1.0)  # as when a run starts from the encoder of another
    pair.follower.update(1.0)
    assert torch.equal(_out(pair.network), _out(pair.target))


def test_a_loaded_pair_is_the_saved_one():
    pair, other = _shaken(), _shaken()
    assert not _same(_all(pair.network), _all(other.network))
    other.learner.load_state_dict(copy.deepcopy(pair.learner.state_dict()))
    for ours, theirs in ((pair.network, other.network), (pair.target, other.target)):
        assert _same(_all(ours), _all(theirs)) == set(_all(ours))
    assert torch.equal(other.flat, pair.flat)  # loaded into the views, not beside them
