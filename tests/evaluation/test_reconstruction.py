"""Frames that a decoder shows, and its errors, against numbers computed by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.evaluation.reconstruction import (
    PLANE_COLOURS,
    DecodedFrames,
    FrameDecoder,
    draw_planes,
    explained_share,
    has_decoder,
)
from ludus.networks.auxiliary import InverseModel, Reconstruction, Variational


class _Twice(Reconstruction):
    """A decoder that shows twice what it gets."""

    def forward(self, latents):
        return 2 * latents.unflatten(1, self.decoder._frame)


class _Network(torch.nn.Module):
    """Its latents are the newest frame on the scale from 0 to 1."""

    def __init__(self, frame, span=1.0):
        super().__init__()
        size = int(np.prod(frame))
        self.encoder = torch.nn.Identity()
        self.auxiliary = _Twice((size,), frame)
        self._size, self._span = size, span

    def latents(self, obs):
        return obs.flatten(1)[:, -self._size :].float() / self._span


def _agent(frame, span=1.0):
    return SimpleNamespace(network=_Network(frame, span))


def test_errors_and_the_variance_that_is_explained_by_hand():
    """Decoded is 2 x, so the error is x^2; the mean frame is (2, 0)."""
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    decoder = FrameDecoder(_agent((2,)), space, 1)
    obs = np.array([[1, 0], [3, 0]], np.float32)
    found = decoder.measure(obs)
    assert found.error.tolist() == [0.5, 4.5]
    assert found.by_number.tolist() == [5, 0]
    assert found.variance.tolist() == [1, 0]
    assert found.of_decoded == pytest.approx(2)  # of 2 and 6 it is 4, of 0 and 0 nothing
    assert (found.mean, found.of_mean_frame, found.explained) == (2.5, 0.5, -4)
    assert explained_share(np.array([1.0, 0.0]), np.array([3.0, 1.0])) == 0.75
    assert np.isnan(explained_share(np.array([1.0]), np.array([0.0])))


def test_only_the_newest_frame_of_a_stack_is_shown_in_the_numbers_of_observations():
    space = spaces.Box(0, 255, (2, 4, 4), np.uint8)
    decoder = FrameDecoder(_agent((1, 4, 4), 255.0), space, 2)
    assert decoder.kind == "image"
    obs = np.full((3, 2, 4, 4), 200, np.uint8)
    obs[:, 1] = 102
    frames = decoder.show(obs)
    assert frames.seen.shape == (3, 1, 4, 4)
    assert frames.seen == pytest.approx(102, abs=1e-3)
    assert frames.decoded == pytest.approx(204, abs=1e-3)
    assert frames.error == pytest.approx(0.4**2)
    seen, decoded, difference = decoder.pictures(frames)
    assert seen.shape == (3, 4, 4, 3)
    assert (seen[0, 0, 0, 0], decoded[0, 0, 0, 0], difference[0, 0, 0, 0]) == (102, 204, 102)


def test_batches_do_not_change_the_errors(monkeypatch):
    space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    decoder = FrameDecoder(_agent((3,)), space, 1)
    obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    whole = decoder.measure(obs)
    monkeypatch.setattr("ludus.evaluation.reconstruction._BATCH", 7)
    parts = decoder.measure(obs)
    assert parts.error == pytest.approx(whole.error)
    assert parts.variance == pytest.approx(obs.astype(float).var(0))
    assert parts.by_number == pytest.approx((obs.astype(float) ** 2).mean(0))
    assert parts.of_decoded == pytest.approx((2 * obs.astype(float)).var(0).mean())


def test_planes_have_a_colour_each_and_are_mixed_where_they_overlap():
    planes = np.zeros((1, 2, 1, 4), np.float32)
    planes[0, 0, 0] = [1, 0, 1, 0.5]
    planes[0, 1, 0] = [0, 1, 1, -3]
    drawn = draw_planes(planes)[0, 0]
    first, second = PLANE_COLOURS[:2]
    for pixel, colour in zip(drawn, (first, second, (first + second) / 2, first / 2), strict=True):
        assert pixel.astype(float) == pytest.approx(colour, abs=0.5)
    space = spaces.Box(0, 1, (4, 3, 3), np.uint8)
    decoder = FrameDecoder(_agent((4, 3, 3)), space, 1)
    frame = np.zeros((1, 4, 3, 3), np.float32)
    off = frame.copy()
    off[0, 2, 1, 1] = 1
    difference = decoder.pictures(DecodedFrames(frame, off, np.zeros(1)))[2]
    assert np.argwhere(difference[0, ..., 0]).tolist() == [[1, 1]]


def test_pictures_without_bounds_are_drawn_over_their_own_range():
    space = spaces.Box(-np.inf, np.inf, (1, 1, 2), np.float32)
    decoder = FrameDecoder(_agent((1, 1, 2)), space, 1)
    seen = np.array([[[[-4.0, 4.0]]]], np.float32)
    assert decoder.pictures(DecodedFrames(seen, seen, np.zeros(1)))[0][0, 0, :, 0].tolist() == [
        0,
        255,
    ]


@pytest.mark.parametrize(
    ("part", "has"),
    [
        (Reconstruction((4,), (4,)), True),
        (Variational((4,), (4,), 2), True),
        (InverseModel.__new__(InverseModel), False),
        (None, False),
    ],
)
def test_which_networks_have_a_decoder(part, has):
    network = SimpleNamespace(auxiliary=part)
    assert has_decoder(SimpleNamespace(network=network)) == has
    assert not has_decoder(SimpleNamespace())
