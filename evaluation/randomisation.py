"""Sanity check of saliency: does a map change when the network's layers lose what they learned?

The model parameter randomisation test of Adebayo et al. 2018, https://arxiv.org/abs/1810.03292,
section 4.1: layers are randomised one after the other, from the head to the input, and each map is
compared with that of the trained network by Spearman's rank correlation. A layer is randomised by
putting the values of each of its tensors into a random order, which keeps their distribution.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from scipy.stats import rankdata
from torch import Tensor, nn

from ludus.agents.agent import HasNetwork
from ludus.evaluation.saliency import NetworkInspector, Saliency
from ludus.networks.network import Network

TRUSTED, DOUBTED = 0.2, 0.5  # correlations below which a map is of the network, partly of it
_DRAWS = 3  # random networks, among which the states are divided
_ITERATIONS = 15  # of the singular vectors of spectrally normalised layers


@runtime_checkable
class Randomisable(HasNetwork, Protocol):
    """An agent with a network whose weights can be replaced."""

    def weights(self) -> dict[str, Tensor]:
        """Return the network's parameters and buffers by name."""

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load tensors returned by `weights`."""


class LayerCorrelation(NamedTuple):
    """Rank correlation with the trained network's maps once a layer is randomised, too."""

    layer: str  # name of the module
    mean: float  # over the states; NaN if no map of either has any variation
    low: float  # 5% of the states have a lower one
    high: float  # 5% have a higher one
    constant: int  # states without a correlation, as a map has one value everywhere


class SaliencyCheck(NamedTuple):
    """Result of the test for one kind of saliency."""

    kind: Saliency
    states: int
    layers: list[LayerCorrelation]  # from the head to the input, each with those before it
    between_states: float  # mean correlation of the trained network's maps of different states
    examples: np.ndarray  # [E, 1 + layers, H, W] maps of the first states; first the trained ones

    @property
    def final(self) -> float:
        """Return the mean correlation with all layers randomised; NaN without any."""
        return self.layers[-1].mean

    @property
    def trusted(self) -> bool:
        """Return whether the map depends on what the network has learned."""
        return self.final < DOUBTED


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of each pair of maps, [N, ...] and [N, ...] to [N].

    It is NaN where a map has one value everywhere.
    """
    a, b = (rankdata(np.abs(x).reshape(len(x), -1), axis=1) for x in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    result: np.ndarray = np.where(size > 0, (a * b).sum(1) / np.where(size > 0, size, 1), np.nan)
    return result


def layers_from_head(network: Network[Any]) -> list[str]:
    """Return the names of the modules that have parameters, the head's last one first.

    Those of an auxiliary loss, on which no action depends, are left out.
    """
    named = (name for name, module in network.named_modules() if _own_parameters(module))
    return [name for name in named if not name.startswith("auxiliary.")][::-1]


def check_saliency(
    agent: Randomisable,
    space: spaces.Box,
    obs: np.ndarray,
    *,
    kind: Saliency,
    seed: int,
    examples: int,
    on_map: Callable[[int], None] = lambda done: None,
) -> SaliencyCheck:
    """Compare saliency maps of the trained network with those of randomised ones.

    Each state is taken as the first of an episode. The agent has its own weights again afterwards.

    Args:
        agent: whose network is tested.
        space: of its observations, images.
        obs: states, [N, C, H, W].
        kind: a method in `NetworkInspector.kinds`.
        seed: of the random order of the weights.
        examples: E, states whose maps are returned.
        on_map: called before each map with the number of those before, of `maps_of_check`.
    """
    inspector, done = NetworkInspector(agent, space), 0

    def maps(indices: np.ndarray) -> np.ndarray:
        nonlocal done
        found = []
        for i in indices:
            on_map(done)
            found.append(inspector.saliency(kind, obs[i : i + 1], None, np.ones(1, bool)))
            done += 1
        return np.stack(found)

    count = len(obs)
    trained = maps(np.arange(count))
    names = layers_from_head(agent.network)
    randomised = np.zeros((len(names), *trained.shape), np.float32)
    saved = {name: tensor.clone() for name, tensor in agent.weights().items()}
    try:
        for draw in range(min(_DRAWS, count)):
            generator = torch.Generator().manual_seed(seed * _DRAWS + draw)
            weights = {name: tensor.clone() for name, tensor in saved.items()}
            for number, layer in enumerate(names):
                _randomise(agent, layer, weights, generator)
                indices = np.arange(draw, count, _DRAWS)
                randomised[number, indices] = maps(indices)
    finally:
        agent.load_weights(saved)
    correlations = [rank_correlation(trained, each) for each in randomised]
    layers = [_summary(name, each) for name, each in zip(names, correlations, strict=True)]
    together = np.concatenate([trained[None], randomised])[:, :examples]  # [1 + L, E, H, W]
    other = rank_correlation(trained, np.roll(trained, max(1, count // 2), 0))
    between = float(np.nanmean(other)) if count > 1 and np.isfinite(other).any() else float("nan")
    return SaliencyCheck(kind, count, layers, between, together.swapaxes(0, 1))


def maps_of_check(agent: HasNetwork, states: int) -> int:
    """Return the number of maps that `check_saliency` computes."""
    return states * (1 + len(layers_from_head(agent.network)))


def _own_parameters(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters(recurse=False)]


def _randomise(
    agent: Randomisable, layer: str, weights: dict[str, Tensor], generator: torch.Generator
) -> None:
    """Put the values of a layer's tensors in `weights` into a random order, and load them."""
    for name in _own_parameters(agent.network.get_submodule(layer)):
        whole = weights[f"{layer}.{name}"]
        order = torch.randperm(whole.numel(), generator=generator).to(whole.device)
        weights[f"{layer}.{name}"] = whole.flatten()[order].view(whole.shape)
    agent.load_weights(weights)
    for _ in range(_ITERATIONS):
        agent.network.power_iteration()


def _summary(name: str, correlations: np.ndarray) -> LayerCorrelation:
    known = correlations[np.isfinite(correlations)]
    constant = len(correlations) - len(known)
    if not len(known):
        return LayerCorrelation(name, float("nan"), float("nan"), float("nan"), constant)
    low, high = np.quantile(known, (0.05, 0.95))
    return LayerCorrelation(name, float(known.mean()), float(low), float(high), constant)
