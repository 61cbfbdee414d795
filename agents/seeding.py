"""One random generator for each purpose, all derived from the seed of a run."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ludus.envs.errors import ConfigError


def seed_of(seed: int, purpose: int) -> int:
    """Return a seed for one purpose, independent of those for others."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1)[0])


def generator(device: torch.device, seed: int, purpose: int) -> torch.Generator:
    """Return a torch generator for one purpose."""
    return torch.Generator(device).manual_seed(seed_of(seed, purpose))


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Set a state that `get_state` returned, on any kind of device.

    A state of another kind of device cannot be set: the generator is seeded from it instead, so
    that the same state leads to the same numbers.
    """
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
        return
    digest = hashlib.sha256(state.cpu().numpy().tobytes()).digest()
    generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def seeded_weights(seed: int, device: torch.device) -> Iterator[None]:
    """Initialise weights from `seed` within the context; torch's global generator is restored.

    Raises:
        ConfigError: the weights would not fit into memory; raised before they are allocated.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _MemoryLimit():
        torch.manual_seed(seed)
        yield


class _MemoryLimit(TorchDispatchMode):
    """Refuses tensors that would not fit into memory, before they are allocated.

    A configuration may come from a stranger, and one with a billion units would take all memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self._free, self._bytes = psutil.virtual_memory().available, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CREATE:
            dtype = kwargs.get("dtype") or torch.get_default_dtype()
            self._bytes += math.prod(args[0]) * dtype.itemsize
            if _COPIES * self._bytes > self._free:
                need, free = (
                    round(size / 2**30, 1) for size in (_COPIES * self._bytes, self._free)
                )
                raise ConfigError(
                    f"the network needs {need:,} GiB of memory or more, and {free:,} are free; "
                    "make its layers smaller"
                )
        return func(*args, **kwargs)


_COPIES = 4  # of each weight in a training: online, target and two moments
_CREATE = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.zeros.default,
    torch.ops.aten.ones.default,
    torch.ops.aten.full.default,
}
