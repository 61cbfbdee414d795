"""Folders of format version 1, as ludus 0.1.0 wrote them, and of a format that is too new."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ludus.agents.alphazero_config import AlphaZeroConfig
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.pqn_config import PQNConfig
from ludus.envs.errors import CheckpointError, ConfigError, FormatError, RunError
from ludus.envs.from_json import from_json
from ludus.envs.make import EnvOptions
from ludus.evaluation.evaluate import evaluate
from ludus.training.checkpoint import (
    check_resumable,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from ludus.training.collect import collect
from ludus.training.dataset import Dataset
from ludus.training.formats import FORMAT
from ludus.training.run import Run, TrainOptions
from ludus.training.train import load, resume_session, start_session

VERSION_1_CONFIG = {
    "agent": "dqn",
    "env": "CartPole-v1",
    "train": {
        "steps": 300,
        "seed": 0,
        "num_envs": 8,
        "device": "cpu",
        "log_every": 1000,
        "eval_every": 0,
        "eval_episodes": 0,
        "eval_epsilon": 0.0,
        "video_every": 0,
        "checkpoint_seconds": 300.0,
        "keep_checkpoints": 2,
        "init_from": None,
        "rivals": [],
        "dataset": None,
        "held_out": 0.1,
    },
    "options": {
        "stack": None,
        "sticky": None,
        "frameskip": None,
        "screen_size": None,
        "noop_max": None,
        "life_loss": None,
        "full_action_space": None,
        "max_frames": None,
        "opponent": None,
        "timeout": 60.0,
        "threads": 0,
    },
    "config_type": "DQNConfig",
    "config": {
        "encoder": "mlp",
        "hidden": [8],
        "width": 1,
        "pool": 0,
        "spectral_norm": False,
        "layer_norm": False,
        "freeze": "none",
        "head": "q",
        "head_hidden": 0,
        "dueling": False,
        "noisy": False,
        "noisy_sigma": 0.5,
        "atoms": 51,
        "v_min": -10.0,
        "v_max": 10.0,
        "quantiles": 200,
        "samples": 64,
        "target_samples": 64,
        "policy_samples": 32,
        "double": False,
        "munchausen": False,
        "munchausen_scale": 0.9,
        "munchausen_temperature": 0.03,
        "munchausen_floor": -1.0,
        "value_rescaling": False,
        "conservative": 0.0,
        "loss": "huber",
        "optimizer": "adam",
        "learning_rate": 0.0001,
        "optimizer_eps": 1e-08,
        "momentum": 0.0,
        "max_grad_norm": 10.0,
        "batch_size": 8,
        "gamma": 0.99,
        "n_step": 1,
        "clip_reward": False,
        "replay_size": 40000,
        "prioritised": False,
        "priority_alpha": 0.5,
        "priority_beta_start": 0.4,
        "priority_beta_end": 1.0,
        "learning_starts": 100,
        "replay_ratio": 0.25,
        "target_interval": 2500,
        "polyak": 1.0,
        "epsilon_start": 1.0,
        "epsilon_end": 0.05,
        "epsilon_steps": 100000,
        "evaluation_epsilon": 0.05,
    },
    "protocol": {"kind": "gymnasium", "max_episode_steps": 500, "stack": 1},
    "versions": {"python": "3.11.7", "ludus": "0.1.0", "torch": "2.13.0"},
    "commit": None,
    "command": ["ludus", "train", "dqn", "CartPole-v1"],
}
TOO_NEW = r"format 3; this ludus \S+ reads 1 and 2; it was written by ludus 0\.4\.0"


def _entry(file):
    data = file.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _write_manifest(folder, body):
    text = json.dumps(body)
    manifest = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _write_version_1(folder, step, tensors, arrays=None, scalars=None):
    """Write a flat tree as ludus 0.1.0 did: one tensors file, one file for each large array."""
    path = folder / f"{step:012d}"
    path.mkdir(parents=True)
    save_file(
        {f"state.{name}": value for name, value in tensors.items()}, path / "tensors.safetensors"
    )
    tree = {name: {"$tensor": f"state.{name}"} for name in tensors} | (scalars or {})
    for name, array in (arrays or {}).items():
        np.save(path / f"state.{name}.npy", array)
        tree[name] = {"$array": f"state.{name}.npy"}
    files = {file.name: _entry(file) for file in path.iterdir()}
    _write_manifest(path, {"step": step, "files": files, "tree": tree})
    return path


def _policy():
    """Return weights of a DQN with 8 hidden units that pushes to where the pole falls."""
    first, last = torch.zeros(8, 4), torch.zeros(2, 8)
    first[0], first[1] = torch.tensor([0, 0, 1.0, 0.3]), torch.tensor([0, 0, -1.0, -0.3])
    last[1, 0] = last[0, 1] = 1.0
    return {
        "encoder.layers.0.weight": first,
        "encoder.layers.0.bias": torch.zeros(8),
        "head.streams.advantage.layers.0.weight": last,
        "head.streams.advantage.layers.0.bias": torch.zeros(2),
    }


@pytest.fixture
def version_1_run(tmp_path):
    run = Run(tmp_path / "runs" / "CartPole-v1" / "dqn" / "0-20260101-000000")
    run.path.mkdir(parents=True)
    (run.path / "config.json").write_text(json.dumps(VERSION_1_CONFIG, indent=2))
    status = {"state": "finished", "env_steps": 300, "score": None, "mean_return": 20.0}
    (run.path / "status.json").write_text(json.dumps(status | {"seconds": 1.0}))
    _write_version_1(run.weights, 300, _policy())
    replay = {"frames": np.zeros((400_000, 4), np.uint8)}
    _write_version_1(run.checkpoints, 300, {"beta": torch.tensor(0.4)}, replay, {"env_steps": 300})
    return run


def test_a_checkpoint_of_version_1_comes_back(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3)}
    large = np.arange(400_000, dtype=np.float64).reshape(1000, 400)
    path = _write_version_1(tmp_path, 7, tensors, {"large": large}, {"count": 3, "none": None})
    tree = read_checkpoint(path)
    assert torch.equal(tree["a"], tensors["a"])
    assert np.array_equal(tree["large"], large)
    assert (tree["count"], tree["none"]) == (3, None)
    data = bytearray((path / "state.large.npy").read_bytes())
    data[-1] ^= 1
    (path / "state.large.npy").write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"state\.large\.npy has changed"):
        read_checkpoint(path)


def test_a_run_of_version_1_is_loaded_and_evaluated(version_1_run):
    agent = load(version_1_run.path)
    score = evaluate(agent, "CartPole-v1", EnvOptions(), episodes=5)
    assert score.mean > 150, "an untrained network has about 10"
    assert load(f"{version_1_run.path}@300").predict(np.ones((1, 4), np.float32))[0] == [1]
    assert version_1_run.status().env_steps == 300


def test_a_run_of_version_1_is_a_source_of_weights(version_1_run, tmp_path):
    config = version_1_run.config()
    options = TrainOptions(steps=10, eval_episodes=0, init_from=str(version_1_run.path))
    session = start_session(
        "dqn", "CartPole-v1", options, EnvOptions(), config.config, tmp_path / "new", quiet=True
    )
    session.mode.close()
    assert all(torch.equal(session.agent.weights()[k], v) for k, v in _policy().items())


def test_a_resume_of_version_1_is_refused_in_one_sentence(version_1_run):
    sentence = (
        r"checkpoints/000000000300 has format 1, which only ludus 0\.1\.0 resumes; its weights can "
        r"still be used with --init-from, evaluate and watch$"
    )
    with pytest.raises(CheckpointError, match=sentence):
        resume_session(version_1_run, quiet=True)
    assert version_1_run.status().state == "finished", "a refusal changes nothing"


def test_a_field_is_read_under_its_former_name():
    old = {"channels": 16, "blocks": 2}
    assert from_json(AlphaZeroConfig, old, RunError) == AlphaZeroConfig(tower_channels=16, blocks=2)


@pytest.mark.parametrize("kind", [DQNConfig, PQNConfig])
def test_layer_normalisation_is_read_as_older_versions_meant_it(kind):
    for old, now in ((False, "none"), (True, "all")):
        assert from_json(kind, {"layer_norm": old}, RunError).layer_norm == now
    for value in ("none", "channels", "all"):
        assert from_json(kind, {"layer_norm": value}, RunError).layer_norm == value
    with pytest.raises(RunError, match="layer_norm is 1 in"):
        from_json(kind, {"layer_norm": 1}, RunError)


def test_a_checkpoint_of_a_newer_format_is_named_and_not_taken_for_damaged(tmp_path):
    save_checkpoint(tmp_path, 1, {"a": 1}, keep=9)
    newer = tmp_path / f"{2:012d}"
    newer.mkdir()
    _write_manifest(newer, {"format": 3, "ludus": "0.4.0", "shards": "unheard of"})
    for call in (
        lambda: read_checkpoint(newer),
        lambda: newest_checkpoint(tmp_path),
        lambda: check_resumable(tmp_path),
    ):
        with pytest.raises(FormatError, match=f"^the checkpoint {newer} has {TOO_NEW}"):
            call()
    run = Run(tmp_path / "run")
    newer.parent.joinpath("run").mkdir()
    (tmp_path / "run" / "weights").mkdir()
    newer.rename(run.weights / newer.name)
    with pytest.raises(RunError, match=TOO_NEW):
        run.newest_weights()


def test_a_run_of_a_newer_format_is_refused_in_one_sentence(version_1_run):
    file = version_1_run.path / "config.json"
    newer = VERSION_1_CONFIG | {"format": 3, "ludus": "0.4.0", "config_type": "Unheard"}
    file.write_text(json.dumps(newer))
    with pytest.raises(RunError, match=f"^the run {version_1_run.path} has {TOO_NEW}"):
        version_1_run.config()


def test_a_new_run_carries_its_format(version_1_run, tmp_path):
    run = Run.create(tmp_path / "new", version_1_run.config())
    record = json.loads((run.path / "config.json").read_text())
    assert record["format"] == FORMAT == 2
    assert record["ludus"] == record["versions"]["ludus"]
    assert run.config() == version_1_run.config()


def test_an_array_of_several_segments_is_joined_in_their_order(tmp_path):
    large = np.arange(400_000, dtype=np.float64).reshape(1000, 400)
    path = save_checkpoint(tmp_path, 1, {"large": large}, keep=1)
    body = json.loads(json.loads((path / "manifest.json").read_text())["body"])
    array = body["parts"][0]["arrays"]["state.large"]
    assert (array["shape"], array["dtype"]) == ([1000, 400], "<f8")
    (whole,) = array["segments"]
    assert whole == {
        "file": "rank-0/state.large.0.npy",
        "rows": 1000,
        **_entry(path / "rank-0" / "state.large.0.npy"),
    }
    array["segments"] = []
    for number, rows in enumerate((slice(0, 300), slice(300, 1000))):
        file = path / "rank-0" / f"state.large.{number}.npy"
        np.save(file, large[rows])
        segment = {"file": f"rank-0/{file.name}", "rows": rows.stop - rows.start, **_entry(file)}
        array["segments"].append(segment)
    _write_manifest(path, body)
    assert np.array_equal(read_checkpoint(path)["large"], large)
    np.save(path / "rank-0" / "state.large.1.npy", large[300:] + 1)
    with pytest.raises(CheckpointError, match=r"state\.large\.1\.npy has changed"):
        read_checkpoint(path)


class _Left:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros(len(observation), np.int64), state


def test_a_data_set_carries_its_format_and_a_newer_one_is_refused(tmp_path):
    out = tmp_path / "set"
    names = {"dataset_id": "a/b-v0", "agent": "left"}
    collect(_Left(), "CartPole-v1", EnvOptions(), out, episodes=3, **names)
    file = out / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    record = json.loads(metadata["ludus"])
    assert record["format"] == FORMAT
    version_1 = {k: v for k, v in record.items() if k not in ("format", "ludus")}
    file.write_text(json.dumps(metadata | {"ludus": json.dumps(version_1)}))
    assert Dataset(str(out)).env_id == "CartPole-v1"
    newer = record | {"format": 3, "ludus": "0.4.0", "options": {"unheard": 1}}
    file.write_text(json.dumps(metadata | {"ludus": json.dumps(newer)}))
    with pytest.raises(ConfigError, match=f"^the data set {out} has {TOO_NEW}"):
        Dataset(str(out))
