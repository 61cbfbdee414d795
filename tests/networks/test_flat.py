import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.networks.encoders import make_encoder
from ludus.networks.network import flat_gradient, flatten_parameters

SHAPES = {"mlp": (5,), "nature": (2, 40, 36), "impala": (2, 12, 10), "minatar": (3, 6, 7)}


def _encoder(name):
    return make_encoder(name, spaces.Box(0, 255, SHAPES[name], np.uint8), spectral_norm=False)


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_keep_their_values_and_layout_and_follow_the_flat_tensor(name):
    encoder = _encoder(name)
    before = [(p.detach().clone(), p.stride()) for p in encoder.parameters()]
    flat = flatten_parameters(encoder)
    for p, (value, stride) in zip(encoder.parameters(), before, strict=True):
        assert torch.equal(p, value)
        if min(p.shape[1:], default=2) > 1:
            assert p.stride() == stride
    assert flat.numel() == sum(p.numel() for p in encoder.parameters())
    flat.mul_(2.0)
    for p, (value, _) in zip(encoder.parameters(), before, strict=True):
        assert torch.equal(p, 2 * value)
    with torch.no_grad():
        next(encoder.parameters()).zero_()
    assert (flat == 0).any()


@pytest.mark.parametrize("name", SHAPES)
def test_a_step_along_the_flat_gradient_is_a_step_of_each_parameter(name):
    encoder, plain = _encoder(name), _encoder(name)
    plain.load_state_dict(encoder.state_dict())
    flat = flatten_parameters(encoder)
    obs = torch.randint(256, (4, *SHAPES[name]), dtype=torch.uint8)
    parameters, theirs = list(encoder.parameters()), list(plain.parameters())
    gradients = torch.autograd.grad(encoder(obs).square().sum(), parameters)
    flat.sub_(flat_gradient(gradients, parameters), alpha=0.1)
    steps = torch.autograd.grad(plain(obs).square().sum(), theirs)
    for p, other, step in zip(parameters, theirs, steps, strict=True):
        assert step.abs().max() > 0
        torch.testing.assert_close(p, other - 0.1 * step, rtol=1e-4, atol=1e-5)
