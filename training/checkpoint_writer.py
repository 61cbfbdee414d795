"""Writing checkpoints in another thread, while the training goes on.

What a later step would change is copied first. The rows of a ring are not: they are read from
memory while they are written, which only fails if the ring goes round meanwhile.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ludus.agents.memory.ring_rows import RingRows, RowsReplacedError
from ludus.agents.ranks import ALONE, Ranks
from ludus.envs.errors import CheckpointError
from ludus.training.checkpoint import save_checkpoint

_MOST_ROWS = 0.5  # share of a ring that is written while the training goes on


class CheckpointWriter:
    """Writes the checkpoints of one training.

    Args:
        folder: of the checkpoints.
        keep: number of checkpoints to keep, 1 or more.
        ranks: of the training, each of which writes its part; used in the other thread.
        require_own: see `save_checkpoint`.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        ranks: Ranks = ALONE,
        require_own: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._keep, self._ranks = folder, keep, ranks
        self._require_own = require_own
        self._thread = ThreadPoolExecutor(1, "ludus-checkpoint")
        self._writing: Future[Path] | None = None
        self._base: Path | None = None  # the last one that was written or loaded
        self._written: dict[str, int] = {}  # rows of each ring in it
        self._always_waits = False

    def continue_from(self, path: Path, tree: Any) -> None:
        """Refer to the rows of a loaded checkpoint and its tree in those that follow."""
        self._base, self._written = path, {name: ring.written for name, ring in rings(tree)}

    def save(self, step: int, tree: Any, *, wait: bool) -> None:
        """Write a checkpoint, after the one before.

        Args:
            step: env steps, the checkpoint's name.
            tree: see `save_checkpoint`.
            wait: until it is written; so it is after one that could not be written.

        Raises:
            CheckpointError: it cannot be written; older ones are kept.
        """
        try:
            self.finish()
        except CheckpointError:  # this one is newer, and may find room on the disk
            wait = True
        kept = snapshot(tree)
        before = self._written if self._base is not None else {}
        new = [(ring.written - before.get(name, 0)) / ring.size for name, ring in rings(kept)]
        self._written = {name: ring.written for name, ring in rings(kept)}
        self._writing = self._thread.submit(
            save_checkpoint,
            self._folder,
            step,
            kept,
            self._keep,
            self._base,
            ranks=self._ranks,
            require_own=self._require_own,
        )
        if wait or self._always_waits or max(new, default=0) > _MOST_ROWS:
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint is written.

        Raises:
            CheckpointError: it cannot be written; older ones are kept.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            self._base = writing.result()
        except RowsReplacedError:
            # The ring went round, as it does where a disk is slow or has no hard links. The older
            # checkpoints are kept; from now on the training waits.
            self._base, self._always_waits = None, True


def snapshot(tree: Any) -> Any:
    """Return a copy of a tree that later training does not change, except for the rows of rings."""
    match tree:
        case RingRows():
            return tree
        case dict():
            return {key: snapshot(value) for key, value in tree.items()}
        case list() | tuple():
            return [snapshot(value) for value in tree]
        case torch.Tensor():
            return tree.detach().cpu().clone()
        case np.ndarray():
            return tree.copy()
        case _:
            return tree


def rings(tree: Any, name: str = "") -> Iterator[tuple[str, RingRows]]:
    """Yield the rings of a tree, with their places in it."""
    if isinstance(tree, RingRows):
        yield name, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from rings(value, f"{name}.{key}")
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from rings(value, f"{name}.{index}")
