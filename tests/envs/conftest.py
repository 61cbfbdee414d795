"""Makes the helper modules importable, in workers too, and checks that no process is left."""

import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _no_process_is_left(wait_until: Any) -> Iterator[None]:
    yield
    wait_until(lambda: not multiprocessing.active_children(), "no process is left")
