"""Provenance of a result: package versions, the git commit, the command and the hardware."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

import ludus
from ludus.training.launcher import launch, ranks_started

_DISTRIBUTION = "ludus-rl"
_PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "minatar", "stable-baselines3")


def ludus_version() -> str:
    """Return the version of Ludus, installed or not."""
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:  # a checkout that is on the path only
        return str(getattr(ludus, "__version__", "unknown"))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that a score depends on."""
    found = {"python": platform.python_version(), "ludus": ludus_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not every package is needed for every run
            continue
    return found


def commit() -> str | None:
    """Return the git commit of this source tree, with a + where files differ from it.

    None outside a git checkout.
    """
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def made_by() -> dict[str, Any]:
    """Return the versions, the commit and the command of this process, for JSON."""
    made: dict[str, Any] = {"versions": versions(), "commit": commit(), "command": sys.argv}
    if ranks_started() > 1 or launch() is not None:
        made |= {"ranks": ranks_started(), "launch": launch()}
    return made


def cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the GPU (None on a CPU), the processor, its cores and the memory, for JSON."""
    return {
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
