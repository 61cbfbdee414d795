"""Running statistics: merged batches against those of all rows at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ludus.networks.running_stats import Normalise, RewardScale, RunningMeanStd


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 2**31))
def test_numbers_in_batches_have_the_moments_of_all(counts, seed):
    values = np.random.default_rng(seed).normal(1000, 3, sum(counts))
    running = RunningMeanStd()
    for batch in np.split(values, np.cumsum(counts)[:-1]):
        running.update(batch)
    assert running.count == len(values)
    if len(values):
        assert running.mean == pytest.approx(values.mean())
        assert running.variance == pytest.approx(values.var(), rel=1e-6, abs=1e-9)


def test_forgetting_takes_weight_from_earlier_values():
    running = RunningMeanStd()
    running.update(np.array([0.0, 2.0, 0.0, 2.0]))  # mean 1, variance 1
    running.update(np.array([4.0, 4.0]), forget=0.5)  # weights 2 and 2
    assert running.count == 4
    assert running.mean == 2.5
    assert running.variance == 0.5 * 1 + 0.5 * 0 + 0.25 * 3**2


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return():
    scale, no = RewardScale(0.5, 2), np.zeros(2, bool)
    scale(np.array([2.0, 4.0]), ~no, no)  # returns 2 and 4: mean 3, variance 1
    got = scale(np.array([1.0, 3.0]), ~no, no)  # returns 2 and 5
    assert got == pytest.approx(np.array([1.0, 3.0]) / np.std([2, 4, 2, 5]))
    assert got.dtype == np.float32
    copy = RewardScale(0.5, 2)
    copy.load_state_dict(scale.state_dict())
    # the first env ends its episode, the second's row is not used: both start again from 0
    rewards, ends, valid = np.array([1.0, 9.0]), np.array([True, False]), np.array([True, False])
    for each in (scale, copy):
        assert each(rewards, valid, ends)[0] == pytest.approx(1 / np.std([2, 4, 2, 5, 2]))
        assert each.state_dict()["returns"].tolist() == [0, 0]


def test_scaled_rewards_are_clipped():
    scale, no = RewardScale(0.99, 1), np.zeros(1, bool)
    for _ in range(50):
        scale(np.array([0.0]), ~no, no)
    assert scale(np.array([1e6]), ~no, no) == pytest.approx(50**0.5 * 1.02, rel=0.03)
    assert scale(np.array([-1e9]), no, ~no).tolist() == [-10]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**31))
def test_statistics_in_batches_are_those_of_all_rows(counts, seed):
    rows = np.random.default_rng(seed).normal([0, 1000, -3], [1, 0.1, 50], (sum(counts), 3))
    layer = Normalise((3,))
    for batch in torch.from_numpy(rows).split(counts):
        layer.update_statistics(batch)
    assert layer.count == len(rows)
    np.testing.assert_allclose(layer.mean, rows.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.variance, rows.var(0), rtol=1e-3, atol=1e-6)


def test_before_any_row_numbers_pass_and_a_constant_becomes_zero():
    layer, x = Normalise((2,)), torch.tensor([[3.0, -4.0]])
    torch.testing.assert_close(layer(x), x)
    layer.update_statistics(x.expand(50, 2))
    layer.update_statistics(x.expand(7, 2))
    assert layer(x).tolist() == [[0, 0]]
    assert layer(x + 1).tolist() == [[10, 10]]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**31))
def test_pictures_have_a_mean_for_each_pixel_and_one_deviation(counts, seed):
    scale = np.random.default_rng(seed).uniform(0, 2, (2, 3, 3))
    rows = np.random.default_rng(seed).normal(scale, scale, (sum(counts), 2, 3, 3))
    layer = Normalise((2, 3, 3), shared_variance=True)
    for batch in torch.from_numpy(rows.astype(np.float32)).split(counts):
        layer.update_statistics(batch)
    np.testing.assert_allclose(layer.mean, rows.mean(0), rtol=1e-4, atol=1e-4)
    assert float(layer.variance) == pytest.approx(rows.var(0).mean(), rel=1e-3, abs=1e-6)
