"""A data set written by `collect`, read by Minari and by us, and learned from without an env."""

import copy
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents import registry
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.random_agent import RandomConfig
from ludus.envs.env_object import env_name
from ludus.envs.errors import ConfigError, EnvError, RunError
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.evaluate import evaluate, torch_settings
from ludus.training import dataset as dataset_module
from ludus.training import offline
from ludus.training.checkpoint import newest_checkpoint
from ludus.training.collect import collect
from ludus.training.dataset import Dataset
from ludus.training.run import Run, TrainOptions
from ludus.training.train import load, resume_session, start_session

minari = pytest.importorskip("minari")
EpisodeBuffer = pytest.importorskip("minari.data_collector").EpisodeBuffer
MinariStorage = pytest.importorskip("minari.dataset.minari_storage").MinariStorage

CPU = torch.device("cpu")
LUDUS = [sys.executable, "-m", "ludus"]
FIRST = {"dataset_id": "a/b-v0", "agent": "x"}
BOX = spaces.Box(-1, 1, (3,), np.float32)


class Balancer:
    """Keeps CartPole up for a while: pushes to where the pole falls, or more often at random."""

    def __init__(self):
        self.generator = np.random.default_rng(0)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        push = (observation[:, 2] + 0.3 * observation[:, 3] > 0).astype(np.int64)
        random = self.generator.random(len(push)) < 0.6
        return np.where(random, self.generator.integers(2, size=len(push)), push), state


class Until(Balancer):
    """Plays so many steps and then does what it is given to do."""

    def __init__(self, steps, then):
        super().__init__()
        self.left, self.then = steps, then

    def predict(self, observation, *rest, **more):
        self.left -= 1
        actions, state = super().predict(observation)
        return (actions, state) if self.left >= 0 else self.then(actions)


class Watching:
    """Plays at random and remembers what it saw."""

    def __init__(self, env_id, options):
        env = make(env_id, 1, 0, options)
        self.player = registry.build(RandomConfig(), env, device=CPU, seed=0, steps=1)
        env.close()
        self.seen = []

    def predict(self, observation, *rest, **more):
        self.seen.append(observation[0].copy())
        return self.player.predict(observation)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "CartPole-v1" / "balancer-v0"
    names = {"dataset_id": "CartPole-v1/balancer-v0", "agent": "balancer"}
    games = collect(Balancer(), "CartPole-v1", EnvOptions(), out, episodes=100, **names)
    assert games == 100
    return out


def _learner(data, **changes):
    config = replace(DQNConfig(hidden=(8,), batch_size=8), **changes)
    return offline.offline_agent("dqn", config, data, CPU, TrainOptions(dataset="x"))


def _write(folder, seen, action_space=None, *, episodes=4, steps=5, spec=None, change=None):
    """A data set of another maker, through Minari's own code: random numbers."""
    action_space = action_space or spaces.Discrete(2)
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", seen, action_space, spec, jpeg_encoding=False)
    storage.update_metadata({"dataset_id": "x/y-v0", "minari_version": minari.__version__})
    seen.seed(0)
    action_space.seed(0)
    for _ in range(episodes):
        arrays = {
            "observations": np.stack([seen.sample() for _ in range(steps + 1)]),
            "actions": np.stack([np.asarray(action_space.sample()) for _ in range(steps)]),
            "rewards": np.ones(steps),
            "terminations": np.zeros(steps, bool),
            "truncations": np.arange(steps) == steps - 1,
        }
        storage.update_episodes([EpisodeBuffer(**(arrays | (change or {})))])
    return folder


def _start(root, dataset, *, agent="dqn", env="", config=None, quiet=True, **options):
    options = TrainOptions(**({"steps": 10, "dataset": str(dataset)} | options))
    return start_session(agent, env, options, EnvOptions(), config, root, quiet=quiet)


def test_minari_reads_what_collect_wrote(cartpole, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(cartpole.parents[1]))
    data = minari.load_dataset("CartPole-v1/balancer-v0")
    assert list(minari.list_local_datasets()) == ["CartPole-v1/balancer-v0"]
    assert data.total_episodes == 100
    env = data.recover_environment()
    assert (env.spec.id, data.env_spec.id) == ("CartPole-v1", "CartPole-v1")
    assert (env.observation_space, env.action_space) == (data.observation_space, data.action_space)
    lengths = []
    for episode in data.iterate_episodes():
        steps = len(episode.rewards)
        lengths.append(steps)
        assert episode.observations.shape == (steps + 1, 4)
        assert all(data.observation_space.contains(seen) for seen in episode.observations)
        assert all(data.action_space.contains(action) for action in episode.actions)
        assert len(episode.actions) == len(episode.terminations) == steps
        assert not (episode.terminations[:-1] | episode.truncations[:-1]).any()
        assert episode.terminations[-1] != episode.truncations[-1]
        assert episode.terminations[-1] == (steps < 500)
        assert (episode.rewards == 1).all()
    assert len(set(lengths)) > 20
    assert sum(lengths) == data.total_steps
    assert list(cartpole.parent.iterdir()) == [cartpole]  # nothing temporary is left
    record = json.loads(data.storage.metadata["ludus"])
    assert (record["env"], record["agent"], record["stack"]) == ("CartPole-v1", "balancer", 1)
    assert record["protocol"]["max_episode_steps"] == 500


def test_the_games_follow_from_the_seed_and_not_from_how_they_are_counted(tmp_path):
    def games(name, **how):
        out = tmp_path / name
        collect(Balancer(), "CartPole-v1", EnvOptions(), out, **FIRST, **how)
        episodes = list(minari.MinariDataset(out / "data").iterate_episodes())
        return [episode.observations.tobytes() for episode in episodes]

    ten = games("ten", episodes=10, num_envs=4)
    assert games("again", episodes=10, num_envs=4) == ten
    assert games("other", episodes=10, num_envs=4, seed=1) != ten
    steps = games("steps", steps=300, num_envs=4)
    lengths = [len(game) // 16 - 1 for game in steps]
    assert sum(lengths) >= 300
    assert steps[:4] == ten[:4]
    longest = sorted(lengths)[-4:]
    assert sum(lengths) - sum(longest) < 300, "no game begins after so many steps"
    random = games("random", episodes=10, num_envs=4, epsilon=1.0)
    assert np.mean([len(game) for game in random]) < 0.7 * np.mean([len(game) for game in ten])


def test_a_stack_of_pictures_comes_back_as_it_was(tmp_path):
    options, env_id = EnvOptions(max_frames=200), "ALE/Breakout-v5"
    player, out = Watching(env_id, options), tmp_path / "set"
    collect(player, env_id, options, out, episodes=3, num_envs=1, **FIRST)
    data = Dataset(str(out / "data" / "main_data.hdf5"), held_out=0)
    assert (data.stack, data.env_id, data.options) == (4, env_id, options)
    assert data.observation_space.shape == (4, 84, 84)
    episodes = list(data._data.iterate_episodes())
    assert [bool(e.truncations[-1]) for e in episodes] == [True] * 3
    assert not episodes[0].observations[0][:3].any(), "zeros before the first frame"
    stored = np.concatenate([episode.observations for episode in episodes])
    assert np.array_equal(stored, np.stack(player.seen))
    memory = _learner(data, encoder="dqn2013", n_step=3).memory
    assert memory._frames.shape[1] == 84 * 84, "each frame is kept once"
    assert torch.equal(memory.observations(torch.arange(len(stored))), torch.from_numpy(stored))
    assert len(memory) == len(stored) - 3  # all but the last of each game
    every = memory.sample((torch.arange(len(memory), dtype=torch.float64) + 0.5) / len(memory))
    assert (every.batch.discount > 0).all(), "where a limit ended the game, it bootstraps"
    assert data._data.env_spec is None, "Gymnasium's own make would show other pictures"


def test_minari_gets_an_env_only_if_gymnasium_makes_the_same(tmp_path):
    """Observations that Ludus has adapted are not those of the env that Minari would make."""

    class Own(gymnasium.Env):
        observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), 0.0, True, False, {}

    limited = EnvOptions(max_episode_steps=7, env_kwargs=("goal_velocity=0.5",))
    for env, options, stored in [
        ("FrozenLake-v1", EnvOptions(), False),  # numbers become one-hot
        ("MountainCar-v0", limited, True),
        ("MountainCar-v0", EnvOptions(stack=2), False),
        (env_name(Own), EnvOptions(), False),  # a class that only this process has
        (env_name(Own()), EnvOptions(), False),
    ]:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        collect(Watching(env, options), env, options, out, episodes=2, **FIRST)
        data = Dataset(str(out), held_out=0)
        spec = data._data.env_spec
        assert (spec is not None) == stored, env
        if stored:
            again = data._data.recover_environment()
            assert again.observation_space == data.observation_space
            assert (again.spec.max_episode_steps, again.unwrapped.goal_velocity) == (7, 0.5)
        assert offline.evaluation_env(data, "", EnvOptions()).missing == ""
    session = _start(tmp_path / "runs", tmp_path / "0", eval_episodes=2)
    session.run_to_end()
    assert session.run.config().env == "FrozenLake-v1"


@pytest.mark.parametrize("stops", ["interrupt", "env"])
def test_what_was_played_before_a_stop_is_kept_whole(tmp_path, stops):
    def interrupt(actions):
        raise KeyboardInterrupt

    then, error, out = interrupt, KeyboardInterrupt, tmp_path / "deep" / "set"
    if stops == "env":
        then, error = (lambda actions: (actions + 7, None)), EnvError
    with pytest.raises(error) as caught:
        collect(Until(0, then), "CartPole-v1", EnvOptions(), out, episodes=9, **FIRST)
    assert not list(out.parent.iterdir())
    with pytest.raises(error) as caught:
        collect(Until(150, then), "CartPole-v1", EnvOptions(), out, episodes=999, **FIRST)
    assert list(out.parent.iterdir()) == [out]
    games = Dataset(str(out))._data.total_episodes
    assert games >= 2
    if stops == "env":
        assert str(caught.value).endswith(f"; {out} has the {games} games that had ended")


def test_collect_writes_over_nothing(cartpole, tmp_path):
    busy = tmp_path / ".set.tmp"
    busy.mkdir()
    for out, there in ((cartpole, cartpole), (tmp_path / "set", busy)):
        with pytest.raises(ConfigError, match=rf"^{there} exists already; name another folder"):
            collect(Balancer(), "CartPole-v1", EnvOptions(), out, episodes=1, **FIRST)
    assert busy.exists()
    with pytest.raises(ConfigError, match=r"^Pendulum-v1 has the action space .* Discrete is need"):
        collect(Balancer(), "Pendulum-v1", EnvOptions(), tmp_path / "p", episodes=1, **FIRST)


@pytest.mark.parametrize(("n_step", "auxiliary"), [(1, "none"), (3, "none"), (1, "spr")])
def test_the_replay_holds_the_episodes_to_learn_from_and_nothing_else(cartpole, n_step, auxiliary):
    data = Dataset(str(cartpole), held_out=0.2, seed=3)
    memory = _learner(data, n_step=n_step, gamma=0.9, auxiliary=auxiliary).memory
    wanted = {}
    for episode in data._data.iterate_episodes(data.learned):
        steps = len(episode.rewards)
        for t in range(steps):
            ahead = min(n_step, steps - t)
            ended = t + ahead == steps and episode.terminations[-1]
            reward = sum(0.9**k for k in range(ahead))
            discount = 0.0 if ended else 0.9**ahead
            key = tuple(episode.observations[t].tolist())
            wanted[key] = (
                int(episode.actions[t]),
                pytest.approx(reward, rel=1e-5),
                pytest.approx(discount, rel=1e-5),
                episode.observations[t + ahead].tolist(),
            )
    assert len(data.held_out) == 20
    assert not set(data.held_out) & set(data.learned)
    size = len(memory)
    assert size == len(wanted), "the last steps of the last episode are there too"
    batch = memory.sample((torch.arange(size, dtype=torch.float64) + 0.5) / size).batch
    for i in range(size):
        got = (int(batch.action[i]), float(batch.reward[i]), float(batch.discount[i]))
        assert (*got, batch.next_obs[i].tolist()) == wanted.pop(tuple(batch.obs[i].tolist()))
    prioritised = _learner(data, n_step=n_step, prioritised=True).memory
    leaves = prioritised.priorities.tensors()["leaves"]
    assert leaves.unique().tolist() == [0, 1]
    assert int(leaves.sum()) == size


def test_rewards_are_clipped_and_actions_counted_from_zero_as_in_training(tmp_path):
    change = {"rewards": np.array([-5.0, 0.5, 7.0, 0.0, 0.0])}
    folder = _write(tmp_path / "s", BOX, spaces.Discrete(3, start=4), change=change)
    memory = _learner(Dataset(str(folder), held_out=0), clip_reward=True).memory
    stored = memory.state_dict()
    assert stored["reward"].read(0, 6).tolist() == [-1, 0.5, 1, 0, 0, 0]
    taken = Dataset(str(folder))._data[0].actions
    assert stored["action"].read(0, 5).tolist() == (taken - 4).tolist()


def test_pictures_become_channels_first_and_doubles_floats_and_both_are_said(tmp_path):
    folder = _write(tmp_path / "s", spaces.Box(0, 255, (36, 40, 3), np.uint8))
    data = Dataset(str(folder), held_out=0)
    assert data.observation_space.shape == (3, 36, 40)
    stored = data._data[1].observations.transpose(0, 3, 1, 2)
    memory = _learner(data, encoder="nature").memory
    assert torch.equal(memory.observations(torch.arange(6, 12)), torch.from_numpy(stored.copy()))
    assert "its images are transposed to channels first" in data.sentences()
    data = Dataset(str(_write(tmp_path / "d", spaces.Box(-1, 1, (3,), np.float64))))
    assert "its float64 observations are converted to float32" in data.sentences()


def _events(run, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(tag)]


def test_a_dqn_learns_cartpole_from_a_mediocre_player_without_an_env(cartpole, tmp_path):
    assert Dataset(str(cartpole))._data.total_steps / 100 < 130
    preset = registry.preset("dqn", Dataset(str(cartpole))).config
    config = replace(preset, conservative=1.0, double=True)
    options = {"steps": 6_000, "eval_episodes": 20, "log_every": 1_000}
    session = _start(tmp_path, cartpole, config=config, **options)
    session.run_to_end()
    score = session.run.evaluations()[-1]
    assert score["env_steps"] == 6_000, "its clock is its updates"
    assert np.mean(score["returns"]) > 200
    errors = _events(session.run.path, "validation/td_error")
    assert [step for step, _ in errors] == [1_000, 2_000, 3_000, 4_000, 5_000, 6_000]
    agent = load(session.run.path)
    again = evaluate(agent, "CartPole-v1", EnvOptions(), episodes=20)
    assert again.returns == score["returns"]


def test_the_validation_error_is_the_mean_of_delta_on_episodes_that_are_not_learned(cartpole):
    data = Dataset(str(cartpole), held_out=0.2)
    agent = _learner(data, double=True, gamma=0.9, n_step=1)
    agent.study(50, 0.0)
    deltas = []
    for episode in data._data.iterate_episodes(data.held_out):
        steps = len(episode.rewards)
        seen = torch.from_numpy(episode.observations).unsqueeze(1)
        first = torch.zeros(len(seen), 1, dtype=torch.bool)
        with torch.no_grad():
            q = agent.network(seen, (), first)[0].q[:, 0]
            target = agent.target.network(seen, (), first)[0].q[:, 0]
        following = target[1:].gather(1, q[1:].argmax(1, keepdim=True))[:, 0]
        discount = torch.from_numpy(np.where(episode.terminations, 0, 0.9))
        value = q[:-1].gather(1, torch.from_numpy(episode.actions)[:, None])[:, 0]
        deltas += (1 + discount * following - value).abs().tolist()
        assert len(deltas) >= steps
    assert len(deltas) < 4_096, "so that all are there"
    assert data.td_error(agent) == pytest.approx(np.mean(deltas), rel=1e-4)
    before = agent.state_dict()["update_noise"]
    assert torch.equal(agent.state_dict()["update_noise"], before)
    assert Dataset(str(cartpole), held_out=0).td_error(agent) is None


@pytest.mark.parametrize("head", ["c51", "iqn"])
def test_the_validation_error_has_no_noise(cartpole, head):
    data = Dataset(str(cartpole))
    agent = _learner(data, head=head, noisy=True, prioritised=True, munchausen=head == "iqn")
    errors = {data.td_error(agent) for _ in range(3)}
    assert len(errors) == 1
    assert np.isfinite(errors.pop())


def test_the_penalty_keeps_values_low_where_the_data_is_silent(cartpole):
    gaps = []
    for weight in (0.0, 5.0):
        data = Dataset(str(cartpole), held_out=0)
        agent = _learner(data, conservative=weight, learning_rate=3e-3)
        with torch_settings(data):
            agent.study(400, 0.0)
        batch = agent.memory.sample(agent.memory.uniforms(500)).batch
        first = torch.zeros(1, 500, dtype=torch.bool)
        q = agent.network(batch.obs.unsqueeze(0), (), first)[0].q[0]
        taken = q.gather(1, batch.action[:, None])
        other = q.gather(1, 1 - batch.action[:, None])
        gaps.append((taken - other).mean().item())
    assert gaps[1] > gaps[0] + 0.1


class _Gone(Exception):
    """Stands for the end of the process."""


def _broken_off_after_25_updates(cartpole, root, monkeypatch, wait_until):
    """Leave a run whose last checkpoint is of its 20th update."""
    session = _start(root, cartpole, agent="rainbow", steps=40, eval_episodes=0, log_every=10)
    study = session.agent.study

    def study_and_break_off(updates, progress):
        if session.agent.updates == 25:
            raise _Gone
        done = study(updates, progress)
        session._saved_at = -1e9 if session.agent.updates == 20 else time.monotonic()
        return done

    monkeypatch.setattr(session.agent, "study", study_and_break_off)
    with pytest.raises(_Gone):
        session.run_to_end()
    return session.run


def _killed_after_5_updates(cartpole, root, monkeypatch, wait_until):
    command = [*LUDUS, "train", "rainbow", "--dataset", str(cartpole), "--steps", "40"]
    command += ["--run-dir", str(root), "--eval-episodes", "0", "--log-every", "10"]
    command += ["--checkpoint-seconds", "0"]  # after every update
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(root.glob("*/*/*/checkpoints/*[5-9]")), "5 updates are saved", process)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    (config,) = root.glob("*/*/*/config.json")
    return Run.open(config.parent)


@pytest.mark.parametrize(
    "cut_off",
    [_broken_off_after_25_updates, pytest.param(_killed_after_5_updates, marks=pytest.mark.slow)],
)
def test_an_offline_run_that_is_cut_off_ends_bit_for_bit_alike(
    cartpole, tmp_path, monkeypatch, wait_until, cut_off
):
    whole = _start(tmp_path, cartpole, agent="rainbow", steps=40, eval_episodes=0, log_every=10)
    whole.run_to_end()
    cut = cut_off(cartpole, tmp_path / "cut", monkeypatch, wait_until)
    tree, *_ = newest_checkpoint(cut.checkpoints)
    assert 0 < tree["agent"]["updates"] < 40
    resume_session(cut, quiet=True).run_to_end()
    one, other = whole.run.newest_weights(), cut.newest_weights()
    assert all(torch.equal(one[name], other[name]) for name in one)
    curves = [_events(run.path, "validation/td_error") for run in (whole.run, cut)]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == [10, 20, 30, 40]
    priorities = {"priority_leaves", "priority_sums", "priority_largest"}
    assert set(tree["agent"]["memory"]) == {"generator", *priorities}, "the data is not there twice"


def test_a_resume_from_another_data_set_is_refused(tmp_path):
    folder = _write(tmp_path / "set", BOX)
    session = _start(tmp_path / "runs", folder, steps=20)
    session.run_to_end()
    resume_session(session.run, quiet=True).run_to_end()
    folder.rename(tmp_path / "old")
    _write(folder, BOX, change={"rewards": np.zeros(5)})
    with pytest.raises(ConfigError, match=rf"^{folder} is not the data set that this run started"):
        resume_session(session.run, quiet=True).run_to_end()
    folder.rename(tmp_path / "gone")
    with pytest.raises(ConfigError, match=rf"^{folder} is neither the folder"):
        resume_session(session.run, quiet=True)


def test_a_set_whose_env_is_unknown_is_learned_without_evaluation(tmp_path, capsys):
    box = spaces.Box(-1, 1, (3,), np.float64)
    folder = _write(tmp_path / "set", box, spaces.Discrete(3, start=1), episodes=2)
    session = _start(tmp_path / "runs", folder, agent="c51", steps=20, quiet=False)
    session.run_to_end()
    message = capsys.readouterr().err
    assert f"no evaluation: {folder} does not name its env\n" in message
    assert "its steps are updates" in message
    assert "20 of 20 updates" in message
    assert session.run.config().env == "dataset"
    assert session.run.evaluations() == []
    actions, _ = load(session.run.path).predict(np.zeros((9, 3), np.float32))
    assert set(actions.tolist()) <= {1, 2, 3}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "CartPole-v1 has observations"),
        ({"kwargs": {"sutton_barto_reward": True}}, "with arguments or wrappers of its own"),
        ({"id": "Nowhere-v1"}, "there is no env Nowhere-v1"),
        ({"like": "Acrobot-v1"}, "Acrobot-v1 has observations"),
    ],
)
def test_an_env_that_is_not_the_data_sets_is_no_place_to_evaluate(tmp_path, changes, why):
    spec = copy.deepcopy(gymnasium.spec(changes.get("like", "CartPole-v1")))
    spec.kwargs, spec.id = changes.get("kwargs", {}), changes.get("id", spec.id)
    seen = BOX if not changes else spaces.Box(-9, 9, (4,), np.float32)
    folder = _write(tmp_path / "set", seen, spec=spec)
    data = Dataset(str(folder))
    assert why in offline.evaluation_env(data, "", EnvOptions()).missing
    session = _start(tmp_path / "runs", folder)
    session.run_to_end()
    assert session.run.evaluations() == []
    load(session.run.path).predict(np.zeros((2, *seen.shape), np.float32))
    if changes.get("kwargs"):  # unless it is named
        assert offline.evaluation_env(data, "CartPole-v1", EnvOptions()).missing == ""


def test_a_sets_own_time_limit_holds_in_its_evaluations(tmp_path):
    spec = copy.deepcopy(gymnasium.spec("CartPole-v1"))
    spec.max_episode_steps = 9
    folder = _write(tmp_path / "set", make("CartPole-v1", 1).observation_space, spec=spec)
    for given, limit in [({}, 9), ({"timeout": 99.0}, 9), ({"max_episode_steps": 8}, 8)]:
        env = offline.evaluation_env(Dataset(str(folder)), "", EnvOptions(**given))
        assert env.protocol["max_episode_steps"] == limit
        assert env.options == EnvOptions(**({"max_episode_steps": limit} | given))
    session = _start(tmp_path / "runs", folder, eval_episodes=3)
    session.run_to_end()
    assert max(session.run.evaluations()[0]["lengths"]) <= 9
    spec.max_episode_steps = None
    folder = _write(tmp_path / "endless", make("CartPole-v1", 1).observation_space, spec=spec)
    missing = offline.evaluation_env(Dataset(str(folder)), "", EnvOptions()).missing
    assert missing == f"{folder} is from CartPole-v1 without its time limit"


def test_an_env_named_is_where_it_is_evaluated(cartpole, tmp_path):
    session = _start(tmp_path, cartpole, env="CartPole-v1", eval_episodes=2)
    session.run_to_end()
    assert session.run.config().protocol["max_episode_steps"] == 500
    assert session.run.config().protocol["dataset"] == str(cartpole)
    assert len(session.run.evaluations()[0]["returns"]) == 2
    with pytest.raises(RunError, match=r"^Acrobot-v1 has observations float32\[6\], the data set"):
        _start(tmp_path, cartpole, env="Acrobot-v1")
    with pytest.raises(EnvError, match="there is no env Nowhere-v0"):
        _start(tmp_path, cartpole, env="Nowhere-v0")
    with pytest.raises(RunError, match=r"^MountainCar-v0 has actions Discrete\(3\), the data s"):
        _start(tmp_path, _write(tmp_path / "s", make("MountainCar-v0", 1).observation_space),
               env="MountainCar-v0")  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "more", "sentence"),
    [
        (lambda tmp: "nowhere", {}, r"^nowhere is neither the folder of a data set nor"),
        (lambda tmp: "a/b-v0", {}, r"^there is no folder a/b-v0, and as a Minari id it cannot"),
        (
            lambda tmp: _write(tmp / "s", BOX, spaces.Box(-1, 1, (2,), np.float32)),
            {},
            r"has the action space .* need Discrete$",
        ),
        (
            lambda tmp: _write(tmp / "s", spaces.MultiBinary(3)),
            {},
            r"has the observation space .* needed$",
        ),
        (
            lambda tmp: _write(tmp / "s", spaces.Box(0, 9, (3,), np.int64)),
            {},
            r"has the observation space .* needed$",
        ),
        (
            lambda tmp: _write(tmp / "s", BOX, episodes=1),
            {},
            r"has 1 episodes; it needs more, or --held-out 0$",
        ),
        (
            lambda tmp: _write(tmp / "s", BOX),
            {"held_out": 0.9},
            r"^held_out is 0.9, which leaves no episode",
        ),
        (
            lambda tmp: _write(tmp / "s", BOX, change={"actions": np.array([0, 1, 2, 0, 0])}),
            {},
            r": episode \d has an action outside its space$",
        ),
        (
            lambda tmp: _write(tmp / "s", BOX, change={"rewards": np.full(5, np.nan)}),
            {},
            r": episode \d has a reward that is not finite$",
        ),
        (
            lambda tmp: _write(tmp / "s", BOX, change={"observations": np.full((6, 3), np.inf)}),
            {},
            r": episode \d has an observation that is not finite$",
        ),
        (
            lambda tmp: _write(tmp / "s", BOX, change={"observations": np.zeros((5, 3))}),
            {},
            r"has observations of shape \[5, 3\] and 5 actions; \[6, 3\] and 5 are expected$",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_sentence(tmp_path, dataset, more, sentence):
    name = str(dataset(tmp_path))
    with pytest.raises(ConfigError) as caught:
        _start(tmp_path / "runs", name, **more)
    message = str(caught.value)
    assert re.search(sentence, message), message
    assert name in message or "held_out" in message
    assert "\n" not in message
    assert not (tmp_path / "runs").exists()


def test_a_damaged_file_is_refused_in_one_sentence(tmp_path):
    folder = _write(tmp_path / "set", BOX)
    file = folder / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:-700])
    with pytest.raises(ConfigError, match=rf"^the data set {folder} cannot be read: .*truncated"):
        _start(tmp_path / "runs", folder)
    file.unlink()
    with pytest.raises(ConfigError, match=rf"^the data set {folder} cannot be opened: "):
        _start(tmp_path / "runs", folder)
    (folder / "data" / "metadata.json").write_text("{")
    with pytest.raises(ConfigError, match=rf"^the data set {folder} cannot be opened: "):
        _start(tmp_path / "runs", folder)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("agent", ["pqn", "random", "r2d2", "sb3:dqn", "sb3:ppo"])
def test_an_agent_that_cannot_learn_from_a_set_is_refused(cartpole, tmp_path, agent):
    with pytest.raises(RunError, match=f"^{agent} cannot learn from a data set; dqn and its"):
        _start(tmp_path, cartpole, agent=agent)
    assert not list(tmp_path.iterdir())


def test_a_set_that_does_not_fit_in_memory_is_refused_with_the_figures(tmp_path, monkeypatch):
    folder = _write(tmp_path / "set", spaces.Box(0, 255, (4, 84, 84), np.uint8))
    monkeypatch.setattr(Dataset, "_steps", np.full(4, 10_000))
    monkeypatch.setattr(dataset_module.psutil, "virtual_memory", lambda: Free())
    sentence = r"^the 40,000 transitions of .* need 2.3 GB while they are read, and only 1.0 GB are"
    with pytest.raises(ConfigError, match=sentence):
        _start(tmp_path / "runs", folder)


class Free:
    available = 1e9


def test_without_the_package_the_command_that_brings_it_is_said(cartpole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    for call in (
        lambda: Dataset(str(cartpole)),
        lambda: collect(Balancer(), "CartPole-v1", EnvOptions(), tmp_path / "x", **FIRST),
    ):
        with pytest.raises(ConfigError, match=r'minari; run pip install -e "\.\[offline\]"'):
            call()


def test_no_pickle_and_no_code_of_the_data_set_on_the_way(cartpole, tmp_path, monkeypatch):
    import pickle

    def refuse(*arguments, **more):
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    _start(tmp_path, cartpole, eval_episodes=0).run_to_end()
