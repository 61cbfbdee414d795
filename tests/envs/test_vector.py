"""The stream contract on a backend in memory, whose every number is known."""

import subprocess
import sys
from pathlib import Path
from queue import Empty
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from env_fakes import LIMIT, Fake, assert_same, chooser, hang, step, stream, through_json
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from ludus.envs.deadline import Deadline, waits
from ludus.envs.errors import EnvError
from ludus.envs.vector import BackendStep, episode_seed


def test_the_final_observation_is_in_the_stream_and_the_next_row_is_the_reset() -> None:
    env = stream(Fake([2, 3]))
    rows = [env.reset(), *(step(env, [a, a]) for a in (0, 1, 2, 3, 0))]
    assert [r.obs[:, 0].tolist() for r in rows] == [[0, 0], [1, 1], [2, 2], [0, 3], [1, 0], [2, 1]]
    assert [r.first.tolist() for r in rows] == [
        [True, True],
        [False, False],
        [False, False],
        [True, False],
        [False, True],
        [False, False],
    ]
    assert [r.game_over.tolist() for r in rows] == [
        [False, False],
        [False, False],
        [True, False],
        [False, True],
        [False, False],
        [True, False],
    ]
    # action a pays a + 1, and the action of a reset row nothing
    assert [r.reward.tolist() for r in rows] == [[0, 0], [1, 1], [2, 2], [0, 3], [4, 0], [1, 1]]
    assert [r.episode_return.tolist() for r in rows] == [
        [0, 0],
        [1, 1],
        [3, 3],
        [0, 6],
        [4, 0],
        [5, 1],
    ]
    assert [r.episode_length.tolist() for r in rows] == [
        [0, 0],
        [1, 1],
        [2, 2],
        [0, 3],
        [1, 0],
        [2, 1],
    ]
    for row in rows:
        assert row.reward.dtype == np.float32
        assert row.episode_return.dtype == np.float64


def test_an_ignored_action_is_not_recorded() -> None:
    env = stream(Fake([2]))
    env.reset()
    for action in (1, 2, 3, 0):  # 3 is ignored
        step(env, [action])
    assert env.state_dict()["actions"].tolist() == [[0]]


def test_what_a_reset_row_says_is_kept_from_the_backend() -> None:
    """Stepped on after its end, the backend may say anything: reward, ends, lost lives, NaN."""

    class Wild(Fake):
        def recv(self) -> BackendStep:
            raw, wild = super().recv(), self.time > self.lengths
            raw.obs[wild], raw.reward[wild] = np.nan, np.inf
            return raw._replace(
                terminated=raw.terminated | wild,
                truncated=raw.truncated | wild,
                life_lost=raw.life_lost | wild,
            )

    env = stream(Wild([1]), life_loss=True)
    env.reset()
    assert step(env, [0]).game_over.all()
    row = step(env, [0])
    assert (row.reward, row.first) == (0, True)
    assert not (row.terminated | row.truncated | row.game_over).any()


@pytest.mark.parametrize("life_loss", [True, False])
def test_a_lost_life_ends_for_the_learner_only(life_loss: bool) -> None:
    env = stream(Fake([4]), life_loss=life_loss)
    rows = [env.reset(), *(step(env, [1]) for _ in range(5))]
    assert [bool(r.terminated[0]) for r in rows] == [False, False, life_loss, False, True, False]
    assert [bool(r.game_over[0]) for r in rows] == [False, False, False, False, True, False]
    assert [bool(r.first[0]) for r in rows] == [True, False, False, False, False, True]
    assert not any(r.truncated[0] for r in rows)
    assert [r.episode_return[0] for r in rows] == [0, 2, 4, 6, 8, 0]
    assert [r.episode_length[0] for r in rows] == [0, 1, 2, 3, 4, 0]


def test_a_cut_game_is_over_and_truncated_but_not_terminated() -> None:
    env = stream(Fake([2, 2], cut=[True, False]))
    env.reset()
    step(env, [0, 0])
    row = step(env, [0, 0])
    assert row.game_over.tolist() == [True, True]
    assert row.truncated.tolist() == [True, False]
    assert row.terminated.tolist() == [False, True]


def test_rewards_are_raw_and_summed_in_double() -> None:
    class Rich(Fake):
        def recv(self) -> BackendStep:
            raw = super().recv()
            return raw._replace(reward=np.full(1, 2.0**24 if self.time[0] == 1 else 1, "f4"))

    env = stream(Rich([9]))
    env.reset()
    rows = [step(env, [0]) for _ in range(3)]
    assert rows[0].reward[0] == 2**24
    assert rows[2].episode_return[0] == 2**24 + 2  # float32 would have stood still


def test_each_episode_has_a_seed_of_its_own() -> None:
    fake = Fake([2, 3])
    env = stream(fake, seed=7)
    env.reset()
    for _ in range(9):
        step(env, [0, 0])
    numbers = [0, 0]
    for envs, seeds in fake.resets:
        for i, seed in zip(envs, seeds, strict=True):
            assert seed == episode_seed(7, i, numbers[i])
            numbers[i] += 1
    assert numbers == [4, 3]


@given(st.integers(0, 2**63 - 1), st.integers(0, 4095), st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_episode_seeds_are_31_bits_and_differ(seed: int, index: int, episode: int) -> None:
    here = episode_seed(seed, index, episode)
    assert here == episode_seed(seed, index, episode)
    assert 0 <= here < 2**31
    others = {
        episode_seed(seed, index, episode + 1),
        episode_seed(seed, index + 1, episode),
        episode_seed(seed ^ 1, index, episode),
    }
    assert others != {here}


def test_episode_seeds_stay_what_they_are() -> None:
    """Golden: a change would make every saved run unresumable."""
    assert [episode_seed(0, 0, 0), episode_seed(1, 2, 3)] == [1484405855, 1911094848]


def test_reset_over_resets_those_whose_game_is_over() -> None:
    fake = Fake([2, 3])
    env = stream(fake)
    env.reset()
    step(env, [0, 0])
    row = step(env, [0, 0])
    assert row.game_over.tolist() == [True, False]
    obs = env.reset_over()
    with pytest.raises(EnvError, match="no game is over"):
        env.reset_over()
    assert obs[:, 0].tolist() == [0, 2]
    assert row.obs[:, 0].tolist() == [2, 2]  # what was handed out stays
    row = step(env, [3, 0])  # this action counts
    assert (row.first.tolist(), row.reward.tolist()) == ([False, False], [4, 1])
    assert row.episode_length.tolist() == [1, 3]
    assert row.game_over.tolist() == [False, True]


def test_reset_forgets_a_game_that_was_over() -> None:
    env = stream(Fake([1, 5]))
    env.reset()
    assert step(env, [0, 0]).game_over[0]
    assert env.reset().first.all()
    row = step(env, [2, 2])
    assert row.reward.tolist() == [3, 3]
    assert not row.first.any()


def test_what_was_handed_out_stays() -> None:
    env = stream(Fake([2, 3]), life_loss=True)
    rows, copies = [], []
    for t in range(12):
        rows.append(env.reset() if t == 0 else step(env, [t % 4, 0]))
        copies.append(type(rows[-1])(*(field.copy() for field in rows[-1])))
    for t, (row, copy) in enumerate(zip(rows, copies, strict=True)):
        assert_same(row, copy, f"at row {t}")


def test_calls_out_of_turn_are_refused() -> None:
    env = stream(Fake([9]))
    with pytest.raises(EnvError, match="before reset"):
        env.send(np.zeros(1, int))
    env.reset()
    with pytest.raises(EnvError, match="without a send"):
        env.recv()
    env.send(np.zeros(1, int))
    for call in (env.reset, env.reset_over, env.state_dict, lambda: env.send(np.zeros(1, int))):
        with pytest.raises(EnvError, match="between send and recv"):
            call()
    assert env.recv().reward[0] == 1  # none of this did harm


def test_a_closed_env_says_so_and_closes_once() -> None:
    fake = Fake([9])
    env = stream(fake)
    env.reset()
    env.send(np.zeros(1, int))
    env.close()
    env.close()
    assert fake.closed == 1
    with pytest.raises(EnvError, match="closed"):
        env.recv()
    with pytest.raises(EnvError, match="closed"):
        env.reset()


BAD_DISCRETE = [
    np.array([0, 4]),
    np.array([-1, 0]),
    np.array([0, 2**62]),
    np.array([0, 2**64 - 1], np.uint64),
    np.array([0.0, 1.0]),
    np.array([np.nan, 0]),
    np.array([True, False]),
    np.array(["0", "1"]),
    np.array([0, None]),
    np.array([0]),
    np.array([[0], [1]]),
    np.array(0),
]


@pytest.mark.parametrize("actions", BAD_DISCRETE, ids=repr)
def test_bad_actions_never_reach_the_backend(actions: np.ndarray) -> None:
    env = stream(Fake([9, 9]))
    env.reset()
    with pytest.raises(EnvError, match=r"action"):
        env.send(actions)
    assert step(env, [0, 3]).reward.tolist() == [1, 4]  # a good one is taken afterwards


def test_a_bad_action_is_named_with_its_env() -> None:
    env = stream(Fake([9, 9, 9]))
    env.reset()
    with pytest.raises(EnvError, match=r"action 4 for env 1 is outside Discrete\(4\) of fake"):
        env.send(np.array([0, 4, 5]))


@pytest.mark.parametrize("actions", [[[0.0, np.nan]], [[0, 1.5]], [[np.inf, 0]], [["a", "b"]]])
def test_bad_numbers_in_a_box_are_refused(actions: Any) -> None:
    class Steered(Fake):
        def __init__(self) -> None:
            super().__init__([9])
            self.action_space = spaces.Box(
                np.array([-np.inf, -1], "f4"), np.array([np.inf, 1], "f4")
            )

    env = stream(Steered())
    env.reset()
    with pytest.raises(EnvError, match="action"):
        env.send(np.array(actions))


def test_the_bound_of_a_double_box_may_be_reached_in_single_precision() -> None:
    """float32(0.1) is above float64(0.1)."""

    class Steered(Fake):
        def __init__(self) -> None:
            super().__init__([9])
            self.action_space = spaces.Box(-0.1, 0.1, (1,), np.float64)

    env = stream(Steered())
    env.reset()
    env.send(np.full((1, 1), 0.1, np.float32))


def test_an_unsupported_action_space_is_refused_and_the_backend_closed() -> None:
    fake = Fake([9])
    fake.action_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])
    with pytest.raises(EnvError, match="not supported"):
        stream(fake, trusted=False)
    assert fake.closed == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda raw: raw._replace(reward=np.array([0, np.nan, 0], "f4")), "reward nan"),
        (lambda raw: raw._replace(reward=np.array([0, -np.inf, 0], "f4")), "reward -inf"),
        (lambda raw: raw.obs.__setitem__((1, 0), np.nan) or raw, "observation .*nan"),
        (lambda raw: raw.obs.__setitem__((1, 0), np.inf) or raw, "observation .*inf"),
    ],
)
def test_a_number_that_is_none_is_blamed_on_its_env(change: Any, what: str) -> None:
    class Broken(Fake):
        def recv(self) -> BackendStep:
            raw = super().recv()
            return change(raw) if self.time[0] == 2 else raw

    env = stream(Broken([9, 9, 9]))
    env.reset()
    step(env, [0, 0, 0])
    seed = episode_seed(3, 1, 0)
    with pytest.raises(EnvError, match=rf"env 1 \(action 2, seed {seed}, step 1\).*{what}") as info:
        step(env, [0, 2, 3])
    assert info.value.index == 1
    with pytest.raises(EnvError, match="cannot go on"):
        env.reset()


@pytest.mark.parametrize("obs", [np.zeros((3, 2), "f4"), np.zeros((3, 3), "f8")])
def test_an_observation_that_does_not_fit_is_refused(obs: np.ndarray) -> None:
    class Broken(Fake):
        def recv(self) -> BackendStep:
            return super().recv()._replace(obs=obs)

    env = stream(Broken([9, 9, 9]))
    env.reset()
    with pytest.raises(EnvError, match="its space promises float32"):
        step(env, [0, 0, 0])


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("where", ["reset", "send", "recv"])
def test_what_a_backend_raises_becomes_one_error(where: str, trusted: bool) -> None:
    class Raising(Fake):
        def fail(self, *_: Any) -> Any:
            raise ValueError("out\nof  luck")

    fake = Raising([1] * 10)
    env = stream(fake, trusted=trusted)
    env.reset()
    step(env, [3] * 10)
    setattr(fake, where, fake.fail)
    with pytest.raises(EnvError, match="raised ValueError: out of luck") as info:
        step(env, [3] * 10)
    assert "and 2 more" in str(info.value)  # nobody knows which of them, and ten would be too many
    assert ("at its reset" if where == "reset" else "action 3") in str(info.value)
    assert isinstance(info.value.__cause__, ValueError)
    with pytest.raises(EnvError, match="out of luck"):
        env.send(np.zeros(10, int))
    env.close()


@pytest.mark.parametrize("where", ["reset", "recv"])
def test_a_hung_backend_is_given_up_on(where: str) -> None:
    fake = Fake([9])
    env = stream(fake, trusted=False)
    env.reset()
    setattr(fake, where, hang)
    env.timeout = 0.1
    with pytest.raises(EnvError, match=r"env 0 .*gave no answer after 0.1 s"):
        env.reset() if where == "reset" else step(env, [0])
    with pytest.raises(EnvError, match="cannot go on"):
        env.reset()
    env.close()


def test_a_hung_backend_does_not_hang_the_exit() -> None:
    script = """
from env_fakes import Fake, step, stream
from ludus.envs.errors import EnvError
env = stream(Fake([9], hang=True), trusted=False)
env.reset()
env.timeout = 0.1
try:
    step(env, [0])
except EnvError as error:
    print(error)
"""
    command = [sys.executable, "-c", script]
    here = Path(__file__).parent
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=here)
    assert "gave no answer" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_an_emulator_that_was_given_up_on_does_not_abort_the_exit(tmp_path: Path) -> None:
    """Its call returns while the interpreter ends."""
    for _ in range(3):
        command = [sys.executable, "-m", "ludus", "train", "random", "ALE/Pong-v5", "--steps", "9"]
        command += ["--timeout", "1e-6", "--run-dir", str(tmp_path), "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "gave no answer after 1e-06 s" in done.stderr


def test_the_time_for_which_a_process_is_stopped_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr("ludus.envs.deadline.time.monotonic", lambda: clock[0])
    given = []
    for wait in waits(3.5):
        given.append(wait)
        clock[0] += 1000.0 if len(given) == 2 else wait / 2 if len(given) == 3 else wait
    # the second wait is stopped for long and counts as one second, the third ends early
    assert given == [1.0, 1.0, 1.0, 1.0]
    assert list(waits(0.0)) == []


def test_a_call_may_be_stopped_for_longer_than_its_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jumps = iter(range(0, 10**9, 1000))  # each look at the clock is 1,000 s later
    monkeypatch.setattr("ludus.envs.deadline.time.monotonic", lambda: float(next(jumps)))
    answer, waited = Event(), []

    def slow() -> int:
        answer.wait(LIMIT)
        return 7

    deadline = Deadline()
    get = deadline._results.get

    def get_late(timeout: float) -> Any:
        """Nothing comes in two waits; then the call returns."""
        waited.append(timeout)
        if len(waited) < 3:
            raise Empty
        answer.set()
        return get(timeout=LIMIT)

    monkeypatch.setattr(
        deadline, "_results", SimpleNamespace(get=get_late, put=deadline._results.put)
    )
    assert deadline.run(slow, 60.0) == 7
    assert waited == [1.0, 1.0, 1.0]
    deadline.end()


def test_the_deadline_leaves_the_stream_as_it_is() -> None:
    rows = []
    for trusted in (True, False):
        env = stream(Fake([2, 5], cut=[False, True]), life_loss=True, trusted=trusted)
        choose = chooser(env)
        rows.append([env.reset(), *(step(env, choose()) for _ in range(20))])
        env.close()
    for t, (row, other) in enumerate(zip(*rows, strict=True)):
        assert_same(row, other, f"at row {t}")


def test_pictures_are_of_the_env_that_was_asked_for() -> None:
    env = stream(Fake([9, 9]))
    assert (env.render(1) == 1).all()
    for index in (-1, 2):
        with pytest.raises(EnvError, match="has no env"):
            env.render(index)


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.integers(0, 25),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_resumed_stream_goes_on_as_if_never_stopped(
    lengths: list[int], before: int, cut: bool, seed: int
) -> None:
    def begin() -> Any:
        return stream(Fake(lengths, cut=[cut] * len(lengths)), life_loss=True)

    env = begin()
    choose, row = chooser(env, seed), env.reset()
    for _ in range(before):
        row = step(env, choose())
    resumed = begin()
    resumed.load_state_dict(through_json(env.state_dict()), row)
    for t in range(15):
        actions = choose()
        assert_same(step(resumed, actions), step(env, actions), f"{t} rows on")
    mine, theirs = resumed.state_dict(), env.state_dict()
    assert mine.keys() == theirs.keys()
    for key in mine:
        np.testing.assert_array_equal(mine[key], theirs[key])


def test_a_used_env_is_rebuilt_too() -> None:
    env, used = stream(Fake([3, 5])), stream(Fake([3, 5]))
    row = env.reset()
    for _ in range(5):
        row = step(env, [1, 2])
    used.reset()
    for _ in range(3):
        step(used, [3, 3])
    used.load_state_dict(env.state_dict(), row)
    for _ in range(8):
        assert_same(step(used, [2, 1]), step(env, [2, 1]))


def test_a_state_holds_nothing_of_episodes_before() -> None:
    env = stream(Fake([9, 3]))
    env.reset()
    for _ in range(5):  # env 1: three steps, a reset, one step
        step(env, [3, 3])
    assert env.state_dict()["length"].tolist() == [5, 1]
    assert env.state_dict()["actions"].T.tolist() == [[3, 3, 3, 3, 3], [3, 0, 0, 0, 0]]


def test_more_steps_than_the_history_first_holds() -> None:
    env, resumed = stream(Fake([3000, 7])), stream(Fake([3000, 7]))
    choose, row = chooser(env), env.reset()
    for _ in range(2100):
        row = step(env, choose())
    resumed.load_state_dict(env.state_dict(), row)
    assert resumed.state_dict()["actions"].shape == (2100, 2)
    assert_same(step(resumed, [0, 0]), step(env, [0, 0]))


@pytest.mark.parametrize("what", ["observation", "return"])
def test_dynamics_that_do_not_follow_from_the_seed_are_refused(what: str) -> None:
    class Moody(Fake):
        count = 0

        def recv(self) -> BackendStep:
            raw, Moody.count = super().recv(), Moody.count + 1
            if what == "observation":
                raw.obs[1, 1] += Moody.count
            else:
                raw.reward[1] += Moody.count
            return raw

    env, resumed = stream(Moody([9, 9])), stream(Moody([9, 9]))
    env.reset()
    step(env, [0, 0])
    row = step(env, [0, 0])
    with pytest.raises(EnvError, match=rf"env 1 of fake cannot be resumed.*{what}.*not follow"):
        resumed.load_state_dict(env.state_dict(), row)


def test_a_state_of_other_envs_is_refused() -> None:
    env = stream(Fake([9, 9]))
    row = env.reset()
    with pytest.raises(EnvError, match="the state is of 2 envs; fake has 3"):
        stream(Fake([9, 9, 9])).load_state_dict(env.state_dict(), row)
