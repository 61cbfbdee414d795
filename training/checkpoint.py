"""Checkpoints: a folder a checkpoint, whole or absent, checked by sha256, without pickle.

A tree of dicts and lists is split: scalars go to `manifest.json`, small arrays and all tensors to
`tensors.safetensors`, large arrays to a `.npy` each. The folder is written under a temporary name,
synced and renamed, so that a kill at any moment leaves the older checkpoints as they were.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ludus.envs.errors import CheckpointError

_TENSORS, _MANIFEST = "tensors.safetensors", "manifest.json"
_LARGE = 1 << 20  # bytes from which an array gets a file of its own


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        self.size += len(view)
        return self._file.write(view)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file under a temporary name, sync it, rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
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
    """The tree with its tensors and arrays replaced by references to `tensors` and `arrays`."""
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
            arrays[f"{name}.npy"] = tree
            return {"$array": f"{name}.npy"}
        tensors[name] = torch.from_numpy(np.ascontiguousarray(tree))
        return {"$small": name}
    if isinstance(tree, np.generic):
        return tree.item()
    return tree


def _join(tree: Any, folder: Path, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `_split`."""
    if isinstance(tree, list):
        return [_join(v, folder, tensors) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$small" in tree:
        return tensors[tree["$small"]].numpy()
    if "$array" in tree:
        return np.load(folder / tree["$array"], mmap_mode="c", allow_pickle=False)
    return {k: _join(v, folder, tensors) for k, v in tree.items()}


def save_checkpoint(folder: Path, step: int, tree: Any, keep: int) -> Path:
    """Write `folder/<step>` and remove all but the newest `keep` up to it.

    One that is there already and whole stays as it is. Later ones are of a future that a damaged
    checkpoint cut off: they go.

    Args:
        folder: where checkpoints lie, made if absent.
        step: env steps, the checkpoint's name.
        tree: dicts, lists, tensors, arrays and JSON's scalars.
        keep: checkpoints that stay, 1 or more.

    Raises:
        CheckpointError: it cannot be written; the older ones stay.
    """
    final = folder / f"{step:012d}"
    temporary = folder / f".tmp-{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".tmp-*"):
            shutil.rmtree(stale)
        if not _is_whole(final):
            _write_folder(temporary, step, tree)
            shutil.rmtree(final, ignore_errors=True)  # damaged
            temporary.rename(final)
            _sync_folder(folder)
        names = [path.name for path in _all(folder)]
        for name in names:
            if name > final.name or name in names[: max(0, names.index(final.name) + 1 - keep)]:
                shutil.rmtree(folder / name)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"the checkpoint {final} cannot be written: {error}") from error
    return final


def _is_whole(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _write_folder(temporary: Path, step: int, tree: Any) -> None:
    temporary.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    arrays: dict[str, np.ndarray] = {}
    skeleton = _split(tree, "state", tensors, arrays)
    files = {}
    for name, array in arrays.items():
        files[name] = _write(temporary / name, array)
    files[_TENSORS] = _write(temporary / _TENSORS, save(tensors))
    body = {"step": step, "files": files, "tree": skeleton}
    text = json.dumps(body)
    manifest = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text}
    write_atomically(temporary / _MANIFEST, json.dumps(manifest))


def _write(path: Path, content: np.ndarray | bytes) -> dict[str, Any]:
    with path.open("wb") as file:
        hashing = _Hashing(file)
        if isinstance(content, bytes):
            hashing.write(content)
        else:
            np.lib.format.write_array(hashing, content, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": hashing.sha256.hexdigest(), "bytes": hashing.size}


def _all(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"\d{12}", p.name))


def read_checkpoint(path: Path) -> Any:
    """The tree of one checkpoint.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        text = manifest["body"]
        if hashlib.sha256(text.encode()).hexdigest() != manifest["sha256"]:
            raise CheckpointError(f"{_MANIFEST} has changed since it was written")
        body = json.loads(text)
        for name, expected in body["files"].items():
            if (path / name).stat().st_size != expected["bytes"]:
                raise CheckpointError(f"{name} is not {expected['bytes']} bytes long")
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    raise CheckpointError(f"{name} has changed since it was written")
        return _join(body["tree"], path, load_file(path / _TENSORS))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{type(error).__name__}: {error}") from error


def newest_checkpoint(folder: Path) -> tuple[Any, list[str]]:
    """The tree of the newest whole checkpoint, and a sentence on each damaged one after it.

    Raises:
        CheckpointError: there is none.
    """
    damaged: list[str] = []
    for path in reversed(_all(folder)):
        try:
            return read_checkpoint(path), damaged
        except CheckpointError as error:
            damaged.append(f"checkpoint {path} is damaged ({error}) and was passed over")
    why = "; ".join(damaged) or "it has not saved any yet"
    raise CheckpointError(f"{folder.parent} has no checkpoint to go on from: {why}")
