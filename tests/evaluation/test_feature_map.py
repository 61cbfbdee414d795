"""Maps of features and neighbours, against numpy's decompositions and naive loops."""

import numpy as np
import pytest

from ludus.evaluation import feature_map
from ludus.evaluation.feature_map import (
    exciting_states,
    has_umap,
    nearest_states,
    principal_components,
    umap_points,
)


def test_the_axes_are_those_of_known_structure_with_their_shares():
    """Two orthogonal directions of deviation 5 and 2 in 8 dimensions, and noise."""
    generator = np.random.default_rng(0)
    basis, _ = np.linalg.qr(generator.normal(size=(8, 8)))
    long, short = generator.normal(size=(2, 4000))
    features = 5 * long[:, None] * basis[0] + 2 * short[:, None] * basis[1] + 7
    features = features + 0.1 * generator.normal(size=features.shape)
    found = principal_components(features.astype(np.float32))
    assert abs(np.corrcoef(found.points[:, 0], long)[0, 1]) > 0.999
    assert abs(np.corrcoef(found.points[:, 1], short)[0, 1]) > 0.995
    total = 25 + 4 + 8 * 0.01
    assert found.share == pytest.approx((25 / total, 4 / total), abs=0.02)


@pytest.mark.parametrize("states", [50, 5])
def test_the_components_are_the_eigenvectors_of_the_covariance(states):
    """Of fewer states than features, too."""
    features = np.random.default_rng(1).normal(size=(states, 6)) @ np.diag([4, 3, 2, 1, 1, 1])
    values, vectors = np.linalg.eigh(np.cov(features.T))
    found = principal_components(features)
    for axis in (0, 1):
        own = (features - features.mean(0)) @ vectors[:, -1 - axis]
        assert np.abs(found.points[:, axis]) == pytest.approx(np.abs(own), abs=1e-9)
        assert found.share[axis] == pytest.approx(values[-1 - axis] / values.sum())
    for state in (0, states - 1):
        assert found.place(features[state]) == pytest.approx(found.points[state], abs=1e-9)
    again = principal_components(features.copy())
    assert (again.points == found.points).all()


@pytest.mark.parametrize("shape", [(5, 1), (1, 4), (3, 3)])
def test_features_without_two_directions_have_points_too(shape):
    found = principal_components(np.ones(shape))
    assert found.points.shape == (shape[0], 2)
    assert (found.points == 0).all()
    assert found.share == (0, 0)


def _naive(features, game, step, count, apart):
    rows = []
    for i in range(len(features)):
        others = []
        for j in range(len(features)):
            if game[i] == game[j] and abs(step[i] - step[j]) < apart:
                continue
            product = sum(a * b for a, b in zip(features[i], features[j], strict=True))
            size = np.linalg.norm(features[i]) * np.linalg.norm(features[j])
            others.append((-product / size, j))
        rows.append(sorted(others)[:count])
    return rows


def test_neighbours_are_those_of_a_loop_and_not_of_the_same_moment():
    generator = np.random.default_rng(2)
    features = generator.normal(size=(40, 5))
    game, step = np.repeat([0, 1], 20), np.tile(np.arange(0, 60, 3), 2)
    found = nearest_states(features, game, step, count=4, apart=10)
    for i, row in enumerate(_naive(features, game, step, 4, 10)):
        assert found.states[i].tolist() == [j for _, j in row]
        assert found.similarity[i] == pytest.approx([-negative for negative, _ in row])
        assert i not in found.states[i]


def test_too_few_states_leave_neighbours_out():
    found = nearest_states(np.eye(3), np.array([0, 0, 1]), np.array([0, 1, 0]), count=4, apart=5)
    assert found.states.tolist() == [[2, -1, -1, -1], [2, -1, -1, -1], [0, 1, -1, -1]]


def test_units_are_the_most_varying_with_their_largest_states_apart():
    step = np.arange(10)
    features = np.stack([np.ones(10), step * 1.0, np.eye(10)[3] * 50, -step * 0.1], 1)
    found = exciting_states(features, np.zeros(10, int), step, units=3, count=3, apart=4)
    assert [unit.unit for unit in found] == [2, 1, 3]  # the constant one is left out
    assert found[1].states == [9, 5, 1]
    assert found[1].activation == [9, 5, 1]
    assert found[0].states[0] == 3
    two = exciting_states(features, np.arange(10), step, units=2, count=3, apart=4)
    assert two[1].states == [9, 8, 7]  # of different games


@pytest.mark.slow  # it compiles itself
def test_umap_keeps_groups_apart_and_repeats():
    if not has_umap():
        pytest.skip("needs umap-learn")
    generator = np.random.default_rng(3)
    features = generator.normal(size=(60, 6)) * 0.05
    features[:30, 0] += 1
    features[30:, 1] += 1
    points = umap_points(features, seed=0)
    middles = points[:30].mean(0), points[30:].mean(0)
    within = np.linalg.norm(points[:30] - middles[0], axis=1).mean()
    assert np.linalg.norm(middles[0] - middles[1]) > 2 * within
    assert (umap_points(features, seed=0) == points).all()


@pytest.mark.parametrize("shape", [(300, 400), (400, 300)])
def test_components_found_by_iteration_are_those_of_a_whole_decomposition(shape, monkeypatch):
    features = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 3, shape[1])
    found = principal_components(features)
    monkeypatch.setattr(feature_map, "_ITERATED", 10_000)
    whole = principal_components(features)
    np.testing.assert_allclose(found.points, whole.points, atol=1e-6)
    assert found.share == pytest.approx(whole.share)
    still = principal_components(np.ones(shape))
    assert (still.points == 0).all()
