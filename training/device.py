"""The choice of a device."""

import torch

from ludus.envs.errors import RunError


def device_of(name: str) -> torch.device:
    """Return the torch device for auto, cpu or cuda.

    Raises:
        RunError: cuda is asked for and torch sees no GPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RunError("device is cuda, but torch sees no GPU here; use --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
