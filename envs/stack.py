"""Frame stacking for backends that do not stack: the last k observations, oldest first.

The frames of a picture [C, H, W] become its channels, [k * C, H, W]; other observations get a new
first axis.
"""

import numpy as np
from gymnasium import spaces

from ludus.envs.vector import Backend, BackendStep


def newest_frames(obs: np.ndarray, stack: int) -> np.ndarray:
    """Return the newest frame of each observation [B, *obs], flat, [B, size]."""
    flat = obs.reshape(len(obs), -1)
    return flat[:, flat.shape[1] - flat.shape[1] // stack :]


def stack_frames(frames: np.ndarray, stack: int, shape: tuple[int, ...]) -> np.ndarray:
    """Stack the flat frames of an episode [T, size] to observations [T, *shape], zeros first."""
    before = np.zeros((stack - 1, frames.shape[1]), frames.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.concatenate([before, frames]), stack, axis=0
    )
    return np.moveaxis(windows, -1, 1).reshape(len(frames), *shape)


class FrameStack:
    """Wrapper of a backend that returns the last `stack` observations, zeros before the first."""

    def __init__(self, inner: Backend, stack: int) -> None:
        self.inner = inner
        self.num_envs, self.action_space = inner.num_envs, inner.action_space
        self.action_names = inner.action_names
        space = inner.observation_space
        low = np.broadcast_to(space.low, (stack, *space.shape))
        high = np.broadcast_to(space.high, (stack, *space.shape))
        if len(space.shape) == 3:
            low, high = (bound.reshape(-1, *space.shape[1:]) for bound in (low, high))
        self.observation_space = spaces.Box(low, high, dtype=space.dtype.type)
        self._frames = np.zeros((self.num_envs, stack, *space.shape), space.dtype)

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true; return all observations."""
        obs = self.inner.reset(mask, seeds)
        self._frames[mask] = 0
        self._frames[mask, -1] = obs[mask]
        return self._stacked()

    def send(self, actions: np.ndarray) -> None:
        """Start one step."""
        self.inner.send(actions)

    def recv(self) -> BackendStep:
        """Wait for the step and append its observation."""
        raw = self.inner.recv()
        self._frames = np.roll(self._frames, -1, axis=1)
        self._frames[:, -1] = raw.obs
        return raw._replace(obs=self._stacked())

    def _stacked(self) -> np.ndarray:
        """Return a copy of the frames [B, *obs]."""
        return self._frames.reshape(self.num_envs, *self.observation_space.shape).copy()

    def render(self, index: int) -> np.ndarray:
        """Return an image of one env."""
        return self.inner.render(index)

    def close(self) -> None:
        """Close the envs."""
        self.inner.close()
