"""Envs that break one rule each, as users' envs do; registered under `bad/`."""

import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Bad(gymnasium.Env[Any, Any]):
    """Goes well in env 0, and wrong in the third step of the others, which have other seeds."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  as Gymnasium has it

    def __init__(
        self, fault: str = "none", victim: int = -1, render_mode: str | None = None
    ) -> None:
        self.fault, self.render_mode = fault, render_mode
        self.victim = victim  # seed of the episode that goes wrong
        self.observation_space: Any = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space: Any = spaces.Discrete(3, start=1)
        if fault == "constructor":
            raise RuntimeError("no licence")
        if fault == "constructor exits":
            os._exit(3)
        if fault == "constructor hangs":
            time.sleep(10_000)
        if fault == "graph":
            self.observation_space = spaces.Sequence(spaces.Discrete(3))
        if fault == "tuple":
            self.action_space = spaces.Tuple([spaces.Discrete(2)])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        assert options is None, "an env may take {} for a demand"
        self.bad, self.time = seed == self.victim, 0
        if self.bad:
            if self.fault == "raises in reset":
                raise KeyError("level")
            if self.fault == "hangs in reset":
                time.sleep(10_000)
            if self.fault == "old Gym reset":
                return np.zeros(2, np.float32)  # type: ignore[return-value]  # as Gym 0.25
            if self.fault == "NaN in reset":
                return np.full(2, np.nan, np.float32), {}
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        assert type(action) is int
        self.time += 1
        obs: Any = np.full(2, self.time, np.float32)
        reward: Any = 1.0
        if not self.bad or self.time < 3:
            return obs, reward, self.time == 5, False, {}
        match self.fault:
            case "raises in step":
                raise ZeroDivisionError("the ball is\n gone")
            case "exits":
                os._exit(7)
            case "sys.exit":
                sys.exit(5)
            case "hangs":
                time.sleep(10_000)
            case "hangs, deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(10_000)
            case "spins":
                while True:
                    pass
            case "NaN observation":
                obs[1] = np.nan
            case "inf observation":
                obs[1] = np.inf
            case "NaN reward":
                reward = np.nan
            case "inf reward":
                reward = float("-inf")
            case "reward is text":
                reward = "10"
            case "reward is None":
                reward = None
            case "reward is a list":
                reward = [1.0, 2.0]
            case "wrong shape":
                obs = np.zeros(3, np.float32)
            case "wrong dtype":
                obs = np.zeros(2, np.float64)
            case "no array":
                obs = [0.0, 0.0]
            case "terminated is text":
                return obs, reward, "no", False, {}  # type: ignore[return-value]  # on purpose
            case "truncated is None":
                return obs, reward, False, None, {}  # type: ignore[return-value]  # on purpose
            case "terminated is 2":
                return obs, reward, 2, False, {}  # type: ignore[return-value]  # on purpose
            case "three values":
                return obs, reward, False  # type: ignore[return-value]  # too short on purpose
        return obs, reward, False, False, {}

    def render(self) -> Any:
        if self.fault == "raises in render":
            raise OSError("no display")
        if self.fault == "hangs in render":
            time.sleep(10_000)
        return np.full((4, 4, 3), getattr(self, "time", 0), np.uint8)


class Walk(gymnasium.Env[Any, Any]):
    """A good env: a random walk in a Dict, steered by a MultiDiscrete, from its seed alone."""

    def __init__(self) -> None:
        where = spaces.Box(-1e300, 1e300, (2,), np.float64)
        self.observation_space = spaces.Dict({"where": where, "side": spaces.Discrete(2)})
        self.action_space = spaces.MultiDiscrete([3, 2])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.where = self.np_random.normal(size=2)
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self.where += (action - 1) * self.np_random.normal(size=2)
        return self._show(), float(self.where[1]), bool(self.np_random.random() < 0.1), False, {}

    def _show(self) -> Any:
        return {"where": self.where.copy(), "side": int(self.where[0] > 0)}


class Picture(gymnasium.Env[Any, Any]):
    """Shows one buffer, [height 12, width 10, 3], which it changes in place."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (12, 10, 3), np.uint8)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.buffer = np.zeros((12, 10, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.buffer[:] = np.arange(360).reshape(12, 10, 3) % 251
        return self.buffer, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self.buffer += 1
        return self.buffer, float(action[0]), False, False, {}


class Double(gymnasium.Env[Any, Any]):
    """Shows float64 in bounds that float32 cannot hold, and forgets its seed if `moody`."""

    def __init__(self, moody: bool = False) -> None:
        self.moody = moody
        self.observation_space = spaces.Box(-1e300, np.finfo(np.float64).max, (2,), np.float64)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=None if self.moody else seed)
        return self.np_random.normal(size=2), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        return self.np_random.normal(size=2), 1.0, False, False, {}


class Whole(gymnasium.Env[Any, Any]):
    """Its observation is one number of three."""

    def __init__(self) -> None:
        self.observation_space = spaces.Discrete(3, start=-1)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return -1, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        return (1 if action else 7), 1.0, False, False, {}


for _name, _class in {
    "Bad": Bad,
    "Walk": Walk,
    "Picture": Picture,
    "Double": Double,
    "Whole": Whole,
}.items():
    gymnasium.register(f"bad/{_name}-v0", entry_point=_class)


class Dice(gymnasium.Env[Any, Any]):
    """Draws from the global generators in its constructor, reset, steps and pictures."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 1, (4,), np.float64)
        self.action_space = spaces.Discrete(2)
        self.map = random.random()

    def _show(self) -> Any:
        torch = sys.modules.get("torch")
        drawn = 0.0 if torch is None else float(torch.rand(()))
        return np.array([self.map, random.random(), np.random.rand(), drawn])  # noqa: NPY002

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        return self._show(), 1.0, bool(np.random.rand() < 0.2), False, {}  # noqa: NPY002

    def render(self) -> Any:
        return np.full((4, 4, 3), random.randrange(256), np.uint8)


class Simulated(gymnasium.Env[Any, Any]):
    """Starts a program, as simulators are, and writes to a file what becomes of it."""

    def __init__(self, log: str, deaf: bool = False) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.log, self.deaf = log, deaf
        self.program = subprocess.Popen(["sleep", "10000"])
        self._write(f"started {self.program.pid}")

    def _write(self, line: str) -> None:
        with open(self.log, "a") as file:
            file.write(line + "\n")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def close(self) -> None:
        if self.deaf:
            time.sleep(10_000)
        self.program.terminate()
        self.program.wait()
        self._write("closed")


class Matrix(gymnasium.Env[Any, Any]):
    """Computes with torch in more than one thread where it may."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        return self._show(), 0.0, False, False, {}

    def _show(self) -> Any:
        import torch

        layer = torch.nn.Conv2d(3, 16, 8)
        return layer(torch.ones(4, 3, 84, 84)).mean().reshape(1).detach().numpy()


class Doubled(gymnasium.RewardWrapper[Any, Any]):
    """Wrapper that adds 1 to a reward of 0 and doubles others."""

    def reward(self, reward: Any) -> Any:
        return 2 * (reward or 1)


for _name, _class in {"Dice": Dice, "Simulated": Simulated, "Matrix": Matrix}.items():
    gymnasium.register(f"bad/{_name}-v0", entry_point=_class)
