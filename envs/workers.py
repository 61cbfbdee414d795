"""One worker process for each env of a user.

The trainer and each worker exchange one message per call; observations, actions and rewards are in
shared memory. Three kinds of failure are distinguished, and each becomes one `EnvError` with the
index of the env:

- The env raises or returns something invalid: the worker sends the error as text and goes on.
- The worker dies: its connection ends.
- The worker hangs: it does not answer within the time limit.
"""

import contextlib
import os
import pickle
import selectors
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any, NoReturn

import cloudpickle
import gymnasium
import numpy as np

from ludus.envs.adapt import Channels, adapt
from ludus.envs.deadline import waits
from ludus.envs.errors import EnvError
from ludus.envs.vector import BackendStep, episode_seed
from ludus.envs.worker_process import DONE, STEP, map_shared, shared_layout
from ludus.envs.worker_server import acquire_server, release_server

_CLOSE_SECONDS = 5.0  # that the envs may take to close before they are killed
_CONSTRUCTOR = 2**32 - 1  # number of the episode whose seed a constructor gets


class WorkerBackend:
    """B copies of one env, each in its own process, which survives crashes and hangs.

    Args:
        make_env: makes one env; it is pickled.
        num_envs: B.
        timeout: seconds that a worker may take to make its env, and for one step, reset or image.
        seed: of what the constructors draw from global random generators.
        channels: position of the channels of pictures; None to infer it.
        first_env: number of the first env, for those seeds.

    Raises:
        EnvError: an env cannot be made, in time or at all.
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env[Any, Any]],
        num_envs: int,
        timeout: float,
        seed: int = 0,
        channels: Channels | None = None,
        first_env: int = 0,
    ) -> None:
        self.num_envs, self._timeout = num_envs, timeout
        self._workers: list[tuple[int, Connection]] = []  # pid and connection of each env
        self._waiting: set[int] = set()  # envs that have not answered yet
        self._dead: set[int] = set()  # envs whose workers have ended
        self._selector = selectors.DefaultSelector()
        self._closed = False
        self._server = acquire_server(make_env, timeout)
        try:
            for index in range(num_envs):
                first = episode_seed(seed, first_env + index, _CONSTRUCTOR)
                self._workers.append(self._server.fork(first, channels))
                self._selector.register(self._workers[index][1], selectors.EVENT_READ, index)
            self._share(channels)
        except BaseException:
            self.close()
            raise
        self.action_names: Sequence[str] = ()

    def _share(self, channels: Channels | None) -> None:
        """Receive the spaces, and give all workers the memory for results of that size."""
        self._waiting = set(range(self.num_envs))
        replies = self._gather()
        described = [cloudpickle.loads(reply) for reply in replies]
        source, self.action_space, mask_size = described[0]
        for index, (space, actions, size) in enumerate(described):
            if space != source or actions != self.action_space:
                raise EnvError(f"has the spaces {space} and {actions}, not those of env 0", index)
            if size != mask_size:
                raise EnvError("shows an action mask in info, or none, unlike env 0", index)
        self.adaptation = adapt(source, channels, mask_size)
        self.observation_space = self.adaptation.space
        size = shared_layout(self.num_envs, self.observation_space, self.action_space)[1]
        with _memory_file(size) as file:
            for index, (pid, connection) in enumerate(self._workers):
                connection.send((index, self.num_envs))
                send_handle(connection, file.fileno(), pid)
            self._shared = map_shared(
                file.fileno(), self.num_envs, self.observation_space, self.action_space
            )

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true; return all observations."""
        for index in np.flatnonzero(mask):
            self._ask(int(index), pickle.dumps(("reset", int(seeds[index]))))
        self._gather()
        return self._shared.obs.copy()

    def send(self, actions: np.ndarray) -> None:
        """Start one step."""
        self._shared.action[:] = actions
        for index in range(self.num_envs):
            self._ask(index, STEP)

    def recv(self) -> BackendStep:
        """Wait for the step."""
        self._gather()
        shared = self._shared
        return BackendStep(
            shared.obs.copy(),
            shared.reward.astype(np.float32),
            shared.terminated.copy(),
            shared.truncated.copy(),
            np.zeros(self.num_envs, bool),
        )

    def render(self, index: int) -> np.ndarray:
        """Return the env's own image, [height, width, 3] uint8.

        Raises:
            EnvError: the env cannot render or failed to.
        """
        self._ask(index, pickle.dumps(("render", None)))
        picture: np.ndarray = self._gather()[index]
        return picture

    def close(self) -> None:
        """Close the envs; kill those that do not close soon, and whatever they started."""
        if self._closed:
            return
        self._closed = True
        asked = set()
        for index, (_, connection) in enumerate(self._workers):
            if index not in self._waiting | self._dead:
                with contextlib.suppress(OSError):
                    connection.send(("close", None))
                    asked.add(index)
        self._await_end(asked)
        for index, (pid, connection) in enumerate(self._workers):
            if index not in self._dead:
                self._server.end(pid)
            connection.close()
        self._selector.close()
        release_server(self._server)

    def _await_end(self, asked: set[int]) -> None:
        """Wait until the connections of the envs have ended, but not for long."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        for index in self._waiting:
            self._selector.unregister(self._workers[index][1])
        while asked and (ready := self._selector.select(max(0.0, deadline - time.monotonic()))):
            for key, _ in ready:
                with contextlib.suppress(EOFError, OSError):
                    self._workers[key.data][1].recv()
                    continue
                self._selector.unregister(key.fileobj)
                asked.discard(key.data)

    def _ask(self, index: int, message: bytes) -> None:
        try:
            self._workers[index][1].send_bytes(message)
        except OSError:
            self._raise_death(index)
        self._waiting.add(index)

    def _gather(self) -> list[Any]:
        """Wait for the envs that were asked; return the results [B], None where none was asked."""
        results: list[Any] = [None] * self.num_envs
        errors: dict[int, str] = {}
        limit = waits(self._timeout)
        while self._waiting:
            wait = next(limit, None)
            if wait is None:
                self._raise_silence()
            for key, _ in self._selector.select(wait):
                index = key.data
                try:
                    reply = self._workers[index][1].recv_bytes()
                except (EOFError, OSError):
                    self._raise_death(index)
                self._waiting.discard(index)
                if reply != DONE:
                    error, results[index] = pickle.loads(reply)
                    if error is not None:
                        errors[index] = error
        if errors:
            first = min(errors)
            raise EnvError(errors[first], first)
        return results

    def _raise_silence(self) -> NoReturn:
        raise EnvError("gave no answer in time", min(self._waiting))

    def _raise_death(self, index: int) -> None:
        pid, connection = self._workers[index]
        self._selector.unregister(connection)
        self._waiting.discard(index)
        self._dead.add(index)
        code = self._server.end(pid)
        raise EnvError(f"died with exit code {code}", index) from None


def _memory_file(size: int) -> Any:
    """Return an open file of `size` bytes in memory that no folder lists."""
    if hasattr(os, "memfd_create"):
        file = open(os.memfd_create("ludus-envs"), "w+b", buffering=0)  # noqa: SIM115
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    file.truncate(max(1, size))
    return file
