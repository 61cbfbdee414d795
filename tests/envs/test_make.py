"""From a name to an env: what is known, what is refused, and how observations are shown."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from env_fakes import assert_same, chooser, step, through_json

from ludus.envs.cartpole import CartPoleBackend
from ludus.envs.dict_observation import PackedDict
from ludus.envs.errors import EnvError
from ludus.envs.make import EnvOptions, known_ids, make
from ludus.envs.vector import episode_seed
from ludus.envs.workers import WorkerBackend
from ludus.training.api import train
from ludus.training.run import all_runs
from ludus.training.train import load


@pytest.mark.parametrize(
    ("env_id", "meant"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("CartPole-v7", "CartPole-v1"),
        ("ALE/Pomg-v5", "ALE/Pong-v5"),
        ("ALE/Pong-v4", "ALE/Pong-v5"),
        ("cartpole-v1", "CartPole-v1"),
        ("pong", "ALE/Pong-v5"),
        ("space_invaders", "ALE/SpaceInvaders-v5"),
        ("BreakoutNoFrameSkip-v4", "BreakoutNoFrameskip-v4"),
        ("MinAtar/Brakout-v1", "MinAtar/Breakout-v1"),
        ("MinAtar/SpaceInvaders-v2", "MinAtar/SpaceInvaders-v[01]"),
        ("ludus/Identify-v0", "ludus/Identity-v0"),
    ],
)
def test_an_unknown_id_is_answered_with_the_nearest(env_id: str, meant: str) -> None:
    with pytest.raises(EnvError, match=rf"there is no env {env_id}; did you mean {meant}\?"):
        make(env_id)


@pytest.mark.parametrize("env_id", ["", "Zzyzx!", "a b", "qqqqqqqq-v0"])
def test_nonsense_is_answered_with_the_list(env_id: str) -> None:
    with pytest.raises(EnvError, match="ludus list envs"):
        make(env_id)


@pytest.mark.parametrize(("word", "game"), [("poker", "kuhn_poker"), ("Gammon", "backgammon")])
def test_a_game_that_openspiel_has_and_ludus_cannot_play_is_named(word: str, game: str) -> None:
    answer = f"there is no env {word}; {game} is not supported: it has chance events; `ludus list g"
    with pytest.raises(EnvError, match=answer):
        make(word)


def test_every_listed_name_of_ours_can_be_made() -> None:
    names = known_ids()
    assert len(names) == len(set(names))
    for name in names:
        if name.startswith(("ludus/", "MinAtar/", "CartPole", "Acrobot", "MountainCar-")):
            env = make(name, 2)
            assert env.env_id == name
            env.reset()
            env.close()


def test_an_env_of_one_s_own_comes_by_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_envs.py").write_text(
        "import gymnasium\nfrom bad_envs import Walk\n"
        "gymnasium.register('MyWalk-v0', entry_point=Walk, max_episode_steps=7)\n"
    )
    (tmp_path / "my_broken_envs.py").write_text("1 / 0\n")
    with pytest.raises(EnvError, match="my_own_envs could not be imported"):
        make("my_own_envs:MyWalk-v0")
    monkeypatch.syspath_prepend(tmp_path)
    env = make("my_own_envs:MyWalk-v0", 2)
    assert env.protocol == {"kind": "gymnasium", "max_episode_steps": 7, "stack": 1}
    choose = chooser(env)
    rows = [env.reset(), *(step(env, choose()) for _ in range(40))]
    env.close()
    assert any(row.truncated.any() for row in rows)
    assert max(row.episode_length.max() for row in rows) == 7
    with pytest.raises(EnvError, match="there is no env my_own_envs:Other-v0"):
        make("my_own_envs:Other-v0")
    with pytest.raises(EnvError, match="the module my_broken_envs raised ZeroDivisionError"):
        make("my_broken_envs:Env-v0")
    sys.modules.pop("my_own_envs")


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("constructor", "could not be made: it raised RuntimeError: no licence"),
        ("graph", "could not be made: it has the observation space Sequence.* no network reads"),
        ("tuple", "action space Tuple.* not supported; use Discrete, MultiDiscrete or Box"),
    ],
)
def test_an_env_that_cannot_be_had_says_why(fault: str, what: str) -> None:
    import bad_envs

    name = f"bad/{fault.title()}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=bad_envs.Bad, kwargs={"fault": fault})
    with pytest.raises(EnvError, match=f"{name}.*{what}"):
        make(name, 2)


@pytest.mark.filterwarnings("ignore:.*render_mode:UserWarning")
@pytest.mark.parametrize("render", [True, False])
def test_pictures_are_refused_where_an_env_has_none(render: bool) -> None:
    env = make("ludus/Recall-v0", 1, render=render)
    env.reset()
    with pytest.raises(EnvError, match="picture of env 0"):
        env.render()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0", "FrozenLake-v1"])
def test_pictures_are_there_where_they_were_asked_for(env_id: str) -> None:
    env = make(env_id, 2, render=True)
    env.reset()
    picture = env.render(1)
    assert (picture.dtype, picture.ndim, picture.shape[2]) == (np.uint8, 3, 3)
    env.close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "FrozenLake-v1", "MinAtar/Breakout-v1"])
@pytest.mark.parametrize(
    "option",
    [
        {"frameskip": 4},
        {"noop_max": 3},
        {"life_loss": False},
        {"max_frames": 99},
        {"screen_size": 42},
    ],
    ids=str,
)
def test_atari_s_options_are_refused_elsewhere(env_id: str, option: dict[str, Any]) -> None:
    with pytest.raises(EnvError, match=f"{next(iter(option))} is for Atari games; {env_id}"):
        make(env_id, options=EnvOptions(**option))


@pytest.mark.parametrize("option", [{"sticky": 0.0}, {"full_action_space": True}], ids=str)
def test_minatar_s_options_are_refused_elsewhere(option: dict[str, Any]) -> None:
    with pytest.raises(EnvError, match=f"{next(iter(option))} is for Atari and MinAtar games"):
        make("CartPole-v1", options=EnvOptions(**option))


def test_minatar_s_ids_and_options() -> None:
    env = make("MinAtar/SpaceInvaders-v1", 2)
    assert env.protocol == {
        "kind": "minatar",
        "game": "space_invaders",
        "sticky": 0.1,
        "full_action_space": False,
        "difficulty_ramping": True,
        "stack": 1,
    }
    assert env.action_names == ("noop", "left", "right", "fire")
    assert len(make("MinAtar/SpaceInvaders-v0", 2).action_names) == 6
    options = EnvOptions(stack=3, sticky=0.0, full_action_space=True)
    env = make("MinAtar/Freeway-v1", 2, options=options)
    assert env.observation_space.shape == (3 * 7, 10, 10)
    assert len(env.action_names) == 6
    assert (env.protocol["stack"], env.protocol["sticky"]) == (3, 0.0)
    with pytest.raises(EnvError, match=r"sticky is 1.5"):
        make("MinAtar/Freeway-v1", options=EnvOptions(sticky=1.5))


def test_stickiness_reaches_minatar() -> None:
    """Always repeated, "noop" of the first step is played for ever."""
    env = make("MinAtar/Breakout-v1", 1, options=EnvOptions(sticky=1.0))
    row = env.reset()
    paddle = row.obs[0, 0]
    for _ in range(5):
        row = step(env, [2])
        np.testing.assert_array_equal(row.obs[0, 0], paddle)


def test_cartpole_is_gymnasium_s_own() -> None:
    env = make("CartPole-v1", 3, 5)
    assert isinstance(env.backend, CartPoleBackend)
    alone = [gymnasium.make("CartPole-v1") for _ in range(3)]
    choose, row, numbers = chooser(env), env.reset(), [0, 0, 0]
    expected: list[Any] = [e.reset(seed=episode_seed(5, i, 0))[0] for i, e in enumerate(alone)]
    ends = 0
    for _ in range(300):
        np.testing.assert_allclose(row.obs, np.stack(expected), rtol=1e-6, atol=1e-6)
        actions, over = choose(), row.game_over
        row = step(env, actions)
        for i, one in enumerate(alone):
            if over[i]:
                numbers[i] += 1
                expected[i], _ = one.reset(seed=episode_seed(5, i, numbers[i]))
                assert (row.reward[i], row.first[i]) == (0, True)
                continue
            expected[i], reward, terminated, truncated, _ = one.step(int(actions[i]))
            flags = (row.reward[i], row.terminated[i], row.truncated[i])
            assert flags == (reward, terminated, truncated)
            ends += terminated
    assert ends > 15


@pytest.mark.parametrize(("env_id", "limit"), [("CartPole-v1", 500), ("CartPole-v0", 200)])
def test_cartpole_is_cut_at_its_limit(env_id: str, limit: int) -> None:
    """Balanced by hand on our backend and on Gymnasium's env alike."""
    env, alone = make(env_id, 1, 5), gymnasium.make(env_id)
    env.reset()
    step(env, [0])
    row = env.reset()  # the clock starts anew
    alone.reset(seed=episode_seed(5, 0, 1))
    for t in range(1, limit + 1):
        x, x_dot, theta, theta_dot = row.obs[0]
        action = int(0.1 * x + 0.3 * x_dot + theta * 3 + theta_dot > 0)
        row = step(env, [action])
        obs, _, terminated, truncated, _ = alone.step(action)
        np.testing.assert_allclose(row.obs[0], obs, rtol=1e-6, atol=1e-6)
        assert (
            (row.terminated[0], row.truncated[0]) == (terminated, truncated) == (False, t == limit)
        )
    assert row.game_over[0]
    assert row.episode_return[0] == row.episode_length[0] == limit


def test_cartpole_of_other_settings_is_not_taken_for_the_plain_one() -> None:
    name = "test/SuttonCartPole-v0"
    if name not in gymnasium.registry:
        gymnasium.register(
            name,
            entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
            vector_entry_point="gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv",
            kwargs={"sutton_barto_reward": True},
        )
    env = make(name, 1)
    env.reset()
    assert step(env, [0]).reward[0] == 0
    env.close()


@pytest.mark.parametrize("before", [0, 1, 17, 90, 91, 92, 300])
@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Acrobot-v1", "ludus/Identity-v0", "MinAtar/Breakout-v1"]
)
@pytest.mark.parametrize("stack", [1, 4])
def test_a_resumed_env_goes_on_as_if_never_stopped(env_id: str, before: int, stack: int) -> None:
    env, resumed = (make(env_id, 4, 5, EnvOptions(stack=stack)) for _ in "ab")
    choose, row = chooser(env), env.reset()
    for _ in range(before):
        row = step(env, choose())
    resumed.load_state_dict(through_json(env.state_dict()), row)
    for t in range(60):
        actions = choose()
        assert_same(step(resumed, actions), step(env, actions), f"{t} rows on")


def test_a_number_is_shown_one_hot() -> None:
    env = make("FrozenLake-v1", 2)
    assert env.observation_space.shape == (16,)
    row = env.reset()
    np.testing.assert_array_equal(row.obs, np.eye(16, dtype="f4")[[0, 0]])
    for _ in range(20):
        row = step(env, [2, 1])
        assert row.obs.dtype == np.float32
        assert row.obs.sum() == 2
        assert set(row.obs.ravel()) == {0, 1}
    env.close()


def test_a_number_that_is_not_in_the_space_is_refused() -> None:
    import bad_envs

    env_id = "bad_envs:bad/Whole-v0"
    env = make(env_id, 2)
    assert env.reset().obs.tolist() == [[1, 0, 0], [1, 0, 0]]
    assert step(env, [1, 1]).obs.tolist() == [[0, 0, 1], [0, 0, 1]]
    with pytest.raises(EnvError, match=r"env 1 .* the observation 7, which is not in Discrete"):
        step(env, [1, 0])
    env.close()
    assert bad_envs.Whole().observation_space.n == 3


def test_a_dict_is_shown_as_the_bytes_of_its_parts() -> None:
    import bad_envs

    env = make("bad_envs:bad/Walk-v0", 2, 4)
    space = env.observation_space
    assert isinstance(space, PackedDict)
    alone = bad_envs.Walk()
    shown, _ = alone.reset(seed=episode_seed(4, 1, 0))
    row = env.reset()
    assert (row.obs.dtype, row.obs.shape) == (np.uint8, (2, 16))  # four floats
    obs = torch.from_numpy(row.obs)
    np.testing.assert_array_equal(space.part(obs, "side")[1], np.eye(2)[shown["side"]])
    np.testing.assert_array_equal(space.part(obs, "where")[1], shown["where"].astype("f4"))
    env.close()


def test_a_picture_is_shown_channels_first() -> None:
    env = make("bad_envs:bad/Picture-v0", 2)
    assert (env.observation_space.shape, env.observation_space.dtype) == ((3, 12, 10), np.uint8)
    obs = env.reset().obs
    picture = np.arange(360).reshape(12, 10, 3) % 251
    np.testing.assert_array_equal(obs[0], picture.transpose(2, 0, 1))
    env.close()


@pytest.mark.filterwarnings("error")
def test_doubles_become_singles_quietly(capfd: Any) -> None:
    import bad_envs

    env = make("bad_envs:bad/Double-v0", 2, 4)
    assert env.observation_space.dtype == np.float32
    expected, _ = bad_envs.Double().reset(seed=episode_seed(4, 1, 0))
    np.testing.assert_array_equal(env.reset().obs[1], expected.astype("f4"))
    env.close()
    assert capfd.readouterr() == ("", "")


def test_lunar_lander_runs_in_workers() -> None:
    if importlib.util.find_spec("Box2D") is None:
        pytest.skip('Box2D is not installed; run pip install -e ".[box2d]"')
    env = make("LunarLander-v3", 2)
    assert isinstance(env.backend, WorkerBackend)
    choose, row = chooser(env), env.reset()
    for _ in range(30):
        row = step(env, choose())
    assert row.episode_length.tolist() == [30, 30]
    env.close()


def test_lunar_lander_without_box2d_says_what_is_missing() -> None:
    if importlib.util.find_spec("Box2D") is not None:
        pytest.skip("Box2D is installed")
    with pytest.raises(EnvError, match=r"LunarLander-v3 could not be made: .*box2d"):
        make("LunarLander-v3", 2)


@pytest.mark.parametrize("env_id", ["Pong-v4", "MsPacman-v0", "Freeway-v0"])
def test_atari_without_preprocessing_is_refused_with_the_ids_that_are_meant(env_id: str) -> None:
    name = env_id.split("-")[0]
    with pytest.raises(EnvError, match=f"use ALE/{name}-v5 .* or {name}NoFrameskip-v4"):
        make(env_id)


def test_arguments_wrappers_and_limits_of_an_env() -> None:
    options = EnvOptions(
        env_kwargs=("map_name=8x8", '{"is_slippery": false}'),
        wrapper=("gymnasium.wrappers:ClipReward",),
        max_episode_steps=3,
    )
    with pytest.raises(EnvError, match=r"could not be made: .*min_reward"):
        make("FrozenLake-v1", 1, options=options)
    options = replace(options, wrapper=("bad_envs:Doubled", "bad_envs:Doubled"))
    env = make("FrozenLake-v1", 1, options=options)
    assert env.observation_space.shape == (64,)
    assert env.protocol["env_kwargs"] == {"map_name": "8x8", "is_slippery": False}
    assert env.protocol["wrapper"] == ["bad_envs:Doubled", "bad_envs:Doubled"]
    env.reset()
    rows = [step(env, [2]) for _ in range(3)]  # right, never slipping
    assert [int(row.obs[0].argmax()) for row in rows] == [1, 2, 3]
    assert [float(row.reward[0]) for row in rows] == [4, 4, 4]  # (0 + 1) doubled twice
    assert [bool(row.truncated[0]) for row in rows] == [False, False, True]
    env.close()


@pytest.mark.parametrize("entry", ["size", "[1]", "5", "a b=1", "{"])
def test_arguments_that_cannot_be_read_are_refused(entry: str) -> None:
    with pytest.raises(EnvError, match="it must be name=value or a JSON object"):
        EnvOptions(env_kwargs=(entry,))


@pytest.mark.parametrize("wrapper", ["NoColon", "bad_envs:Nothing", "no_such_module:Wrapper"])
def test_a_wrapper_that_is_not_there_is_named(wrapper: str) -> None:
    with pytest.raises(EnvError, match=r"FrozenLake-v1 could not be made: it "):
        make("FrozenLake-v1", 1, options=EnvOptions(wrapper=(wrapper,)))


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "MinAtar/Breakout-v1", "connect_four"])
def test_options_of_other_envs_are_refused(env_id: str) -> None:
    with pytest.raises(EnvError, match=f"wrapper is not for .* such as {env_id}"):
        make(env_id, options=EnvOptions(wrapper=("bad_envs:Doubled",)))


def test_an_env_may_be_a_class_or_a_function(tmp_path: Path) -> None:
    import bad_envs

    class Local(bad_envs.Walk):
        """Known only here."""

    def factory() -> Any:
        return bad_envs.Picture()

    for env, name, shape in [
        (bad_envs.Walk, "bad_envs:Walk", (16,)),
        ("bad_envs:Walk", "bad_envs:Walk", (16,)),
        (Local, "passed/test_an_env_may_be_a_class_or_a_function-locals-Local", (16,)),
        (factory, "passed/test_an_env_may_be_a_class_or_a_function-locals-factory", (3, 12, 10)),
    ]:
        made = make(env, 2)
        assert made.env_id == name
        assert made.reset().obs.shape == (2, *shape)
        made.close()
    agent = train("random", Local, steps=20, root=tmp_path, quiet=True)
    assert agent.env_steps >= 20
    (run,) = all_runs(tmp_path)
    assert run.status().score is not None
    assert load(run.path).env_steps == 0
