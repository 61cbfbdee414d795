"""Any Gymnasium env as a backend: in this process where it is small and known, else in workers.

Errors travel as text in `info`, so that a worker which raises can be named without a traceback; a
worker that dies or hangs is found by its pipe.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from ludus.envs.vector import EnvError, Raw

_ERROR = "ludus_error"


def _adapt(space: spaces.Space[Any]) -> tuple[spaces.Box, Callable[[Any], np.ndarray]]:
    """The Box that the learner sees in place of `space`, and how an observation gets into it.

    Pictures become channels first, float64 becomes float32, everything else is flattened
    (a Discrete observation one-hot).
    """
    if isinstance(space, spaces.Box) and space.dtype == np.uint8:
        if len(space.shape) == 3 and space.shape[-1] in (1, 3, 4) and space.shape[0] > 4:
            low, high = space.low.transpose(2, 0, 1), space.high.transpose(2, 0, 1)
            return spaces.Box(low, high, dtype=np.uint8), lambda obs: obs.transpose(2, 0, 1)
        return space, lambda obs: obs
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32), lambda obs: obs.astype(np.float32)
    flat = spaces.flatten_space(space)
    box = spaces.Box(-np.inf, np.inf, flat.shape, np.float32)
    return box, lambda obs: np.asarray(spaces.flatten(space, obs), np.float32)


class GuardedEnv(gymnasium.Wrapper[np.ndarray, Any, Any, Any]):
    """One env that checks what it returns, and stands still between a game's end and its reset."""

    def __init__(self, env: gymnasium.Env[Any, Any], trainer: int) -> None:
        super().__init__(env)
        self._inner = env.observation_space
        self.observation_space, self._convert = _adapt(env.observation_space)
        self._last = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        self._over = True
        self._discrete = isinstance(env.action_space, spaces.Discrete)
        if os.getpid() != trainer:  # this is a worker
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to answer
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        """Start an episode; an error becomes `info["ludus_error"]`."""
        try:
            obs, _ = self.env.reset(seed=seed, options=options)
            self._last, self._over = self._checked(obs), False
        except Exception as error:  # whatever a user's env may raise
            return self._last, {_ERROR: _sentence(error)}
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
            return self._last, 0.0, False, False, {_ERROR: _sentence(error)}
        return self._last, reward, bool(terminated), bool(truncated), {}

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


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, EnvError) else f"raised {type(error).__name__}: {text}"


class _Blamed(EnvError):
    """An error of one env; `index` says which."""

    def __init__(self, index: int, what: str) -> None:
        super().__init__(what)
        self.index = index


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
        trainer = os.getpid()

        def guarded() -> GuardedEnv:
            return GuardedEnv(make_env(), trainer)

        self.num_envs, self._timeout = num_envs, timeout
        mode = AutoresetMode.DISABLED
        self._async: AsyncVectorEnv | None = None
        if workers:
            self._async = AsyncVectorEnv([guarded] * num_envs, autoreset_mode=mode, copy=True)
            self._env: AsyncVectorEnv | SyncVectorEnv = self._async
        else:
            self._env = SyncVectorEnv([guarded] * num_envs, autoreset_mode=mode)
        space = self._env.single_observation_space
        assert isinstance(space, spaces.Box)
        self.observation_space, self.action_space = space, self._env.single_action_space
        self.action_names: Sequence[str] = ()
        self._actions: np.ndarray | None = None
        self._started = False

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true; return all observations."""
        options = {"reset_mask": mask.copy()} if self._started else None
        self._started = True
        seed: list[int | None] = [int(s) for s in seeds]
        if self._async is None:
            obs, info = self._env.reset(seed=seed, options=options)
        else:
            with _Watch(self._async):
                self._async.reset_async(seed=seed, options=options)
                obs, info = self._async.reset_wait(timeout=self._timeout)
        _raise_first(info)
        return np.asarray(obs)

    def send(self, actions: np.ndarray) -> None:
        """Start one step."""
        self._actions = actions
        if self._async is not None:
            with _Watch(self._async):
                self._async.step_async(actions)

    def recv(self) -> Raw:
        """Wait for the step."""
        if self._async is None:
            obs, reward, terminated, truncated, info = self._env.step(self._actions)
        else:
            with _Watch(self._async):
                result = self._async.step_wait(timeout=self._timeout)
            obs, reward, terminated, truncated, info = result
        _raise_first(info)
        none = np.zeros(self.num_envs, bool)
        return Raw(np.asarray(obs), reward.astype(np.float32), terminated, truncated, none)

    def render(self, index: int) -> np.ndarray:
        """The env's own picture."""
        if self._async is None:
            assert isinstance(self._env, SyncVectorEnv)
            frame = self._env.envs[index].render()
        else:
            with _Watch(self._async):
                frame = self._async.call("render")[index]
        if not isinstance(frame, np.ndarray):
            raise EnvError('the env has no render mode "rgb_array", so it cannot be recorded')
        return frame

    def close(self) -> None:
        """End the workers; a hung one is killed."""
        if self._async is None:
            self._env.close()
            return
        for process in self._async.processes:
            process.kill()
        self._async.close(terminate=True)


def _raise_first(info: dict[str, Any]) -> None:
    if _ERROR in info:
        index = int(np.argmax(info["_" + _ERROR]))
        raise _Blamed(index, str(info[_ERROR][index]))


class _Watch:
    """Turns a dead or silent worker into an error that names it."""

    def __init__(self, env: AsyncVectorEnv) -> None:
        self._env = env

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, multiprocessing.TimeoutError):
            silent = [i for i, pipe in enumerate(self._env.parent_pipes) if not pipe.poll(0)]
            index = silent[0] if silent else 0
            raise _Blamed(index, f"did not answer in time ({error})") from None
        if isinstance(error, EOFError | OSError):
            for process in self._env.processes:
                process.join(0.2)
            dead = [i for i, p in enumerate(self._env.processes) if not p.is_alive()]
            index = dead[0] if dead else 0
            code = self._env.processes[index].exitcode
            raise _Blamed(index, f"died with exit code {code}") from None


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

    def recv(self) -> Raw:
        """Step all poles at once."""
        assert self._actions is not None
        obs, reward, terminated, truncated, _ = self._env.step(self._actions)
        none = np.zeros(self.num_envs, bool)
        return Raw(obs, reward, terminated, truncated & ~terminated, none)

    def render(self, index: int) -> np.ndarray:
        """The picture of one pole."""
        frames = self._env.render()
        if frames is None:
            raise EnvError("make the env with render=True to see its picture")
        return np.asarray(frames[index])

    def close(self) -> None:
        """Free the pictures."""
        self._env.close()
