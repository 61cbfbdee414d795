"""States of the replay in a training's newest checkpoint, for those who look at its agent."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from ludus.agents.memory.ring_rows import RingRows
from ludus.envs.errors import CheckpointError, FormatError
from ludus.training.checkpoint import newest_checkpoint


class ReplayedStates(NamedTuple):
    """N states in which the agent has acted, oldest first."""

    obs: np.ndarray  # [N, *obs]
    age: np.ndarray  # [N] int64, env steps stored since, of all envs


def replayed_states(
    checkpoints: Path, space: spaces.Box, stack: int, count: int
) -> ReplayedStates | None:
    """Return states of a replay of single frames, evenly spaced over its time.

    Only the files of these states are read, and their checksums are not computed.

    Args:
        checkpoints: folder of them.
        space: of the observations.
        stack: frames in one observation.
        count: N, at most.

    Returns:
        None without such a replay of such observations.
    """
    try:
        tree = newest_checkpoint(checkpoints, verified=False).tree
        return _states(tree["agent"]["memory"], space, stack, count)
    except (CheckpointError, FormatError):
        return None
    except (LookupError, TypeError, AttributeError, ValueError):  # it is another kind of memory
        return None


def _states(
    memory: dict[str, Any], space: spaces.Box, stack: int, count: int
) -> ReplayedStates | None:
    """Return states of a saved memory; may raise anything that a wrong content leads to."""
    memory = memory.get("ring", memory)  # of sequences
    frames, first, valid = (memory[name] for name in ("frames", "first", "valid"))
    envs = int(memory["shape"][1])
    if not all(isinstance(rows, RingRows) for rows in (frames, first, valid)):
        return None
    size = int(np.prod(frames.shape, dtype=np.int64)) * stack
    if frames.dtype != space.dtype or size != int(np.prod(space.shape, dtype=np.int64)):
        return None
    oldest = frames.first + (stack - 1) * envs  # that has its whole stack
    if oldest >= frames.written:
        return None
    acted = oldest + np.flatnonzero(valid.read(oldest, frames.written))
    spaced = np.linspace(0, len(acted) - 1, min(count, len(acted))).round().astype(np.int64)
    opens = first.read(frames.first, frames.written)
    obs = [
        _observation(frames, opens, int(at), envs, stack).reshape(space.shape)
        for at in acted[spaced]
    ]
    return ReplayedStates(np.stack(obs), len(acted) - 1 - spaced) if obs else None


def _observation(frames: RingRows, opens: np.ndarray, at: int, envs: int, stack: int) -> np.ndarray:
    """Return the stack ending at a row, zeros before the episode: [stack, size].

    Args:
        frames: of all rows.
        opens: whether each row that is held opened an episode.
        at: number of the row.
        envs: rows between two frames of one env.
        stack: frames in one observation.
    """
    obs = np.zeros((stack, *frames.shape), frames.dtype)
    for back in range(stack):
        row = at - back * envs
        obs[stack - 1 - back] = frames.read(row, row + 1)[0]
        if opens[row - frames.first]:
            break
    return obs
