"""Reading and writing in folders that may come from strangers.

A run folder may contain links, pipes, devices and files of any size. Writing never follows a link,
and reading is limited to plain files of a size that such a file can have.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_BYTES = 64 << 20


def open_new(path: Path) -> BinaryIO:
    """Open a file for writing; a file or a link of that name is removed first.

    Raises:
        OSError: it cannot be written.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o666)
    return os.fdopen(descriptor, "wb")


def open_plain(path: Path, flags: int) -> int:
    """Open a plain file without following a link; return its descriptor.

    Raises:
        OSError: it cannot be opened, or is a link, a pipe, a device or a folder.
    """
    # Without O_NONBLOCK, opening a pipe that nobody writes to would hang.
    descriptor = os.open(path, flags | _NO_FOLLOW | _NO_BLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a plain file")
    return descriptor


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: the file cannot be read, is no plain file, or is larger than `limit` bytes.
        ValueError: it is not JSON, or nested too deeply.
    """
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(f"{path} is larger than {limit:,} bytes")
    return parse_json(content)


def parse_json(content: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def require_inside(folder: Path, name: Any) -> Path:
    """Return the path of a plain file that a manifest names, which must lie in its folder.

    Raises:
        OSError: the name leads out of the folder, or the file is no plain file.
    """
    named = isinstance(name, str) and len(name) < 256 and "\0" not in name
    if not named or os.path.isabs(name) or ".." in Path(name).parts:
        raise OSError(f"{str(name)[:60]!r} is no name of a file in {folder}")
    path = folder / name
    for part in (path, *path.parents):
        if part == folder:
            break
        if part.is_symlink():
            raise OSError(f"{part} is a link")
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is not a plain file")
    return path


_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK = getattr(os, "O_NONBLOCK", 0)
