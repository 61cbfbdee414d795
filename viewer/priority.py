"""Scheduling priorities of the viewer's threads, which are all below a training's."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

LOADING_NICENESS, SERVING_NICENESS = 5, 19
"""niceness of the thread that loads agents, and of all other threads"""

loader = ThreadPoolExecutor(1, "ludus-load")
"""loads agents, one at a time"""


def lower() -> None:
    """Lower the priority of this thread and of those that it starts, and less that of `loader`."""
    with suppress(OSError, AttributeError):  # a thread has no priority of its own there
        os.nice(LOADING_NICENESS)
        # A thread inherits its parent's niceness, so start the thread of `loader` in between.
        loader.submit(int).result()
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), SERVING_NICENESS)


def lower_to_idle() -> None:
    """Let this thread run only on otherwise idle cores (Linux; no effect elsewhere)."""
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
