"""The probe envs are sound, and their best returns are what their docstrings say."""

import gymnasium
import numpy as np
import pytest
from env_fakes import step
from gymnasium.utils.env_checker import check_env

from ludus.envs.make import make
from ludus.envs.vector import Row

PROBES = ["Identity", "DelayedReward", "Truncation", "Recall"]


@pytest.mark.filterwarnings("error")
@pytest.mark.filterwarnings("ignore:.*render:UserWarning")
@pytest.mark.parametrize("name", PROBES)
def test_gymnasium_finds_nothing_wrong(name: str) -> None:
    check_env(gymnasium.make(f"ludus/{name}-v0").unwrapped, skip_render_check=True)


def games(name: str, choose: "Choice", number: int = 12) -> list[tuple[float, int, Row]]:
    """Return, length and last row of that many games, played by `choose(obs, time, last)`."""
    env, done = make(f"ludus/{name}-v0", 4, 1), []
    row, opening = env.reset(), np.zeros(0)
    while len(done) < number:
        opening = np.where(row.first[:, None], row.obs, opening if opening.size else row.obs)
        actions = [choose(row.obs[i], opening[i]) for i in range(4)]
        row = step(env, actions)
        for i in np.flatnonzero(row.game_over):
            done.append((row.episode_return[i], row.episode_length[i], row))
    env.close()
    return done


class Choice:
    """Only to name the type: (obs, opening obs of the episode) -> action."""

    def __call__(self, obs: np.ndarray, opening: np.ndarray) -> int:
        raise NotImplementedError


def test_identity_pays_ten_at_best() -> None:
    best = games("Identity", lambda obs, opening: int(obs.argmax()))
    assert {(r, n) for r, n, _ in best} == {(10, 10)}
    blind = [r for r, _, _ in games("Identity", lambda obs, opening: 0, 80)]
    assert 1.5 < np.mean(blind) < 3.5  # a quarter of ten
    wrong = games("Identity", lambda obs, opening: (int(obs.argmax()) + 1) % 4)
    assert {r for r, _, _ in wrong} == {0}


def test_delayed_reward_pays_for_the_first_action_at_the_end() -> None:
    for first in (0, 1):
        for later in (0, 1):
            played = games("DelayedReward", lambda o, _, f=first, n=later: f if o[0] else n)
            assert {(r, n) for r, n, _ in played} == {(1 if first else -1, 8)}
    env = make("ludus/DelayedReward-v0", 1)
    env.reset()
    rows = [step(env, [1]) for _ in range(8)]
    assert [r.reward[0] for r in rows] == [0] * 7 + [1]
    assert [r.obs[0, -1] for r in rows] == [1] * 8  # the choice is shown, so the state is Markov


def test_truncation_cuts_at_five_and_ends_for_two() -> None:
    on = games("Truncation", lambda obs, opening: 0)
    assert {(r, n) for r, n, _ in on} == {(5, 5)}
    assert all((row.truncated == row.game_over).all() for _, _, row in on)
    assert not any(row.terminated.any() for _, _, row in on)
    end = games("Truncation", lambda obs, opening: 1)
    assert {(r, n) for r, n, _ in end} == {(2, 1)}
    assert not any(row.truncated.any() for _, _, row in end)


def test_recall_pays_who_remembers() -> None:
    best = games("Recall", lambda obs, opening: int(opening[0] > 0))
    assert {(r, n) for r, n, _ in best} == {(1, 4)}
    worst = games("Recall", lambda obs, opening: int(opening[0] < 0))
    assert {(r, n) for r, n, _ in worst} == {(-1, 4)}
    env = make("ludus/Recall-v0", 64, 2)
    assert set(env.reset().obs[:, 0]) == {-1, 1}
    for t in range(1, 4):
        row = step(env, [0] * 64)
        assert (row.obs[:, 0] == 0).all()  # nothing is left to see
        assert (row.obs[:, 1] == (t == 3)).all()  # and it is asked at the end
