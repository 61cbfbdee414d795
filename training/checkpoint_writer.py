"""Writing checkpoints in another thread, while the training goes on.

What a later step would change is copied first. The rows of a ring are not: they are read from
memory while they are written, which only fails if the ring goes round meanwhile.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ludus.agents.memory.ring_rows import RingRows, RowsReplacedError
from ludus.training.checkpoint import save_checkpoint

_MOST_ROWS = 0.5  # share of a ring that is written while the training goes on


class CheckpointWriter:
    """Writes the checkpoints of one training.

    Args:
        folder: of the checkpoints.
        keep: number of checkpoints to keep, 1 or more.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._thread = ThreadPoolExecutor(1, "ludus-checkpoint")
        self._writing: Future[Path] | None = None
        self._base: Path | None = None  # the last one that was written or loaded
        self._written: list[int] = []  # rows of each ring in it

    def continue_from(self, path: Path, tree: Any) -> None:
        """Refer to the rows of a loaded checkpoint and its tree in those that follow."""
        self._base, self._written = path, [ring.written for ring in rings(tree)]

    def save(self, step: int, tree: Any, *, wait: bool) -> None:
        """Write a checkpoint, after the one before.

        Args:
            step: env steps, the checkpoint's name.
            tree: see `save_checkpoint`.
            wait: until it is written.

        Raises:
            CheckpointError: it, or the one before, cannot be written; older ones are kept.
        """
        self.finish()
        kept = snapshot(tree)
        held = rings(kept)
        before = self._written if self._base is not None else [0] * len(held)
        self._written = [ring.written for ring in held]
        self._writing = self._thread.submit(
            save_checkpoint, self._folder, step, kept, self._keep, self._base
        )
        pairs = zip(held, before, strict=True)
        if wait or any(ring.written - old > _MOST_ROWS * ring.size for ring, old in pairs):
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
        except RowsReplacedError:  # the disk is slower than the ring: the next one is waited for
            self._base = None


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


def rings(tree: Any) -> list[RingRows]:
    """Return the rings of a tree, in its order."""
    if isinstance(tree, RingRows):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [ring for value in tree for ring in rings(value)]
    return []
