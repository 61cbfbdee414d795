import numpy as np
import pytest
import torch

from ludus.agents.memory.step import Step


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    """Small tensors: a second thread only waits. No test leans on the seed of another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


class RandomStream:
    """Random rows under the contract of envs/vector.py, every one of them kept.

    Args:
        envs: B.
        stack: frames in one observation, zeros before an episode's first.
        seed: of everything drawn.
        frame: (generator, t, b) to one frame.
        ends: probabilities of a game end, a cut, both at once, and a lost life, a row.
    """

    def __init__(self, envs, stack, seed, frame, ends=(0.15, 0.1, 0.03, 0.1), actions=3):
        self.envs, self.stack, self.actions = envs, stack, actions
        self._frame, self._ends = frame, np.cumsum(ends)
        self.generator = np.random.default_rng(seed)
        self.obs, self.reward, self.first, self.terminated, self.over = [], [], [], [], []
        self.action = []  # of each row but the last
        self._row()

    def _row(self):
        envs, t = self.envs, len(self.obs)
        first = self.over[-1] if t else np.ones(envs, bool)
        drawn = np.searchsorted(self._ends, self.generator.random(envs), side="right")
        kind = np.where(first, 9, drawn)  # a first row ends nothing
        frames = np.stack([self._frame(self.generator, t, b) for b in range(envs)])
        if self.stack > 1:
            before = self.obs[-1].copy() if t else np.zeros((envs, self.stack, *frames.shape[1:]))
            before[first] = 0
            frames = np.concatenate([before[:, 1:], frames[:, None]], 1).astype(frames.dtype)
        reward = self.generator.normal(0, 2, envs).astype(np.float32)
        self.obs.append(frames)
        self.reward.append(np.where(first, np.float32(0), reward))
        self.first.append(first)
        self.terminated.append(np.isin(kind, (0, 2, 3)))
        self.over.append(np.isin(kind, (0, 1, 2)))

    def step(self, action=None):
        """The next transition of every env; random actions unless they are given."""
        t = len(self.obs) - 1
        action = self.generator.integers(self.actions, size=self.envs) if action is None else action
        self.action.append(action)
        self._row()
        valid = ~self.over[t]
        obs, first = self.obs[t], self.first[t]
        return Step(obs, first, valid, action, self.reward[t + 1], self.terminated[t + 1], {})


@pytest.fixture(scope="session")
def random_stream():
    return RandomStream
