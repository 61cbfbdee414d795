"""Progress, the time left, and the limit of games that never end."""

import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ludus.cli.main import main
from ludus.envs.errors import TrainingStopped
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.evaluate import evaluate, step_limit
from ludus.training.progress import Bar, task
from ludus.training.run import TrainOptions
from ludus.training.train import resume_session, start_session

_MODULE = """
import gymnasium
import numpy as np

class Endless(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.taken = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.taken += 1
        return np.full(1, self.taken, np.float32), float(self.taken), False, False, {}

gymnasium.register("Endless-v0", entry_point="endless_of_the_test:Endless")
"""
_ENDLESS = "endless_of_the_test:Endless-v0"


@pytest.fixture(scope="module", autouse=True)
def _importable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / "endless_of_the_test.py").write_text(_MODULE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns."""
    clock = SimpleNamespace(now=1000.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr("ludus.training.progress.time", fake)
    return clock


def test_neither_speed_nor_time_left_counts_an_evaluation(clock, capsys):
    bar = Bar("x", 1_000, 0, False)
    clock.now += 10
    bar.update(100, None)
    clock.now += 60 + 10
    bar.exclude(60)
    bar.update(200, 1.5)
    clock.now += 10
    bar.update(300, 1.5, due=lambda *_: (600, ""))
    clock.now += 10
    bar.update(400, 1.5, due=lambda *_: (0, "1 evaluation"))
    assert capsys.readouterr().err.splitlines() == [
        "x: 100 of 1,000 steps, 10 steps/s, return -, 90 s left",
        "x: 200 of 1,000 steps, 10 steps/s, return 1.5, 80 s left",
        "x: 300 of 1,000 steps, 10 steps/s, return 1.5, 11 min left",
        "x: 400 of 1,000 steps, 10 steps/s, return 1.5, 60 s left and 1 evaluation",
    ]


def test_a_task_has_progress_of_its_own(clock, capsys):
    with task("video", 50, "steps") as show, task("x", 1, "games", quiet=True) as quiet:
        for done in (0, 10, 20):
            show(done, "")
            clock.now += 20
            show(done, "so far")
            quiet(0, "")
    assert capsys.readouterr().err.splitlines() == [
        "video: 0 of 50 steps, so far",
        "video: 10 of 50 steps, so far, 3 min left",  # 10 steps took 40 s
        "video: 20 of 50 steps, so far, 90 s left",
    ]


def _session(root, env_id="CartPole-v1", quiet=True, agent="random", **options):
    t = TrainOptions(num_envs=2, **options)
    return start_session(agent, env_id, t, EnvOptions(), None, root, quiet=quiet)


@pytest.mark.parametrize(
    ("agent", "every", "first"),
    [
        ("random", 0, 1),
        ("random", 30, 4),
        pytest.param("random", 40, 3, marks=pytest.mark.slow),
        ("sb3:a2c", 30, 4),
    ],
)
def test_the_time_left_counts_every_evaluation_that_will_be(
    tmp_path, monkeypatch, agent, every, first
):
    monkeypatch.setattr("ludus.training.film.record_gif", lambda *_, **__: b"")
    session = _session(
        tmp_path, agent=agent, steps=120, eval_every=every, eval_episodes=1, video_every=50
    )
    shown, show = [], session._show

    def record(env_steps):
        session.log.bar.update = lambda done, score, due, left: shown.append(due(done, 120))
        session._due.seconds = {"evaluation": 7.0}
        show(env_steps)

    session._show = record
    session.run_to_end()
    assert len(session.run.evaluations()) == first
    last = 7.0 if 120 % (every or 120) or first == 1 else 0.0
    assert [later for later, _ in shown][:: len(shown) - 1] == [7.0 * first, last]
    assert shown[0][1] == "3 videos"  # at 50, at 100 and at the end
    assert shown[-1][1] == "1 video"
    assert all(one[0] >= next_one[0] for one, next_one in pairwise(shown))


def test_an_evaluation_and_a_video_show_their_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ludus.training.progress._PLAIN_SECONDS", 0.0)
    _session(
        tmp_path, quiet=False, steps=60, eval_every=40, eval_episodes=3, video_every=50
    ).run_to_end()
    err = capsys.readouterr().err
    assert re.search(
        r"random CartPole-v1: evaluation: [12] of 3 games, \d+ steps, \d+ s left\n", err
    )
    assert re.search(r"random CartPole-v1: video: 1 of 30 steps, \d+ s left\n", err)
    assert re.search(r"\d+ of 60 steps, \d+ steps/s, return [-\d.]+, \d+ s left", err)


class _Same:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros(len(observation), np.int64), None


@pytest.mark.parametrize(("limit", "chosen"), [(17, 17), (9, 0)])
def test_a_game_that_never_ends_is_truncated(monkeypatch, limit, chosen):
    monkeypatch.setattr("ludus.evaluation.evaluate.MAX_EPISODE_STEPS", 9)
    options = EnvOptions()
    result = evaluate(_Same(), _ENDLESS, options, episodes=5, num_envs=2, max_episode_steps=chosen)
    assert (result.lengths, result.truncated, result.limit) == ([limit] * 5, 5, limit)
    assert result.returns == [limit * (limit + 1) / 2] * 5  # each begins anew


def test_a_limit_of_its_own_counts_and_another_may_be_set():
    cart, atari = (make(name, 1) for name in ("CartPole-v1", "ALE/Pong-v5"))
    board, minatar = (make(name, 1) for name in ("tic_tac_toe", "MinAtar/Breakout-v1"))
    limits = [step_limit(env.protocol) for env in (cart, atari, board, minatar)]
    assert limits == [None, None, None, 108_000]
    assert [step_limit(env.protocol, 7) for env in (cart, atari, board)] == [7, 7, None]
    games = evaluate(_Same(), "CartPole-v1", EnvOptions(), episodes=4, max_episode_steps=9)
    free = evaluate(_Same(), "CartPole-v1", EnvOptions(), episodes=4)
    assert free.lengths.count(9) > 0  # these end by themselves at the limit
    assert games.lengths == [min(9, length) for length in free.lengths]
    assert games.truncated == sum(length > 9 for length in free.lengths)
    assert free.truncated == 0


def test_a_limit_is_said_and_so_is_reaching_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ludus.evaluation.evaluate.MAX_EPISODE_STEPS", 25)
    session = _session(tmp_path, _ENDLESS, quiet=False, steps=4, eval_episodes=3, video_every=0)
    session.run_to_end()
    err = capsys.readouterr().err
    assert f"{_ENDLESS} has no time limit; an evaluation truncates a game after 25 steps" in err
    assert "3 of 3 games of the evaluation reached 25 steps and were truncated\n" in err
    words = ["evaluate", str(session.run.path), "--episodes", "2", "--max-episode-steps", "12"]
    with pytest.raises(SystemExit):
        main(words)
    out, err = capsys.readouterr()
    assert "2 games: mean 78.0" in out
    assert err == "2 of 2 games of the evaluation reached 12 steps and were truncated\n"
    with pytest.raises(SystemExit):
        main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["truncated"] == 2


def test_the_replay_of_a_long_episode_shows_its_progress_and_can_be_stopped(
    tmp_path, monkeypatch, capsys
):
    session = _session(
        tmp_path, _ENDLESS, steps=40, eval_episodes=0, video_every=0, checkpoint_seconds=0.0
    )
    after = session.after_step

    def stop_halfway(**when):
        if session.agent.env_steps >= 20:
            session._signals.received = 15
        return after(**when)

    session.after_step = stop_halfway
    with pytest.raises(TrainingStopped):
        session.run_to_end()
    monkeypatch.setattr("ludus.training.progress._PLAIN_SECONDS", 0.0)
    for stopped in (True, False):
        again = resume_session(session.run, quiet=False)
        capsys.readouterr()
        again._signals.received = 1 if stopped else None
        if stopped:
            with pytest.raises(TrainingStopped, match=r"SIGHUP at .* go on with: ludus train"):
                again.run_to_end()
        else:
            again.run_to_end()
        err = capsys.readouterr().err
        replayed = re.findall(r"replay of the running episodes: (\d+) of (\d+) steps", err)
        assert len(replayed) == (1 if stopped else int(replayed[0][1]))
    assert session.run.status().state == "finished"
    assert Path(again.run.path) == session.run.path
