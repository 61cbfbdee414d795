"""Envs that are passed as objects: the same stream as from ids, and one use at a time."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import bad_envs
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TransformObservation

from ludus.envs.action_mask import legal_mask, random_actions
from ludus.envs.env_object import env_name
from ludus.envs.errors import EnvError
from ludus.envs.local import LocalBackend
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import VectorEnv

DISABLED, NEXT_STEP = AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP


def _vector(
    make_env: Callable[[], Any], num_envs: int, mode: AutoresetMode = DISABLED
) -> SyncVectorEnv:
    return SyncVectorEnv([make_env] * num_envs, autoreset_mode=mode)


def _cartpole() -> Any:
    return gymnasium.make("CartPole-v1")


def _stream(env: VectorEnv, rows: int, start: int = 0) -> list[Any]:
    """Play random legal actions; return the rows."""
    generator = np.random.default_rng(1)
    row = env.reset()
    stream = [row]
    for _ in range(rows):
        legal = legal_mask(env.observation_space, row.obs)
        env.send(random_actions(env.action_space, env.num_envs, generator, legal))
        row = env.recv()
        stream.append(row)
    return stream


def _assert_same(stream: list[Any], other: list[Any]) -> None:
    for number, (row, like) in enumerate(zip(stream, other, strict=True)):
        for name, value in like._asdict().items():
            np.testing.assert_array_equal(getattr(row, name), value, f"{name} of row {number}")


@pytest.mark.parametrize("env_id", ["MountainCarContinuous-v0", "Taxi-v4", "bad_envs:Picture"])
def test_an_object_has_the_stream_of_its_id(env_id: str) -> None:
    """With continuous actions, with masks in info, and with pictures."""
    known = make(env_id, 1, seed=3)
    module, _, name = env_id.rpartition(":")
    env = make(getattr(bad_envs, name)() if module else gymnasium.make(env_id), seed=3)
    assert env.num_envs == 1
    assert env.observation_space == known.observation_space
    _assert_same(_stream(env, 250), _stream(known, 250))
    known.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Taxi-v4", "Blackjack-v1"])
def test_a_vector_env_that_is_not_reset_by_itself_has_the_stream_of_its_id(env_id: str) -> None:
    """Arrays, masks in info, and tuples; other episodes end at other steps, but Taxi's."""
    known = make(env_id, 3, seed=4)
    env = make(_vector(lambda: gymnasium.make(env_id), 3), seed=4)
    assert env.num_envs == 3
    stream = _stream(env, 250)
    _assert_same(stream, _stream(known, 250))
    assert any(row.first.any() for row in stream[1:])
    known.close()


def test_a_vector_env_that_resets_at_the_next_step() -> None:
    """Its later episodes have seeds of its own, and the rows are those of any other env."""
    stream = _stream(make(_vector(_cartpole, 3, NEXT_STEP), seed=4), 120)
    _assert_same(stream, _stream(make(_vector(_cartpole, 3, NEXT_STEP), seed=4), 120))
    assert sum(row.first.sum() for row in stream) > 10
    for row, following in pairwise(stream):
        np.testing.assert_array_equal(following.first, row.game_over)
        np.testing.assert_array_equal(following.episode_length[row.game_over], 0)
        assert (np.abs(following.obs[following.first]) <= 0.05).all(), "a state after a reset"


class Strict(gymnasium.Env[Any, Any]):
    """Allows one number in its first step, another one later, and raises at others."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(5)

    def __init__(self, as_list: bool = False) -> None:
        self.as_list = as_list

    def _show(self) -> Any:
        self.allowed = int(self.np_random.integers(5))
        mask: Any = (np.arange(5) == self.allowed).astype(np.int8)
        mask = mask.tolist() if self.as_list else mask
        return np.full(2, self.allowed / 5, np.float32), {"action_mask": mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        return self._show()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        if action != self.allowed:
            raise ValueError(f"{action} is illegal")
        over = bool(self.np_random.random() < 0.3)
        obs, info = self._show()
        return obs, 1.0, over, False, info


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("mode", [DISABLED, NEXT_STEP])
def test_a_step_that_does_not_count_is_legal_too(mode: AutoresetMode, as_list: bool) -> None:
    stream = _stream(make(_vector(lambda: Strict(as_list), 3, mode), seed=2), 100)
    assert any(row.first.any() and not row.first.all() for row in stream)
    if mode is DISABLED:
        _assert_same(stream, _stream(known := make(Strict, 3, seed=2), 100))
        known.close()


def test_pictures_of_a_vector_env_are_channels_first() -> None:
    known, env = make("bad_envs:Picture", 2, seed=1), make(_vector(bad_envs.Picture, 2), seed=1)
    assert env.observation_space == known.observation_space
    _assert_same(_stream(env, 30), _stream(known, 30))
    known.close()


@pytest.mark.parametrize("passed", [_cartpole, lambda: _vector(_cartpole, 1, NEXT_STEP)])
def test_one_use_at_a_time(passed: Callable[[], Any]) -> None:
    """A second use may begin and end while no game runs; the first then goes on as before."""
    name = env_name(passed())
    first, undisturbed = make(name, seed=1), make("CartPole-v1", 1, seed=1)
    for env in (first, undisturbed):
        env.reset()
    left = np.zeros(1, np.int64)
    for _ in range(3):
        ended = False
        while not ended:
            for env in (first, undisturbed):
                env.send(left)
            row, like = first.recv(), undisturbed.recv()
            _assert_same([row], [like])
            ended = bool(row.game_over[0])
        _stream(make(name, seed=9), 5)
    first.send(left)
    first.recv()
    _stream(make(name, seed=9), 5)
    first.send(left)
    with pytest.raises(EnvError, match=r"passed/.*reset by somebody else in the middle"):
        first.recv()


def test_an_object_that_is_passed_twice_is_one() -> None:
    env = _cartpole()
    first, second = make(env), make(env)
    first.reset()
    second.reset()
    first.send(np.zeros(1, np.int64))
    with pytest.raises(EnvError, match="reset by somebody else"):
        first.recv()


def test_a_vector_env_must_reset_only_what_it_is_asked_to() -> None:
    class Deaf(SyncVectorEnv):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return super().reset(seed=7)

    env = make(Deaf([_cartpole] * 3, autoreset_mode=DISABLED), seed=1)
    with pytest.raises(EnvError, match=r'has reset envs that options\["reset_mask"\] did not name'):
        _stream(env, 200)


def test_a_mask_in_infos_must_fit() -> None:
    class Wide(Strict):
        action_space = spaces.Discrete(6)

    with pytest.raises(EnvError, match="action_mask in infos that has not 6 numbers"):
        make(_vector(Wide, 2))


def test_a_class_without_a_time_limit_has_none() -> None:
    env = make(CartPoleEnv, 1)
    assert env.protocol["max_episode_steps"] is None
    assert isinstance(env.backend, LocalBackend)  # CartPoleBackend would truncate at 500


def test_an_object_is_never_closed_and_keeps_its_name() -> None:
    env = bad_envs.Walk()
    closed: list[bool] = []
    env.close = lambda: closed.append(True)  # type: ignore[method-assign]  # to see a call
    made = make(env)
    assert made.env_id == "passed/Walk"
    made.reset()
    made.close()
    assert closed == []
    wrapped = TransformObservation(_cartpole(), lambda obs: obs * 2, None)
    assert env_name(wrapped) == "passed/CartPole-v1"
    assert make("passed/CartPole-v1").protocol["max_episode_steps"] == 500
    with pytest.raises(EnvError, match=r"was passed to Ludus by a Python program.*ludus.resume"):
        make("passed/Unknown")
    for known in ("CartPole-v1", "bad_envs:Walk"):
        with pytest.raises(EnvError, match=f"{known} is made from its id; leave env out"):
            env_name(_cartpole(), known)


class _Stated(SyncVectorEnv):
    """A vector env that states another autoreset mode."""

    def __init__(self, mode: Any) -> None:
        super().__init__([_cartpole] * 2)
        self.metadata = {"autoreset_mode": mode}


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (AutoresetMode.SAME_STEP, "SAME_STEP, which hides the last observation"),
        ("SameStep", "SAME_STEP, which hides the last observation"),
        ("sometimes", "states the autoreset mode sometimes"),
        (None, "states the autoreset mode None"),
    ],
)
def test_other_autoreset_modes_are_refused(mode: Any, why: str) -> None:
    with pytest.raises(EnvError, match=f"passed/.* could not be made: it .*{why}"):
        make(_Stated(mode))


def test_options_that_cannot_change_an_object_are_refused() -> None:
    with pytest.raises(EnvError, match="an object, which env_kwargs cannot change"):
        make(_cartpole(), options=EnvOptions(env_kwargs=("x=1",)))
    for options in (EnvOptions(max_episode_steps=9), EnvOptions(wrapper=("bad_envs:Doubled",))):
        with pytest.raises(EnvError, match=r"an object, which .* cannot change"):
            make(_vector(_cartpole, 2), options=options)
    env = make(_cartpole(), options=EnvOptions(max_episode_steps=9, wrapper=("bad_envs:Doubled",)))
    rewards = [row.reward[0] for row in _stream(env, 9)]
    assert rewards[1:] == [2.0] * 9
    env.send(np.zeros(1, np.int64))
    assert env.recv().first[0], "truncated after nine steps"


@pytest.mark.parametrize("fault", ["rewards", "NaN", "four", "raises", "flags"])
def test_what_a_vector_env_does_wrong_is_said(fault: str) -> None:
    class Wrong(SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            obs, reward, terminated, truncated, infos = super().step(actions)
            match fault:
                case "rewards":
                    return obs, reward[:1], terminated, truncated, infos
                case "NaN":
                    obs[1] = np.nan
                case "four":
                    return obs, reward, terminated, infos
                case "raises":
                    raise ZeroDivisionError("no batch")
                case "flags":
                    return obs, reward, np.array(["no", "no"]), truncated, infos
            return obs, reward, terminated, truncated, infos

    env = make(Wrong([_cartpole] * 2, autoreset_mode=DISABLED))
    env.reset()
    env.send(np.zeros(2, np.int64))
    said = {
        "rewards": r"returned reward as float64\[1\]",
        "NaN": "NaN",
        "four": "returned no observations, rewards",
        "raises": "raised ZeroDivisionError: no batch",
        "flags": "returned terminated as <U2",
    }
    with pytest.raises(EnvError, match=f"passed/.*{said[fault]}"):
        env.recv()


def test_what_is_no_env_is_refused() -> None:
    for wrong in (5, None, [_cartpole()]):
        with pytest.raises(EnvError, match="is no env id, no class or function"):
            make(wrong)  # type: ignore[arg-type]  # on purpose

    class Strange(gymnasium.Env[Any, Any]):
        observation_space = spaces.Text(5)
        action_space = spaces.Discrete(2)

    with pytest.raises(EnvError, match=r"passed/Strange .*could not be made: it has the observ"):
        make(Strange())
