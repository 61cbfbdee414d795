"""A training killed at any moment and resumed ends with the same weights as one never stopped."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ludus.agents import registry
from ludus.envs.errors import TrainingError
from ludus.envs.make import EnvOptions, make
from ludus.training.run import TrainOptions
from ludus.training.train import resume_session, start_session
from tests.forked import Forked

LIMIT = 600.0  # seconds; for a process that hangs, far above what a busy machine needs
STEPS = {"CartPole-v1": 2_000, "ALE/Breakout-v5": 900}
CARTPOLE = (
    "train dqn CartPole-v1 --steps 2000 --learning-starts 200 --eval-episodes 0 --log-every 100"
)
ATARI = (
    "train dqn2013 ALE/Breakout-v5 --steps 900 --learning-starts 200 --eval-episodes 0 "
    "--num-envs 4 --life-loss True --replay-size 1000 --n-step 3 "
    "--max-frames 400"  # so that games end
)


def _start(command, root, *more):
    return Forked(*command.split(), "--run-dir", root, *more)


def _resume(run):
    return Forked("train", "--resume", run)


def _kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"


def _only_run(root) -> Path:
    (config,) = root.glob("*/*/*/config.json")
    return config.parent


def _newest_step(root) -> int:
    return max((int(path.name) for path in root.glob("*/*/*/checkpoints/0*")), default=0)


def _weights_sha256(run) -> str:
    file = sorted(run.glob("weights/*/rank-0/tensors.safetensors"))[-1]
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _episodes(run) -> list[str]:
    """Return the finished games without their wall-clock column."""
    rows = [line.split(",") for line in (run / "episodes.csv").read_text().splitlines()]
    return [",".join([row[0], *row[2:]]) for row in rows]


def _finish(process) -> str:
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    return out + err


def _killed_at_random_moments(command, root, seed, kills, wait_until) -> Path:
    """Kill -9 `kills` times, each after a random number of env steps since the last start.

    A checkpoint is written after every row, so that most kills hit one that is being written.
    """
    moments = random.Random(seed)
    last = STEPS[command.split()[2]] * 2 // 3
    process = _start(command, root, "--checkpoint-seconds", "0")
    for _ in range(kills):
        target = _newest_step(root) + moments.randint(1, last // kills)
        wait_until(
            lambda target=target: _newest_step(root) >= target, f"step {target} is saved", process
        )
        time.sleep(moments.uniform(0, 0.02))
        _kill(process)
        process = _resume(_only_run(root))
    _finish(process)
    return _only_run(root)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a run of CartPole that was never stopped."""
    root = tmp_path_factory.mktemp("whole")
    # a real process, which has another seed of hashes than those that are killed
    command = [sys.executable, "-m", "ludus", *CARTPOLE.split(), "--run-dir", str(root)]
    subprocess.run(command, check=True, timeout=LIMIT)
    return _only_run(root)


def _assert_alike(one, other):
    assert _weights_sha256(one) == _weights_sha256(other)
    assert _episodes(one) == _episodes(other)
    assert len(_episodes(one)) > 5


def _assert_curves_continue(run):
    """Check TensorBoard: every point once and in order, also those after a checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    steps = [point.step for point in events.Scalars("train/n_updates")]
    assert steps == sorted(set(steps)), "a step is there twice, or out of order"
    assert steps[-1] >= 1900
    tags = set(events.Tags()["scalars"])
    wanted = {
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "rollout/exploration_rate",
        "train/loss",
        "train/learning_rate",
        "train/n_updates",
        "train/q_values",
        "train/grad_norm",
        "train/replay_fill",
        "time/fps",
    }
    assert wanted <= tags


def test_killed_and_resumed_ends_bit_for_bit_alike(whole, tmp_path, wait_until):
    killed = _killed_at_random_moments(CARTPOLE, tmp_path, seed=1, kills=2, wait_until=wait_until)
    _assert_alike(killed, whole)
    _assert_curves_continue(killed)


@pytest.mark.slow
def test_killed_and_resumed_on_atari_ends_bit_for_bit_alike(tmp_path, wait_until):
    _finish(_start(ATARI, tmp_path / "whole"))
    killed = _killed_at_random_moments(
        ATARI, tmp_path / "killed", seed=1, kills=2, wait_until=wait_until
    )
    _assert_alike(killed, _only_run(tmp_path / "whole"))


class _Gone(Exception):
    """Stands for the end of the process."""


def _session(
    agent,
    root,
    checkpoint_seconds,
    env_id="CartPole-v1",
    rivals=(),
    search="gumbel",
    *,
    halves=False,
):
    steps = {"pqn": 1_200, "ppo": 600, "recurrent_ppo": 600, "alphazero": 240}.get(agent, 440)
    options = TrainOptions(
        steps=steps,
        eval_episodes=0,
        checkpoint_seconds=checkpoint_seconds,
        log_every=100,
        rivals=rivals,
        halves=halves,
        num_envs=4 if agent in ("r2d2", "drqn") else 8,
    )
    env_options = EnvOptions(screen_size=36) if agent == "ppo_small" else EnvOptions()
    env = make(env_id, 1, 0, env_options)
    config = registry.preset(agent, env).config
    # small, because sizes change nothing here, and each row of a sequence is traced
    small = {"core_units": 16, "sequence_length": 5, "spr_units": 16, "spr_steps": 2}
    small |= {"burn_in": 2} if getattr(config, "burn_in", 0) else {}  # drqn has none
    changes = {name: value for name, value in small.items() if hasattr(config, name)}
    if hasattr(config, "learning_starts"):
        changes |= {"learning_starts": 120, "batch_size": 16}
    if agent == "alphazero":  # the search, its noise, trees, the playout cap
        changes |= {"tower_channels": 8, "blocks": 1, "simulations": 8, "fast_simulations": 3}
        changes |= {"batch_size": 32, "replay_ratio": 0.1, "search": search}
        changes |= {"reuse_tree": search == "puct"}
    if agent.endswith("ppo"):
        changes |= {"normalize_reward": True, "normalize_value": True}
    if agent in ("ppo_small", "recurrent_ppo"):
        changes |= {"rollout_length": 8}
    config = replace(config, **changes)
    return start_session(agent, env_id, options, env_options, config, root, quiet=True)


@pytest.mark.parametrize(
    "agent", sorted(set(registry.AGENTS) - {"random", "dqn", "dqn2013", "alphazero"})
)
def test_every_preset_ends_bit_for_bit_alike_after_an_exception(tmp_path, agent):
    env_id = "PongNoFrameskip-v4" if agent == "ppo_small" else "CartPole-v1"
    _broken_off_and_resumed(tmp_path, agent, env_id, ())


@pytest.mark.parametrize(
    ("agent", "game"),
    [
        ("dqn", "connect_four"),
        ("ppo", "mancala"),
        ("recurrent_ppo", "connect_four"),
        pytest.param("rainbow", "mancala", marks=pytest.mark.slow),
        pytest.param("r2d2", "connect_four", marks=pytest.mark.slow),
    ],
)
def test_self_play_ends_bit_for_bit_alike_after_an_exception(tmp_path, agent, game):
    """With rivals of every kind: the pool of past networks and the fixed players' numbers too."""
    rivals = ("self", "past", "random", "mcts:3")
    resumed = _broken_off_and_resumed(tmp_path, agent, game, rivals)
    assert resumed.mode._rivals._pool, "a past network must have played"


@pytest.mark.parametrize(
    ("game", "search"), [("tic_tac_toe", "gumbel"), ("breakthrough(rows=4,columns=4)", "puct")]
)
def test_search_and_its_replay_of_games_end_bit_for_bit_alike(tmp_path, game, search):
    _broken_off_and_resumed(tmp_path, "alphazero", game, ("self", "random"), search)


@pytest.mark.parametrize(
    ("agent", "env_id"),
    [
        ("dqn", "FrozenLake-v1"),
        ("rainbow", "FrozenLake-v1"),
        ("r2d2", "FrozenLake-v1"),
        pytest.param("recurrent_ppo", "FrozenLake-v1", marks=pytest.mark.slow),
        ("pqn", "FrozenLake-v1"),
        ("ppo_small", "PongNoFrameskip-v4"),
    ],
)
def test_a_training_in_halves_ends_bit_for_bit_alike_after_an_exception(tmp_path, agent, env_id):
    """A checkpoint holds actions that no env has taken, and the weights that chose them."""
    _broken_off_and_resumed(tmp_path, agent, env_id, (), halves=True)


def _broken_off_and_resumed(tmp_path, agent, env_id, rivals, search="gumbel", *, halves=False):
    whole = _session(agent, tmp_path / "whole", 1e9, env_id, rivals, search, halves=halves)
    whole.run_to_end()
    cut = _session(agent, tmp_path / "cut", 0.0, env_id, rivals, search, halves=halves)
    after, rows = cut.after_step, 0

    def break_off(**when):
        nonlocal rows
        rows += 1
        # Save now, or not; halves must wait first, until the next row.
        cut._saved_at = 0.0 if rows % 13 in ((0, 1) if halves else (0,)) else time.monotonic() + 1e9
        if cut.agent.env_steps > cut.config.train.steps * 2 // 3 and rows % 13 == 5:
            raise _Gone  # some rows after the last checkpoint, which are lost
        return after(**when)

    cut.after_step = break_off
    with pytest.raises(_Gone):
        cut.run_to_end()
    lost, updates = cut.agent.env_steps, cut.agent.updates
    resumed = resume_session(cut.run, quiet=True)
    resumed.run_to_end()
    assert resumed.agent.updates == whole.agent.updates > updates > 0
    assert lost < resumed.agent.env_steps
    for name, value in whole.agent.weights().items():
        assert torch.equal(resumed.agent.weights()[name], value), name
    assert _episodes(cut.run.path) == _episodes(whole.run.path)
    return resumed


@pytest.mark.parametrize("agent", ["dqn", "ppo", "pqn"])
def test_what_is_learned_must_be_finite_and_the_checkpoint_before_stays(tmp_path, agent):
    """A step of 1e30 makes infinite values; the weights saved before it can be loaded."""
    session = _session(agent, tmp_path, 0.0)
    after, rows = session.after_step, 0

    def save_once(**when):
        nonlocal rows
        rows += 1
        session._saved_at = 0.0 if rows == 5 else time.monotonic() + 1e9
        return after(**when)

    session.after_step = save_once
    agent = session.agent
    agent.config = replace(agent.config, learning_rate=1e30)  # what annealing begins from
    agent.learner.optimizer.param_groups[0]["lr"] = 1e30
    with pytest.raises(
        TrainingError, match=r"(not finite|became).*learning_rate.*up to 40 steps is saved"
    ):
        session.run_to_end()
    assert session.run.status().state == "failed"
    (checkpoint,) = session.run.checkpoints.glob("0*")
    assert int(checkpoint.name) == 40  # 5 rows of 8 envs, before any update
    assert all(w.isfinite().all() for w in session.run.newest_weights().values())


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(whole, tmp_path, wait_until):
    process = _start(CARTPOLE, tmp_path, "--checkpoint-seconds", "0")
    saved = "*/*/*/checkpoints/0*"
    wait_until(lambda: len(list(tmp_path.glob(saved))) >= 2, "two checkpoints are there", process)
    _kill(process)
    run = _only_run(tmp_path)
    newest = sorted(run.glob("checkpoints/0*"))[-1]
    file = newest / "rank-0" / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 255
    file.write_bytes(bytes(data))
    output = _finish(_resume(run))
    assert "is damaged" in output
    assert str(newest) in output
    assert _weights_sha256(run) == _weights_sha256(whole)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_signals_save_and_exit(tmp_path, number, code, wait_until):
    process = _start("train dqn CartPole-v1 --steps 100000000", tmp_path)

    def has_finished_a_game():
        return any(len(f.read_text().split()) > 1 for f in tmp_path.glob("*/*/*/episodes.csv"))

    wait_until(has_finished_a_game, "a game has ended", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=wait_until.seconds)
    assert process.returncode == code, err
    assert "Traceback" not in err
    run = _only_run(tmp_path)
    assert f"--resume {run}" in err
    assert len(list(run.glob("checkpoints/0*"))) == 1
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"


def test_no_pickle_on_the_way(tmp_path):
    """Train, save, resume and load with pickle's machinery switched off."""
    script = f"""
import pickle, _pickle, torch._dynamo
from pathlib import Path
from ludus.training.api import train
from ludus.training.train import load
from ludus.training.run import Run, TrainOptions, all_runs
from ludus.training.train import resume_session, start_session
def refuse(*a, **k): raise AssertionError("pickle was used")
for m in (pickle, _pickle):
    m.load = m.loads = m.dump = m.dumps = refuse
pickle.Unpickler = pickle.Pickler = refuse
train("dqn", "CartPole-v1", steps=400, root={str(tmp_path)!r}, quiet=True,
      train_options=TrainOptions(eval_episodes=1))
(run,) = all_runs(Path({str(tmp_path)!r}))
resume_session(run, quiet=True).run_to_end()
load(run.path)
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=LIMIT,
    )
    assert done.stdout.strip() == "fine", done.stderr
