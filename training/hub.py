"""Packed runs on the Hugging Face Hub, one in each model repository.

Only files of the names in `FILES` are sent and fetched. None of them is code or a pickled object.
"""

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ludus.envs.errors import RunError

HUB = "hub:"
FILES = (
    "config.json",
    "status.json",
    "evaluations.json",
    "episodes.csv",
    "thumbnail.png",
    "weights/*/manifest.json",
    "weights/*/rank-0/*.safetensors",
    "README.md",
    "curve.png",
    "replay.mp4",
    "report.html",
)
_MOST_BYTES = 1 << 30  # of a repository's files of these names
_NAME = re.compile(r"([\w.-]+)/([\w.-]+)(?:@([\w./-]+))?")

_T = TypeVar("_T")


def check_name(name: str) -> tuple[str, str | None]:
    """Return the repository `owner/name` and the revision of `owner/name@revision`.

    Raises:
        RunError: it is no such name.
    """
    match = _NAME.fullmatch(name)
    if not match or ".." in name:
        raise RunError(f"{name!r} names no repository; write owner/name or owner/name@revision")
    return f"{match[1]}/{match[2]}", match[3]


@cache
def download(name: str) -> Path:
    """Return the folder of a run on the hub, after fetching what is not here yet.

    Without a connection it is the copy that was fetched last.

    Args:
        name: `owner/name`, with `@revision` for a branch, a tag or a commit.

    Raises:
        RunError: there is none, it cannot be reached, or it holds no run of Ludus.
    """
    repo, revision = check_name(name)
    kept = _cache() / repo
    if revision is not None and (kept / revision / "config.json").is_file():
        return kept / revision
    hub = library()
    try:
        info = _ask(lambda: hub.HfApi().model_info(repo, revision=revision, files_metadata=True))
    except ConnectionError as error:
        copies = sorted(kept.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
        if not copies or revision is not None:
            raise RunError(f"{HUB}{name} cannot be fetched: {error}") from error
        return copies[-1].parent
    files = {
        file.rfilename: file.size or 0 for file in info.siblings or [] if _known(file.rfilename)
    }
    names = [glob.escape(name) for name in files]
    if "config.json" not in files:
        raise RunError(f"{HUB}{name} holds no run of Ludus: it has no config.json")
    if sum(files.values()) > _MOST_BYTES:
        raise RunError(
            f"{HUB}{name} has {sum(files.values()):,} bytes; at most {_MOST_BYTES:,} are read"
        )
    if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
        raise RunError(f"{HUB}{name} has the commit {str(info.sha)[:60]!r}, which is none")
    folder = kept / str(info.sha)
    if not (folder / "config.json").is_file():
        kept.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=kept))
        try:
            _ask(
                lambda: hub.snapshot_download(
                    repo, revision=info.sha, local_dir=temporary, allow_patterns=names
                )
            )
            shutil.rmtree(temporary / ".cache", ignore_errors=True)  # the library's own notes
            with contextlib.suppress(OSError):  # another process has fetched it meanwhile
                temporary.rename(folder)
        except ConnectionError as error:
            raise RunError(f"{HUB}{name} cannot be fetched: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Send a packed run, as one commit; return the address of the repository.

    Args:
        folder: of the packed run, with its card as README.md.
        repo: `owner/name`, made if it does not exist.
        private: whether a new repository is private.

    Raises:
        RunError: the hub refuses or cannot be reached.
    """
    hub = library()
    api = hub.HfApi()
    try:
        made = _ask(lambda: api.create_repo(repo, private=private, exist_ok=True))
        _ask(
            lambda: api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                allow_patterns=list(FILES),
                delete_patterns=list(FILES),  # an earlier run's
                commit_message="A run of Ludus",
            )
        )
    except ConnectionError as error:
        raise RunError(f"{repo} cannot be written: {error}") from error
    return str(made)


def _known(name: str) -> bool:
    """Return whether a file is one of `FILES`; a `*` is no part of a path."""
    parts = name.split("/")
    patterns: Sequence[list[str]] = [pattern.split("/") for pattern in FILES]
    return ".." not in parts and any(
        len(parts) == len(pattern) and all(map(fnmatch, parts, pattern)) for pattern in patterns
    )


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ludus" / "hub"


def library() -> Any:
    """Return the module `huggingface_hub`, which prints no progress.

    Raises:
        RunError: it is not installed.
    """
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as error:
        raise RunError(
            "the hub needs the package huggingface_hub; install it with pip install huggingface_hub"
        ) from error
    disable_progress_bars()
    return huggingface_hub


def _ask(request: Callable[[], _T]) -> _T:
    """Return what the hub answers.

    Raises:
        RunError: the hub refuses.
        ConnectionError: it cannot be reached.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        return request()
    except HFValidationError as error:
        raise RunError(str(error)) from error
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError
        raise RunError(
            "the repository is gated: ask for access on its page, then log in by `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise RunError(
            "the hub has no such repository, or it is private to another user"
        ) from error
    except HfHubHTTPError as error:  # it has answered
        text = " ".join(str(error).split()).partition(" for url")[0]
        raise RunError(f"the hub refuses: {text}") from error
    except (OSError, RuntimeError) as error:
        raise ConnectionError(" ".join(str(error).split()) or type(error).__name__) from error
    except (ValueError, LookupError, TypeError) as error:
        raise RunError("the address of the hub does not answer as a hub does") from error
    except Exception as error:  # of the library's HTTP client
        if "http" not in type(error).__module__:
            raise
        raise ConnectionError(" ".join(str(error).split()) or type(error).__name__) from error
