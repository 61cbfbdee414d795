"""What `torchrun` tells the processes that it starts, in their environment variables."""

import os
import socket

import psutil


def ranks_started() -> int:
    """Return how many processes were started to train together; 1 without `torchrun`."""
    started = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    return int(os.environ["WORLD_SIZE"]) if started else 1


def own_rank() -> int:
    """Return the number of this process among them."""
    return int(os.environ["RANK"]) if ranks_started() > 1 else 0


def launch() -> str | None:
    """Return a name of this start of `torchrun`, which stays when it restarts its processes.

    It is the `--rdzv-id` of the user, or of the process of `torchrun`. None without `torchrun`.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name == "none":
        parent = psutil.Process(os.getppid())
        name = f"{socket.gethostname()}-{parent.pid}-{parent.create_time():.0f}"
    return name
