"""One rank's part of a checkpoint: a tree whose tensors and arrays are in files of their own.

Each file is named in the manifest with its size and its sha256. See `checkpoint`.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file, save

from ludus.agents.memory.ring_rows import RingRows
from ludus.envs.errors import CheckpointError
from ludus.training.files import open_new, require_inside

TENSORS = "tensors.safetensors"
_LARGE = 1 << 20  # bytes from which an array is stored in its own file
_SEGMENT = 32 << 20  # bytes of a ring's rows in one file


class _Hashing:
    """Writable file that computes the sha256 and the size of its content."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        self.size += len(view)
        return self._file.write(view)


def _split(tree: Any, name: str, tensors: dict[str, torch.Tensor], arrays: dict[str, Any]) -> Any:
    """Return the tree with references in place of what it adds to `tensors` and `arrays`."""
    if isinstance(tree, RingRows):
        arrays[name] = tree
        return {"$ring": name}
    if isinstance(tree, dict):
        return {k: _split(v, f"{name}.{k}", tensors, arrays) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [_split(v, f"{name}.{i}", tensors, arrays) for i, v in enumerate(tree)]
    if isinstance(tree, torch.Tensor):
        # a copy: safetensors refuses tensors that share memory
        tensors[name] = tree.detach().cpu().contiguous().clone()
        return {"$tensor": name}
    if isinstance(tree, np.ndarray):
        if tree.nbytes >= _LARGE:
            arrays[name] = tree
            return {"$array": name}
        tensors[name] = torch.from_numpy(np.ascontiguousarray(tree))
        return {"$small": name}
    if isinstance(tree, np.generic):
        return tree.item()
    return tree


def _join(tree: Any, tensors: dict[str, torch.Tensor], arrays: dict[str, Any]) -> Any:
    """Invert `_split`."""
    if isinstance(tree, list):
        return [_join(v, tensors, arrays) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$small" in tree:
        return tensors[tree["$small"]].numpy()
    if "$array" in tree:
        return arrays[tree["$array"]]
    if "$ring" in tree:
        return arrays[tree["$ring"]]
    return {k: _join(v, tensors, arrays) for k, v in tree.items()}


def write_part(
    folder: Path, rank: int, tree: Any, base: Path | None, written: dict[str, Any]
) -> dict[str, Any]:
    """Write the tensors and arrays of one rank.

    Args:
        folder: of the checkpoint.
        rank: number of the part.
        tree: dicts, lists, tensors, arrays and JSON scalars.
        base: an earlier checkpoint, whose rows of rings need not be written.
        written: its entries of arrays.

    Returns:
        The manifest's entry.
    """
    name = f"rank-{rank}"
    (folder / name).mkdir()
    tensors: dict[str, torch.Tensor] = {}
    arrays: dict[str, np.ndarray | RingRows] = {}
    skeleton = _split(tree, "state", tensors, arrays)
    entries = {}
    for key, array in arrays.items():
        if isinstance(array, RingRows):
            entries[key] = _write_ring(folder, f"{name}/{key}", array, base, written.get(key))
            continue
        segment = _write(folder, f"{name}/{key}.0.npy", array)
        entries[key] = {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "segments": [{**segment, "rows": len(array)}],
        }
    saved = _write(folder, f"{name}/{TENSORS}", save(tensors))
    sync_folder(folder / name)
    return {"name": name, "tree": skeleton, "tensors": saved, "arrays": entries}


def _write_ring(
    folder: Path, name: str, rows: RingRows, base: Path | None, before: dict[str, Any] | None
) -> dict[str, Any]:
    """Write a ring's rows that `base` does not hold; return the manifest's entry.

    Args:
        folder: of the checkpoint.
        name: of the files, without the number of the segment.
        rows: of the ring.
        base: an earlier checkpoint.
        before: its entry of this ring, if there is one.
    """
    entry: dict[str, Any] = {"dtype": rows.dtype.str, "shape": list(rows.shape), "size": rows.size}
    known = dict[str, Any]()
    if before is not None and all(before.get(key) == value for key, value in entry.items()):
        known = {segment["file"]: segment for segment in before["segments"]}
    each = max(1, _SEGMENT // rows.row_bytes)  # rows of a full segment
    segments = []
    for number in range(rows.first // each, -(-rows.written // each)):
        file = f"{name}.{number}.npy"
        start, stop = max(number * each, rows.first), min((number + 1) * each, rows.written)
        old = known.get(file)
        # One that is not full, or that began with a later row, is written again.
        if old and old["start"] <= start and old["start"] + old["rows"] == stop:
            assert base is not None
            with suppress(OSError):  # this disk has no hard links
                (folder / file).hardlink_to(base / file)
                segments.append(old)
                continue
        written = _write(folder, file, rows.read(start, stop))
        segments.append({**written, "start": start, "rows": stop - start})
    return {**entry, "written": rows.written, "segments": segments}


def _write(folder: Path, name: str, content: np.ndarray | bytes) -> dict[str, Any]:
    """Write and sync one file; return its name below `folder`, its size and its sha256."""
    with open_new(folder / name) as file:
        hashing = _Hashing(file)
        if isinstance(content, bytes):
            hashing.write(content)
        else:
            np.lib.format.write_array(hashing, content, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return {"file": name, "bytes": hashing.size, "sha256": hashing.sha256.hexdigest()}


def read_part(folder: Path, part: dict[str, Any], *, verified: bool) -> Any:
    """Return the tree of a part; large arrays are mapped, copied on write.

    Args:
        folder: of the checkpoint.
        part: the manifest's entry.
        verified: compare checksums, besides sizes.
    """
    tensors = load_file(_path(folder, part["tensors"], verified))
    arrays = {key: _read_array(folder, entry, verified) for key, entry in part["arrays"].items()}
    return _join(part["tree"], tensors, arrays)


def _path(folder: Path, entry: dict[str, Any], verified: bool) -> Path:
    """Return the path of a file after checking its size and, if `verified`, its sha256."""
    name, size = entry["file"], entry["bytes"]
    path = require_inside(folder, name)
    if path.stat().st_size != size:
        raise CheckpointError(f"{name} is not {size} bytes long")
    if not verified:
        return path
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
            raise CheckpointError(f"{name} has changed since it was written")
    return path


def _read_array(folder: Path, entry: dict[str, Any], verified: bool) -> np.ndarray | RingRows:
    """Return one array, or the rows of a ring; files stay mapped unless an array has several."""
    segments = [
        np.load(_path(folder, segment, verified), mmap_mode="c", allow_pickle=False)
        for segment in entry["segments"]
    ]
    if "written" in entry:
        return _read_ring(entry, segments)
    return segments[0] if len(segments) == 1 else np.concatenate(segments)


def _read_ring(entry: dict[str, Any], segments: list[np.ndarray]) -> RingRows:
    """Return the rows of a ring.

    Raises:
        CheckpointError: the segments are not what the entry says, or rows are missing.
    """
    starts = [int(segment["start"]) for segment in entry["segments"]]
    ends = [start + len(segment) for start, segment in zip(starts, segments, strict=True)]

    def read(start: int, stop: int) -> np.ndarray:
        parts = [
            segment[max(0, start - begin) : max(0, stop - begin)]
            for begin, segment in zip(starts, segments, strict=True)
        ]
        return np.concatenate([part for part in parts if len(part)])

    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    rows = RingRows(int(entry["size"]), int(entry["written"]), shape, dtype, read)
    typed = all(segment.shape[1:] == shape and segment.dtype == dtype for segment in segments)
    whole = starts[:1] <= [rows.first] and ends[:-1] == starts[1:] and ends[-1:] == [rows.written]
    if not typed or rows.size < 1 or (rows.written and not whole):
        raise CheckpointError("the segments of a ring do not hold its rows")
    return rows


def sync_folder(path: Path) -> None:
    """Write the names of a folder's files to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
