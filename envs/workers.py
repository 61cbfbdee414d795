"""Any Gymnasium env as a backend: in this process where it is small and known, else in workers.

Errors travel as text in `info`, so that a worker which raises can be named without a traceback; a
worker that dies or hangs is found by its pipe.
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
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import EnvError
from ludus.envs.vector import BackendStep, describe_error

_ERROR = "ludus_error"


def _adapt(space: spaces.Space[Any]) -> tuple[spaces.Box, Callable[[Any], np.ndarray]]:
    """The Box that the learner sees in place of `space`, and how an observation gets into it.

    Pictures become channels first, float64 becomes float32, everything else is flattened
    (a Discrete observation one-hot). A dictionary becomes the bytes of its parts, each adapted.
    """
    if isinstance(space, spaces.Dict):
        return _adapt_dict(space)
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        if len(space.shape) == 3 and space.shape[-1] in (1, 3, 4) and space.shape[0] > 4:
            low, high = space.low.transpose(2, 0, 1), space.high.transpose(2, 0, 1)
            return spaces.Box(low, high, dtype=np.uint8), lambda obs: obs.transpose(2, 0, 1)
        return space, lambda obs: obs
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        low, high = _narrow(space.low), _narrow(space.high)
        return spaces.Box(low, high, dtype=np.float32), _narrow
    if not space.is_np_flattenable:
        raise EnvError(f"has the observation space {space}, which has no fixed size")
    flat = spaces.flatten_space(space)
    box = spaces.Box(-np.inf, np.inf, flat.shape, np.float32)
    return box, lambda obs: np.asarray(spaces.flatten(space, obs), np.float32)


def _adapt_dict(space: spaces.Dict) -> tuple[PackedDict, Callable[[Any], np.ndarray]]:
    adapted = {key: _adapt(inner) for key, inner in space.spaces.items() if key != MASK}
    parts = {key: box for key, (box, _) in adapted.items()}
    if any(isinstance(box, PackedDict) for box in parts.values()) or not parts:
        raise EnvError(
            f"has the observation space {space}; one level of keys is supported, and an observation"
            f" besides {MASK}"
        )
    for key, box in parts.items():
        if not box.shape:
            low, high = box.low.reshape(1), box.high.reshape(1)
            parts[key] = spaces.Box(low, high, dtype=box.dtype.type)
    mask = space.spaces.get(MASK)
    if mask is not None:
        if not isinstance(mask, spaces.MultiBinary | spaces.Box) or not mask.shape:
            raise EnvError(
                f"has {mask} for {MASK}; use MultiBinary, with a number for each choice of action"
            )
        parts[MASK] = spaces.Box(0, 1, (int(np.prod(mask.shape)),), np.uint8)
    packed = PackedDict(parts)

    def convert(obs: Any) -> np.ndarray:
        arrays = {
            key: np.reshape(change(obs[key]), parts[key].shape)
            for key, (_, change) in adapted.items()
        }
        for key, array in arrays.items():
            if not np.isfinite(array).all():
                raise EnvError(f"returned the observation {array} for {key}")
        if MASK in parts:
            arrays[MASK] = np.asarray(obs[MASK]).reshape(-1) != 0
        return packed.pack(arrays)

    return packed, convert


def _narrow(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what becomes inf is refused where it matters
        return values.astype(np.float32)


class GuardedEnv(gymnasium.Wrapper[np.ndarray, Any, Any, Any]):
    """One env that checks what it returns, and stands still between a game's end and its reset."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._inner = env.observation_space
        self.observation_space, self._convert = _adapt(env.observation_space)
        self._last = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        self._over = True
        self._discrete = isinstance(env.action_space, spaces.Discrete)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        """Start an episode; an error becomes `info["ludus_error"]`."""
        try:
            obs, _ = self.env.reset(seed=seed)
            self._last, self._over = self._checked(obs), False
        except Exception as error:  # whatever a user's env may raise
            return self._last, {_ERROR: describe_error(error)}
        return self._last, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Any]:
        """Step; an error becomes `info["ludus_error"]`."""
        if self._over:
            return self._last, 0.0, False, False, {}
        try:
            action = int(action) if self._discrete else action
            obs, reward, terminated, truncated, _ = self.env.step(action)
            self._last = self._checked(obs)
            reward = _scalar(reward)
            self._over = bool(terminated) or bool(truncated)
        except Exception as error:  # whatever a user's env may raise
            self._over = True
            return self._last, 0.0, False, False, {_ERROR: describe_error(error)}
        return self._last, reward, bool(terminated), bool(truncated), {}

    def render(self) -> Any:
        """The picture, or an error as a sentence."""
        try:
            return self.env.render()
        except Exception as error:  # whatever a user's env may raise
            return describe_error(error)

    def _checked(self, obs: Any) -> np.ndarray:
        inner = self._inner
        if isinstance(inner, spaces.Box):
            if not isinstance(obs, np.ndarray):
                raise EnvError(
                    f"returned an observation of type {type(obs).__name__}, not an array"
                )
            if obs.shape != inner.shape:
                raise EnvError(
                    f"returned an observation of shape {obs.shape}; its space promises "
                    f"{inner.shape}"
                )
            if obs.dtype != inner.dtype:
                raise EnvError(
                    f"returned an observation of dtype {obs.dtype}; its space promises "
                    f"{inner.dtype}"
                )
            if obs.dtype.kind == "f" and np.isnan(obs).any():
                raise EnvError(f"returned the observation {obs}, which holds NaN")
        elif not inner.contains(obs):
            raise EnvError(f"returned the observation {obs}, which is not in {inner}")
        return self._convert(obs)


def _scalar(reward: Any) -> float:
    value = np.asarray(reward)
    if value.shape != () or value.dtype.kind not in "iufb":
        raise EnvError(f"returned the reward {reward!r}, which is not a number")
    if not np.isfinite(value):
        raise EnvError(f"returned the reward {reward}")
    return float(value)


class _Unmade(gymnasium.Env[Any, Any]):
    """Stands for an env whose constructor failed in a worker, and says so at the reset."""

    def __init__(self, error: Exception, *seen: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = seen
        self._what = f"could not be made in its worker: it {describe_error(error)}"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        """Say what went wrong."""
        raise EnvError(self._what)


def _work(*arguments: Any) -> None:
    """Gymnasium's worker; it leaves Ctrl-C to the trainer and ends with it, in silence."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        _async_worker(*arguments)
    except (EOFError, OSError):
        os._exit(1)  # the trainer is gone, so there is nobody to tell


def _end_with(trainer: int) -> None:
    while os.getppid() == trainer:
        time.sleep(1)
    os._exit(1)


class _Workers(AsyncVectorEnv):
    """Gymnasium's workers, which are killed at the end, whatever they are doing."""

    def close_extras(self, timeout: float | None = None, terminate: bool = True) -> None:
        """Kill the workers without a word: one that hangs would not listen."""
        for process in self.processes:
            process.kill()
        self._state = AsyncState.DEFAULT  # whatever was asked, nothing answers now
        super().close_extras(terminate=True)


class GymnasiumBackend:
    """B copies of one Gymnasium env.

    Args:
        make_env: makes one env.
        num_envs: B.
        workers: one process an env (survives a crash and a hang), or all in this process.
        timeout: seconds a worker may take for one step or reset.
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
        seen: tuple[spaces.Space[Any], ...] = ()

        def guarded() -> GuardedEnv:
            nonlocal seen
            try:
                env = make_env()
            except Exception as error:  # whatever a user's constructor may raise
                if not seen:
                    raise
                env = _Unmade(error, *seen)
            seen = env.observation_space, env.action_space
            return GuardedEnv(env)

        if workers:  # Gymnasium makes one env here first, to see its spaces
            mode = AutoresetMode.DISABLED
            self._async = _Workers([guarded] * num_envs, worker=_work, autoreset_mode=mode)
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
                if _ERROR in info:
                    raise EnvError(info[_ERROR], int(i))
            return self._obs.copy()
        with _Watch(self._async):
            options = {"reset_mask": mask.copy()}
            self._async.reset_async(seed=[int(s) for s in seeds], options=options)
            obs, info = self._async.reset_wait(timeout=self._timeout)
        _raise_first(info)
        return np.asarray(obs)

    def send(self, actions: np.ndarray) -> None:
        """Start one step."""
        self._actions = actions
        if self._async is not None:
            with _Watch(self._async):
                self._async.step_async(actions)

    def recv(self) -> BackendStep:
        """Wait for the step."""
        none = np.zeros(self.num_envs, bool)
        if self._async is None:
            return self._step_here(none)
        with _Watch(self._async):
            result = self._async.step_wait(timeout=self._timeout)
        obs, reward, terminated, truncated, info = result
        _raise_first(info)
        return BackendStep(np.asarray(obs), reward.astype(np.float32), terminated, truncated, none)

    def _step_here(self, none: np.ndarray) -> BackendStep:
        assert self._actions is not None
        reward, ends = np.zeros(self.num_envs, np.float32), np.zeros((2, self.num_envs), bool)
        for i, env in enumerate(self._local):
            self._obs[i], reward[i], ends[0, i], ends[1, i], info = env.step(self._actions[i])
            if _ERROR in info:
                raise EnvError(info[_ERROR], i)
        return BackendStep(self._obs.copy(), reward, ends[0], ends[1], none)

    def render(self, index: int) -> np.ndarray:
        """The env's own picture."""
        if self._async is None:
            frame = self._local[index].render()
        else:
            with _Watch(self._async):
                self._async.call_async("render")
                frame = self._async.call_wait(timeout=self._timeout)[index]
        if isinstance(frame, str):
            raise EnvError(frame, index)
        if not isinstance(frame, np.ndarray):
            raise EnvError('the env has no render mode "rgb_array", so it cannot be recorded')
        return frame

    def close(self) -> None:
        """End the workers; a hung one is killed."""
        for env in self._local:
            env.close()
        if self._async is not None:
            self._async.close()


def _raise_first(info: dict[str, Any]) -> None:
    if _ERROR in info:
        index = int(np.argmax(info["_" + _ERROR]))
        raise EnvError(str(info[_ERROR][index]), index)


class _Watch:
    """Turns a dead or silent worker into an error that names it."""

    def __init__(self, env: AsyncVectorEnv) -> None:
        self._env = env

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        pipes, processes = self._env.parent_pipes, self._env.processes
        if isinstance(error, multiprocessing.TimeoutError):
            silent = [i for i, pipe in enumerate(pipes) if not pipe.poll(0)]
            raise EnvError("gave no answer in time", silent[0] if silent else None) from None
        if isinstance(error, EOFError | OSError):
            ended = wait([process.sentinel for process in processes], timeout=1)
            dead = [i for i, process in enumerate(processes) if process.sentinel in ended]
            if not dead:
                raise EnvError(f"lost a worker: {describe_error(error)}") from None
            processes[dead[0]].join(1)  # its exit code comes a little later
            raise EnvError(f"died with exit code {processes[dead[0]].exitcode}", dead[0]) from None


class CartPoleBackend:
    """Gymnasium's vectorised CartPole, with the reset states that the single env draws."""

    def __init__(self, num_envs: int, max_episode_steps: int, render: bool = False) -> None:
        self.num_envs = num_envs
        mode = "rgb_array" if render else None
        self._env = CartPoleVectorEnv(num_envs, max_episode_steps, render_mode=mode)
        self._env.reset(seed=0)
        space = self._env.single_observation_space
        assert isinstance(space, spaces.Box)
        self.observation_space, self.action_space = space, self._env.single_action_space
        self.action_names: Sequence[str] = ("left", "right")
        self._actions: np.ndarray | None = None

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true; return all observations."""
        state = self._env.state
        assert state is not None
        for index in np.flatnonzero(mask):
            rng, _ = np_random(int(seeds[index]))
            state[:, index] = rng.uniform(-0.05, 0.05, 4)
        self._env.steps[mask] = 0
        self._env.prev_done[mask] = False
        return state.T.astype(np.float32)

    def send(self, actions: np.ndarray) -> None:
        """Keep the actions for recv."""
        self._actions = actions

    def recv(self) -> BackendStep:
        """Step all poles at once."""
        assert self._actions is not None
        obs, reward, terminated, truncated, _ = self._env.step(self._actions)
        none = np.zeros(self.num_envs, bool)
        return BackendStep(obs, reward, terminated, truncated & ~terminated, none)

    def render(self, index: int) -> np.ndarray:
        """The picture of one pole."""
        frames = self._env.render()
        if frames is None:
            raise EnvError("make the env with render=True to see its picture")
        return np.asarray(frames[index])

    def close(self) -> None:
        """Free the pictures."""
        self._env.close()
