"""Fixtures that the tests of all packages share."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

T = TypeVar("T")
FILM_STEPS = 30  # in place of 300: the film of a training's end took longer than most trainings


class WaitUntil:
    """Poll a condition and return its first true value; fail the test after `seconds`.

    The one limit is generous, so that no outcome depends on how fast the machine is. `seconds`
    also serves as the timeout of a join or of a subprocess.
    """

    seconds = 600.0

    def __call__(
        self, condition: Callable[[], T], what: str, process: subprocess.Popen[str] | None = None
    ) -> T:
        """Wait until `what`, as in `wait_until(path.exists, "the checkpoint is written")`.

        With a `process`, fail with its output if it ends before that.
        """
        end = time.monotonic() + self.seconds
        while not (value := condition()):
            if process is not None and process.poll() is not None:
                pytest.fail(f"the process ended before {what}: {process.communicate()}")
            if time.monotonic() > end:
                pytest.fail(f"waited {self.seconds:.0f} s in vain until {what}")
            time.sleep(0.01)
        return value


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    return WaitUntil()


@pytest.fixture(scope="session", autouse=True)
def short_films() -> None:
    """Shorten the films of trainings; not above, for a simulated GPU is loaded before torch."""
    from ludus.training import film

    film._STEPS = FILM_STEPS


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Restore torch's treatment of denormal numbers, which commands change for their process."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
