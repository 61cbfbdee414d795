"""A network's features of many states: two axes to draw them on, neighbours, exciting states.

The axes are the first two principal components (Pearson 1901,
https://doi.org/10.1080/14786440109462720), or those of UMAP (https://arxiv.org/abs/1802.03426).
"""

from contextlib import suppress
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import ArpackError, eigsh

from ludus.envs.installed import is_installed

_ITERATED = 200  # rows of a matrix from which its largest eigenvalues are found by iteration
LEAST_UMAP = 4  # states


class Components(NamedTuple):
    """The first two principal components of N states."""

    points: np.ndarray  # [N, 2]
    share: tuple[float, float]  # of the variance that each axis has, 0 to 1
    mean: np.ndarray  # [dim] of the features
    axes: np.ndarray  # [2, dim], of length 1; 0 where there is no second

    def place(self, feature: np.ndarray) -> np.ndarray:
        """Return the point [2] of another state's features [dim]."""
        point: np.ndarray = self.axes @ (feature - self.mean)
        return point


class Neighbours(NamedTuple):
    """The K states that are most similar to each of N, the most similar first."""

    states: np.ndarray  # [N, K] int64 indices, -1 where there are fewer
    similarity: np.ndarray  # [N, K] cosine of the angle between the features


class ExcitingStates(NamedTuple):
    """The states in which a unit of the encoder's output is largest."""

    unit: int
    states: list[int]  # indices, the largest first
    activation: list[float]


def principal_components(features: np.ndarray) -> Components:
    """Return the first two principal components of features [N, dim].

    The sign of an axis makes its largest weight positive, so that the same features give the same
    map. Without variance the points are 0.
    """
    mean = features.mean(0, dtype=np.float64)
    centred = features.astype(np.float64) - mean
    wide = centred.shape[1] > len(centred)
    # the smaller of the two products has all that is needed: 5 times as fast as a decomposition of
    # 1,000 states with 3,136 features
    product = centred @ centred.T if wide else centred.T @ centred
    sizes, axes = _largest(product)
    if wide:
        axes = axes @ centred
        axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-300)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    axes = np.pad(axes * signs[:, None], ((0, 2 - len(axes)), (0, 0)))
    points = centred @ axes.T
    shares = np.pad(np.maximum(sizes, 0) / max(float(np.trace(product)), 1e-300), (0, 1))
    return Components(points, (float(shares[0]), float(shares[1])), mean, axes)


def _largest(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two largest eigenvalues of a symmetric matrix, and their vectors as rows.

    Of 2,000 x 2,000 numbers in a 16th of the time that all of them take.
    """
    if len(matrix) >= _ITERATED and matrix.any():
        start = np.cos(np.arange(len(matrix)))  # always the same
        with suppress(ArpackError):
            sizes, vectors = eigsh(matrix, k=2, which="LA", v0=start)
            order = np.argsort(-sizes)
            return sizes[order], vectors[:, order].T
    sizes, vectors = np.linalg.eigh(matrix)
    return sizes[:-3:-1], vectors[:, :-3:-1].T


def has_umap() -> bool:
    """Return whether UMAP is installed."""
    return is_installed("umap")


def umap_points(features: np.ndarray, seed: int) -> np.ndarray | None:
    """Return the map of UMAP by cosine distance, [N, 2]; None if it is not installed."""
    if not has_umap() or len(features) < LEAST_UMAP:
        return None
    import warnings

    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed makes it use one thread, which it warns of
        points: np.ndarray = umap.UMAP(
            n_neighbors=min(15, len(features) - 1), metric="cosine", random_state=seed
        ).fit_transform(features)
    return points


def nearest_states(
    features: np.ndarray, game: np.ndarray, step: np.ndarray, *, count: int, apart: int
) -> Neighbours:
    """Return the states of the most similar features by their cosine.

    Args:
        features: [N, dim].
        game: [N] number of the game of each state.
        step: [N] its step in that game.
        count: K.
        apart: steps of one game within which states do not count: successive ones are alike.
    """
    size = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(size, 1e-12)
    number = min(count, len(features))
    states = np.full((len(features), count), -1)
    similarity = np.zeros((len(features), count))
    for i in range(len(features)):
        cosine = unit @ unit[i]
        cosine[(game == game[i]) & (np.abs(step - step[i]) < apart)] = -np.inf
        best = np.argsort(-cosine, kind="stable")[:number]
        best = best[np.isfinite(cosine[best])]
        states[i, : len(best)], similarity[i, : len(best)] = best, cosine[best]
    return Neighbours(states, similarity)


def exciting_states(
    features: np.ndarray,
    game: np.ndarray,
    step: np.ndarray,
    *,
    units: int,
    count: int,
    apart: int,
) -> list[ExcitingStates]:
    """Return the states that excite the units whose outputs vary most.

    Args:
        features: [N, dim].
        game: [N] number of the game of each state.
        step: [N] its step in that game.
        units: number of units, those of the highest variance.
        count: states of each unit.
        apart: steps between two of them that are of one game, at least.
    """
    variance = features.var(0, dtype=np.float64)
    chosen = np.argsort(-variance, kind="stable")[:units]
    found = []
    for unit in (int(u) for u in chosen if variance[u] > 0):
        states = list[int]()
        for i in np.argsort(-features[:, unit], kind="stable"):
            if len(states) == count:
                break
            if all(game[i] != game[j] or abs(step[i] - step[j]) >= apart for j in states):
                states.append(int(i))
        found.append(ExcitingStates(unit, states, [float(features[i, unit]) for i in states]))
    return found
