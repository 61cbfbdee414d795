import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from ludus.envs.dict_observation import MASK, PackedDict
from ludus.networks.convolutional import DQN2013
from ludus.networks.encoders import (
    MLP,
    DictEncoder,
    NormalisedEncoder,
    ProjectedEncoder,
    RenormalisedEncoder,
    TwoEncoders,
    make_encoder,
    renormalised,
    update_statistics,
)
from ludus.networks.layers import SpectralConv2d, start_orthogonal, start_xavier

PICTURE = (4, 84, 84)
SHAPES = {
    "mlp": (5,),
    "dqn2013": PICTURE,
    "nature": PICTURE,
    "impala": (3, 40, 36),
    "minatar": (6, 10, 10),
    "der": (3, 28, 26),
}


def _pixels(shape, high=255):
    return spaces.Box(0, high, shape, np.uint8)


def _space(name):
    if name == "mlp":
        return spaces.Box(-1, 1, SHAPES[name], np.float32)
    return _pixels(SHAPES[name], 1 if name == "minatar" else 255)


def _sample(space, count):
    generator = np.random.default_rng(3)
    if space.dtype == np.uint8:
        data = generator.integers(0, int(space.high.max()) + 1, (count, *space.shape), np.uint8)
        return torch.from_numpy(data)
    return torch.from_numpy(generator.uniform(-1, 1, (count, *space.shape)).astype(np.float32))


def _impala(x, weights):
    """Figure 3 of the paper, written out; `weights` in the order of the layers."""
    weights = iter(weights)

    def convolve(x):
        return F.conv2d(x, next(weights), next(weights), padding=1)

    for _ in range(3):
        x = F.max_pool2d(convolve(x), 3, stride=2, padding=1)
        for _ in range(2):
            x = x + convolve(F.relu(convolve(F.relu(x))))
    return F.relu(x).flatten(1)


def _plain(name, x, weights):
    """The same network in plain functions on a contiguous NCHW float tensor."""
    if name == "impala":
        return _impala(x, weights)
    if name == "mlp":
        w1, b1, w2, b2 = weights
        return F.relu(F.linear(F.relu(F.linear(x.flatten(1), w1, b1)), w2, b2))
    strides = {"dqn2013": (4, 2), "nature": (4, 2, 1), "minatar": (1,), "der": (5, 5)}[name]
    for stride, weight, bias in zip(strides, weights[::2], weights[1::2], strict=True):
        x = F.relu(F.conv2d(x, weight, bias, stride=stride))
    return x.flatten(1)


@pytest.mark.parametrize(
    ("name", "shape", "dim"),
    [
        ("dqn2013", (4, 84, 84), 2592),  # 32 x 9 x 9
        ("nature", (4, 84, 84), 3136),  # 64 x 7 x 7
        ("nature", (1, 84, 84), 3136),
        ("impala", (4, 84, 84), 3872),  # 32 x 11 x 11
        ("der", (4, 84, 84), 576),  # 64 x 3 x 3
        ("minatar", (6, 10, 10), 1024),  # 16 x 8 x 8
        ("mlp", (4, 3), 7),
    ],
)
def test_the_documented_feature_counts(name, shape, dim):
    encoder = make_encoder(name, _pixels(shape), hidden=(9, 7))
    out = encoder(torch.zeros(2, *shape, dtype=torch.uint8))
    assert encoder.dim == dim
    assert out.shape == (2, dim)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_equal_the_plain_network(name):
    space = _space(name)
    encoder = make_encoder(name, space, hidden=(9, 7))
    obs = _sample(space, 3)
    scaled = obs.float() / 255 if space.high.max() == 255 else obs.float()
    copies = [p.detach().clone().contiguous().requires_grad_() for p in encoder.parameters()]
    out, expected = encoder(obs), _plain(name, scaled, copies)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    torch.manual_seed(1)
    ahead = torch.randn_like(expected)
    ours = torch.autograd.grad(out, list(encoder.parameters()), ahead)
    for got, want in zip(ours, torch.autograd.grad(expected, copies, ahead), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


@pytest.mark.parametrize("name", ["dqn2013", "nature", "impala", "minatar"])
def test_the_input_is_left_as_it_was(name):
    space = _space(name)
    encoder = make_encoder(name, space)
    for obs in (_sample(space, 2), _sample(space, 2).float()):
        before = obs.clone()
        encoder(obs)
        assert torch.equal(obs, before)


def test_an_mlp_scales_bytes_and_only_bytes():
    weights = torch.nn.Parameter(torch.ones(1, 2)), torch.nn.Parameter(torch.zeros(1))
    cases = [
        (spaces.Box(0, 255, (2,), np.uint8), np.uint8, 1.0),
        (spaces.Box(0, 1, (2,), np.uint8), np.uint8, 255.0),  # flags, not brightness
        (spaces.Box(0, 255, (2,), np.float32), np.float32, 255.0),
        (spaces.Box(-9, 9, (2,), np.float32), np.float64, 255.0),  # what a caller of predict has
    ]
    for space, dtype, expected in cases:
        encoder = make_encoder("mlp", space, hidden=(1,))
        encoder.layers[0].weight, encoder.layers[0].bias = weights
        out = encoder(torch.from_numpy(np.array([[0, 255]], dtype)))
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, torch.tensor([[expected]]))


def test_an_empty_mlp_passes_the_observation_through():
    encoder = make_encoder("mlp", spaces.Box(-1, 1, (2, 3), np.float32), hidden=())
    obs = torch.randn(4, 2, 3)
    assert encoder.dim == 6
    assert torch.equal(encoder(obs), obs.flatten(1))


def test_the_impala_width_multiplies_the_channels():
    space = _pixels((4, 16, 16))
    narrow, wide = (make_encoder("impala", space, width=w) for w in (1, 2))
    channels = [m.out_channels for m in narrow.modules() if isinstance(m, nn.Conv2d)]
    assert channels == [16] * 5 + [32] * 10
    doubled = [m.out_channels for m in wide.modules() if isinstance(m, nn.Conv2d)]
    assert doubled == [2 * c for c in channels]
    assert wide.dim == 2 * narrow.dim


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("dqn2013", 0.5, [8, 16]),
        ("nature", 0.25, [8, 16, 16]),
        ("minatar", 4, [64]),
        ("minatar", 0.01, [1]),
        ("impala", 0.5, [8] * 5 + [16] * 10),
    ],
)
def test_the_width_multiplies_the_channels_of_every_paper(name, width, expected):
    encoder = make_encoder(name, _space(name), width=width)
    assert [m.out_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)] == expected
    assert encoder(_sample(_space(name), 3)).shape == (3, encoder.dim)


@pytest.mark.parametrize(
    ("name", "side"), [("dqn2013", 20), ("nature", 36), ("minatar", 3), ("der", 25)]
)
def test_the_smallest_picture_works_and_a_smaller_one_is_refused(name, side):
    assert make_encoder(name, _pixels((1, side, side))).dim > 0
    for shape in [(1, side - 1, side), (1, side, side - 1), (side, side)]:
        with pytest.raises(ValueError, match=rf"{name} encoder .* at least {side} pixels"):
            make_encoder(name, _pixels(shape))


def _normalised(x, weight, bias, over):
    """Over the channels of a pixel or all values of a layer, then scaled for each channel."""
    dims = (1,) if over == "channels" else tuple(range(1, x.ndim))
    variance = x.var(dims, correction=0, keepdim=True)
    scaled = (x - x.mean(dims, keepdim=True)) / (variance + 1e-5).sqrt()
    shape = (1, -1, *[1] * (x.ndim - 2))
    return scaled * weight.view(shape) + bias.view(shape)


@pytest.mark.parametrize("over", ["channels", "all"])
@pytest.mark.parametrize("name", ["mlp", "dqn2013", "nature", "minatar"])
def test_layer_norm_comes_before_each_relu(name, over):
    space = _space(name)
    encoder = make_encoder(name, space, hidden=(9, 7), layer_norm=over)
    assert encoder.dim == make_encoder(name, space, hidden=(9, 7)).dim
    weights = list(encoder.parameters())
    for weight in (*weights[2::4], *weights[3::4]):
        torch.nn.init.uniform_(weight, 0.5, 1.5)  # as if learned, so that its place can be seen
    obs = _sample(space, 3)
    x = obs.float() / 255 if space.high.max() == 255 else obs.float()
    strides = {"dqn2013": (4, 2), "nature": (4, 2, 1), "minatar": (1,), "mlp": (0, 0)}[name]
    for depth, stride in enumerate(strides):
        weight, bias, *norm = weights[4 * depth : 4 * depth + 4]
        x = F.conv2d(x, weight, bias, stride) if stride else F.linear(x, weight, bias)
        x = F.relu(_normalised(x, *norm, over))
    torch.testing.assert_close(encoder(obs), x.flatten(1), rtol=1e-3, atol=1e-4)


def test_layer_norm_takes_the_scale_of_the_observation_away():
    space = spaces.Box(-9, 9, (5,), np.float32)
    encoder = make_encoder("mlp", space, hidden=(50, 40), layer_norm="channels")
    obs = torch.randn(6, 5)
    with torch.no_grad():
        for layer in (encoder.layers[0], encoder.layers[3]):
            layer.bias.zero_()
    torch.testing.assert_close(encoder(1000 * obs), encoder(obs), rtol=1e-2, atol=1e-2)
    seen = []
    for norm in (m for m in encoder.modules() if isinstance(m, nn.LayerNorm)):
        norm.register_forward_hook(lambda module, given, out: seen.append(out))
    encoder(1000 * obs)
    assert len(seen) == 2
    for out in seen:
        torch.testing.assert_close(out.mean(-1), torch.zeros(6), rtol=0, atol=1e-5)
        torch.testing.assert_close(out.std(-1, correction=0), torch.ones(6), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("width", "dim"), [(1, 1152), (2, 2304)])  # 6 x 6 of 32 and 64 channels
def test_the_impala_pool_leaves_6_by_6(width, dim):
    space = _pixels(PICTURE)
    encoder = make_encoder("impala", space, width=width, pool=6)
    assert encoder.dim == dim
    plain = make_encoder("impala", space, width=width)
    plain.load_state_dict(encoder.state_dict())
    obs = _sample(space, 2)
    before = plain(obs).view(2, 32 * width, 11, 11)
    expected = torch.empty(2, 32 * width, 6, 6)
    for i in range(6):
        for j in range(6):  # from floor(11 i / 6) up to ceil(11 (i + 1) / 6)
            rows = slice(11 * i // 6, -(-11 * (i + 1) // 6))
            columns = slice(11 * j // 6, -(-11 * (j + 1) // 6))
            expected[:, :, i, j] = before[:, :, rows, columns].amax((2, 3))
    torch.testing.assert_close(encoder(obs), expected.flatten(1))


def test_spectral_norm_is_of_the_residual_convolutions_alone():
    space = _pixels((2, 16, 12))
    encoder = make_encoder("impala", space, spectral_norm=True)
    spectral = [m for m in encoder.modules() if isinstance(m, SpectralConv2d)]
    assert len(spectral) == 12
    assert len([m for m in encoder.modules() if isinstance(m, nn.Conv2d)]) == 3
    for layer in spectral:
        for _ in range(300):
            layer.power_iteration()
    weights = []
    for parameter in encoder.parameters():
        owner = any(parameter is layer.weight for layer in spectral)
        scale = torch.linalg.svdvals(parameter.flatten(1))[0] if owner else 1.0
        weights.append((parameter / scale).detach())
    obs = _sample(space, 3)
    torch.testing.assert_close(
        encoder(obs), _impala(obs.float() / 255, weights), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        *((name, {"pool": 6}, "pool") for name in SHAPES if name != "impala"),
        *((name, {"spectral_norm": True}, "spectral_norm") for name in SHAPES if name != "impala"),
        ("impala", {"layer_norm": "all"}, "layer_norm"),
    ],
)
def test_a_choice_that_is_not_for_the_encoder_is_refused_by_name(name, options, field):
    with pytest.raises(ValueError, match=rf"^{field} is .*{name}"):
        make_encoder(name, _space(name), **options)


def _dictionary():
    vector = spaces.Box(-9, 9, (2,), np.float32)
    parts = {"seen": _pixels((3, 20, 20)), "felt": vector, MASK: _pixels((5,), 1)}
    return PackedDict(parts)


def _dictionaries(space, count, generator):
    arrays = {
        "seen": generator.integers(0, 256, (count, 3, 20, 20), np.uint8),
        "felt": generator.normal(3, 2, (count, 2)).astype(np.float32),
        MASK: generator.integers(0, 2, (count, 5), np.uint8),
    }
    return arrays, torch.from_numpy(space.pack(arrays))


def test_each_key_of_a_dictionary_has_an_encoder_and_the_mask_has_none():
    space, generator = _dictionary(), np.random.default_rng(0)
    encoder = make_encoder("dqn2013", space, (7,))
    assert isinstance(encoder, DictEncoder)
    kinds = dict(zip(encoder.keys, encoder.encoders, strict=True))
    assert {key: type(inner) for key, inner in kinds.items()} == {"felt": MLP, "seen": DQN2013}
    arrays, obs = _dictionaries(space, 6, generator)
    features = encoder(obs)
    assert features.shape == (6, encoder.dim)
    apart = [kinds[key](torch.from_numpy(arrays[key])) for key in encoder.keys]
    torch.testing.assert_close(features, torch.cat(apart, -1))
    other = torch.from_numpy(space.pack({**arrays, MASK: 1 - arrays[MASK]}))
    assert not torch.equal(other, obs)
    assert torch.equal(encoder(other), features)


@pytest.mark.parametrize("where", ["alone", "dictionary", "two", "projected"])
def test_statistics_are_those_of_all_that_was_observed_and_still_in_forward(where):
    generator = np.random.default_rng(0)
    space = _dictionary() if where == "dictionary" else spaces.Box(-9, 9, (2,), np.float32)
    encoder = make_encoder("mlp", space, (7,), normalise=True)
    inner = [m for m in encoder.modules() if isinstance(m, NormalisedEncoder)]
    if where == "two":
        encoder = TwoEncoders(encoder, make_encoder("mlp", space, (7,), normalise=True))
        inner = [m for m in encoder.modules() if isinstance(m, NormalisedEncoder)]
        assert len(inner) == 2
    if where == "projected":
        encoder = ProjectedEncoder(encoder, 4)
    batches = []
    for count in (5, 1, 30):
        arrays, obs = _dictionaries(_dictionary(), count, generator)
        batches.append(arrays["felt"])
        update_statistics(
            encoder, obs if where == "dictionary" else torch.from_numpy(arrays["felt"])
        )
        encoder(obs if where == "dictionary" else torch.from_numpy(arrays["felt"]) * 100)
    seen = np.concatenate(batches)
    for one in inner:
        np.testing.assert_allclose(one.normalise.mean, seen.mean(0), rtol=1e-5)
        np.testing.assert_allclose(one.normalise.variance, seen.var(0), rtol=1e-4)
        x = torch.tensor([[3.0, 4.0], [1e6, -1e6]])
        want = np.clip((x.numpy() - seen.mean(0)) / seen.std(0), -10, 10)
        np.testing.assert_allclose(one.normalise(x), want, rtol=1e-4)
        torch.testing.assert_close(one(x), one.encoder(one.normalise(x)))


def test_two_encoders_and_a_projection_are_what_they_say():
    space = spaces.Box(-9, 9, (2,), np.float32)
    first, second = make_encoder("mlp", space, (7,)), make_encoder("mlp", space, (5,))
    x = torch.randn(6, 2)
    both = TwoEncoders(first, second)
    assert both.dim == 12
    torch.testing.assert_close(both(x), torch.cat([first(x), second(x)], -1))
    projected = ProjectedEncoder(first, 4)
    weight, bias = projected.layer.weight, projected.layer.bias
    torch.testing.assert_close(projected(x), F.relu(F.linear(first(x), weight, bias)))


def test_renormalised_features_by_hand_and_their_statistics():
    x = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 8.0]])
    want = torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.2, 1.0]])
    torch.testing.assert_close(renormalised(x), want, atol=1e-5, rtol=1e-5)
    space = spaces.Box(-9, 9, (2,), np.float32)
    inner = make_encoder("mlp", space, (7,), normalise=True)
    encoder = ProjectedEncoder(RenormalisedEncoder(inner), 4)
    obs = torch.randn(30, 2)
    update_statistics(encoder, obs)
    np.testing.assert_allclose(inner.normalise.mean, obs.mean(0), rtol=1e-4, atol=1e-5)
    hidden = encoder.encoder(obs)
    assert torch.equal(hidden, renormalised(inner(obs)))
    torch.testing.assert_close(encoder(obs), F.relu(encoder.layer(hidden)))


def test_tanh_takes_the_place_of_relu():
    encoder = make_encoder("mlp", spaces.Box(-9, 9, (2,), np.float32), (7,), activation="tanh")
    x = torch.randn(6, 2)
    torch.testing.assert_close(encoder(x), torch.tanh(encoder.layers[0](x)))


def test_a_xavier_start_counts_the_weights_into_and_out_of_a_pixel():
    encoder = make_encoder("nature", _pixels(PICTURE))
    start_xavier(encoder)
    for parameter in encoder.parameters():
        if parameter.ndim == 4:
            out, inwards, side, _ = parameter.shape
            bound = (6 / (side**2 * (inwards + out))) ** 0.5
            assert 0.99 * bound < parameter.abs().max() <= bound
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
            assert parameter.is_contiguous(memory_format=torch.channels_last)
        else:
            assert (parameter == 0).all()


def test_an_orthogonal_start_keeps_lengths_times_the_gain():
    encoder = make_encoder("nature", _pixels(PICTURE))
    before = [
        p.is_contiguous(memory_format=torch.channels_last)
        for p in encoder.parameters()
        if p.ndim == 4
    ]
    start_orthogonal(encoder, 2.0)
    for parameter in encoder.parameters():
        if parameter.ndim == 4:
            rows = parameter.flatten(1)  # [out, in * kernel^2], fewer rows than columns
            torch.testing.assert_close(rows @ rows.t(), 4 * torch.eye(len(rows)), atol=1e-4, rtol=0)
        else:
            assert (parameter == 0).all()
    after = [
        p.is_contiguous(memory_format=torch.channels_last)
        for p in encoder.parameters()
        if p.ndim == 4
    ]
    assert after == before == [True] * 3
