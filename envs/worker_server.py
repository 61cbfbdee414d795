"""The trainer's side of `worker_process`: start a server, fork workers, end them."""

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

import cloudpickle

from ludus.envs.adapt import Channels
from ludus.envs.deadline import waits
from ludus.envs.env_object import can_import
from ludus.envs.errors import EnvError

_MOST_IDLE = 2  # servers that are kept for the next env of their kind
_REPLY_SECONDS = 600.0  # that forking or ending a worker may take, on the busiest machine
# The path comes first: `ludus` itself may be found through it.
_START = """\
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from ludus.envs.worker_process import serve
serve(int(sys.argv[1]))
"""
# One thread for each env: they already run in parallel.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class WorkerServer:
    """A process that forks workers for one kind of env.

    Args:
        maker: the pickled env maker.
        timeout: seconds that importing what the env needs may take.

    Raises:
        EnvError: the imports failed, ended the process or took too long.
    """

    def __init__(self, maker: bytes, timeout: float) -> None:
        self._lock = threading.Lock()
        self.users = 0  # backends that use this server
        self.owner = os.getpid()  # a process forked from this one must start its own
        ours, theirs = _socket_pair()
        self._connection = ours
        os.set_inheritable(theirs.fileno(), True)
        path = json.dumps([entry or os.getcwd() for entry in sys.path])
        # What an env prints goes to stderr: stdout belongs to the command's result.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs.fileno()), path],
            stdin=subprocess.DEVNULL,
            stdout=_standard_error(),
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=os.environ | dict.fromkeys(_ONE_THREAD, "1"),
        )
        theirs.close()
        try:
            self._connection.send(("load", maker))
            problem = self._reply(timeout, " while its modules were imported")
            if problem is not None:
                raise EnvError(problem)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process runs and belongs to this one."""
        return self.owner == os.getpid() and self._process.poll() is None

    def fork(self, seed: int, channels: Channels | None) -> tuple[int, Connection]:
        """Fork a worker that makes an env; return its pid and the connection to it."""
        ours, theirs = _socket_pair()
        with self._lock, theirs:
            self._connection.send(("fork", (seed, channels)))
            send_handle(self._connection, theirs.fileno(), self._process.pid)
            return self._reply(), ours

    def end(self, pid: int) -> int | None:
        """Kill a worker and what it started; return its exit code, None if it is not known."""
        with contextlib.suppress(EnvError, OSError), self._lock:
            self._connection.send(("end", pid))
            return self._reply()
        with contextlib.suppress(OSError):  # the server is gone, too
            os.killpg(pid, signal.SIGKILL)
        return None

    def close(self) -> None:
        """End the server, which ends its workers."""
        if self.owner != os.getpid():
            return
        self._connection.close()
        try:
            self._process.wait(_REPLY_SECONDS if self.users else 1.0)
        except subprocess.TimeoutExpired:  # it hangs in an import
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _reply(self, seconds: float = _REPLY_SECONDS, when: str = "") -> Any:
        try:
            if not any(self._connection.poll(wait) for wait in waits(seconds)):
                raise EnvError(f"gave no answer in time{when}")
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise EnvError(f"died with exit code {self._process.wait()}{when}") from error


def _socket_pair() -> tuple[Connection, Connection]:
    """Return two connected ends of a local socket."""
    ours, theirs = socket.socketpair()
    return Connection(ours.detach()), Connection(theirs.detach())


def _standard_error() -> int | None:
    """Return the file descriptor of stderr, or DEVNULL if it is closed."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


_servers: dict[bytes, WorkerServer] = {}
_servers_lock = threading.Lock()


def acquire_server(make_env: Callable[[], Any], timeout: float) -> WorkerServer:
    """Return a server for an env maker; `release_server` returns it.

    Servers are kept, so that the next env of the same kind starts without new imports.
    """
    maker = _dumps(make_env)
    with _servers_lock:
        server = _servers.get(maker)
        if server is not None and server.alive:
            server.users += 1
            return server
    started = WorkerServer(maker, timeout)  # without the lock: it may take long
    started.users = 1
    with _servers_lock:
        _servers[maker] = started
    return started


def _dumps(make_env: Callable[[], Any]) -> bytes:
    """Pickle an env maker; by value where its module could not be imported in the server.

    Modules of notebooks and of tests are in `sys.modules` only.
    """
    source = getattr(make_env, "source", make_env)
    source = getattr(source, "entry_point", source)
    source = getattr(source, "func", source)  # of a partial
    module = sys.modules.get(getattr(source, "__module__", None) or "")
    if module is None or module.__name__ == "__main__" or can_import(module.__name__):
        return bytes(cloudpickle.dumps(make_env))
    cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(make_env))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def release_server(server: WorkerServer) -> None:
    """Give a server back; the oldest idle ones are ended."""
    with _servers_lock:
        server.users -= 1
        if server.users == 0 and server not in _servers.values():
            server.close()
        idle = [key for key, each in _servers.items() if each.users == 0]
        for key in idle[: max(0, len(idle) - _MOST_IDLE)]:
            _servers.pop(key).close()


def _close_all() -> None:
    for server in _servers.values():
        server.close()
    _servers.clear()


atexit.register(_close_all)
