"""Atari: what an id stands for, what is refused, and that a game follows from seed and actions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from env_fakes import LIMIT, assert_same, chooser, step, through_json

from ludus.envs.atari import AtariBackend, AtariProtocol, game_names, resolve
from ludus.envs.errors import EnvError
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import Row, VectorEnv, episode_seed

SHORT = EnvOptions(max_frames=2000)


def play(env: VectorEnv, steps: int, seed: int = 0) -> list[Row]:
    choose = chooser(env, seed)
    return [env.reset(), *(step(env, choose()) for _ in range(steps))]


def test_ids_stand_for_protocols() -> None:
    v5 = AtariProtocol("pong", sticky=0.25, life_loss=False)
    assert resolve("ALE/Pong-v5") == v5
    assert resolve("PongNoFrameskip-v4") == replace(v5, sticky=0.0, life_loss=True)
    assert resolve("PongNoFrameskip-v0") == v5
    assert resolve("ALE/SpaceInvaders-v5") == replace(v5, rom="space_invaders")
    assert (v5.frameskip, v5.stack, v5.noop_max, v5.max_frames) == (4, 4, 30, 108_000)


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "ALE/Pong-v4", "ALE/Pomg-v5", "Pong-v5", "PongNoFrameskip-v5", "pong"]
)
def test_other_ids_are_not_atari_s(env_id: str) -> None:
    assert resolve(env_id) is None


def test_every_game_resolves_under_its_name() -> None:
    names = game_names()
    assert len(names) > 100
    roms = {protocol.rom for name in names if (protocol := resolve(f"ALE/{name}-v5"))}
    assert len(roms) == len(names)


def test_options_override_the_id_and_are_in_the_protocol() -> None:
    options = EnvOptions(
        stack=2,
        sticky=0.5,
        frameskip=3,
        noop_max=0,
        life_loss=True,
        full_action_space=True,
        max_frames=999,
        screen_size=42,
    )
    env = make("ALE/Pong-v5", 1, options=options)
    elsewhere = ("timeout", "threads", "opponent", "channels")
    elsewhere += ("max_episode_steps", "env_kwargs", "wrapper")
    expected = {k: v for k, v in vars(options).items() if k not in elsewhere}
    expected |= {"kind": "atari", "rom": "pong", "fire_reset": True}
    assert env.protocol == expected
    assert env.observation_space.shape == (2, 42, 42)
    assert (env.stack, env.life_loss, len(env.action_names)) == (2, True, 18)
    env.close()


def test_the_protocol_reaches_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def record(self: Any, rom: str, num_envs: int, **kwargs: Any) -> None:
        seen.update(kwargs, rom=rom, num_envs=num_envs)
        raise EnvError("enough")

    monkeypatch.setattr(AtariVectorEnv, "__init__", record)
    protocol = AtariProtocol(
        "qbert",
        sticky=0.5,
        frameskip=3,
        stack=2,
        noop_max=7,
        fire_reset=False,
        full_action_space=True,
        max_frames=999,
        screen_size=96,
    )
    with pytest.raises(EnvError, match="enough"):
        AtariBackend(protocol, 5, threads=3)
    assert seen == {
        "rom": "qbert",
        "num_envs": 5,
        "num_threads": 3,
        "max_num_frames_per_episode": 999,
        "repeat_action_probability": 0.5,
        "full_action_space": True,
        "img_height": 96,
        "img_width": 96,
        "grayscale": True,
        "stack_num": 2,
        "frameskip": 3,
        "noop_max": 7,
        "use_fire_reset": False,
        "episodic_life": False,
        "life_loss_info": False,
        "reward_clipping": False,
    }


def test_the_actions_have_names() -> None:
    env = make("ALE/Pong-v5", 1)
    assert env.action_names == ("noop", "fire", "right", "left", "rightfire", "leftfire")
    env.close()


BAD_OPTIONS = [
    {"sticky": 5.0},
    {"sticky": -0.1},
    {"sticky": float("nan")},
    {"frameskip": 0},
    {"frameskip": 61},
    {"stack": 0},
    {"stack": 33},
    {"screen_size": 35},
    {"screen_size": 161},
    {"noop_max": -1},
    {"max_frames": 0},
    {"threads": -1},
    {"timeout": 0.0},
    {"timeout": float("nan")},
    {"timeout": float("inf")},
]


@pytest.mark.parametrize("bad", BAD_OPTIONS, ids=str)
def test_bad_options_never_reach_the_emulator(
    bad: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AtariVectorEnv, "__init__", lambda *_, **__: pytest.fail("reached"))
    with pytest.raises(EnvError, match=f"^{next(iter(bad))} is .*; it must be "):
        make("ALE/Pong-v5", 1, options=EnvOptions(**bad))


@pytest.mark.parametrize(("num_envs", "seed"), [(0, 0), (-1, 0), (4097, 0), (1, -1), (1, 2**63)])
def test_bad_numbers_never_reach_the_emulator(
    num_envs: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AtariVectorEnv, "__init__", lambda *_, **__: pytest.fail("reached"))
    with pytest.raises(EnvError, match="it must be from"):
        make("ALE/Pong-v5", num_envs, seed)


BAD_ACTIONS = [[0, 6], [-1, 0], [0.0, 1.0], [np.nan, 0], [0], [[0], [0]], ["0", "1"], [True, False]]


def test_bad_actions_neither_hang_nor_harm() -> None:
    env = make("ALE/Pong-v5", 2, options=EnvOptions(timeout=LIMIT))
    env.reset()
    for bad in BAD_ACTIONS:
        with pytest.raises(EnvError, match="action"):
            env.send(np.array(bad))
    assert step(env, [0, 5]).episode_length.tolist() == [1, 1]
    assert step(env, np.array([0, 5], np.uint8)).episode_length.tolist() == [2, 2]
    env.close()


def test_a_rollout_follows_from_the_seed_for_any_number_of_threads() -> None:
    rollouts = []
    for threads, seed in ((1, 1), (3, 1), (0, 1), (0, 2)):
        env = make("ALE/Breakout-v5", 3, seed, replace(SHORT, threads=threads, max_frames=300))
        rollouts.append(play(env, 120))
        env.close()
    first, *others, foreign = rollouts
    assert sum(row.game_over.sum() for row in first) >= 3
    for other in others:
        for t, (row, twin) in enumerate(zip(first, other, strict=True)):
            assert_same(row, twin, f"at row {t}")
    assert any((row.obs != twin.obs).any() for row, twin in zip(first, foreign, strict=True))


def test_an_env_does_not_depend_on_its_neighbours() -> None:
    envs = [make("ALE/Pong-v5", num, 4, SHORT) for num in (1, 3)]
    alone, three = (env.reset() for env in envs)
    rng = np.random.default_rng(0)
    for _ in range(60):
        np.testing.assert_array_equal(alone.obs[0], three.obs[0])
        action = rng.integers(6, size=3)
        alone, three = step(envs[0], action[:1]), step(envs[1], action)
    for env in envs:
        env.close()


def test_what_was_handed_out_stays() -> None:
    env = make("ALE/Breakout-v5", 2, 0, replace(SHORT, max_frames=200))
    choose, kept = chooser(env), []
    for t in range(120):
        row = env.reset() if t == 0 else step(env, choose())
        kept.append((row, Row(*(field.copy() for field in row))))
    for t, (row, copy) in enumerate(kept):
        assert_same(row, copy, f"at row {t}")
    env.close()


def test_the_stack_is_the_single_frames_with_zeros_before_the_first() -> None:
    options = EnvOptions(max_frames=160)
    stacked = make("ALE/Breakout-v5", 2, 3, options)
    single = make("ALE/Breakout-v5", 2, 3, replace(options, stack=1))
    frames = np.zeros((2, 4, 84, 84), np.uint8)
    ends = 0
    for row, one in zip(play(stacked, 100), play(single, 100), strict=True):
        frames[row.first] = 0
        frames = np.concatenate([frames[:, 1:], one.obs], axis=1)
        np.testing.assert_array_equal(row.obs, frames)
        ends += row.first.sum()
    assert ends > 4
    assert single.observation_space.shape == (1, 84, 84)
    for env in (stacked, single):
        env.close()


@pytest.mark.parametrize("life_loss", [True, False])
def test_lives_are_lost_in_breakout(life_loss: bool) -> None:
    env = make("BreakoutNoFrameskip-v4", 2, 2, EnvOptions(life_loss=life_loss))
    rows = play(env, 600)
    over = np.stack([r.game_over for r in rows])  # [T, B]
    ended, first = np.stack([r.terminated for r in rows]), np.stack([r.first for r in rows])
    reward = np.stack([r.reward for r in rows])
    assert not any(r.truncated.any() for r in rows)
    np.testing.assert_array_equal(over[:-1], first[1:])
    for i in range(2):
        ends = np.flatnonzero(over[:, i])
        assert len(ends) >= 2
        begin = 0
        for end in ends:
            lost = ended[begin : end + 1, i].sum()
            assert lost == (5 if life_loss else 1)  # the last of the five lives is the game
            assert rows[end].episode_return[i] == reward[begin : end + 1, i].sum()
            assert rows[end].episode_length[i] == end - begin
            begin = end + 1
    assert reward.max() >= 1
    env.close()


def test_rewards_are_not_clipped() -> None:
    env = make("ALE/SpaceInvaders-v5", 2, 0)
    rows = play(env, 120)
    assert max(row.reward.max() for row in rows) >= 5
    env.close()


def test_max_frames_cuts_a_game() -> None:
    env = make("ALE/Pong-v5", 2, 0, EnvOptions(max_frames=400, noop_max=0))
    rows = play(env, 220)
    ends = [t for t, row in enumerate(rows) if row.game_over[0]]
    assert len(ends) >= 2
    for t in ends:
        assert rows[t].truncated[0]
        assert not rows[t].terminated[0]
        assert 400 / 4 - 3 <= rows[t].episode_length[0] <= 400 / 4
        assert rows[t + 1].first[0]
    env.close()


def test_frameskip_and_stickiness_change_the_game() -> None:
    def rollout(**options: Any) -> np.ndarray:
        env = make("ALE/Pong-v5", 1, 0, EnvOptions(noop_max=0, **options))
        rows = play(env, 60)
        env.close()
        return np.stack([row.obs for row in rows])

    plain = rollout()
    np.testing.assert_array_equal(plain, rollout())
    assert (plain != rollout(frameskip=2)).any()
    assert (plain != rollout(sticky=0.0)).any()


def when(env: VectorEnv, moment: str) -> tuple[Row, Any]:
    """Plays on to a moment worth a stop."""
    choose, row = chooser(env, 9), env.reset()
    reached = {
        "at the first row": lambda t: True,
        "early": lambda t: t == 3,
        "with a reset pending": lambda t: row.game_over.any() and not row.game_over.all(),
        "right after a reset": lambda t: t > 0 and row.first.any(),
        "after a lost life": lambda t: (row.terminated & ~row.game_over).any(),
        "late": lambda t: t == 450,
    }[moment]
    t = 0
    while not reached(t):
        row, t = step(env, choose()), t + 1
        assert t < 3000
    return row, choose


@pytest.mark.parametrize(
    ("env_id", "moment"),
    [
        ("ALE/Pong-v5", "at the first row"),
        ("ALE/Pong-v5", "early"),
        ("ALE/Pong-v5", "with a reset pending"),
        ("ALE/Breakout-v5", "with a reset pending"),
        ("ALE/Breakout-v5", "right after a reset"),
        ("ALE/Breakout-v5", "after a lost life"),
        ("ALE/Breakout-v5", "late"),
        ("BreakoutNoFrameskip-v4", "late"),
    ],
)
def test_a_resumed_game_goes_on_as_if_never_stopped(env_id: str, moment: str) -> None:
    env, resumed = (make(env_id, 2, 6, EnvOptions(life_loss=True)) for _ in "ab")
    row, choose = when(env, moment)
    if moment == "late":
        assert len(set(row.episode_length.tolist())) > 1  # not in step with each other
    resumed.load_state_dict(through_json(env.state_dict()), row)
    ends = 0
    for t in range(100):
        actions = choose()
        expected = step(env, actions)
        assert_same(step(resumed, actions), expected, f"{t} rows on")
        ends += expected.terminated.sum()
    assert ends or "Pong" in env_id
    env.close()
    resumed.close()


def gray(picture: np.ndarray) -> np.ndarray:
    """[84, 84] of a picture [210, 160, 3], by the mean of what falls into each pixel's place."""
    luma = picture @ np.array([0.299, 0.587, 0.114])
    rows = np.eye(84)[np.arange(210) * 84 // 210].T  # [84, 210]
    columns = np.eye(84)[np.arange(160) * 84 // 160]  # [160, 84]; some get one pixel, some two
    return rows @ luma @ columns / (rows.sum(axis=1)[:, None] * columns.sum(axis=0))


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "ALE/Breakout-v5"])
def test_the_picture_stays_in_step_with_the_game(env_id: str) -> None:
    """The newest frame is nearer to its picture than to that of another time or another env."""
    env = make(env_id, 2, 1, EnvOptions(max_frames=600), render=True)
    choose, row = chooser(env), env.reset()
    before = env.render(0)
    assert (before.shape, before.dtype) == ((210, 160, 3), np.uint8)
    moved = 0
    for t in range(280):
        row = step(env, choose())
        picture = env.render(0)
        if t > 160 or row.first[0]:
            newest = row.obs[0, -1].astype(float)
            off = np.abs(gray(picture) - newest).mean()
            assert off < 3
            if (picture != before).sum() > 100:
                moved += 1
                assert off < np.abs(gray(before) - newest).mean()
        before = picture
    assert moved > 10
    assert (env.render(1) != env.render(0)).any()
    env.close()


def test_the_picture_does_not_change_the_game() -> None:
    options = EnvOptions(max_frames=200)
    envs = [make("ALE/Breakout-v5", 2, 1, options, render=render) for render in (True, False)]
    for t, (row, other) in enumerate(zip(*(play(env, 100) for env in envs), strict=True)):
        assert_same(row, other, f"at row {t}")
    with pytest.raises(EnvError, match="render=True"):
        envs[1].render(0)
    for env in envs:
        env.close()


def test_closing_within_a_step_is_no_crash() -> None:
    env = make("ALE/Pong-v5", 2, render=True)
    env.reset()
    env.send(np.zeros(2, int))
    env.close()
    env.close()


def test_the_episode_s_seed_is_the_emulator_s() -> None:
    """The backend, given the episode's seed itself, shows what the stream shows."""
    env = make("ALE/Pong-v5", 1, 8)
    protocol = resolve("ALE/Pong-v5")
    assert protocol is not None
    backend = AtariBackend(protocol, 1)
    seeds = np.array([episode_seed(8, 0, 0)])
    np.testing.assert_array_equal(env.reset().obs, backend.reset(np.ones(1, bool), seeds))
    for action in (2, 3, 0, 5):
        backend.send(np.array([action]))
        np.testing.assert_array_equal(step(env, [action]).obs, backend.recv().obs)
    env.close()
    backend.close()
