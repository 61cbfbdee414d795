"""The scale of observations: pictures and other bytes are scaled to [0, 1] by their bounds."""

import math
from typing import NamedTuple

from gymnasium import spaces

from ludus.envs.dict_observation import PackedDict


class ObservationScale(NamedTuple):
    """Bounds of an observation space, by which observations are scaled to [0, 1]."""

    low: float
    span: float  # high - low


def scale_of(space: spaces.Box) -> ObservationScale:
    """Return the scale of pictures and of other uint8 arrays; (0, 1) if their bounds are infinite.

    Float vectors are not scaled: their bounds are seldom the range of their values.
    """
    low, high = float(space.low.min()), float(space.high.max())
    if space.dtype != "uint8" and len(space.shape) != 3:
        return ObservationScale(0.0, 1.0)
    return (
        ObservationScale(low, high - low)
        if -math.inf < low < high < math.inf
        else ObservationScale(0.0, 1.0)
    )


def describe_scale(space: spaces.Box) -> str:
    """Describe how observations are scaled in a few words."""
    named = {"its input": space}
    if isinstance(space, PackedDict):
        named = {key: space.parts[key].space for key in space.observed}
    scales = {key: scale_of(part) for key, part in named.items()}
    texts = [
        f"{key} scaled from {scale.low:g}..{scale.low + scale.span:g} to 0..1"
        for key, scale in scales.items()
        if scale != (0.0, 1.0)
    ]
    return ", ".join(texts) or "its input not scaled"
