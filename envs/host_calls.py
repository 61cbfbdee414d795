"""Calls of a host of envs: of one in a Ray actor, or of one in this process."""

import pickle
from collections.abc import Iterator
from itertools import chain
from typing import Any

from ludus.envs.host import EnvHost
from ludus.envs.ray_cluster import RayCluster


class HostLost(Exception):
    """Raised when a host does not answer, with the reason."""


class RayHost:
    """A host in a Ray actor.

    Args:
        cluster: the cluster.
        arguments: of `EnvHost`.
    """

    def __init__(self, cluster: RayCluster, *arguments: Any) -> None:
        self._ray = cluster.ray
        # Ray must not start it again: it would have other envs then
        kind = self._ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(EnvHost)
        self._actor = kind.remote(*arguments)
        self.answers: Any = None  # reference to the running call's

    def ask(self, method: str, *arguments: Any) -> None:
        """Start a call."""
        # as one object: Ray takes 0.2 ms for each array among the arguments
        self.answers = self._actor.call.remote(pickle.dumps((method, arguments)))

    def answer(self, limit: Iterator[float]) -> Any:
        """Wait for the call.

        Args:
            limit: yields how long to wait next.

        Raises:
            HostLost: there is no answer.
        """
        for wait in chain(limit, [0.0]):
            try:
                return pickle.loads(self._ray.get(self.answers, timeout=wait))
            except self._ray.exceptions.GetTimeoutError:
                continue
            except self._ray.exceptions.RayError as error:
                raise HostLost(_reason(error)) from error
        raise HostLost("it gave no answer in time")

    def end(self) -> None:
        """End the actor and all that it started."""
        self._ray.kill(self._actor)


def _reason(error: Exception) -> str:
    name = type(error).__name__
    if name in ("ActorDiedError", "WorkerCrashedError", "NodeDiedError"):
        return "it died"
    if name == "ActorUnavailableError":
        return "it cannot be reached"
    return f"{name}: {' '.join(str(error).split())[:200]}"


class LocalHost:
    """A host in this process, where no other is to be had."""

    def __init__(self, *arguments: Any) -> None:
        self._host = EnvHost(*arguments)
        self._answer: Any = None

    def ask(self, method: str, *arguments: Any) -> None:
        """Make a call."""
        self._answer = getattr(self._host, method)(*arguments)

    def answer(self, limit: Iterator[float]) -> Any:
        """Return the call's answer."""
        return self._answer

    def end(self) -> None:
        """Close the envs."""
        self._host.close()
