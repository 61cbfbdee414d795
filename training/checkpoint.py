"""Checkpoints: one folder each, whole or absent, verified by sha256, without pickle.

    000000120000/                 env steps
        manifest.json             {"sha256": of the body, "body": JSON text}
        rank-0/                   one folder for each part
            tensors.safetensors   all tensors and the small arrays
            state.memory.frames.0.npy

The body of the manifest holds the format version, the version of Ludus that wrote it, the step and
the parts. A part is what one rank wrote (`checkpoint_part.py`); most trainings have one. It has its
tree of dicts, lists and JSON scalars, in which tensors and arrays are replaced by references; the
file of its tensors; and for each large array the dtype, the shape and a list of segments, each a
file with consecutive rows, its size and its sha256. The segments of a ring hold rows by their
number since the start of the training. A full one never changes: later checkpoints have a hard link
to it, so the file is deleted with the last of them. Where the disk has no hard links it is written
again.

The folder is written under a temporary name, synced and renamed. A process that is killed at any
moment leaves the older checkpoints intact.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from ludus.agents.memory.ring_rows import RowsReplacedError
from ludus.agents.ranks import ALONE, Ranks
from ludus.envs.errors import CheckpointError, FormatError
from ludus.training.checkpoint_part import TENSORS, read_part, sync_folder, write_part
from ludus.training.files import open_new, parse_json, read_json
from ludus.training.formats import FORMAT, check_format, format_of, format_stamp

_MANIFEST = "manifest.json"
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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file under a temporary name, sync it and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open_new(temporary) as file:
        file.write(content if isinstance(content, bytes) else content.encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def save_checkpoint(
    folder: Path,
    step: int,
    tree: Any,
    keep: int,
    base: Path | None = None,
    *,
    every: int = 0,
    ranks: Ranks = ALONE,
    require_own: Callable[[], None] = lambda: None,
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
        ranks: all of them call this, each with its own tree. It is written if all parts are.
        require_own: raises `OSError` if the folder is another process's by now.

    Raises:
        CheckpointError: it cannot be written; the older checkpoints are kept.
        RowsReplacedError: rows of a ring were replaced before they were read.
    """
    final = folder / f"{step:012d}"
    temporary = folder / f".tmp-{step}"
    leads = ranks.rank == 0
    try:
        if folder.is_symlink():
            raise OSError("it is a link")
        if not ranks.all(_is_whole(final, ranks.rank)):
            with _together(ranks):
                if leads:
                    _make_temporary(temporary)
            written = _arrays_of(base, ranks.rank)
            with _together(ranks):
                part = write_part(temporary, ranks.rank, tree, base, written)
            parts = ranks.objects(part)
            with _together(ranks):
                if leads:
                    _write_manifest(temporary, step, parts)
                    require_own()
                    _remove(final)  # damaged
                    temporary.rename(final)
                    sync_folder(folder)
        with _together(ranks):
            if leads:
                _remove_others(folder, final, keep, every)
    except RowsReplacedError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"the checkpoint {final} cannot be written: {error}") from error
    return final


@contextmanager
def _together(ranks: Ranks) -> Iterator[None]:
    """Do the same on all ranks, and fail on all if one fails."""
    error: Exception | None = None
    try:
        yield
    except (OSError, RowsReplacedError) as own:
        error = own
    code = 0 if error is None else 2 if isinstance(error, OSError) else 1
    worst = int(ranks.gather(code).max())
    if error is not None:
        raise error
    if worst == 1:
        raise RowsReplacedError("of another rank")
    if worst == 2:
        raise OSError("another rank could not write its part")


def _make_temporary(path: Path) -> None:
    """Make a folder to write to, and remove what is left of others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(".tmp-*"):
        _remove(stale)
    path.mkdir()


def _remove_others(folder: Path, final: Path, keep: int, every: int) -> None:
    """Remove all checkpoints but the newest up to `final`, and the first in each `every` steps."""
    names = [path.name for path in _all(folder)]
    so_far = [name for name in names if name <= final.name]
    firsts = {int(name) // every: name for name in reversed(so_far)} if every else {}
    for name in set(names) - {*so_far[-keep:], *firsts.values()}:
        _remove(folder / name)


def _remove(path: Path) -> None:
    """Remove a folder, or whatever else has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_whole(path: Path, rank: int) -> bool:
    try:
        read_checkpoint(path, rank)
    except CheckpointError:
        return False
    return True


def _write_manifest(temporary: Path, step: int, parts: list[dict[str, Any]]) -> None:
    body = {**format_stamp(), "step": step, "parts": parts}
    text = json.dumps(body)
    manifest = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text}
    write_atomically(temporary / _MANIFEST, json.dumps(manifest))


def _arrays_of(base: Path | None, rank: int) -> dict[str, Any]:
    """Return the manifest's entries of a rank's arrays; none if they cannot be read."""
    if base is not None:
        with suppress(CheckpointError, *_DAMAGE):
            return dict(_read_body(base)["parts"][rank]["arrays"])
    return {}


def _all(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"\d{12}", p.name))


def read_checkpoint(path: Path, rank: int = 0, *, verified: bool = True) -> Any:
    """Return the tree that one rank wrote; large arrays are mapped, copied on write.

    Args:
        path: folder of the checkpoint.
        rank: whose part is read.
        verified: read every file to compare its checksum.

    Raises:
        FormatError: its format is newer than this version of Ludus.
        CheckpointError: a file is missing, cut short or changed.
    """
    body = _read_body(path)
    check_format(body, f"the checkpoint {path}", FormatError)
    try:
        part = body["parts"][rank] if format_of(body) > 1 else _part_of_version_1(body)
        return read_part(path, part, verified=verified)
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
    tensors = files.pop(TENSORS)
    arrays = {name: {"segments": [entry]} for name, entry in files.items()}
    return {"tree": body["tree"], "tensors": tensors, "arrays": arrays}


class Found(NamedTuple):
    """The newest intact checkpoint of a folder."""

    tree: Any
    damaged: list[str]  # a sentence on each newer one that is damaged
    path: Path


def newest_checkpoint(folder: Path, ranks: Ranks = ALONE, *, verified: bool = True) -> Found:
    """Return this rank's part of the newest checkpoint that is intact for all ranks.

    Args:
        folder: of the checkpoints.
        ranks: all of them call this.
        verified: see `read_checkpoint`.

    Raises:
        FormatError: its format is newer than this version of Ludus.
        CheckpointError: there is none.
    """
    damaged: list[str] = []
    for path in reversed(_all(folder)):
        tree, why = None, "in the part of another rank"
        try:
            tree = read_checkpoint(path, ranks.rank, verified=verified)
        except FormatError:
            raise  # it is not damaged: an older one must not be used in its place
        except CheckpointError as error:
            why = str(error)
        if ranks.all(tree is not None):
            return Found(tree, damaged, path)
        damaged.append(f"checkpoint {path} is damaged ({why}) and was skipped")
    more = [f"so are {len(damaged) - 3} older ones"] if len(damaged) > 3 else []
    why = "; ".join([*damaged[:3], *more]) or "none has been saved yet"
    raise CheckpointError(f"{folder.parent} has no checkpoint to continue from: {why}")


def check_resumable(folder: Path, ranks: int = 1) -> None:
    """Check that training can continue from the checkpoints of a folder; reads manifests only.

    Args:
        folder: of the checkpoints.
        ranks: processes that would continue.

    Raises:
        FormatError: another version of Ludus wrote them.
        CheckpointError: another number of ranks wrote them.
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
        written = body.get("parts")
        parts = len(written) if isinstance(written, list) else ranks  # else it is damaged
        if parts != ranks:
            started = f"torchrun --nproc-per-node {parts}" if parts > 1 else "no torchrun"
            raise CheckpointError(
                f"the checkpoint {path} has the envs and memories of {parts} ranks, and "
                f"{ranks} cannot share them; go on with {started}"
            )
