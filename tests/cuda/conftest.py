"""The tests' own modules can be imported, and tests run on the device."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from cuda_device import REASON, SIMULATED  # after the path

if SIMULATED and not REASON:
    import simulator  # before torch

    simulator.install()
if not REASON:
    import torch

    from ludus.agents import overlap


class _SameThread:
    """Runs the updates of `Overlap` at once: the simulated device belongs to one thread."""

    def __init__(self, *_: Any) -> None:
        """Take the arguments of a `ThreadPoolExecutor`."""

    def submit(self, updates: Callable[[], None]) -> Future[None]:
        done = Future[None]()
        updates()
        done.set_result(None)
        return done


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a test on the device, or on the one that its module simulates."""
    torch.set_num_threads(1)
    simulated: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if SIMULATED:
        monkeypatch.setattr(overlap, "ThreadPoolExecutor", _SameThread)
        simulated = simulator.device(getattr(request.module, "SIMULATES", simulator.CUDA))
    with simulated, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    if SIMULATED:
        simulator.SIMULATOR.graph = None
