import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ludus.envs.errors import CheckpointError
from ludus.training.checkpoint import newest_checkpoint, read_checkpoint, save_checkpoint


def _tree(value: float = 1.0):
    generator = np.random.default_rng(3).bit_generator.state  # holds integers of 128 bits
    return {
        "weights": {"a": torch.full((2, 3), value), "scalar": torch.tensor(5.0)},
        "moments": [{"step": torch.tensor(2.0)}, {}],
        "small": np.arange(5),
        "flags": np.array([True, False]),
        "large": np.arange(400_000, dtype=np.float64).reshape(1000, 400),
        "generator": generator,
        "count": 7,
        "rate": 0.1 + 0.2,
        "nothing": None,
        "text": "x",
        "empty": np.zeros((0, 4)),
    }


def _equal(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    else:
        assert a == b


def test_what_is_saved_comes_back(tmp_path):
    tree = _tree()
    path = save_checkpoint(tmp_path / "c", 12, tree, keep=2)
    assert path.name == "000000000012"
    _equal(tree, read_checkpoint(path))


def test_channels_last_tensors_keep_their_values(tmp_path):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    path = save_checkpoint(tmp_path, 1, {"x": x}, keep=1)
    assert torch.equal(read_checkpoint(path)["x"], x)


def test_only_the_newest_stay(tmp_path):
    for step in (1, 2, 10, 100):
        save_checkpoint(tmp_path, step, {"a": step}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000010", "000000000100"]


@pytest.mark.parametrize(
    "name", ["rank-0/tensors.safetensors", "manifest.json", "rank-0/state.large.0.npy"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_newest_one_is_passed_over_and_named(tmp_path, name, damage):
    save_checkpoint(tmp_path, 1, _tree(1.0), keep=3)
    newest = save_checkpoint(tmp_path, 2, _tree(2.0), keep=3)
    file = newest / name
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    elif damage == "cut":
        file.write_bytes(bytes(data[:-1]))
    else:
        file.unlink()
    tree, damaged, _ = newest_checkpoint(tmp_path)
    assert tree["weights"]["a"][0, 0] == 1.0
    assert len(damaged) == 1
    assert str(newest) in damaged[0]


def test_none_left_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="none has been saved yet"):
        newest_checkpoint(tmp_path / "run" / "checkpoints")


def test_a_half_written_one_is_not_seen_and_swept_away(tmp_path):
    (tmp_path / ".tmp-5").mkdir()
    (tmp_path / ".tmp-5" / "manifest.json").write_text("{}")
    save_checkpoint(tmp_path, 6, {"a": 1}, keep=2)
    assert [p.name for p in tmp_path.iterdir()] == ["000000000006"]


def test_a_pickle_in_place_of_an_array_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 1, _tree(), keep=1)
    evil = path / "rank-0" / "state.large.0.npy"
    np.save(evil, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_going_on_before_a_damaged_one_keeps_what_is_whole(tmp_path):
    """After 200 is damaged and 100 used, saving 150 must not count 200 among those that stay."""
    for step in (50, 100, 200):
        save_checkpoint(tmp_path, step, {"a": step}, keep=3)
    (tmp_path / "000000000200" / "manifest.json").write_text("")
    assert newest_checkpoint(tmp_path)[0] == {"a": 100}
    save_checkpoint(tmp_path, 150, {"a": 150}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000100", "000000000150"]


def test_a_whole_one_of_the_same_step_stays_and_a_damaged_one_is_replaced(tmp_path):
    save_checkpoint(tmp_path, 7, {"a": 1}, keep=1)
    path = save_checkpoint(tmp_path, 7, {"a": 2}, keep=1)
    assert read_checkpoint(path) == {"a": 1}
    (path / "manifest.json").write_text("")
    save_checkpoint(tmp_path, 7, {"a": 3}, keep=1)
    assert read_checkpoint(path) == {"a": 3}


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "checkpoints", 1, {"a": 1}, keep=1)


@given(
    steps=st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True).map(sorted),
    keep=st.integers(1, 3),
    every=st.integers(1, 40),
)
@settings(max_examples=20, deadline=None)
def test_the_first_checkpoint_of_each_stage_is_kept_with_the_newest(steps, keep, every):
    with tempfile.TemporaryDirectory() as folder:
        for step in steps:
            save_checkpoint(Path(folder), step, {"a": step}, keep, every=every)
        firsts = [s for i, s in enumerate(steps) if i == 0 or s // every > steps[i - 1] // every]
        left = sorted(int(path.name) for path in Path(folder).iterdir())
        assert left == sorted({*firsts, *steps[-keep:]})
