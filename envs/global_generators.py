"""Global random generators for one env: `random`, `np.random` and torch's.

Envs should draw from their own generator, but many draw from the global ones. Each such env gets
its own global state, seeded from its episode's seed and swapped in around every call. Envs then
differ from each other, an episode follows from its seed, and the caller's state is never touched.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np


class _State(NamedTuple):
    python: Any
    numpy: Any
    torch: Any  # None if torch is not imported


class GlobalGenerators:
    """Global generators of one env; the env's calls run within this context, which can be nested.

    Args:
        seed: of everything that the env's constructor draws, 0 to 2^32 - 1.
    """

    def __init__(self, seed: int) -> None:
        self._depth = 0
        self._outer = _current()
        self.seed(seed)
        self._own = _current()
        _restore(self._outer)

    def seed(self, seed: int) -> None:
        """Seed the generators, 0 to 2^32 - 1; call it within the context."""
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  the global generator is meant
        if "torch" in sys.modules:
            sys.modules["torch"].default_generator.manual_seed(seed)

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Undo on exit what was drawn meanwhile; enter it within the context."""
        state = _current()
        try:
            yield
        finally:
            _restore(state)

    def __enter__(self) -> None:
        """Swap the env's state in."""
        if self._depth == 0:
            self._outer = _current()
            _restore(self._own)
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        """Swap the caller's state back in."""
        self._depth -= 1
        if self._depth == 0:
            self._own = _current()
            _restore(self._outer)


def _current() -> _State:
    torch = sys.modules.get("torch")
    return _State(
        random.getstate(),
        np.random.get_state(),  # noqa: NPY002
        None if torch is None else torch.default_generator.get_state(),
    )


def _restore(state: _State) -> None:
    random.setstate(state.python)
    np.random.set_state(state.numpy)  # noqa: NPY002
    if state.torch is not None:
        sys.modules["torch"].default_generator.set_state(state.torch)
