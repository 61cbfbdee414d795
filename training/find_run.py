"""Find a run by what a person types for it."""

import glob
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from ludus.envs.errors import RunError
from ludus.envs.suggest import closest
from ludus.training.hub import HUB, download

# What status.json says; unknown without the file.
RunState = Literal["waiting", "running", "finished", "stopped", "pruned", "failed", "unknown"]

ROOT = Path("runs")
LATEST = "latest"
PRETRAINED = "pretrained:"  # before the name of a packed run that comes with Ludus
PRETRAINED_ROOT = Path(__file__).resolve().parents[1] / "pretrained"


def run_folders(root: Path = ROOT) -> list[Path]:
    """Return the folder of every run below root, sorted by path."""
    return [path.parent for path in sorted(root.glob("*/*/*/config.json"))]


def pretrained_runs() -> dict[str, Path]:
    """Return the folders of the packed runs that come with Ludus, by name."""
    return {folder.name: folder for folder in run_folders(PRETRAINED_ROOT)}


def changed_at(folder: Path) -> float:
    """Return when a run's status or configuration was last written, in seconds since 1970."""
    return max(
        path.stat().st_mtime
        for path in (folder / "config.json", folder / "status.json")
        if path.exists()
    )


def find_run(text: Path | str, root: Path = ROOT) -> Path:
    """Return the folder of a run.

    Args:
        text: its path; `pretrained:NAME`; `hub:OWNER/NAME`; "latest"; a pattern such as
            `runs/*/ppo/*`; or the beginning of its path below `root`, or of its name. A pattern or
            a beginning must be of one run.
        root: where runs are searched that are not named by their path.

    Raises:
        RunError: there is no such run, or more than one.
    """
    folder, words = Path(text), str(text)
    if words.startswith(PRETRAINED):
        known, name = pretrained_runs(), words.removeprefix(PRETRAINED)
        if name not in known:
            hint = "`ludus list pretrained` shows all"
            raise RunError(closest(name, known, "pretrained agent", hint))
        return known[name]
    if words.startswith(HUB):
        return download(words.removeprefix(HUB))
    if (folder / "config.json").is_file():
        return folder
    folders = run_folders(root)
    if words == LATEST:
        if not folders:
            raise RunError(f"there is no run in {root} yet; name a run folder")
        return max(folders, key=changed_at)
    if glob.has_magic(words):
        elsewhere = [Path(path) for path in glob.glob(words)]
        found = {path for path in elsewhere if (path / "config.json").is_file()}
        found |= {path for path in folders if fnmatchcase(str(path.relative_to(root)), words)}
    else:
        begins = words.rstrip("/") if words not in ("", ".") else "\0"
        names = {path: (str(path), str(path.relative_to(root)), path.name) for path in folders}
        found = {path for path, each in names.items() if begins in each}
        if not found:
            found = {p for p, each in names.items() if any(n.startswith(begins) for n in each)}
    if not found:
        raise RunError(
            f"{text} is not a run: it has no config.json; `ludus list runs` lists all runs"
        )
    if len(found) > 1:
        newest = max(found, key=changed_at)
        raise RunError(f"{text} may be any of {len(found)} runs; the newest of them is {newest}")
    return found.pop()


def at_steps(path: Path | str) -> tuple[Path, int | None]:
    """Parse `RUN` or `RUN@ENV_STEPS` into the folder and the steps; None for the newest."""
    folder, at, steps = str(path).rpartition("@")
    if at and steps.isdecimal() and not Path(path).exists():
        return Path(folder), int(steps)
    return Path(path), None
