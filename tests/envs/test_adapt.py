"""Observations of any space become one array; pictures are recognised by one rule."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.envs.adapt import adapt, check_observation
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import EnvError
from ludus.envs.frame import as_picture
from ludus.envs.stack import FrameStack
from ludus.networks.encoders import make_encoder
from ludus.networks.scale import ObservationScale, scale_of

NUMBER = spaces.Box(0, 1, (2,), np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int16])
@pytest.mark.parametrize(
    ("shape", "channels", "wanted"),
    [
        ((24, 24, 3), None, (3, 24, 24)),
        ((8, 8, 12), None, (8, 8, 12)),  # equal outer axes would be ambiguous; 8 is the smaller
        ((12, 8, 8), None, (8, 12, 8)),
        ((48, 48, 12), None, (12, 48, 48)),
        ((40, 40, 3), None, (3, 40, 40)),
        ((4, 10, 10), None, (4, 10, 10)),
        ((7, 7, 7), None, (7, 7, 7)),
        ((5, 6, 9), "last", (9, 5, 6)),
        ((9, 6, 5), "first", (9, 6, 5)),
    ],
)
def test_the_smaller_outer_axis_holds_the_channels(
    dtype: Any, shape: Any, channels: Any, wanted: Any
) -> None:
    adaptation = adapt(spaces.Box(0, 100, shape, dtype), channels)
    obs = np.arange(np.prod(shape)).reshape(shape).astype(dtype) % 100
    shown = adaptation.convert(obs)
    assert adaptation.space.shape == shown.shape == wanted
    turned = obs if wanted == shape else obs.transpose(2, 0, 1)
    np.testing.assert_array_equal(shown, turned)
    assert shown.dtype == adaptation.space.dtype == (np.uint8 if dtype == np.uint8 else np.float32)


@pytest.mark.parametrize(
    ("space", "scale"),
    [
        (spaces.Box(0, 255, (3, 24, 24), np.uint8), (0, 255)),
        (spaces.Box(0, 1, (4, 10, 10), np.uint8), (0, 1)),
        (spaces.Box(0, 15, (3, 7, 7), np.uint8), (0, 15)),
        (spaces.Box(-1, 1, (3, 40, 40), np.float32), (-1, 2)),
        (spaces.Box(0, 255, (3, 40, 40), np.float32), (0, 255)),
        (spaces.Box(-np.inf, np.inf, (3, 40, 40), np.float32), (0, 1)),
        (spaces.Box(0, 255, (128,), np.uint8), (0, 255)),
        (spaces.Box(-9, 9, (4,), np.float32), (0, 1)),
    ],
)
@pytest.mark.parametrize("encoder", ["mlp", "dqn2013", "nature", "minatar", "impala"])
def test_every_encoder_scales_by_the_bounds(space: spaces.Box, scale: Any, encoder: Any) -> None:
    assert scale_of(space) == ObservationScale(*scale)
    smallest = {"mlp": 0, "minatar": 3}.get(encoder, 36)
    if smallest and (len(space.shape) != 3 or min(space.shape[1:]) < smallest):
        return
    network = make_encoder(encoder, space)
    free = spaces.Box(-np.inf, np.inf, space.shape, np.float32)
    plain = make_encoder(encoder, free)
    plain.load_state_dict(network.state_dict())
    obs = torch.from_numpy(np.stack([space.sample() for _ in range(3)]))
    if not np.isfinite(space.low).all():
        obs = torch.rand_like(obs)
    low, span = scale
    wanted = plain((obs.to(torch.float32) - low) / span)
    torch.testing.assert_close(network(obs), wanted, rtol=1e-4, atol=1e-5)


def test_a_stack_of_pictures_is_a_picture() -> None:
    class Backend:
        num_envs, action_space, action_names = 2, spaces.Discrete(2), ()
        observation_space = spaces.Box(0, 255, (3, 8, 9), np.uint8)

        def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
            return np.full((2, 3, 8, 9), 7, np.uint8)

    stack = FrameStack(Backend(), 4)  # type: ignore[arg-type]  # only what is used
    assert stack.observation_space.shape == (12, 8, 9)
    obs = stack.reset(np.array([True, True]), np.zeros(2, np.int64))
    assert obs[:, :9].max() == 0
    assert obs[:, 9:].min() == 7
    make_encoder("minatar", stack.observation_space)


def test_single_numbers_and_bounds_exceeded_by_rounding_are_accepted() -> None:
    for space in (spaces.Box(-1, 1, (), np.float32), spaces.Box(-1, 1, (), np.float64)):
        for value in (0.5, np.float32(0.5), np.array(0.5, np.float32)):
            check_observation(space, value)
            assert adapt(space).convert(np.asarray(value)).tolist() == [0.5]
    above = np.array([1 + 1e-7], np.float64)
    plain = spaces.Box(-1, 1, (1,), np.float64)
    for space, obs in [
        (plain, above),
        (spaces.Dict({"a": plain}), {"a": above}),
        (spaces.Tuple([plain, spaces.Discrete(2)]), (above, 1)),
    ]:
        check_observation(space, obs)


@pytest.mark.parametrize(
    ("space", "obs", "what"),
    [
        (spaces.Dict({"a": spaces.Discrete(2)}), {"a": 2}, r"observation 2.*key a"),
        (spaces.Tuple([spaces.Discrete(2)]), (1, 0), r"observation \(1, 0\)"),
        (spaces.Box(0, 1, (), np.float32), "1", "of type str"),
        (spaces.Box(0, 1, (2,), np.float32), np.zeros(2), "dtype float64"),
        (spaces.MultiBinary(2), np.array([0, 2], np.int8), "not in"),
    ],
)
def test_observations_that_do_not_fit_are_refused(space: Any, obs: Any, what: str) -> None:
    with pytest.raises(EnvError, match=what):
        check_observation(space, obs)


def test_too_large_for_float32_is_said_with_the_number() -> None:
    adaptation = adapt(spaces.Box(-np.inf, np.inf, (2,), np.float64))
    with pytest.raises(EnvError, match=r"\[0\.e\+00 1\.e\+39\], which is too large for float32"):
        adaptation.convert(np.array([0, 1e39]))


def test_a_mask_from_info_is_packed_beside_the_observation() -> None:
    for space, obs, key in [
        (spaces.Discrete(3), 2, "observation"),
        (spaces.Dict({"seen": spaces.Discrete(3)}), {"seen": 2}, "seen"),
    ]:
        adaptation = adapt(space, mask_size=2)
        packed = adaptation.space
        assert isinstance(packed, PackedDict)
        assert packed.observed == (key,)
        shown = torch.from_numpy(adaptation.convert((obs, np.array([0, 1], np.int8))))
        assert packed.part(shown, key).tolist() == [0, 0, 1]
        assert packed.part(shown, MASK).tolist() == [0, 1]
        with pytest.raises(EnvError, match=f"shows the {MASK} .* it needs 2 numbers"):
            adaptation.convert((obs, np.ones(3)))


class Mission(spaces.Space[str]):
    """A space that says nothing of itself, as MiniGrid's."""


@pytest.mark.parametrize(
    "unread", [Mission(), spaces.Graph(NUMBER, None), spaces.Sequence(NUMBER)], ids=type
)
def test_spaces_that_no_network_reads_are_dropped(unread: Any) -> None:
    adaptation = adapt(spaces.Dict({"unread": unread, "seen": NUMBER}))
    assert adaptation.dropped == ("unread",)
    with pytest.raises(EnvError, match="no network reads"):
        adapt(spaces.Tuple([unread, NUMBER]))


def test_keys_that_no_network_reads_are_dropped() -> None:
    space = spaces.Dict({"said": spaces.Text(9), "seen": spaces.Discrete(2)})
    adaptation = adapt(space)
    assert adaptation.dropped == ("said",)
    check_observation(space, {"said": "left", "seen": 1})
    assert isinstance(adaptation.space, PackedDict)
    assert adaptation.space.observed == ("seen",)
    with pytest.raises(EnvError, match="needs a key with numbers"):
        adapt(spaces.Dict({"said": spaces.Text(9)}))
    with pytest.raises(EnvError, match="no network reads"):
        adapt(spaces.Text(9))


@pytest.mark.parametrize("key", ["moves", "board", "observation"])
def test_names_of_board_games_mean_nothing_in_a_user_s_dictionary(key: str) -> None:
    space = adapt(spaces.Dict({key: spaces.Box(0, 1, (2,), np.float32)})).space
    assert isinstance(space, PackedDict)
    assert space.observed == (key,)
    assert make_encoder("mlp", space, (8,)).dim == 8


WHITE = np.full((4, 6, 3), 255, np.uint8)


@pytest.mark.parametrize(
    "frame",
    [
        WHITE,
        WHITE[:, :, 0],
        WHITE[:, :, :1],
        np.full((4, 6, 4), 255, np.uint8),
        WHITE.transpose(2, 0, 1),
        np.ones((4, 6, 3), np.float32),
        np.full((4, 6, 3), 255.0),
        np.full((4, 6, 3), 300, np.int64),
        np.ones((4, 6), bool),
        [np.zeros((4, 6, 3), np.uint8), WHITE],
    ],
    ids=lambda frame: f"{type(frame).__name__} {getattr(frame, 'dtype', '')}",
)
def test_frames_of_every_kind_become_pictures(frame: Any) -> None:
    picture = as_picture(frame)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, WHITE)


@pytest.mark.parametrize("frame", [None, [], "text", np.zeros(3), np.zeros((5, 6, 2))])
def test_what_is_no_picture_is_refused_in_one_sentence(frame: Any) -> None:
    with pytest.raises(EnvError, match=r"^renders "):
        as_picture(frame)
