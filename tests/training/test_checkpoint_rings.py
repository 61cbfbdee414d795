"""Rings in checkpoints: only new rows are written, and the training goes on meanwhile."""

import contextlib
import json
import shutil
import signal
import threading
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ludus
from ludus.agents.memory.ring_rows import RowsReplacedError, rows_of
from ludus.envs.errors import CheckpointError, TrainingStopped
from ludus.training import checkpoint_part
from ludus.training.checkpoint import newest_checkpoint, read_checkpoint, save_checkpoint
from ludus.training.checkpoint_writer import CheckpointWriter
from ludus.training.run import TrainOptions
from ludus.training.session import Session

LIMIT = 600
SAVE = "ludus.training.checkpoint_writer.save_checkpoint"


class Ring:
    """A ring of rows of 4 numbers; row n holds n."""

    def __init__(self, size):
        self.rows, self.written = torch.zeros(size, 4, dtype=torch.int64), 0

    def add(self, count):
        for _ in range(count):
            self.rows[self.written % len(self.rows)] = self.written
            self.written += 1

    def tree(self):
        return {"ring": rows_of(self.rows, self.written, lambda: self.written), "n": self.written}

    def copy(self):
        other = Ring(len(self.rows))
        other.rows.copy_(self.rows)
        other.written = self.written
        return other


def _loaded(tree, size):
    ring = Ring(size)
    ring.written = tree["n"]
    tree["ring"].copy_to(ring.rows)
    return ring


@pytest.fixture
def four_rows(monkeypatch):
    """A file holds 4 rows."""
    monkeypatch.setattr(checkpoint_part, "_SEGMENT", 4 * 32)


@pytest.fixture
def slow_disk(monkeypatch):
    """From a call on, checkpoints are only written once the event that it returns is set."""

    def slow():
        goes_on = threading.Event()

        def late(*arguments, **options):
            assert goes_on.wait(LIMIT)
            return save_checkpoint(*arguments, **options)

        monkeypatch.setattr(SAVE, late)
        return goes_on

    return slow


@pytest.fixture
def no_hard_links(monkeypatch):
    """A disk that has none."""

    def refuse(self, target):
        raise PermissionError("no hard links")

    monkeypatch.setattr(Path, "hardlink_to", refuse)


def _files(path):
    return {file.name: file.stat() for file in sorted(path.rglob("*.npy"))}


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 30),
    steps=st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), max_size=6),
)
def test_any_sequence_of_saves_and_resumes_keeps_every_row(tmp_path_factory, size, steps):
    folder, ring = tmp_path_factory.mktemp("ring"), Ring(size)
    writer = CheckpointWriter(folder, keep=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_part, "_SEGMENT", 4 * 32)
        for number, (count, wait, resumes) in enumerate(steps, start=1):
            ring.add(count)
            writer.save(number, ring.tree(), wait=wait)
            writer.finish()
            path = folder / f"{number:012d}"
            assert torch.equal(_loaded(read_checkpoint(path), size).rows, ring.rows)
            if resumes:
                tree, _, path = newest_checkpoint(folder)
                ring, writer = _loaded(tree, size), CheckpointWriter(folder, keep=2)
                writer.continue_from(path, tree)


def test_full_files_are_shared_and_go_with_the_last_checkpoint(tmp_path, four_rows):
    ring, writer = Ring(12), CheckpointWriter(tmp_path, keep=2)
    ring.add(10)
    writer.save(1, ring.tree(), wait=True)
    first = _files(tmp_path / f"{1:012d}")
    assert list(first) == [f"state.ring.{n}.npy" for n in (0, 1, 2)]
    ring.add(7)  # 5 to 16 are held: the rows 0 to 3 are gone
    writer.save(2, ring.tree(), wait=True)
    second = _files(tmp_path / f"{2:012d}")
    assert list(second) == [f"state.ring.{n}.npy" for n in (1, 2, 3, 4)]
    shared = [
        name for name in second if name in first and second[name].st_ino == first[name].st_ino
    ]
    assert shared == ["state.ring.1.npy"]
    ring.add(8)
    writer.save(3, ring.tree(), wait=True)
    third = _files(tmp_path / f"{3:012d}")
    assert {name: stat.st_nlink for name, stat in third.items()} == {
        "state.ring.3.npy": 2,
        "state.ring.4.npy": 1,
        "state.ring.5.npy": 1,
        "state.ring.6.npy": 1,
    }
    shutil.rmtree(tmp_path / f"{2:012d}")
    assert torch.equal(_loaded(read_checkpoint(tmp_path / f"{3:012d}"), 12).rows, ring.rows)


def test_a_disk_without_hard_links_holds_whole_checkpoints(tmp_path, four_rows, no_hard_links):
    ring, writer = Ring(12), CheckpointWriter(tmp_path, keep=1)
    for step in (1, 2, 3):
        ring.add(9)
        writer.save(step, ring.tree(), wait=True)
    found = newest_checkpoint(tmp_path)
    assert torch.equal(_loaded(found.tree, 12).rows, ring.rows)
    assert all(stat.st_nlink == 1 for stat in _files(found.path).values())


def test_what_training_changes_later_is_not_in_the_checkpoint(tmp_path, slow_disk):
    """The thread writes only after the training has gone on."""
    goes_on = slow_disk()
    ring, array, tensor = Ring(40), np.arange(300_000), torch.arange(5)
    ring.add(15)
    steps = [1]
    tree = ring.tree() | {"array": array, "tensor": tensor, "steps": steps}
    want, writer = ring.copy(), CheckpointWriter(tmp_path, keep=1)
    writer.save(1, tree, wait=False)
    array += 1
    tensor += 1
    steps.append(2)
    ring.add(25)  # up to the last row that replaces none
    goes_on.set()
    writer.finish()
    saved = newest_checkpoint(tmp_path).tree
    assert np.array_equal(saved["array"], np.arange(300_000))
    assert torch.equal(saved["tensor"], torch.arange(5))
    assert saved["steps"] == [1]
    assert torch.equal(_loaded(saved, 40).rows, want.rows)


def test_a_ring_that_is_faster_than_the_disk_is_waited_for(tmp_path, slow_disk):
    """Nothing is raised, the checkpoint before stays, and the next one is whole."""
    ring, writer = Ring(40), CheckpointWriter(tmp_path, keep=2)
    ring.add(40)
    writer.save(1, ring.tree(), wait=True)
    goes_on = slow_disk()
    ring.add(10)
    writer.save(2, ring.tree(), wait=False)
    ring.add(31)
    with pytest.raises(RowsReplacedError):
        rows_of(ring.rows, 50, lambda: ring.written).read(40, 50)
    goes_on.set()
    writer.finish()
    assert newest_checkpoint(tmp_path).path.name == f"{1:012d}"
    writer.save(3, ring.tree(), wait=False)
    found = newest_checkpoint(tmp_path)  # it was waited for: more than half of the ring is new
    assert found.path.name == f"{3:012d}"
    assert torch.equal(_loaded(found.tree, 40).rows, ring.rows)


def test_a_checkpoint_that_cannot_be_written_is_reported_by_the_next(tmp_path):
    ring, writer = Ring(40), CheckpointWriter(tmp_path / "file" / "checkpoints", keep=1)
    (tmp_path / "file").write_text("")
    writer.save(1, ring.tree(), wait=False)
    with pytest.raises(CheckpointError, match="cannot be written"):
        writer.save(2, ring.tree(), wait=False)


def test_a_failed_checkpoint_is_made_up_for_by_the_next(tmp_path):
    """The disk was full for a moment."""
    ring, writer = Ring(40), CheckpointWriter(tmp_path / "folder" / "checkpoints", keep=1)
    ring.add(10)
    (tmp_path / "folder").write_text("")
    writer.save(1, ring.tree(), wait=False)
    with contextlib.suppress(CheckpointError):
        writer._writing.result()
    (tmp_path / "folder").unlink()
    ring.add(5)
    writer.save(2, ring.tree(), wait=False)
    found = newest_checkpoint(tmp_path / "folder" / "checkpoints")  # it was waited for
    assert torch.equal(_loaded(found.tree, 40).rows, ring.rows)


def test_a_full_ring_without_hard_links_loses_one_checkpoint_at_most(tmp_path, no_hard_links):
    """Every row is written again, and the oldest are replaced meanwhile."""

    def late(*arguments, **options):
        ring.add(1)
        return save_checkpoint(*arguments, **options)

    ring, writer = Ring(40), CheckpointWriter(tmp_path, keep=9)
    ring.add(40)
    writer.save(1, ring.tree(), wait=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAVE, late)
        ring.add(10)
        writer.save(2, ring.tree(), wait=False)
        writer.finish()
    assert not list(tmp_path.glob(".tmp*"))
    for step in (3, 4, 5):
        ring.add(10)
        writer.save(step, ring.tree(), wait=False)
        assert torch.equal(_loaded(newest_checkpoint(tmp_path).tree, 40).rows, ring.rows)
    assert [int(path.name) for path in sorted(tmp_path.iterdir())] == [1, 3, 4, 5]


def test_rings_may_come_and_go(tmp_path, four_rows):
    """A rival's memory appears during a training; an older version saved plain arrays."""
    one, two = Ring(12), Ring(20)
    one.add(10)
    two.add(30)
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.continue_from(save_checkpoint(tmp_path, 1, {"a": np.arange(5)}, 1), {"a": np.arange(5)})
    for step, rings in enumerate(
        [{"a": one}, {"a": one, "b": two}, {"b": two}, {"b": one, "a": two}], start=2
    ):
        tree = {name: ring.tree() for name, ring in rings.items()}
        writer.save(step, tree, wait=False)
        writer.finish()
        found = newest_checkpoint(tmp_path)
        assert found.path.name == f"{step:012d}"
        for name, ring in rings.items():
            assert torch.equal(_loaded(found.tree[name], len(ring.rows)).rows, ring.rows)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": -5},
        {"size": 4},  # a smaller ring, whose rows are there
        {"written": 11},
        {"written": 9},
        {"written": "ten"},
        {"shape": [3]},
        {"dtype": "<f8"},
        {"dtype": "|O"},
        {"segments": []},
        {"start": 1},
        {"start": -4},
        {"start": None},
    ],
    ids=str,
)
def test_an_entry_that_does_not_fit_its_files_is_damaged(tmp_path, four_rows, change):
    ring = Ring(12)
    ring.add(10)
    path = save_checkpoint(tmp_path, 1, ring.tree(), keep=1)
    manifest = json.loads((path / "manifest.json").read_text())
    body = json.loads(manifest["body"])
    (entry,) = body["parts"][0]["arrays"].values()
    if "start" in change:
        entry["segments"][1] |= change
    else:
        entry |= change
    text = json.dumps(body)
    manifest = {"sha256": sha256(text.encode()).hexdigest(), "body": text}
    (path / "manifest.json").write_text(json.dumps(manifest))
    if change == {"size": 4}:
        assert read_checkpoint(path)["ring"].read(6, 10)[:, 0].tolist() == [6, 7, 8, 9]
        return
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_a_signal_waits_for_the_checkpoint_that_is_being_written(tmp_path, monkeypatch, slow_disk):
    """It comes after the writing has begun, and nothing is written before somebody waits."""
    waited = slow_disk()
    finish, save_weights = CheckpointWriter.finish, Session.save_weights

    def wait(writer):
        if writer._writing is not None:
            waited.set()
        finish(writer)

    def interrupt(session):
        save_weights(session)
        if session._writer._writing is not None:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(CheckpointWriter, "finish", wait)
    monkeypatch.setattr(Session, "save_weights", interrupt)
    options = TrainOptions(num_envs=4, eval_episodes=0, checkpoint_seconds=0)
    try:
        with pytest.raises(TrainingStopped, match="everything up to 4 steps is saved; go on with"):
            ludus.train("dqn", "CartPole-v1", train_options=options, root=tmp_path, quiet=True)
    finally:
        waited.set()
    (run,) = tmp_path.glob("*/*/*")
    assert newest_checkpoint(run / "checkpoints").path.name == f"{4:012d}"
