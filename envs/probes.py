"""Probe envs: each isolates one mechanism, so that a broken one fails in seconds and by name.

They are registered with Gymnasium under `ludus/` and double as examples of a user's own env.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class Identity(gymnasium.Env[np.ndarray, np.int64]):
    """Name the shown symbol: reward 1 for action == symbol. Best return: 10 in 10 steps."""

    symbols, length = 4, 10

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 1, (self.symbols,), np.float32)
        self.action_space = spaces.Discrete(self.symbols)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        """Show the first symbol."""
        super().reset(seed=seed)
        self._time = 0
        return self._show(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Any]:
        """Reward the right name and show the next symbol."""
        reward = float(action == self._symbol)
        self._time += 1
        return self._show(), reward, self._time == self.length, False, {}

    def _show(self) -> np.ndarray:
        self._symbol = int(self.np_random.integers(self.symbols))
        return np.eye(self.symbols, dtype=np.float32)[self._symbol]


class DelayedReward(gymnasium.Env[np.ndarray, np.int64]):
    """The first action is paid for at the end: return 1 for a right first action, else -1.

    The observation shows the time and the choice made, so that the state is Markov; the later
    actions do nothing. Only bootstrapping carries the value back over the delay.
    """

    delay = 8

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 1, (self.delay + 2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        """Start at time 0 with nothing chosen."""
        super().reset(seed=seed)
        self._time, self._right = 0, False
        return self._show(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Any]:
        """Keep the first action; pay at the end."""
        if self._time == 0:
            self._right = action == 1
        self._time += 1
        over = self._time == self.delay
        reward = (1.0 if self._right else -1.0) if over else 0.0
        return self._show(), reward, over, False, {}

    def _show(self) -> np.ndarray:
        obs = np.zeros(self.delay + 2, np.float32)
        obs[self._time] = 1
        obs[-1] = float(self._right and self._time > 0)
        return obs


class Truncation(gymnasium.Env[np.ndarray, np.int64]):
    """One state, reward 1 a step, cut off (never ended) after 5 steps; action 1 ends it for 2.

    Who bootstraps across the cut values action 0 at 1 / (1 - gamma) and goes on for ever; who takes
    the cut for an end values it at most at 5, and action 1, at 2, stays the worse choice only with
    gamma above 0.5: so the tests read the learned value, not the choice.
    """

    limit = 5

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 1, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        """Start the clock, which is not shown."""
        super().reset(seed=seed)
        self._time = 0
        return np.ones(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Any]:
        """Pay 1 and go on, or pay 2 and end."""
        self._time += 1
        if action == 1:
            return np.ones(1, np.float32), 2.0, True, False, {}
        return np.ones(1, np.float32), 1.0, False, self._time == self.limit, {}


class Recall(gymnasium.Env[np.ndarray, np.int64]):
    """A symbol is shown first and asked for `delay` steps later; return 1 if recalled, else -1."""

    def __init__(self, delay: int = 3) -> None:
        self.delay = delay
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        """Show the symbol."""
        super().reset(seed=seed)
        self._time = 0
        self._symbol = int(self.np_random.integers(2))
        return np.array([2 * self._symbol - 1, 0], np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Any]:
        """Hide the symbol; ask for it at the end."""
        asked = self._time == self.delay
        reward = (1.0 if action == self._symbol else -1.0) if asked else 0.0
        self._time += 1
        obs = np.array([0, float(self._time == self.delay)], np.float32)
        return obs, reward, asked, False, {}


class MaskedCartPole(CartPoleEnv):
    """CartPole that shows position and angle, not their speeds: one observation is not enough."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        whole = self.observation_space
        assert isinstance(whole, spaces.Box)
        self.observation_space = spaces.Box(whole.low[::2], whole.high[::2], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        """CartPole's own, masked."""
        obs, info = super().reset(seed=seed, options=options)
        return obs[::2], info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Any]:
        """CartPole's own, masked."""
        obs, reward, terminated, truncated, info = super().step(action)
        return obs[::2], float(reward), terminated, truncated, info
