"""Several ranks, started by torchrun, train one agent together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from ludus.envs.errors import CheckpointError, RunError
from ludus.training.checkpoint import read_checkpoint
from ludus.training.gang import ALONE_GANG, own_device
from ludus.training.run import Run, TrainOptions, all_runs
from ludus.training.train import resume_session

RANK_GRADIENTS = Path(__file__).with_name("rank_gradients.py")
TRAINING = ["--num-envs", "4", "--eval-episodes", "2", "--video-every", "0", "--device", "cpu"]


def _port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _torchrun(folder, *words, restarts=0, ranks=2):
    """Start ranks in a folder; their output goes to a file there."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += ["--master-port", _port(), "--max-restarts", str(restarts), *map(str, words)]
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "output").open("a") as output:
        return subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, text=True, env=environment
        )


def _end(process, folder, wait_until, code=0):
    process.wait(wait_until.seconds)
    output = (folder / "output").read_text()
    assert process.returncode == code, output[-4000:]
    return output


def _train(folder, wait_until, *words, **options):
    process = _torchrun(folder, "-m", "ludus", "train", *words, *TRAINING, **options)
    return _end(process, folder, wait_until)


def _last(run):
    """The newest checkpoint's tree of each rank."""
    path = run.checkpoints / f"{run.saved_steps[-1]:012d}"
    return [read_checkpoint(path, rank) for rank in range(2)]


def _same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if hasattr(one, "read"):  # the rows of a ring
        return np.array_equal(one.read(one.first, one.written), other.read(one.first, one.written))
    return bool(np.all(np.asarray(one) == np.asarray(other)))


def test_the_gradient_of_the_ranks_is_that_of_their_batches_as_one(tmp_path, wait_until):
    process = _torchrun(tmp_path, RANK_GRADIENTS)
    assert _end(process, tmp_path, wait_until).count("equal") == 2


DQN = ["--learning-starts", "100", "--target-interval", "20", "--prioritised"]
PPO = ["--rollout-length", "32", "--normalize-reward", "--target-kl", "0.01"]
TRAININGS = {
    "dqn": ["dqn", "CartPole-v1", "--steps", "2000", *DQN],
    "ppo": ["ppo", "CartPole-v1", "--steps", "2000", *PPO],
    "halves": ["dqn", "FrozenLake-v1", "--steps", "2000", "--halves", *DQN],
}
KINDS = ["dqn", "ppo", pytest.param("halves", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, wait_until):
    """Return the run folder of two ranks of a kind of training, which train when first asked."""
    runs = {}

    def train(kind):
        if kind not in runs:
            folder = tmp_path_factory.mktemp(kind)
            output = _train(folder, wait_until, *TRAININGS[kind])
            assert "2 ranks with 2 envs each" in output
            assert output.count("mean return") == 1
            (runs[kind],) = all_runs(folder / "runs")
        return runs[kind]

    return train


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_keep_equal_weights_and_play_other_games(undisturbed, kind):
    run = undisturbed(kind)
    first, second = (tree["agent"] for tree in _last(run))
    assert _same(first["network"], second["network"])
    assert _same(first["optimizer"], second["optimizer"])
    assert first["updates"] == second["updates"] > 20
    assert first["env_steps"] == second["env_steps"] >= 2000
    one, other = _last(run)
    assert not _same(one["row"], other["row"])
    assert one["env"]["episode"].sum() > 2
    config = json.loads((run.path / "config.json").read_text())
    assert (config["ranks"], config["train"]["num_envs"]) == (2, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_rank_was_killed_the_ranks_go_on_bit_for_bit(
    undisturbed, kind, tmp_path, wait_until
):
    words = ["train", *TRAININGS[kind], *TRAINING, "--checkpoint-seconds", "0.05"]
    process = _torchrun(tmp_path, "-m", "ludus", *words, restarts=1)

    def saved():
        found = all_runs(tmp_path / "runs")
        return found[0] if found and found[0].saved_steps else None

    run = wait_until(saved, "a checkpoint is there", process)
    ranks = psutil.Process(process.pid).children()
    followers = [each for each in ranks if each.environ().get("RANK") == "1"]
    followers[0].kill()
    output = _end(process, tmp_path, wait_until)
    assert "has lost another" in output
    assert f"resumed {run.path}" in output.replace("\n", " ")
    assert len(all_runs(tmp_path / "runs")) == 1
    for ours, theirs in zip(_last(run), _last(undisturbed(kind)), strict=True):
        assert _same(ours["agent"], theirs["agent"])
        assert _same(ours["row"], theirs["row"])


def test_a_signal_to_one_rank_stops_all_and_saves(tmp_path, wait_until):
    words = ["train", "dqn", "CartPole-v1", "--steps", "1000000", *TRAINING]
    process = _torchrun(tmp_path, "-m", "ludus", *words)

    def training():
        found = all_runs(tmp_path / "runs")
        return found[0] if found and found[0].status().env_steps > 100 else None

    run = wait_until(training, "the ranks train", process)
    ranks = psutil.Process(process.pid).children()
    (second,) = [each for each in ranks if each.environ().get("RANK") == "1"]
    second.send_signal(signal.SIGTERM)
    output = _end(process, tmp_path, wait_until, code=1)
    assert "stopped by SIGTERM at" in output
    assert run.status().state == "stopped"
    first, second = (tree["agent"] for tree in _last(run))
    assert first["env_steps"] == second["env_steps"] == run.status().env_steps
    assert _same(first["network"], second["network"])


def test_another_number_of_ranks_is_refused(undisturbed, tmp_path):
    copy = Run(shutil.copytree(undisturbed("dqn").path, tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"of 2 ranks.*torchrun --nproc-per-node 2"):
        resume_session(copy, {"steps": 4000}, quiet=True)


def test_what_ranks_cannot_share_is_refused(undisturbed):
    gang = ALONE_GANG._replace(rows=_Two())
    with pytest.raises(RunError, match="num_envs is 7, which 2 ranks cannot share; choose a mul"):
        gang.part_of_options(TrainOptions(num_envs=7))
    config = undisturbed("dqn").config().config
    assert gang.part_of_config(config).batch_size == config.batch_size // 2
    assert gang.part_of_config(config).replay_size == config.replay_size // 2
    assert (gang.first_env(4), gang.seed(5) == 5) == (2, False)


def test_a_process_takes_the_gpu_of_its_number(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert own_device(torch.device("cuda")) == torch.device("cuda")  # without torchrun
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "a"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RunError, match="no GPU for process 3 of this host, which has 2"):
        own_device(torch.device("cuda"))
    assert taken == [1]


class _Two:
    size, rank = 2, 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dqn", "CartPole-v1", "--num-envs", "3"], "num_envs is 3, which 2 ranks cannot share"),
        (["sb3:dqn", "CartPole-v1"], "sb3:dqn trains in one process, and torchrun started 2"),
        (["dqn", "CartPole-v1", "--run-dir", "/proc/none"], "cannot be made"),
    ],
)
def test_a_mistake_is_one_sentence_of_rank_0(tmp_path, wait_until, words, sentence):
    process = _torchrun(tmp_path, "-m", "ludus", "train", *words)
    output = _end(process, tmp_path, wait_until, code=1)
    assert output.count(sentence) == 1
    assert output.count("Traceback") == 1  # torchrun's own
