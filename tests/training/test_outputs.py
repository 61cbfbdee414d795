"""Curves, videos, logs, run folders, and the agents' compatibility with SB3."""

import io
import json
from dataclasses import replace
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from ludus.agents import registry
from ludus.comparison.aggregates import smooth
from ludus.comparison.plots import learning_curves
from ludus.envs.errors import RunError
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import Row
from ludus.evaluation.playback import Playback
from ludus.evaluation.video import most_steps, record
from ludus.training.api import train
from ludus.training.logger import Episodes, Logger
from ludus.training.run import Run, TrainOptions
from ludus.training.train import load, resume_session


def _episodes(*games):
    return np.array([(steps, steps / 100, score, 10) for steps, score in games], float)


def test_smooth_is_the_mean_of_the_last_games():
    episodes = _episodes((10, 1.0), (20, 3.0), (30, 8.0))
    grid = np.array([0, 10, 19, 20, 30, 100])
    shown = smooth(episodes, grid, window=2)
    assert np.isnan(shown[0])
    assert shown[1:].tolist() == [1.0, 1.0, 2.0, 5.5, 5.5]


def test_curves_are_drawn_also_where_an_agent_finished_no_game(tmp_path):
    runs = {"a": [_episodes((10, 1.0), (90, 5.0)), _episodes((50, 2.0))], "b": [np.zeros((0, 4))]}
    learning_curves(runs, {"random": 1.5}, "title", tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 10_000


def _row(over, score, length):
    flags = np.array(over)
    none = np.zeros(len(over), bool)
    return Row(
        obs=np.zeros((len(over), 1)),
        reward=np.zeros(len(over)),
        first=none,
        terminated=none,
        truncated=none,
        game_over=flags,
        episode_return=np.array(score, float),
        episode_length=np.array(length),
        discount_sign=np.ones(len(over)),
    )


def test_a_log_counts_games_and_not_rows(tmp_path):
    log = Logger(tmp_path, "x", 100, 10, quiet=True)
    log.add_row(_row([False, False], [1, 2], [3, 4]), 5)
    assert log.mean_return is None
    log.add_row(_row([True, False], [7, 2], [30, 4]), 6)
    log.add_row(_row([True, True], [1, 4], [5, 6]), 9)
    assert log.mean_return == 4
    state = log.state_dict()
    log.close()
    steps_scores = Episodes.read(tmp_path / "episodes.csv")[:, [0, 2, 3]].tolist()
    assert steps_scores == [[6, 7, 30], [9, 1, 5], [9, 4, 6]]
    again = Logger(tmp_path, "x", 100, 10, quiet=True, state=state, done=9)
    assert again.mean_return == 4
    assert again.seconds >= state["seconds"]
    again.close()


def test_points_are_due_once_an_interval(tmp_path):
    log = Logger(tmp_path, "x", 100, 10, quiet=True)
    assert [step for step in (3, 8, 16, 24, 25, 61, 69, 70) if log.due(step)] == [16, 24, 61, 70]
    log.close()


def test_an_agent_trained_and_loaded_acts_alike_and_suits_sb3(tmp_path):
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    agent = train("dqn", "CartPole-v1", steps=2_000, seed=0, root=tmp_path, quiet=True)
    run = next(tmp_path.glob("*/*/*/config.json")).parent
    again = load(run)
    obs = np.random.default_rng(0).normal(0, 0.1, (64, 4)).astype(np.float32)
    ours, _ = agent.predict(obs, deterministic=True)
    theirs, _ = again.predict(obs, deterministic=True)
    assert np.array_equal(ours, theirs)
    mean, deviation = evaluate_policy(again, make_vec_env("CartPole-v1", 2, seed=0), 4)
    assert mean >= 8
    assert deviation >= 0


@pytest.mark.parametrize("agent", ["sb3:dqn", "sb3:ppo"])
def test_an_sb3_run_can_be_loaded_but_not_resumed(tmp_path, agent):
    trained = train(agent, "CartPole-v1", steps=600, seed=0, root=tmp_path, quiet=True)
    run = Run.open(next(tmp_path.glob("*/*/*/config.json")).parent)
    obs = np.random.default_rng(0).normal(0, 0.1, (64, 4)).astype(np.float32)
    same, _ = load(run.path).predict(obs, deterministic=True)
    assert np.array_equal(same, trained.predict(obs, deterministic=True)[0])
    with pytest.raises(RunError, match="cannot be resumed"):
        resume_session(run, quiet=True).run_to_end()
    assert run.status().state == "finished"


def test_a_run_says_what_it_was(tmp_path):
    more = TrainOptions(eval_episodes=0)
    train("dqn", "CartPole-v1", steps=300, seed=3, train_options=more, root=tmp_path, quiet=True)
    run = Run.open(next(tmp_path.glob("CartPole-v1/dqn/3-*")))
    record = json.loads((run.path / "config.json").read_text())
    assert record["versions"]["torch"]
    assert record["protocol"]["max_episode_steps"] == 500
    config = run.config()
    assert config.train == TrainOptions(steps=300, seed=3, eval_episodes=0, device="cpu")
    assert config.config == registry.preset("dqn", make("CartPole-v1", 1)).config
    (run.path / "config.json").write_text(json.dumps(record | {"train": {"stepz": 1}}))
    with pytest.raises(RunError, match="stepz"):
        run.config()


@pytest.mark.parametrize(
    ("env_id", "shape"),
    [("ALE/Pong-v5", (420, 320 + 320)), ("MinAtar/Breakout-v1", None), ("CartPole-v1", None)],
)
def test_a_video_shows_every_step(tmp_path, env_id, shape):
    agent = registry.build(
        replace(registry.preset("dqn", make(env_id, 1)).config, replay_size=1_000),
        make(env_id, 1),
        device=torch.device("cpu"),
        seed=0,
        steps=1_000,
    )
    _, length, _ = record(agent, env_id, EnvOptions(), tmp_path / "f.mp4", max_steps=40)
    with av.open(str(tmp_path / "f.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == length + 1
    assert shape is None or frames[0].shape[:2] == shape
    assert min(frames[0].shape[:2]) >= 200
    assert any((a != b).any() for a, b in pairwise(frames))
    assert list(tmp_path.iterdir()) == [tmp_path / "f.mp4"]


def _built(name, env_id):
    env = make(env_id, 1)
    config = registry.preset(name, env).config
    return registry.build(
        config, env, device=torch.device("cpu"), seed=0, steps=1_000, training=False
    )


def test_a_video_is_a_gif_too_and_its_panel_and_overlay_can_be_left_out(tmp_path):
    agent = _built("pqn", "MinAtar/Breakout-v1")
    first = {}
    for name, more in (
        ("all", {}),
        ("other", {"overlay": "perturbation"}),
        ("bare", {"overlay": "none", "panel": False}),
    ):
        path = tmp_path / f"{name}.gif"
        record(agent, "MinAtar/Breakout-v1", EnvOptions(), path, max_steps=5, **more)
        with Image.open(path) as video:
            assert video.n_frames == 6
            video.seek(3)
            first[name] = np.asarray(video.convert("RGB"))
    assert first["all"].shape[1] == 640  # picture and panel
    assert first["bare"].shape[0] == first["bare"].shape[1]
    assert (first["all"] != first["other"]).any()


def test_a_video_of_a_board_game_names_its_moves(tmp_path):
    game = _built("ppo", "tic_tac_toe")
    recording = record(game, "tic_tac_toe", EnvOptions(), tmp_path / "f.mp4")
    assert 5 <= recording.length <= 9


@pytest.mark.parametrize(("every", "videos"), [(0, []), (400, [400, 800])])
def test_tensorboard_gets_a_video_now_and_then(tmp_path, every, videos):
    more = TrainOptions(eval_episodes=0, video_every=every, num_envs=8)
    train("dqn", "CartPole-v1", steps=960, train_options=more, root=tmp_path, quiet=True)
    run = next(tmp_path.glob("*/*/*/config.json")).parent
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    tags = events.Tags()["images"]
    shown = events.Images("eval/game") if tags else []
    assert [event.step // 100 * 100 for event in shown] == videos  # the first row from there on
    for event in shown:
        with Image.open(io.BytesIO(event.encoded_image_string)) as video:
            assert video.format == "GIF"
            assert video.n_frames > 5


def test_an_env_whose_picture_is_broken_is_trained_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ludus.evaluation.playback.Playback.picture", lambda self: np.zeros((2, 2, 7))
    )
    more = TrainOptions(eval_episodes=0, video_every=100, num_envs=8)
    train("dqn", "CartPole-v1", steps=300, train_options=more, root=tmp_path, quiet=True)
    run = Run.open(next(tmp_path.glob("*/*/*/config.json")).parent)
    assert run.status().state == "finished"


@pytest.mark.parametrize(("agent", "steps"), [("dqn", 480), ("sb3:a2c", 480)])
def test_tensorboard_says_what_a_run_is_and_shows_its_end(tmp_path, agent, steps):
    """A card, the settings beside the scores, and a film of the end; the list has its picture."""
    more = TrainOptions(eval_episodes=2, num_envs=8)
    train(agent, "CartPole-v1", steps=steps, train_options=more, root=tmp_path, quiet=True)
    run = Run.open(next(tmp_path.glob("*/*/*/config.json")).parent)
    events = EventAccumulator(str(run.path), size_guidance={"images": 0}).Reload()
    (film,) = events.Images("eval/game")
    assert film.step == run.status().env_steps
    with Image.open(run.thumbnail) as picture:
        assert (picture.format, picture.width) == ("PNG", 240)
    (text,) = events.Tensors("run/text_summary")
    words = text.tensor_proto.string_val[0].decode()
    assert words.startswith(f"# {agent} on CartPole-v1")
    for part in ("| max_episode_steps | 500 |", f"| steps | {steps} |", ", torch 2."):
        assert part in words
    assert f"ludus train --config {run.path}/config.json" in words
    hparams = events.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(hparams["_hparams_/session_start_info"])
    settings = start.session_start_info.hparams
    assert settings["agent"].string_value == agent
    assert settings["steps"].number_value == steps
    scores = HParamsPluginData.FromString(hparams["_hparams_/experiment"]).experiment.metric_infos
    assert {score.name.tag for score in scores} == {"eval/mean_reward", "rollout/ep_rew_mean"}
    assert "eval/mean_reward" in events.Tags()["scalars"]


class _Fixed:
    """Pushes the cart to one side; the returns of its games are those of the seeds."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.ones(len(observation), np.int64), None


def test_a_film_shows_the_game_of_median_return_and_names_it(tmp_path, monkeypatch):
    returns = []
    for seed in range(5):
        playback = Playback(_Fixed(), "CartPole-v1", EnvOptions(), seed)
        while not playback.row.game_over[0]:
            playback.step()
        returns.append(float(playback.row.episode_return[0]))
        playback.close()
    assert len(set(returns)) > 1
    written = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda *a, **k: written.append(a[2]) or draw(*a, **k)
    )
    title = ("dqn on CartPole-v1", "x" * 200)
    film, done = tmp_path / "f.mp4", []
    made = record(_Fixed(), "CartPole-v1", EnvOptions(), film, title=title, on_step=done.append)
    assert done == sorted(set(done))  # the games to choose from are shown in the progress, too
    assert (done[0], max(done)) == (0, 5 * 2_000 + made.length)
    assert max(done) < most_steps("CartPole-v1", 2_000, None)
    assert made.score == np.median(returns) == returns[made.seed]
    assert written[0] == title[0]
    assert written[1].startswith("xxxxx")
    assert written[1].endswith("x…")
    assert written[2] == f"game of seed {made.seed}"
    assert most_steps("CartPole-v1", 5, 3) == most_steps("tic_tac_toe", 5, None) == 5
    other = record(_Fixed(), "CartPole-v1", EnvOptions(), tmp_path / "g.gif", seed=3, max_steps=5)
    assert other == (5, 5, 3)
