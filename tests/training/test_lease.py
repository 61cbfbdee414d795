"""The lease of a run folder between machines, whose names the tests make up."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ludus.envs.errors import CheckpointError, RunError
from ludus.training import lease
from ludus.training.checkpoint import save_checkpoint
from ludus.training.lease import Lease, RunLock


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of whoever waits for another machine, which take no time."""
    slept = list[float]()
    monkeypatch.setattr(lease.time, "sleep", slept.append)
    monkeypatch.setattr(lease, "waits", lambda seconds: iter([1.0] * int(seconds)))
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 10_000.0)  # only as a test says
    return slept


def test_another_machine_waits_until_the_lease_is_not_renewed(tmp_path, said, pauses):
    first, second = Lease(tmp_path / ".lease", "a 1"), Lease(tmp_path / ".lease", "b 1")
    first.acquire(said.append)
    first.require()
    assert (said, pauses) == ([], [])
    second.acquire(said.append)  # the first has never renewed it
    assert sum(pauses) == lease.LEASE_SECONDS
    assert said == [f"{tmp_path} was last trained by a; waiting up to 30 s whether it still is"]
    second.require()
    with pytest.raises(OSError, match="taken over by the machine b while this process did not"):
        first.require()
    first.release()
    second.require()
    second.release()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="the run was taken over while"):
        first.require()


def test_a_lease_that_is_renewed_is_not_taken_over(tmp_path, said, pauses, monkeypatch):
    first, second = Lease(tmp_path / ".lease", "a 1"), Lease(tmp_path / ".lease", "b 1")
    first.acquire(said.append)

    def renews_at_7(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 7:
            first._write()

    monkeypatch.setattr(lease.time, "sleep", renews_at_7)
    with pytest.raises(RunError, match=r"is being trained by the machine a$"):
        second.acquire(said.append)
    assert len(pauses) == 7
    first.require()


def test_a_lease_that_is_given_back_is_taken_at_once(tmp_path, said, pauses, monkeypatch):
    first, second = Lease(tmp_path / ".lease", "a 1"), Lease(tmp_path / ".lease", "b 1")
    first.acquire(said.append)
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: pauses.append(1) or first.release())
    second.acquire(said.append)
    assert len(pauses) == 1
    second.require()


def test_the_same_machine_does_not_wait(tmp_path, said, pauses):
    """There the lock of the file decides, which a killed process does not hold."""
    for _ in range(2):
        Lease(tmp_path / ".lease").acquire(said.append)
    assert (said, pauses) == ([], [])


def test_a_damaged_lease_is_none(tmp_path, said, pauses):
    for content in ("", "[]", '{"token": 1}', "\0"):
        (tmp_path / ".lease").write_text(content)
        Lease(tmp_path / ".lease", "a 1").acquire(said.append)
    assert said == []


def test_another_machine_holds_it_while_it_renews(tmp_path, said):
    Lease(tmp_path / ".lease", "a 1").acquire(said.append)
    assert RunLock(tmp_path).held_by_other()
    old = (tmp_path / ".lease").stat().st_mtime - 60
    os.utime(tmp_path / ".lease", (old, old))
    assert not RunLock(tmp_path).held_by_other()


def test_the_holder_renews_it(tmp_path, said, monkeypatch, wait_until):
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 0.01)
    held = RunLock(tmp_path)
    held.acquire(said.append)
    wait_until(
        lambda: json.loads((tmp_path / ".lease").read_text())["renewals"] > 3, "it is renewed"
    )
    held.release()
    assert not (tmp_path / ".lease").exists()


def test_who_was_stopped_too_long_writes_no_checkpoint(tmp_path, said, pauses):
    run: Path = tmp_path / "run"
    run.mkdir()
    mine, other = Lease(run / ".lease", "a 1"), Lease(run / ".lease", "b 1")
    mine.acquire(said.append)
    tree = {"x": np.arange(3)}
    folder = run / "checkpoints"
    save_checkpoint(folder, 1, tree, 2, require_own=mine.require)
    other.acquire(said.append)
    with pytest.raises(CheckpointError, match="taken over by the machine b"):
        save_checkpoint(folder, 2, tree, 2, require_own=mine.require)
    assert [path.name for path in folder.iterdir()] == ["000000000001"]
    save_checkpoint(folder, 3, tree, 2, require_own=other.require)
