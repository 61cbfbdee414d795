"""The weights of a network's first layers, as numbers to be drawn."""

from typing import NamedTuple

import numpy as np
from torch import nn

from ludus.networks.encoders import (
    DictEncoder,
    NormalisedEncoder,
    ProjectedEncoder,
    TwoEncoders,
)


class FirstLayer(NamedTuple):
    """Weights of the layer that gets the observation."""

    name: str  # of what gets it: "" for the whole observation, else a key, or policy and value
    # [filters, input planes, height, width] of a convolution, [units, inputs] of a linear layer
    weight: np.ndarray


def first_layers(encoder: nn.Module, name: str = "") -> list[FirstLayer]:
    """Return the first convolution or linear layer of an encoder and of each of its parts."""
    match encoder:
        case ProjectedEncoder() | NormalisedEncoder():
            inner = first_layers(encoder.encoder, name)
            return inner or _first(encoder, name)
        case TwoEncoders():
            parts = {"policy": encoder.first, "value": encoder.second}
        case DictEncoder():
            # a ModuleList of encoders
            parts = dict(zip(encoder.keys, encoder.encoders, strict=True))  # type: ignore[arg-type]
        case _:
            return _first(encoder, name)
    found = (first_layers(part, f"{name} {key}".strip()) for key, part in parts.items())
    return [layer for layers in found for layer in layers]


def _first(encoder: nn.Module, name: str) -> list[FirstLayer]:
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            return [FirstLayer(name, module.weight.detach().cpu().numpy())]
    return []
