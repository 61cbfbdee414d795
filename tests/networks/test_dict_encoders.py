import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from ludus.envs.dict_observation import PackedDict
from ludus.networks.convolutional import ImpalaResNet
from ludus.networks.encoders import (
    MLP,
    NormalisedEncoder,
    make_encoder,
    update_statistics,
)
from ludus.networks.layers import SpectralConv2d, start_orthogonal

VECTOR = spaces.Box(-9, 9, (2,), np.float32)
PICTURE = spaces.Box(0, 255, (3, 16, 12), np.uint8)


def test_a_key_may_be_no_name_for_a_module():
    space = PackedDict({"a.b": VECTOR, "": VECTOR, "forward": VECTOR})
    encoder, other = (make_encoder("mlp", space, (4,)) for _ in "ab")
    other.load_state_dict(encoder.state_dict())
    obs = torch.from_numpy(space.pack({key: torch.randn(5, 2) for key in space.parts}))
    assert encoder(obs).shape == (5, 12)
    assert torch.equal(other(obs), encoder(obs))


def test_choices_for_pictures_go_to_pictures_and_statistics_to_both_and_not_to_bytes():
    small = spaces.Box(0, 255, (4,), np.uint8)
    space = PackedDict({"seen": PICTURE, "felt": VECTOR, "held": small})
    encoder = make_encoder(
        "impala", space, (7,), 2, pool=2, spectral_norm=True, activation="tanh", normalise=True
    )
    kinds = dict(zip(encoder.keys, encoder.encoders, strict=True))
    assert {key: type(e) for key, e in kinds.items()} == {
        "felt": NormalisedEncoder,
        "seen": NormalisedEncoder,
        "held": MLP,
    }
    assert {key: e.dim for key, e in kinds.items()} == {"felt": 7, "seen": 64 * 2 * 2, "held": 7}
    assert isinstance(kinds["seen"].encoder, ImpalaResNet)
    assert any(isinstance(m, SpectralConv2d) for m in kinds["seen"].modules())
    assert isinstance(kinds["held"].layers[1], nn.Tanh)


@pytest.mark.parametrize("name", ["dqn2013", "nature", "impala"])
def test_a_picture_s_encoder_sees_what_changes(name):
    """A few hundred rows at most are taken in; bytes are scaled to 0 to 1 first."""
    space = spaces.Box(0, 255, (4, 42, 42), np.uint8)
    encoder = make_encoder(name, space, normalise=True)
    assert isinstance(encoder, NormalisedEncoder)
    still = torch.full((600, 4, 42, 42), 100, dtype=torch.uint8)
    moving = still.clone()
    moving[::2, :, 20, 20] = 200
    update_statistics(encoder, moving[:600:3])  # 200 rows
    layer = encoder.normalise
    assert layer.count == 200
    assert float(layer.mean[0, 0, 0]) == pytest.approx(100 / 255)
    assert float(layer.mean[0, 20, 20]) == pytest.approx(150 / 255)
    assert float(layer.variance) == pytest.approx((50 / 255) ** 2 / 42**2, rel=1e-3)
    seen = layer(still[:1].float() / 255)
    assert abs(float(seen[0, 0, 0, 0])) < 1e-4
    assert seen[0, 0, 20, 20] == -10
    torch.testing.assert_close(encoder(still[:1]), encoder.encoder(seen), rtol=1e-3, atol=1e-4)
    update_statistics(encoder, moving)
    assert layer.count == 200 + 200  # every third


@pytest.mark.parametrize("gain", [0.01, 1.0, 2**0.5])
@pytest.mark.parametrize(("inwards", "out"), [(9, 4), (4, 9)])
def test_the_shorter_side_of_a_matrix_is_orthogonal(inwards, out, gain):
    layer = nn.Linear(inwards, out)
    start_orthogonal(layer, gain)
    weight = layer.weight.detach()
    square = weight @ weight.t() if out < inwards else weight.t() @ weight
    torch.testing.assert_close(square / gain**2, torch.eye(4), rtol=0, atol=1e-5)
    assert (layer.bias == 0).all()


def test_an_orthogonal_start_reaches_every_layer_and_needs_no_bias():
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 2, 2)))
    start_orthogonal(net, 3.0)
    for weight in (net[0].weight, net[2][0].weight.flatten(1)):
        torch.testing.assert_close(weight @ weight.t(), 9 * torch.eye(len(weight)))
