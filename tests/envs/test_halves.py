"""Two halves of a vector env against one of the same envs."""

from typing import Any

import numpy as np
import pytest
from env_fakes import assert_same, through_json

from ludus.envs.errors import EnvError
from ludus.envs.halves import Halves, make_halves
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import Row

ENVS = {
    "PongNoFrameskip-v4": EnvOptions(),
    "FrozenLake-v1": EnvOptions(max_episode_steps=9),
    "CliffWalking-v1": EnvOptions(stack=3, max_episode_steps=12),
}


def _actions(env: Any, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(env.action_space.n, size=env.num_envs)


def _assert_same_rows(whole: Row, halves: Halves, rows: list[Row]) -> None:
    for row, envs in zip(rows, halves.parts, strict=True):
        assert_same(Row(*(x[envs] for x in whole)), row)


@pytest.mark.parametrize("env_id", ENVS)
def test_halves_play_as_one_vector_env_does(env_id: str) -> None:
    whole, halves = make(env_id, 6, 5, ENVS[env_id]), make_halves(env_id, 6, 5, ENVS[env_id])
    try:
        _assert_same_rows(whole.reset(), halves, [half.reset() for half in halves.halves])
        for t in range(40):
            actions = _actions(whole, t)
            whole.send(actions)
            for half, envs in zip(halves.halves, halves.parts, strict=True):
                half.send(actions[envs])
            _assert_same_rows(whole.recv(), halves, [half.recv() for half in halves.halves])
        ours, theirs = halves.state_dict(), whole.state_dict()
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert np.array_equal(ours[key], theirs[key]), key
    finally:
        whole.close()
        halves.close()


@pytest.mark.parametrize("env_id", ENVS)
def test_halves_resume_where_a_vector_env_was_saved(env_id: str) -> None:
    """Episodes of different lengths, of which one half's are shorter."""
    whole, halves = make(env_id, 4, 1, ENVS[env_id]), make_halves(env_id, 4, 1, ENVS[env_id])
    try:
        row, shown = whole.reset(), list[int]()
        for t in range(25):
            whole.send(_actions(whole, t))
            row = whole.recv()
        halves.load_state_dict(through_json(whole.state_dict()), row, shown.append)
        assert shown == sorted(shown)
        assert max(shown) < whole.state_dict()["length"].max()
        for t in range(25, 45):
            actions = _actions(whole, t)
            whole.send(actions)
            halves.send(actions)
            _assert_same_rows(whole.recv(), halves, [half.recv() for half in halves.halves])
    finally:
        whole.close()
        halves.close()


def test_an_error_names_the_env_by_its_number_in_both_halves() -> None:
    halves = make_halves("FrozenLake-v1", 4, 0, EnvOptions())
    try:
        for half in halves.halves:
            half.reset()
        with pytest.raises(EnvError, match=r"action 9 for env 3 is outside Discrete\(4\)"):
            halves.send(np.array([0, 0, 0, 9]))
    finally:
        halves.close()


@pytest.mark.parametrize(
    ("env_id", "num_envs", "sentence"),
    [
        ("FrozenLake-v1", 5, "num_envs is 5; halves need an even number"),
        ("CartPole-v1", 4, "CartPole-v1 plays in the trainer's process"),
        ("Acrobot-v1", 4, "Acrobot-v1 plays in the trainer's process"),
        ("MinAtar/Breakout-v1", 4, "plays in the trainer's process"),
        ("connect_four", 4, "plays in the trainer's process"),
    ],
)
def test_envs_without_halves_are_refused(env_id: str, num_envs: int, sentence: str) -> None:
    with pytest.raises(EnvError, match=sentence):
        make_halves(env_id, num_envs, 0, EnvOptions())
