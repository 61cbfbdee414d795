"""Run folders from strangers: damaged, hostile and huge files are one sentence each.

Nothing is imported, nothing is written outside the folder, and nothing hangs.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ludus.envs.errors import EnvError, LudusError, RunError
from ludus.envs.from_json import from_json
from ludus.training.api import train
from ludus.training.checkpoint import (
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    write_atomically,
)
from ludus.training.files import read_json, require_inside
from ludus.training.run import Run, TrainOptions
from ludus.training.train import load, resume_session

SECONDS = 600  # after which a call counts as hung


@pytest.fixture(scope="module")
def original(tmp_path_factory: Any) -> Path:
    root = tmp_path_factory.mktemp("original")
    options = TrainOptions(num_envs=2, eval_episodes=1, checkpoint_seconds=0.0, log_every=50)
    train("dqn", "CartPole-v1", steps=120, train_options=options, root=root, quiet=True)
    (path,) = root.glob("*/*/*")
    return path


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def never_hangs() -> Iterator[None]:
    def give_up(*_: Any) -> None:
        raise AssertionError("the call hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refusal(use: Callable[[], Any]) -> str | None:
    """Return the sentence with which a call is refused, None if it is not."""
    try:
        used = use()
    except LudusError as error:
        return str(error)
    if hasattr(used, "_close"):  # a session that holds the lock
        used._close()
    return None


def check_one_sentence(path: Path, *, resume: bool = False) -> int:
    """Read a run in every way; return how many ways were refused, each in one sentence."""
    ways: list[Callable[[], Any]] = [
        lambda: load(path),
        lambda: newest_checkpoint(path / "checkpoints"),
    ]
    if resume:
        ways.append(lambda: resume_session(Run.open(path), quiet=True))
    refused = [sentence for way in ways if (sentence := refusal(way)) is not None]
    for sentence in refused:
        assert "\n" not in sentence
        assert len(sentence) < 1500
    run = Run(path)
    run.status()
    run.evaluations()
    return len(refused)


def files_of(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file() and "events" not in each.name)


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "cut": lambda p, r: os.truncate(p, r.randrange(max(1, p.stat().st_size))),
    "emptied": lambda p, r: os.truncate(p, 0),
    "bit": lambda p, r: p.write_bytes(_flipped(p.read_bytes(), r)),
    "longer": lambda p, r: p.write_bytes(p.read_bytes() + b"\0more"),
    "missing": lambda p, r: p.unlink(),
    "null": lambda p, r: p.write_text("null"),
    "list": lambda p, r: p.write_text("[1, 2]"),
    "deep": lambda p, r: p.write_text("[" * 100_000),
    "not UTF-8": lambda p, r: p.write_bytes(b"\xff\xfe{}"),
    "folder": lambda p, r: (p.unlink(), p.mkdir())[0],
    "pipe": lambda p, r: (p.unlink(), os.mkfifo(p))[0],
    "link to a device": lambda p, r: (p.unlink(), p.symlink_to("/dev/zero"))[0],
    "link to nothing": lambda p, r: (p.unlink(), p.symlink_to(p.parent / "nothing"))[0],
}


def _flipped(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_sentence(damage: str, original: Path, tmp_path: Path) -> None:
    """All kinds of damage to each of the 8 or so files of a run, over 100 in all."""
    count = len(files_of(original))
    assert count >= 8
    for number in range(count):
        path = tmp_path / f"run{number}"
        shutil.copytree(original, path)
        DAMAGE[damage](files_of(path)[number], random.Random(number))
        check_one_sentence(path)
        shutil.rmtree(path)


HOSTILE_VALUES = [None, True, -1, 0, 1e308, float("nan"), float("inf"), "", "x" * 99, [], {}, [[]]]
FIELDS = [
    ("agent",),
    ("env",),
    ("config_type",),
    ("protocol",),
    ("format",),
    ("train", "steps"),
    ("train", "num_envs"),
    ("train", "device"),
    ("train", "rivals"),
    ("train", "init_from"),
    ("options", "stack"),
    ("options", "wrapper"),
    ("config", "hidden"),
    ("config", "gamma"),
    ("config", "encoder"),
    ("config",),
    ("options",),
]


@pytest.mark.parametrize("field", FIELDS, ids=".".join)
def test_a_hostile_config_is_one_sentence(field: tuple[str, ...], copy: Path) -> None:
    """Over 200 configs: each field with each value."""
    record = json.loads((copy / "config.json").read_text())
    for value in HOSTILE_VALUES:
        changed = json.loads(json.dumps(record))
        inner = changed
        for key in field[:-1]:
            inner = inner[key]
        inner[field[-1]] = value
        (copy / "config.json").write_text(json.dumps(changed))
        check_one_sentence(copy, resume=True)


@pytest.mark.parametrize("section", ["train", "options", "config"])
def test_an_unknown_name_in_a_config_is_named(section: str, copy: Path) -> None:
    record = json.loads((copy / "config.json").read_text())
    record[section]["__class__"] = 1
    (copy / "config.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="has no field '__class__'"):
        Run.open(copy).config()


def with_body(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the body of every manifest of a run, with its sha256."""
    import hashlib

    for manifest in path.rglob("manifest.json"):
        body = change(json.loads(json.loads(manifest.read_text())["body"]))
        text = json.dumps(body)
        stored = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text}
        manifest.write_text(json.dumps(stored))


def _set_part(key: str, value: Any) -> Callable[[Any], Any]:
    def change(body: Any) -> Any:
        body["parts"][0][key] = value
        return body

    return change


def _set_file(name: str) -> Callable[[Any], Any]:
    def change(body: Any) -> Any:
        body["parts"][0]["tensors"]["file"] = name
        return body

    return change


BODIES: dict[str, Callable[[Any], Any]] = {
    "null": lambda body: None,
    "list": lambda body: [],
    "number": lambda body: 7,
    "no parts": lambda body: {"format": 2},
    "parts null": lambda body: body | {"parts": None},
    "parts empty": lambda body: body | {"parts": []},
    "format text": lambda body: body | {"format": "2"},
    "format list": lambda body: body | {"format": [2]},
    "format true": lambda body: body | {"format": True},
    "tree null": _set_part("tree", None),
    "tree list": _set_part("tree", [[]]),
    "tree of nothing": _set_part("tree", {"$tensor": "nothing"}),
    "tree of a list": _set_part("tree", {"$tensor": []}),
    "arrays null": _set_part("arrays", None),
    "arrays list": _set_part("arrays", [1]),
    "tensors null": _set_part("tensors", None),
    "device": _set_file("/dev/zero"),
    "parent": _set_file("../../../config.json"),
    "number as a file": _set_file(5),  # type: ignore[arg-type]
    "long name": _set_file("x" * 5000),
    "null byte": _set_file("a\0b"),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_hostile_manifest_is_one_sentence(body: str, copy: Path) -> None:
    with_body(copy, BODIES[body])
    check_one_sentence(copy)
    with pytest.raises(LudusError) as refused:
        resume_session(Run.open(copy), quiet=True).run_to_end()
    assert "\n" not in str(refused.value)


def test_an_older_checkpoint_is_used_where_the_newest_is_damaged(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"at": step, "x": torch.ones(2)}, keep=2)
    (tmp_path / f"{2:012d}" / "manifest.json").write_text("null")
    tree, damaged, _ = newest_checkpoint(tmp_path)
    assert tree["at"] == 1
    assert len(damaged) == 1


@pytest.mark.parametrize("name", [".config.json.tmp", ".lock", "episodes.csv", "status.json"])
def test_a_link_is_not_followed_when_writing(name: str, copy: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(target)
    with contextlib.suppress(LudusError):
        resume_session(Run.open(copy), quiet=True).run_to_end()
        Run.open(copy).stamp()
    assert target.read_text() == "precious"


@pytest.mark.parametrize("name", ["weights", "checkpoints"])
def test_a_linked_folder_is_not_written_to(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / name).symlink_to(outside)
    with pytest.raises(LudusError, match="it is a link"):
        save_checkpoint(tmp_path / name, 1, {"x": np.zeros(2)}, keep=1)
    assert list(outside.iterdir()) == []


def test_a_linked_checkpoint_is_not_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "other", 1, {"x": np.zeros(2)}, keep=1)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / f"{1:012d}").symlink_to(tmp_path / "other" / f"{1:012d}")
    with pytest.raises(LudusError, match="is a link"):
        read_checkpoint(folder / f"{1:012d}")


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file
    with pytest.raises(OSError, match="is larger than"):
        read_json(path)
    (tmp_path / "link").symlink_to(path)
    for name in ("../config.json", "/etc/passwd", "link", 7, None):
        with pytest.raises(OSError, match=r"no name of a file|is a link"):
            require_inside(tmp_path, name)


def test_a_network_that_would_take_all_memory_is_refused(copy: Path) -> None:
    record = json.loads((copy / "config.json").read_text())
    for hidden in ([1_000_000_000], [100_000, 1_000_000], [10**12]):
        record["config"]["hidden"] = hidden
        (copy / "config.json").write_text(json.dumps(record))
        with pytest.raises(LudusError, match=r"GiB of memory or more, and .* free|hidden is"):
            load(copy)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: Any) -> Path:
    """A module in the working directory that leaves a file when it is imported."""
    (tmp_path / "canary_module.py").write_text("open('sung', 'w')\nclass Wrapper: pass\n")
    monkeypatch.setattr("ludus.envs.trust._trusted", {"gymnasium", "ludus"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "sung"  # type: ignore[misc]
    sys.modules.pop("canary_module", None)


@pytest.mark.parametrize("where", ["env", "wrapper"])
def test_a_run_imports_nothing_that_the_user_did_not_allow(
    where: str, copy: Path, canary: Path
) -> None:
    record = json.loads((copy / "config.json").read_text())
    if where == "env":
        record["env"] = "canary_module:Env-v0"
    else:
        record["options"]["wrapper"] = ["canary_module:Wrapper"]
    (copy / "config.json").write_text(json.dumps(record))
    for use in (lambda: load(copy), lambda: resume_session(Run.open(copy), quiet=True)):
        with pytest.raises(EnvError, match=r"names the module canary_module.*--modules canary_mod"):
            use()
    assert not canary.exists()
    if where == "env":
        with pytest.raises(EnvError, match="there is no env"):
            load(copy, modules=["canary_module"])
        assert canary.exists()


def test_a_refused_resume_changes_nothing(copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    before = (copy / "config.json").read_bytes()
    lock = Run.open(copy).lock(print)
    try:
        with pytest.raises(RunError, match="is being trained by another process"):
            resume_session(Run.open(copy), quiet=True)
        assert (copy / "config.json").read_bytes() == before
    finally:
        lock.release()


def test_values_are_checked_by_the_types_of_the_fields() -> None:
    good = from_json(TrainOptions, {"steps": 5, "rivals": ["self"], "held_out": 0}, RunError)
    assert (good.steps, good.rivals, good.held_out) == (5, ("self",), 0)
    for values, what in [
        ({"steps": "5"}, "steps is '5' in TrainOptions; it must be int"),
        ({"steps": True}, "steps is True"),
        ({"steps": 5.0}, "steps is 5.0"),
        ({"rivals": ["self", 1]}, "rivals is"),
        ({"init_from": 1}, "init_from is 1"),
        ({"held_out": float("nan")}, "held_out is nan"),
        ({"nothing": 1}, "has no field 'nothing'"),
        ([], "TrainOptions is"),
    ]:
        with pytest.raises(RunError, match=what.replace("[", r"\[")):
            from_json(TrainOptions, values, RunError)


def test_a_small_file_replaces_a_link_of_its_temporary_name(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    (tmp_path / ".a.json.tmp").symlink_to(outside)
    write_atomically(tmp_path / "a.json", "{}")
    assert outside.read_text() == "kept"
    assert (tmp_path / "a.json").read_text() == "{}"
