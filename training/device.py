"""The choice of a device."""

import torch

from ludus.envs.errors import RunError


def check_device(name: str) -> None:
    """Raise `RunError` for a name that is no device."""
    if name not in ("auto", "cpu", "cuda", "mps"):
        raise RunError(f"device is {name}; it must be auto, cpu, cuda or mps")


def device_of(name: str) -> torch.device:
    """Return the torch device for auto, cpu, cuda or mps; auto is cuda or cpu.

    Raises:
        RunError: there is no such device, or torch does not see it here.
    """
    check_device(name)
    if name == "mps":  # Apple's GPUs, on which Ludus has not been run yet
        if not torch.backends.mps.is_available():
            raise RunError("device is mps, but torch has no mps here; use --device cpu")
        return torch.device("mps")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RunError("device is cuda, but torch sees no GPU here; use --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
