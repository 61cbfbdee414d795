"""Probe envs: each isolates one mechanism of an agent and is learned within seconds.

They are registered with Gymnasium under `ludus/` and double as examples of a user's own env.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class Identity(gymnasium.Env[np.ndarray, np.int64]):
    """Choose the observed symbol: reward 1 for action == symbol. Best return: 10 in 10 steps."""

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
        """Reward the matching action and show the next symbol."""
        reward = float(action == self._symbol)
        self._time += 1
        return self._show(), reward, self._time == self.length, False, {}

    def _show(self) -> np.ndarray:
        self._symbol = int(self.np_random.integers(self.symbols))
        return np.eye(self.symbols, dtype=np.float32)[self._symbol]


class DelayedReward(gymnasium.Env[np.ndarray, np.int64]):
    """The first action is rewarded at the end: return 1 if it was right, else -1.

    The observation shows the time and the choice, so the state is Markov. Later actions have no
    effect. Only bootstrapping carries the value back over the delay.
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
        """Keep the first action; reward it at the end."""
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
    """One state with reward 1 per step, truncated after 5 steps; action 1 terminates it for 2.

    An agent that bootstraps across the truncation values action 0 at 1 / (1 - gamma). One that
    treats it as a termination values it at most at 5. Both prefer action 0 to action 1 if gamma is
    above 0.5, so tests must read the learned value, not the choice.
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
        """Return reward 1 and continue, or reward 2 and terminate."""
        self._time += 1
        if action == 1:
            return np.ones(1, np.float32), 2.0, True, False, {}
        return np.ones(1, np.float32), 1.0, False, self._time == self.limit, {}


class Recall(gymnasium.Env[np.ndarray, np.int64]):
    """A symbol is shown first and must be chosen `delay` steps later: return 1 or -1."""

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
        """Hide the symbol; reward its choice at the end."""
        asked = self._time == self.delay
        reward = (1.0 if action == self._symbol else -1.0) if asked else 0.0
        self._time += 1
        obs = np.array([0, float(self._time == self.delay)], np.float32)
        return obs, reward, asked, False, {}


class MaskedCartPole(CartPoleEnv):
    """CartPole without velocities: one observation does not determine the state."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        whole = self.observation_space
        assert isinstance(whole, spaces.Box)
        self.observation_space = spaces.Box(whole.low[::2], whole.high[::2], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        """Return CartPole's result without the velocities."""
        obs, info = super().reset(seed=seed, options=options)
        return obs[::2], info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Any]:
        """Return CartPole's result without the velocities."""
        obs, reward, terminated, truncated, info = super().step(action)
        return obs[::2], float(reward), terminated, truncated, info
