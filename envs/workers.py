"""Any Gymnasium env as a backend: in this process, or with one worker process per env.

The workers are those of Gymnasium's `AsyncVectorEnv`: the trainer and each worker exchange one
message per call over a pipe. Three kinds of failure are distinguished:

- The env raises or returns something invalid: the worker goes on and sends the error as text in
  `info` (see `guarded_env`).
- The worker dies: its pipe ends, and reading from it raises EOFError or OSError.
- The worker hangs: its pipe stays empty until the time limit.

Each becomes one `EnvError` with the index of the env.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from ludus.envs.errors import EnvError, describe_error
from ludus.envs.guarded_env import ERROR, FailedEnv, GuardedEnv
from ludus.envs.vector import BackendStep

_GRACE = 10.0  # seconds that a dead worker's process may take to disappear after its pipe


def _work(*arguments: Any) -> None:
    """Run Gymnasium's worker. Ignores Ctrl-C, which the trainer handles, and exits with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # An env that computes or sleeps never reads the end of its pipe, so a thread watches, too.
    Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
    try:
        _async_worker(*arguments)
    except (EOFError, OSError):
        os._exit(1)  # the trainer is gone; a traceback would be printed over its own


def _exit_with(trainer: int) -> None:
    """Exit soon after the trainer: an orphaned process gets another parent."""
    while os.getppid() == trainer:
        time.sleep(1)
    os._exit(1)


class _Workers(AsyncVectorEnv):
    """Gymnasium's workers, killed at the end even if an env hangs."""

    def close_extras(self, timeout: float | None = None, terminate: bool = True) -> None:
        """Kill the workers; a hung one would not read a message."""
        for process in self.processes:
            process.kill()
        self._state = AsyncState.DEFAULT  # else Gymnasium would wait for the result of a call
        super().close_extras(terminate=True)


class GymnasiumBackend:
    """B copies of one Gymnasium env.

    Args:
        make_env: makes one env.
        num_envs: B.
        workers: run each env in its own process, which survives crashes and hangs; else all envs
            run in this process.
        timeout: seconds that a worker may take for one step or reset.
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env[Any, Any]],
        num_envs: int,
        workers: bool,
        timeout: float,
    ) -> None:
        self.num_envs, self._timeout = num_envs, timeout
        self._local: list[GuardedEnv] = []
        self._async: AsyncVectorEnv | None = None
        if workers:
            self._async = _Workers(
                [_guarded_maker(make_env)] * num_envs,
                worker=_work,
                autoreset_mode=AutoresetMode.DISABLED,
            )
            space = self._async.single_observation_space
            self.action_space = self._async.single_action_space
        else:
            self._local = [GuardedEnv(make_env()) for _ in range(num_envs)]
            space = self._local[0].observation_space
            self.action_space = self._local[0].action_space
        assert isinstance(space, spaces.Box)
        self.observation_space = space
        self.action_names: Sequence[str] = ()
        self._obs = np.zeros((num_envs, *space.shape), space.dtype)  # of the envs in this process
        self._actions: np.ndarray | None = None

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true; return all observations."""
        if self._async is None:
            for i in np.flatnonzero(mask):
                self._obs[i], info = self._local[i].reset(seed=int(seeds[i]))
                if ERROR in info:
                    raise EnvError(info[ERROR], int(i))
            return self._obs.copy()
        with _WorkerErrors(self._async):
            options = {"reset_mask": mask.copy()}
            self._async.reset_async(seed=[int(s) for s in seeds], options=options)
            obs, info = self._async.reset_wait(timeout=self._timeout)
        _raise_first(info)
        return np.asarray(obs)

    def send(self, actions: np.ndarray) -> None:
        """Start one step."""
        self._actions = actions
        if self._async is not None:
            with _WorkerErrors(self._async):
                self._async.step_async(actions)

    def recv(self) -> BackendStep:
        """Wait for the step."""
        none = np.zeros(self.num_envs, bool)
        if self._async is None:
            return self._step_local(none)
        with _WorkerErrors(self._async):
            result = self._async.step_wait(timeout=self._timeout)
        obs, reward, terminated, truncated, info = result
        _raise_first(info)
        return BackendStep(np.asarray(obs), reward.astype(np.float32), terminated, truncated, none)

    def _step_local(self, none: np.ndarray) -> BackendStep:
        assert self._actions is not None
        reward = np.zeros(self.num_envs, np.float32)
        terminated, truncated = none.copy(), none.copy()
        for i, env in enumerate(self._local):
            obs, reward[i], terminated[i], truncated[i], info = env.step(self._actions[i])
            self._obs[i] = obs
            if ERROR in info:
                raise EnvError(info[ERROR], i)
        return BackendStep(self._obs.copy(), reward, terminated, truncated, none)

    def render(self, index: int) -> np.ndarray:
        """Return the env's own image.

        Raises:
            EnvError: the env cannot render or failed to.
        """
        if self._async is None:
            frame = self._local[index].render()
        else:
            with _WorkerErrors(self._async):
                self._async.call_async("render")
                frame = self._async.call_wait(timeout=self._timeout)[index]
        if isinstance(frame, str):
            raise EnvError(frame, index)
        if not isinstance(frame, np.ndarray):
            raise EnvError('the env has no render mode "rgb_array", so it cannot be recorded')
        return frame

    def close(self) -> None:
        """Close the envs; kill the workers."""
        for env in self._local:
            env.close()
        if self._async is not None:
            self._async.close()


def _guarded_maker(make_env: Callable[[], gymnasium.Env[Any, Any]]) -> Callable[[], GuardedEnv]:
    """Return a constructor for the workers, which does not raise once it has made one env.

    Gymnasium calls it here first, for the spaces, and then once in each worker. Here an error is
    raised. In a worker it would be printed and end the process without an index, so a placeholder
    with the spaces of the first env reports it at its reset.
    """
    known: tuple[spaces.Space[Any], spaces.Space[Any]] | None = None

    def make_guarded() -> GuardedEnv:
        nonlocal known
        try:
            env = make_env()
        except Exception as error:  # whatever a user's constructor may raise
            if known is None:
                raise
            env = FailedEnv(error, known[0], known[1])
        known = env.observation_space, env.action_space
        return GuardedEnv(env)

    return make_guarded


def _raise_first(info: dict[str, Any]) -> None:
    """Raise the error of the first env that reported one."""
    if ERROR in info:
        index = int(np.argmax(info["_" + ERROR]))  # Gymnasium's mask of the envs with the key
        raise EnvError(str(info[ERROR][index]), index)


class _WorkerErrors:
    """Context that turns the error of a dead or hung worker into an EnvError with its index."""

    def __init__(self, env: AsyncVectorEnv) -> None:
        self._env = env

    def __enter__(self) -> None:
        """Enter the context."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        pipes, processes = self._env.parent_pipes, self._env.processes
        if isinstance(error, multiprocessing.TimeoutError):
            silent = [i for i, pipe in enumerate(pipes) if not pipe.poll(0)]
            raise EnvError("gave no answer in time", silent[0] if silent else None) from None
        if isinstance(error, EOFError | OSError):
            # Gymnasium does not say whose pipe has ended; the process that is gone does.
            ended = wait([process.sentinel for process in processes], timeout=_GRACE)
            dead = [i for i, process in enumerate(processes) if process.sentinel in ended]
            if not dead:
                raise EnvError(f"lost a worker: {describe_error(error)}") from None
            processes[dead[0]].join(_GRACE)  # its exit code comes a little later
            raise EnvError(f"died with exit code {processes[dead[0]].exitcode}", dead[0]) from None
