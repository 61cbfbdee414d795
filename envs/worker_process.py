"""The processes in which users' envs run: a server that forks one worker per env.

The server is a fresh interpreter with one thread. It imports what the env needs once, and forks a
worker for each env in a few milliseconds. Forking the trainer instead would copy its torch without
the threads that torch relies on, and an env that computes with torch would wait for them for ever.

The server and each worker have a session of their own and ignore the signals that end a trainer,
which must save first. A worker ends with everything that it started: by the trainer's request, or
by the server when the trainer is gone.
"""

import contextlib
import mmap
import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
from gymnasium import spaces

from ludus.envs.adapt import Channels
from ludus.envs.errors import EnvError, describe_error
from ludus.envs.global_generators import GlobalGenerators
from ludus.envs.guarded_env import GuardedEnv

STEP = b"step"  # the request of every step, which is not worth pickling
DONE = b""  # the reply without an error or a result
_PARENT_SECONDS = 2.0  # between two looks at whether the trainer lives


class SharedArrays(NamedTuple):
    """Arrays of B envs in memory that the trainer shares with their workers."""

    obs: np.ndarray  # [B, *obs]
    action: np.ndarray  # [B, *action]
    reward: np.ndarray  # [B] float64
    terminated: np.ndarray  # [B] bool
    truncated: np.ndarray  # [B] bool


def shared_layout(
    num_envs: int, observation_space: spaces.Box, action_space: spaces.Space[Any]
) -> tuple[list[tuple[tuple[int, ...], Any, int]], int]:
    """Return shape, dtype and offset in bytes of each shared array, and the size of all."""
    action_dtype = np.float32 if isinstance(action_space, spaces.Box) else np.int64
    arrays: list[tuple[tuple[int, ...], Any]] = [
        (observation_space.shape, observation_space.dtype),
        (tuple(action_space.shape or ()), action_dtype),
        ((), np.float64),
        ((), np.bool_),
        ((), np.bool_),
    ]
    layout, offset = [], 0
    for shape, dtype in arrays:
        full = (num_envs, *shape)
        layout.append((full, dtype, offset))
        size = int(np.prod(full)) * np.dtype(dtype).itemsize
        offset += -(-size // 64) * 64  # each array begins at a cache line
    return layout, offset


def map_shared(
    descriptor: int,
    num_envs: int,
    observation_space: spaces.Box,
    action_space: spaces.Space[Any],
) -> SharedArrays:
    """Map the shared arrays from a file descriptor of `shared_layout`'s size."""
    layout, size = shared_layout(num_envs, observation_space, action_space)
    memory = mmap.mmap(descriptor, size)
    return SharedArrays(
        *(np.ndarray(shape, dtype, memory, offset) for shape, dtype, offset in layout)
    )


def serve(descriptor: int) -> None:
    """Run the server until the trainer ends the connection, then kill all workers.

    Requests and their replies:
        ("load", pickled env maker): None, or the description of what its imports raised.
        ("fork", (seed, channels)), followed by a socket: the worker's pid.
        ("end", pid): kill the worker and what it started; its exit code.
    """
    _ignore_signals()
    trainer = os.getppid()
    connection = Connection(descriptor)
    workers: set[int] = set()
    make_env: Any = None
    try:
        while True:
            while not connection.poll(_PARENT_SECONDS):
                if os.getppid() != trainer:
                    raise EOFError
            request, argument = connection.recv()
            if request == "load":
                try:
                    make_env = cloudpickle.loads(argument)
                    getattr(make_env, "preload", lambda: None)()
                    connection.send(None)
                except BaseException as error:  # sys.exit in a user's module must not end this
                    connection.send(_describe(error))
            elif request == "fork":
                handle = recv_handle(connection)
                pid = os.fork()
                if pid == 0:
                    connection.close()
                    _work(Connection(handle), make_env, *argument)
                os.close(handle)
                workers.add(pid)
                connection.send(pid)
            else:
                workers.discard(argument)
                connection.send(_end(argument))
    except (EOFError, OSError):
        for pid in workers:
            _end(pid)
    os._exit(0)


def _end(pid: int) -> int:
    """Kill a worker and its process group; return its exit code, negative for a signal."""
    for kill in (os.killpg, os.kill):  # the group may not exist yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _ignore_signals() -> None:
    """Ignore the signals that end a trainer, without children inheriting that."""

    def ignore(*_: Any) -> None:
        """Do nothing. Unlike SIG_IGN, a handler is not inherited by a program that is started."""

    def restore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        signal.signal(number, ignore)
    os.register_at_fork(after_in_child=restore)


def _describe(error: BaseException) -> str:
    if isinstance(error, Exception):
        return describe_error(error)
    return f"raised {type(error).__name__}: {error}"


def _work(connection: Connection, make_env: Any, seed: int, channels: Channels | None) -> None:
    """Run one env until the trainer ends the connection. Never returns."""
    code = 1
    try:
        os.setsid()
        _ignore_signals()  # forking restored them
        generators = GlobalGenerators(seed)
        with generators:  # until the end: nothing else runs in this process
            code = _serve_env(connection, make_env, channels, generators, seed)
    except (EOFError, OSError):
        pass  # the trainer is gone
    except SystemExit as error:  # as if the env were the program
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _serve_env(
    connection: Connection,
    make_env: Any,
    channels: Channels | None,
    generators: GlobalGenerators,
    seed: int,
) -> int:
    """Make an env and answer requests with (error or None, result); return the exit code."""
    try:
        env = GuardedEnv(make_env, channels, generators, seed)
    except Exception as error:  # whatever a user's constructor may raise
        connection.send((describe_error(error), None))
        connection.recv_bytes()  # the trainer hears of the error first, and ends this then
        return 1
    adaptation = env.adaptation
    description = (adaptation.source, env.action_space, adaptation.info_mask_size)
    connection.send((None, cloudpickle.dumps(description)))
    index, num_envs = connection.recv()
    descriptor = recv_handle(connection)
    shared = map_shared(descriptor, num_envs, env.observation_space, env.action_space)
    os.close(descriptor)
    while True:
        message = connection.recv_bytes()
        request: tuple[str, Any] = ("step", None) if message == STEP else pickle.loads(message)
        call, argument = request
        error_text: str | None = None
        result = None
        if call == "step":
            obs, reward, terminated, truncated, error_text = env.step(shared.action[index])
            shared.obs[index], shared.reward[index] = obs, reward
            shared.terminated[index], shared.truncated[index] = terminated, truncated
        elif call == "reset":
            shared.obs[index], error_text = env.reset(argument)
        elif call == "render":
            try:
                result = env.picture()
            except EnvError as failure:
                error_text = str(failure)
        else:
            env.close()
            return 0
        if error_text is None and result is None:
            connection.send_bytes(DONE)
        else:
            connection.send((error_text, result))
