"""A connection to a Ray cluster. Nothing else imports Ray, and this only when it connects."""

import contextlib
import logging
import os
import signal
import socket
from typing import Any

from ludus.envs.errors import RunError

LOCAL, AUTO = "local", "auto"
_ANSWER_SECONDS = 10.0


class RayCluster:
    """A connection to a Ray cluster, for as long as somebody uses it.

    Args:
        address: `auto` for the cluster that this machine is part of, `local` to start one here that
            ends with this process, or `host:port` of a cluster's head.

    Raises:
        RunError: Ray is not installed, there is no such cluster, or it has other versions.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        try:
            import ray
        except ImportError as error:
            raise RunError(
                "--ray needs the package ray; run pip install -e '.[cluster]' in the checkout"
            ) from error
        self.ray: Any = ray
        _require_answer(address)
        self._users = 0
        self._connected = not ray.is_initialized()  # else it is the user's own connection
        if self._connected:
            self._connect()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self.ray.init(
                self.address,
                include_dashboard=False if self.address == LOCAL else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except Exception as error:  # ConnectionError, RuntimeError, ValueError, ...
            self.ray.shutdown()
            text = " ".join(str(error).split())[:300]
            hint = "start one by `ray start --head`, or use --ray local"
            raise RunError(f"no Ray cluster at {self.address}: {text}; {hint}") from error
        finally:
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGTERM, handler)  # Ray takes it, and a training handles it

    def machines(self) -> int:
        """Return the number of machines."""
        return sum(bool(node["Alive"]) for node in self.ray.nodes())

    def count(self, resource: str) -> int:
        """Return how many CPUs or GPUs all machines have together."""
        return int(self.ray.cluster_resources().get(resource, 0))

    def resources(self) -> str:
        """Describe the machines and processors of the cluster, for messages."""
        free = self.ray.available_resources().get("CPU", 0)
        return f"{self.machines()} machines with {self.count('CPU')} CPUs, {free:g} of them free"

    def acquire(self) -> None:
        """Keep the connection until `release`."""
        self._users += 1

    def release(self) -> None:
        """End the connection with its last user."""
        self._users -= 1
        if self._users == 0 and self._connected:
            self.ray.shutdown()


def _require_answer(address: str) -> None:
    """Check that something answers at an address, for which Ray would wait for many minutes.

    Raises:
        RunError: nothing does, or it is no address.
    """
    if address in (LOCAL, AUTO):
        address = os.environ.get("RAY_ADDRESS", AUTO) if address == AUTO else address
        if ":" not in address:
            return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise RunError(f"ray is {address}; it must be auto, local, or a head's host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RunError(
            f"no Ray cluster at {address}: {error}; start one by `ray start --head`, or use "
            "--ray local"
        ) from error
