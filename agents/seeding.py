"""One random generator for each purpose, all derived from the seed of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(seed: int, purpose: int) -> int:
    """Return a seed for one purpose, independent of those for others."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1)[0])


def generator(device: torch.device, seed: int, purpose: int) -> torch.Generator:
    """Return a torch generator for one purpose."""
    return torch.Generator(device).manual_seed(seed_of(seed, purpose))


@contextmanager
def seeded_weights(seed: int, device: torch.device) -> Iterator[None]:
    """Initialise weights from `seed` within the context; torch's global generator is restored."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
