"""Scheduling priorities of the viewer's threads, which are all below a training's."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

WAITED_FOR_NICENESS, SERVING_NICENESS = 5, 19
"""niceness of the threads that a person waits for, and of all other threads"""

loader = ThreadPoolExecutor(1, "ludus-load")
"""loads agents, one at a time"""
starter = ThreadPoolExecutor(1, "ludus-start")
"""starts the threads of agents that a person plays against"""


def lower() -> None:
    """Lower the priority of this thread and of those that it starts, and less that of the pools."""
    with suppress(OSError, AttributeError):  # a thread has no priority of its own there
        os.nice(WAITED_FOR_NICENESS)
        # A thread inherits its parent's niceness, so start the threads of the pools in between.
        for pool in (loader, starter):
            pool.submit(int).result()
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), SERVING_NICENESS)


def lower_to_idle() -> None:
    """Let this thread run only on otherwise idle cores (Linux; no effect elsewhere)."""
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
