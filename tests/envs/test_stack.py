"""FrameStack: the last observations, oldest first, of every env by itself."""

import numpy as np
import pytest
from env_fakes import Fake, assert_same, chooser, step, stream, through_json

from ludus.envs.minatar import MinAtarBackend
from ludus.envs.stack import FrameStack
from ludus.envs.vector import VectorEnv


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_stack_is_the_last_observations_with_zeros_before_the_first(depth: int) -> None:
    single = stream(Fake([3, 5, 9]))
    stacked = stream(FrameStack(Fake([3, 5, 9]), depth))
    assert stacked.observation_space.shape == (depth, 3)
    assert stacked.observation_space.low.min() == -1  # the inner bounds
    choose, frames = chooser(single), np.zeros((3, depth, 3), np.float32)
    kept = []
    for t in range(30):
        actions = choose()
        row = single.reset() if t == 0 else step(single, actions)
        other = stacked.reset() if t == 0 else step(stacked, actions)
        frames = np.where(row.first[:, None, None], np.float32(0), frames)
        frames = np.concatenate([frames[:, 1:], row.obs[:, None]], axis=1)
        assert_same(other, row._replace(obs=frames), f"at row {t}")
        kept.append((other.obs, frames))
    for obs, expected in kept:  # what was handed out stays
        np.testing.assert_array_equal(obs, expected)


def test_a_reset_over_leaves_the_other_stacks_alone() -> None:
    env = stream(FrameStack(Fake([2, 9]), 3))
    env.reset()
    step(env, [0, 0])
    before = step(env, [0, 0])
    kept = before.obs.copy()
    obs = env.reset_over()
    np.testing.assert_array_equal(before.obs, kept)
    assert obs[0, :, 0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(obs[1], before.obs[1])
    assert step(env, [0, 0]).obs[1, :, 0].tolist() == [1, 2, 3]


def test_the_actions_and_pictures_are_those_of_the_inner_backend() -> None:
    inner = Fake([2, 9])
    env = stream(FrameStack(inner, 3))
    assert env.action_space == inner.action_space
    assert env.action_names == ("a", "b", "c", "d")
    assert (env.render(1) == 1).all()
    env.close()
    assert inner.closed == 1


@pytest.mark.parametrize("before", [0, 2, 40, 133])
def test_a_resumed_stack_goes_on_as_if_never_stopped(before: int) -> None:
    def begin() -> VectorEnv:
        return stream(FrameStack(MinAtarBackend("breakout", 4), 4))

    env = begin()
    choose, row = chooser(env), env.reset()
    for _ in range(before):
        row = step(env, choose())
    while before and not row.game_over.any():
        row = step(env, choose())
    resumed = begin()
    resumed.load_state_dict(through_json(env.state_dict()), row)
    for t in range(40):
        actions = choose()
        assert_same(step(resumed, actions), step(env, actions), f"{t} rows on")
