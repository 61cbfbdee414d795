"""A data set written by `collect`, read by Minari and by us, and learned from without an env."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from ludus.agents import presets
from ludus.agents.agent import ConfigError
from ludus.agents.dqn import DQN, DQNConfig
from ludus.agents.uniform import RandomConfig
from ludus.envs.make import EnvOptions, make
from ludus.training import dataset as dataset_module
from ludus.training.dataset import Dataset, collect
from ludus.training.evaluate import evaluate
from ludus.training.run import Run, RunError, TrainOptions
from ludus.training.train import Session, load

CPU = torch.device("cpu")
LUDUS = [sys.executable, "-m", "ludus.cli"]


class Balancer:
    """Keeps CartPole up for a while: pushes to where the pole falls, or at random."""

    def __init__(self):
        self.generator = np.random.default_rng(0)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        push = (observation[:, 2] + 0.3 * observation[:, 3] > 0).astype(np.int64)
        random = self.generator.random(len(push)) < 0.25
        return np.where(random, self.generator.integers(2, size=len(push)), push), state


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "CartPole-v1" / "balancer-v0"
    arguments = {"dataset_id": "CartPole-v1/balancer-v0", "agent": "balancer"}
    collect(Balancer(), "CartPole-v1", EnvOptions(), out, episodes=60, **arguments)
    return out


def _random_player(env_id, options=None):
    env = make(env_id, 1, 0, options)
    return presets.build(RandomConfig(), env, device=CPU, seed=0, steps=1)


def _filled(data, **changes) -> tuple[DQN, object]:
    config = replace(DQNConfig(hidden=(8,), batch_size=8, replay_size=data.rows()), **changes)
    agent = presets.build(config, data, device=CPU, seed=0, steps=data.rows())
    return agent, data.memory(agent)[0]


def test_minari_reads_what_collect_wrote(cartpole, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(cartpole.parents[1]))
    data = minari.load_dataset("CartPole-v1/balancer-v0")
    assert data.total_episodes == 60
    assert data.env_spec.id == "CartPole-v1"
    assert data.action_space == spaces.Discrete(2)
    lengths = set()
    for episode in data.iterate_episodes():
        steps = len(episode.rewards)
        lengths.add(steps)
        assert episode.observations.shape == (steps + 1, 4)
        assert len(episode.actions) == len(episode.terminations) == steps
        assert not (episode.terminations[:-1] | episode.truncations[:-1]).any()
        assert episode.terminations[-1] != episode.truncations[-1]
        assert episode.terminations[-1] == (steps < 500)
        assert (episode.rewards == 1).all()
    assert len(lengths) > 20
    assert list(cartpole.parent.iterdir()) == [cartpole]  # nothing temporary is left


@pytest.mark.parametrize("n_step", [1, 3])
def test_the_replay_holds_the_episodes_to_learn_from_and_nothing_else(cartpole, n_step):
    data = Dataset(str(cartpole), held_out=0.2, seed=3)
    _, memory = _filled(data, n_step=n_step, gamma=0.9)
    wanted = {}
    for episode in data._data.iterate_episodes(data._learned):
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
    assert len(data._held) == 12
    assert len(wanted) - n_step <= len(memory) <= len(wanted)
    size = len(memory)
    chance = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    batch = memory.sample(chance).batch
    seen = set()
    for i in range(size):
        key = tuple(batch.obs[i].tolist())
        seen.add(key)
        got = (int(batch.action[i]), float(batch.reward[i]), float(batch.discount[i]))
        assert (*got, batch.next_obs[i].tolist()) == wanted[key]
    assert len(seen) == size
    _, other = _filled(data, n_step=n_step, prioritised=True)
    leaves = other.priorities.tensors()["leaves"]
    assert int((leaves > 0).sum()) == size


def test_a_stack_of_frames_comes_back_as_it_was(tmp_path):
    options = EnvOptions(stack=3)
    env_id, out = "CartPole-v1", tmp_path / "set"
    player = _random_player(env_id, options)
    collect(player, env_id, options, out, dataset_id="a/b-v0", agent="random", episodes=12)
    data = Dataset(str(out / "data" / "main_data.hdf5"), held_out=0)
    assert (data.stack, data.env_id, data.options) == (3, env_id, options)
    _, memory = _filled(data)
    assert memory._frames.shape[1] == 4  # the newest alone is kept
    whole = [e.observations for e in data._data.iterate_episodes()]
    rows = np.concatenate(whole)
    place = torch.arange(len(rows))
    assert torch.equal(memory.observations(place), torch.from_numpy(rows))


def _events(run, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(tag)]


def test_a_dqn_learns_cartpole_from_a_mediocre_player_without_an_env(cartpole, tmp_path):
    played = [len(e.rewards) for e in Dataset(str(cartpole), 0)._data.iterate_episodes()]
    options = TrainOptions(
        steps=6_000,
        dataset=str(cartpole),
        log_every=1_000,
        held_out=0.1,
        eval_episodes=20,
    )
    preset = presets.preset("dqn", Dataset(str(cartpole)))
    config = replace(preset, conservative=0.5, double=True)
    session = Session.start("dqn", "", options, EnvOptions(), config, tmp_path, quiet=True)
    session.run_to_end()
    score = session.run.evaluations()[-1]
    assert score["env_steps"] == 6_000  # its clock is its updates
    assert np.mean(score["returns"]) > max(150, np.mean(played)), np.mean(played)
    errors = _events(session.run.path, "validation/td_error")
    assert [step for step, _ in errors] == [1_000, 2_000, 3_000, 4_000, 5_000, 6_000]
    assert all(np.isfinite(value) for _, value in errors)
    agent = load(session.run.path)
    again = evaluate(agent, "CartPole-v1", EnvOptions(), episodes=20)
    assert again.returns == score["returns"]


def test_the_penalty_keeps_values_low_where_the_data_is_silent(cartpole, tmp_path):
    gaps = []
    for weight in (0.0, 2.0):
        data = Dataset(str(cartpole), 0)
        agent, memory = _filled(data, conservative=weight, learning_rate=1e-2)
        agent.study(300, 0.0)
        batch = memory.sample(memory.draw(500)).batch
        first = torch.zeros(1, 500, dtype=torch.bool)
        q = agent.network(batch.obs.unsqueeze(0), (), first)[0].q[0].detach()
        taken = q.gather(1, batch.action[:, None])
        other = q.gather(1, 1 - batch.action[:, None])
        gaps.append(float((taken - other).mean()))
    assert gaps[1] > gaps[0] + 0.3


def test_an_offline_run_that_is_killed_goes_on_bit_for_bit(cartpole, tmp_path):
    def start(root):
        command = [*LUDUS, "train", "rainbow", "--dataset", str(cartpole), "--steps", "600"]
        command += ["--run-dir", str(root), "--checkpoint-seconds", "0", "--eval-episodes", "0"]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    whole, cut = start(tmp_path / "whole"), start(tmp_path / "cut")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cut/*/*/*/checkpoints/0*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    assert whole.wait(timeout=100) == 0
    (config,) = tmp_path.glob("cut/*/*/*/config.json")
    subprocess.run([*LUDUS, "train", "--resume", str(config.parent)], check=True, timeout=100)
    weights = [
        next(iter(tmp_path.glob(f"{name}/*/*/*/weights/*/tensors.safetensors"))).read_bytes()
        for name in ("whole", "cut")
    ]
    assert weights[0] == weights[1]
    (saved,) = list(config.parent.glob("checkpoints/0*"))[-1:]
    size = sum(f.stat().st_size for f in saved.iterdir())
    assert size < 2_000_000  # the data is not in it


def _write(folder, observation_space, action_space, episodes=4, steps=5):
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", observation_space, action_space)
    storage.update_metadata({"dataset_id": "x/y-v0", "minari_version": minari.__version__})
    observation_space.seed(0)
    action_space.seed(0)
    storage.update_episodes(
        EpisodeBuffer(
            observations=np.stack([observation_space.sample() for _ in range(steps + 1)]),
            actions=np.stack([np.asarray(action_space.sample()) for _ in range(steps)]),
            rewards=np.ones(steps),
            terminations=np.zeros(steps, bool),
            truncations=np.arange(steps) == steps - 1,
        )
        for _ in range(episodes)
    )
    return folder


def test_a_set_of_another_maker_whose_env_is_unknown_is_learned_without_evaluation(tmp_path):
    box = spaces.Box(-1, 1, (3,), np.float64)
    folder = _write(tmp_path / "set", box, spaces.Discrete(3, start=1), episodes=30)
    command = [*LUDUS, "train", "c51", "--dataset", str(folder), "--steps", "60"]
    command += ["--run-dir", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "no evaluation: there is no env dataset" in done.stderr
    (config,) = tmp_path.glob("runs/*/*/*/config.json")
    agent = load(config.parent)
    actions, _ = agent.predict(np.zeros((9, 3), np.float32), deterministic=False)
    assert set(actions.tolist()) <= {1, 2, 3}


BOX = spaces.Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize(
    ("make_name", "more", "sentence"),
    [
        (lambda tmp: "nowhere", {}, r"^nowhere is neither the folder of a data set nor"),
        (lambda tmp: "a/b-v0", {}, r"^the data set a/b-v0: no such folder is here"),
        (
            lambda tmp: _write(tmp / "s", BOX, spaces.Box(-1, 1, (2,), np.float32)),
            {},
            r"has the action space .* need Discrete$",
        ),
        (
            lambda tmp: _write(tmp / "s", spaces.MultiBinary(3), spaces.Discrete(2)),
            {},
            r"has the observation space .* needed$",
        ),
        (
            lambda tmp: _write(tmp / "s", BOX, spaces.Discrete(2), episodes=1),
            {},
            r"has 1 episodes; it needs more, or --held-out 0$",
        ),
        (
            lambda tmp: _write(tmp / "s", BOX, spaces.Discrete(2)),
            {"held_out": 0.9},
            r"^held_out is 0.9, which leaves no episode",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_sentence(
    tmp_path, make_name, more, sentence
):
    name = str(make_name(tmp_path))
    options = TrainOptions(steps=10, dataset=name, **more)
    with pytest.raises(ConfigError) as caught:
        Session.start("dqn", "", options, EnvOptions(), None, tmp_path / "runs", quiet=True)
    assert re.search(sentence, str(caught.value).replace(f"{name} has", "has")), caught.value
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("agent", ["pqn", "random", "r2d2", "sb3:dqn"])
def test_an_agent_that_cannot_learn_from_a_set_is_refused(cartpole, tmp_path, agent):
    options = TrainOptions(steps=10, dataset=str(cartpole))
    with pytest.raises(RunError, match=f"^{agent} cannot learn from a data set; dqn and its"):
        Session.start(agent, "", options, EnvOptions(), None, tmp_path, quiet=True)


def test_an_env_of_other_spaces_is_refused(cartpole, tmp_path):
    options = TrainOptions(steps=10, dataset=str(cartpole))
    with pytest.raises(RunError, match=r"^Acrobot-v1 shows observations \[6\], the data set \[4\]"):
        Session.start("dqn", "Acrobot-v1", options, EnvOptions(), None, tmp_path, quiet=True)


def test_without_the_package_the_command_that_brings_it_is_said(cartpole, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ConfigError, match=r'pip install "ludus\[offline\]"$'):
        Dataset(str(cartpole))
    assert dataset_module.__doc__


def test_collect_writes_beside_nothing_and_over_nothing(cartpole, tmp_path):
    with pytest.raises(ConfigError, match="is there already; name another folder with --out"):
        collect(
            Balancer(),
            "CartPole-v1",
            EnvOptions(),
            cartpole,
            dataset_id="a/b-v0",
            agent="x",
            episodes=1,
        )

    class Breaks(Balancer):
        def predict(self, *args, **more):
            raise KeyboardInterrupt

    out = tmp_path / "deep" / "set"
    with pytest.raises(KeyboardInterrupt):
        collect(
            Breaks(), "CartPole-v1", EnvOptions(), out, dataset_id="a/b-v0", agent="x", episodes=1
        )
    assert not list(out.parent.iterdir())


# -- transfer -----------------------------------------------------------------------------------


def _run(root, env_id, steps=300, agent="dqn", config=None, **more) -> Run:
    options = TrainOptions(steps=steps, eval_episodes=0, num_envs=4, **more)
    session = Session.start(agent, env_id, options, EnvOptions(), config, root, quiet=True)
    session.run_to_end()
    return session.run


SMALL = DQNConfig(encoder="minatar", head_hidden=16, learning_starts=100, replay_size=2_000)


@pytest.fixture(scope="module")
def breakout(tmp_path_factory):
    return _run(tmp_path_factory.mktemp("source"), "MinAtar/Breakout-v1", config=SMALL)


def _started(root, env_id, source, config=SMALL, agent="dqn"):
    options = TrainOptions(steps=400, eval_episodes=0, num_envs=4, init_from=str(source.path))
    return Session.start(agent, env_id, options, EnvOptions(), config, root, quiet=True)


def test_the_same_env_takes_all_and_the_target_too(breakout, tmp_path):
    session = _started(tmp_path, "MinAtar/Breakout-v1", breakout)
    told = json.loads((session.run.path / "transfer.json").read_text())
    assert told == {"source": str(breakout.path), "taken": ["encoder", "head"], "left": {}}
    theirs = breakout.newest_weights()
    for network in (session.agent.network, session.agent.networks.target):
        for name, value in network.state_dict().items():
            assert torch.equal(value, theirs[name]), name
    session.run_to_end()


def test_other_actions_leave_the_head_and_a_frozen_encoder_stays(breakout, tmp_path):
    config = replace(SMALL, freeze="encoder")
    session = _started(tmp_path, "MinAtar/Breakout-v0", breakout, config)
    told = json.loads((session.run.path / "transfer.json").read_text())
    assert told["taken"] == ["encoder"]
    assert "head" in told["left"]
    session.run_to_end()
    theirs, now = breakout.newest_weights(), session.run.newest_weights()
    encoder = [name for name in now if name.startswith("encoder.")]
    assert encoder
    assert all(torch.equal(now[name], theirs[name]) for name in encoder)
    resumed = Session.resume(session.run, quiet=True).run_to_end()  # takes nothing again
    assert all(torch.equal(resumed.weights()[name], now[name]) for name in now)


def test_what_does_not_fit_is_refused(breakout, tmp_path):
    with pytest.raises(RunError, match=r"^nothing of .* fits this agent; its encoder: "):
        _started(tmp_path, "CartPole-v1", breakout, None)
    with pytest.raises(RunError, match="random cannot start from another run"):
        _started(tmp_path, "MinAtar/Breakout-v1", breakout, RandomConfig(), "random")
    with pytest.raises(RunError, match="is not a run"):
        _started(tmp_path, "MinAtar/Breakout-v1", Run(Path(tmp_path / "none")))
    assert not [p for p in tmp_path.rglob("config.json")]


def test_the_command_says_what_was_taken(breakout, tmp_path):
    command = [*LUDUS, "train", "dqn", "MinAtar/Breakout-v1", "--init-from", str(breakout.path)]
    command += ["--steps", "200", "--head-hidden", "8", "--run-dir", str(tmp_path)]
    command += ["--eval-episodes", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert f"starts from the encoder of {breakout.path}; not its head: " in done.stderr
