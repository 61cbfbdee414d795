"""Fixtures that the tests of all packages share."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


class WaitUntil:
    """Poll a condition and return its first true value; fail the test after `seconds`.

    The one limit is generous, so that no outcome depends on how fast the machine is. `seconds`
    also serves as the timeout of a join or of a subprocess.
    """

    seconds = 600.0

    def __call__(self, condition: Callable[[], T], what: str) -> T:
        """Wait until `what`, as in `wait_until(path.exists, "the checkpoint is written")`."""
        end = time.monotonic() + self.seconds
        while not (value := condition()):
            if time.monotonic() > end:
                pytest.fail(f"waited {self.seconds:.0f} s in vain until {what}")
            time.sleep(0.01)
        return value


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    return WaitUntil()
