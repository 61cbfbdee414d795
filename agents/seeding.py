"""One generator for each purpose, all from the seed of a run."""

import numpy as np
import torch


def seed_of(seed: int, purpose: int) -> int:
    """A seed of its own for one purpose."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1)[0])


def generator(device: torch.device, seed: int, purpose: int) -> torch.Generator:
    """A generator of its own for one purpose."""
    return torch.Generator(device).manual_seed(seed_of(seed, purpose))
