"""Checkpoints: one folder each, whole or absent, verified by sha256, without pickle.

    000000120000/                 env steps
        manifest.json             {"sha256": of the body, "body": JSON text}
        rank-0/                   one folder for each part
            tensors.safetensors   all tensors and the small arrays
            state.memory.frames.0.npy

The body of the manifest holds the format version, the version of Ludus that wrote it, the step and
the parts. A part is what one rank wrote; today there is one. It has its tree of dicts, lists and
JSON scalars, in which tensors and arrays are replaced by references; the file of its tensors; and
for each large array the dtype, the shape and a list of segments, each a file with consecutive rows,
its size and its sha256. The segments of a ring hold rows by their number since the start of the
training. A full one never changes: later checkpoints have a hard link to it, so the file is
deleted with the last of them. Where the disk has no hard links it is written again.

The folder is written under a temporary name, synced and renamed. A process that is killed at any
moment leaves the older checkpoints intact.
"""

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ludus.agents.memory.ring_rows import RingRows, RowsReplacedError
from ludus.envs.errors import CheckpointError, FormatError
from ludus.training.files import open_new, parse_json, read_json, require_inside
from ludus.training.formats import FORMAT, check_format, format_of, format_stamp

_TENSORS, _MANIFEST = "tensors.safetensors", "manifest.json"
_PART = "rank-0"
_LARGE = 1 << 20  # bytes from which an array is stored in its own file
_SEGMENT = 32 << 20  # bytes of a ring's rows in one file
_MAX_MANIFEST_BYTES = 256 << 20
# what reading a file may raise that a stranger wrote
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
    SafetensorError,
)


class _Hashing:
    """Writable file that computes the sha256 and the size of its content."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        self.size += len(view)
        return self._file.write(view)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file under a temporary name, sync it and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open_new(temporary) as file:
        file.write(content if isinstance(content, bytes) else content.encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def save_checkpoint(
    folder: Path, step: int, tree: Any, keep: int, base: Path | None = None, *, every: int = 0
) -> Path:
    """Write `folder/<step>` and remove all but the newest `keep` checkpoints up to it.

    An intact checkpoint of the same step is kept as it is. Checkpoints of later steps are removed:
    they belong to a training that went on from a later, now damaged, checkpoint.

    Args:
        folder: folder of the checkpoints, made if absent.
        step: env steps, the checkpoint's name.
        tree: dicts, lists, tensors, arrays and JSON scalars.
        keep: number of checkpoints to keep, 1 or more.
        base: an earlier checkpoint of the same training, whose rows of rings need not be written.
        every: the first checkpoint in each `every` steps is kept as well; 0 for none.

    Raises:
        CheckpointError: it cannot be written; the older checkpoints are kept.
        RowsReplacedError: rows of a ring were replaced before they were read.
    """
    final = folder / f"{step:012d}"
    temporary = folder / f".tmp-{step}"
    try:
        if folder.is_symlink():
            raise OSError("it is a link")
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".tmp-*"):
            if stale.is_symlink() or not stale.is_dir():
                stale.unlink()
            else:
                shutil.rmtree(stale)
        if not _is_whole(final):
            _write_folder(temporary, step, tree, base)
            _remove(final)  # damaged
            temporary.rename(final)
            _sync_folder(folder)
        names = [path.name for path in _all(folder)]
        so_far = [name for name in names if name <= final.name]
        firsts = {int(name) // every: name for name in reversed(so_far)} if every else {}
        for name in set(names) - {*so_far[-keep:], *firsts.values()}:
            _remove(folder / name)
    except RowsReplacedError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"the checkpoint {final} cannot be written: {error}") from error
    return final


def _remove(path: Path) -> None:
    """Remove a folder, or whatever else has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _write_folder(temporary: Path, step: int, tree: Any, base: Path | None) -> None:
    temporary.mkdir()
    part = _write_part(temporary, _PART, tree, base)
    body = {**format_stamp(), "step": step, "parts": [part]}
    text = json.dumps(body)
    manifest = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text}
    write_atomically(temporary / _MANIFEST, json.dumps(manifest))


def _write_part(folder: Path, name: str, tree: Any, base: Path | None) -> dict[str, Any]:
    """Write the tensors and arrays of one rank; return the manifest's entry."""
    (folder / name).mkdir()
    tensors: dict[str, torch.Tensor] = {}
    arrays: dict[str, np.ndarray | RingRows] = {}
    skeleton = _split(tree, "state", tensors, arrays)
    written = _arrays_of(base)
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
    saved = _write(folder, f"{name}/{_TENSORS}", save(tensors))
    _sync_folder(folder / name)
    return {"name": name, "tree": skeleton, "tensors": saved, "arrays": entries}


def _arrays_of(base: Path | None) -> dict[str, Any]:
    """Return the manifest's entries of a checkpoint's arrays; none if it cannot be read."""
    if base is not None:
        with suppress(CheckpointError, *_DAMAGE):
            return dict(_read_body(base)["parts"][0]["arrays"])
    return {}


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


def _all(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"\d{12}", p.name))


def read_checkpoint(path: Path) -> Any:
    """Return the tree of one checkpoint; large arrays are mapped, copied on write.

    Raises:
        FormatError: its format is newer than this version of Ludus.
        CheckpointError: a file is missing, cut short or changed.
    """
    body = _read_body(path)
    check_format(body, f"the checkpoint {path}", FormatError)
    try:
        part = body["parts"][0] if format_of(body) > 1 else _part_of_version_1(body)
        tensors = load_file(_verified(path, part["tensors"]))
        arrays = {key: _read_array(path, entry) for key, entry in part["arrays"].items()}
        return _join(part["tree"], tensors, arrays)
    except _DAMAGE as error:
        raise CheckpointError(f"{type(error).__name__}: {error}") from error


def _read_body(path: Path) -> dict[str, Any]:
    """Return the body of a manifest, which every format stores under its sha256."""
    try:
        if path.is_symlink():
            raise CheckpointError(f"{path} is a link")
        manifest = read_json(path / _MANIFEST, _MAX_MANIFEST_BYTES)
        text = manifest["body"]
        if hashlib.sha256(text.encode()).hexdigest() != manifest["sha256"]:
            raise CheckpointError(f"{_MANIFEST} has changed since it was written")
        body = parse_json(text)
        if not isinstance(body, dict):
            raise CheckpointError(f"{_MANIFEST} holds no object")
        return body
    except _DAMAGE as error:
        raise CheckpointError(f"{type(error).__name__}: {error}") from error


def _part_of_version_1(body: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a version 1 manifest as a part; its arrays are one file each."""
    files = {name: {"file": name, **entry} for name, entry in body["files"].items()}
    tensors = files.pop(_TENSORS)
    arrays = {name: {"segments": [entry]} for name, entry in files.items()}
    return {"tree": body["tree"], "tensors": tensors, "arrays": arrays}


def _verified(folder: Path, entry: dict[str, Any]) -> Path:
    """Return the path of a file after checking its size and its sha256."""
    name, size = entry["file"], entry["bytes"]
    path = require_inside(folder, name)
    if path.stat().st_size != size:
        raise CheckpointError(f"{name} is not {size} bytes long")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
            raise CheckpointError(f"{name} has changed since it was written")
    return path


def _read_array(folder: Path, entry: dict[str, Any]) -> np.ndarray | RingRows:
    """Return one array, or the rows of a ring; files stay mapped unless an array has several."""
    segments = [
        np.load(_verified(folder, segment), mmap_mode="c", allow_pickle=False)
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


class Found(NamedTuple):
    """The newest intact checkpoint of a folder."""

    tree: Any
    damaged: list[str]  # a sentence on each newer one that is damaged
    path: Path


def newest_checkpoint(folder: Path) -> Found:
    """Return the newest intact checkpoint.

    Raises:
        FormatError: its format is newer than this version of Ludus.
        CheckpointError: there is none.
    """
    damaged: list[str] = []
    for path in reversed(_all(folder)):
        try:
            return Found(read_checkpoint(path), damaged, path)
        except FormatError:
            raise  # it is not damaged: an older one must not be used in its place
        except CheckpointError as error:
            damaged.append(f"checkpoint {path} is damaged ({error}) and was skipped")
    more = [f"so are {len(damaged) - 3} older ones"] if len(damaged) > 3 else []
    why = "; ".join([*damaged[:3], *more]) or "none has been saved yet"
    raise CheckpointError(f"{folder.parent} has no checkpoint to continue from: {why}")


def check_resumable(folder: Path) -> None:
    """Check that training can continue from the checkpoints of a folder; reads manifests only.

    Raises:
        FormatError: another version of Ludus wrote them.
    """
    for path in reversed(_all(folder)):
        try:
            body = _read_body(path)
        except CheckpointError:  # `newest_checkpoint` reports it
            continue
        check_format(body, f"the checkpoint {path}", FormatError)
        if format_of(body) != FORMAT:
            raise FormatError(
                f"the checkpoint {path} has format {format_of(body)}, which only ludus 0.1.0 "
                f"resumes; its weights can still be used with --init-from, evaluate and watch"
            )
