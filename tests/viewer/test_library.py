"""A folder with many runs, and with runs whose files are damaged or hostile."""

import json
import math
import os
import shutil

import pytest

from ludus.envs.errors import RunError
from ludus.viewer import library, messages
from ludus.viewer.library import MAX_LISTED, Library, name_of

ENV, GOOD, BAD = "Some-v0/dqn", "Some-v0/dqn/good", "Some-v0/dqn/bad"
CONFIG = {"agent": "dqn", "env": "Some-v0", "train": {"steps": 100, "seed": 3}, "config": {}}
STATUS = {"state": "finished", "env_steps": 100, "score": 1.5, "mean_return": 2, "seconds": 9}


def _write(path, status=STATUS):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "status.json").write_text(json.dumps(status))
    (path / "episodes.csv").write_text("env_steps,seconds,return,length\n10,1,4,10\n20,2,8,10\n")
    return path


@pytest.fixture
def bad(tmp_path):
    """A run to be damaged, beside a good one."""
    _write(tmp_path / "runs" / GOOD)
    return _write(tmp_path / "runs" / BAD)


def _fifo(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _link_out(path):
    """Move a file out of the folder of runs, and put a link to it where it was."""
    moved = path.parents[4] / path.name
    path.rename(moved)
    path.symlink_to(moved)


def _folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def _nested(depth):
    return "[" * depth + "]" * depth


CONFIGS = {
    "null": "null",
    "a number": "1e999",
    "nested": _nested(100_000),
    "too many digits": "9" * 5000,
    "an env that is null": json.dumps(CONFIG | {"env": None}),
    "an agent that is a list": json.dumps(CONFIG | {"agent": ["dqn"]}),
    "train that is null": json.dumps(CONFIG | {"train": None}),
    "steps that are true": json.dumps(CONFIG | {"train": {"steps": True, "seed": 0}}),
    "steps without end": json.dumps(CONFIG | {"train": {"steps": 10**400, "seed": 0}}),
    "a seed that is NaN": json.dumps(CONFIG | {"train": {"steps": 1, "seed": math.nan}}),
    "no train": json.dumps({"agent": "dqn", "env": "Some-v0"}),
    "a word": '"\\u001b[31mred\\ud800"',
}
KINDS = {"fifo": _fifo, "link": _link_out, "folder": _folder}


def _ask_everything(root):
    """Return what the pages get, as they get it: JSON in UTF-8, without numbers unknown to it."""
    shown = Library(root)
    listed = shown.summaries()._asdict()
    details = [shown.details(name) for name in shown.runs()]
    filtered = shown.summaries("finished").runs
    return json.loads(json.dumps([listed, details, filtered], allow_nan=False).encode("ascii"))


def _listed(root):
    answers = _ask_everything(root)
    return {run["name"]: run for run in answers[0]["runs"]}


def _is_one_line(text):
    return text.isprintable() and 10 < len(text) < 200


@pytest.mark.parametrize("what", CONFIGS)
def test_a_damaged_config_is_listed_in_one_line(bad, tmp_path, what):
    (bad / "config.json").write_text(CONFIGS[what])
    runs = _listed(tmp_path / "runs")
    assert runs[GOOD]["broken"] is None
    assert runs[BAD]["broken"].startswith("cannot read config.json: ")
    assert _is_one_line(runs[BAD]["broken"])
    with pytest.raises(RunError, match=r"cannot read config\.json: "):
        Library(tmp_path / "runs").open(BAD)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "status.json", "episodes.csv", "evaluations.json"])
def test_a_file_of_another_kind_is_not_read(bad, tmp_path, name, kind):
    (bad / name).touch()
    KINDS[kind](bad / name)
    runs = _listed(tmp_path / "runs")
    assert set(runs) == {GOOD, BAD}
    assert (runs[BAD]["broken"] is None) == (name != "config.json")
    assert (runs[BAD]["state"] == "unknown") == (name == "status.json")
    assert (runs[BAD]["curve"] == []) == (name == "episodes.csv")


def test_a_lock_of_another_kind_is_not_opened(bad, tmp_path):
    (bad / "status.json").write_text(json.dumps(STATUS | {"state": "running"}))
    os.mkfifo(bad / ".lock")
    assert _listed(tmp_path / "runs")[BAD]["state"] == "stopped"


def test_a_file_that_is_too_large_is_not_read(bad, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "_MAX_RECORD", 400)
    (bad / "config.json").write_text(json.dumps(CONFIG | {"note": "x" * 400}))
    runs = _listed(tmp_path / "runs")
    assert runs[GOOD]["broken"] is None
    assert "at most 400 are read" in runs[BAD]["broken"]


STATUSES = ["null", "[]", _nested(100_000), "{}", "5"] + [
    json.dumps(STATUS | values)
    for values in (
        {"state": None},
        {"state": {"a": 1}},
        {"state": "dancing"},
        {"env_steps": -1},
        {"env_steps": 1.5},
        {"env_steps": None},
        {"env_steps": 1 << 60},
        {"score": 10**400},
    )
]


@pytest.mark.parametrize("text", STATUSES)
def test_a_damaged_status_is_unknown(bad, tmp_path, text):
    (bad / "status.json").write_text(text)
    runs = _listed(tmp_path / "runs")
    assert (runs[BAD]["state"], runs[BAD]["env_steps"]) == ("unknown", 0)
    assert runs[GOOD]["state"] == "finished"


@pytest.mark.parametrize("score", [math.nan, -math.inf, "1", [1], True])
def test_a_score_that_is_no_number_is_none(bad, tmp_path, score):
    (bad / "status.json").write_text(json.dumps(STATUS | {"score": score, "mean_return": score}))
    run = _listed(tmp_path / "runs")[BAD]
    assert (run["state"], run["score"], run["mean_return"]) == ("finished", None, None)


def test_evaluations_that_are_damaged_leave_the_others(bad, tmp_path):
    entries = [1, None, {"env_steps": 1}, {"env_steps": 2, "returns": []}]
    entries += [{"env_steps": "3", "returns": [1]}, {"env_steps": 4, "returns": [math.nan]}]
    entries += [{"env_steps": 5, "returns": [10**400]}, {"env_steps": 6, "returns": ["x"]}]
    entries += [{"env_steps": 7, "returns": [1, 4]}]
    (bad / "evaluations.json").write_text(json.dumps(entries))
    assert Library(tmp_path / "runs").details(BAD)["evaluations"] == [[7, 2.5]]


def test_numbers_near_the_largest_make_a_curve(bad, tmp_path):
    (bad / "episodes.csv").write_text("a,b,c,d\n-1e308,0,1e308,1\n1e308,1,1e308,1\nnan,1,nan,1\n")
    _ask_everything(tmp_path / "runs")


def test_what_is_deep_or_cannot_be_printed_is_shown_without_it(bad, tmp_path):
    deep = json.loads(_nested(400))
    values = {"\x1b[2J": "\ud800 \x07 \x9b31m", "deep": deep, "tab": "a\tb", "é": "日本 𝄞"}
    (bad / "config.json").write_text(json.dumps(CONFIG | {"config": values}))
    shown = Library(tmp_path / "runs").details(BAD)["agent_config"]
    assert shown["\\x1b[2J"] == "\\ud800 \\x07 \\x9b31m"
    assert (shown["tab"], shown["é"]) == ("a\tb", "日本 𝄞")
    assert json.dumps(shown["deep"]).count("[") == messages._MAX_DEPTH - 2
    _ask_everything(tmp_path / "runs")


def test_a_name_that_is_no_utf_8_is_escaped_and_found(bad, tmp_path):
    hostile = os.fsencode(bad.parent) + b"/\xff\x1b[31m"
    os.rename(bad, hostile)
    shown = Library(tmp_path / "runs")
    name = ENV + "/\\xff\\x1b[31m"
    assert set(shown.runs()) == {GOOD, name}
    assert shown.details(name)["steps"] == 100
    assert name_of(os.fsdecode(hostile)).endswith(name)
    _ask_everything(tmp_path / "runs")


def test_a_folder_that_links_to_itself_or_nowhere_hides_no_run(bad, tmp_path):
    for link, target in [("loop", "loop"), ("none", "nowhere"), ("up", "../.."), ("out", "/")]:
        (bad.parent / link).symlink_to(target)
        (tmp_path / "runs" / link).symlink_to(target)
    assert {GOOD, BAD} <= set(_listed(tmp_path / "runs"))


@pytest.fixture
def many(tmp_path):
    """More runs than a listing has; those with higher numbers were written later."""
    for number in range(MAX_LISTED + 20):
        state = "failed" if number < 3 else "finished"
        path = _write(tmp_path / ENV / f"run{number:04d}", STATUS | {"state": state})
        os.utime(path / "status.json", (number, number))
    return tmp_path


def test_a_listing_is_limited_and_says_so(many):
    runs, found, total = Library(many).summaries()
    assert (len(runs), found, total) == (MAX_LISTED, MAX_LISTED + 20, MAX_LISTED + 20)
    assert [run["name"][-4:] for run in runs[:2]] == ["0219", "0218"]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [("RUN000", range(9, -1, -1)), ("fail", [2, 1, 0]), ("run0004", [4]), ("nothing", [])],
)
def test_the_filter_finds_runs_that_are_not_in_the_first_listing(many, wanted, numbers):
    listing = Library(many).summaries(wanted)
    assert [int(run["name"][-4:]) for run in listing.runs] == list(numbers)
    assert (listing.found, listing.total) == (len(numbers), MAX_LISTED + 20)


def test_only_files_that_changed_are_read_again(many, monkeypatch):
    """Of those that are shown; a listing without a filter reads nothing of the others."""
    monkeypatch.setattr(library, "_LIST_SECONDS", 0.0)
    reads = []
    real = library._read_record
    monkeypatch.setattr(library, "_read_record", lambda path: (reads.append(path), real(path))[1])
    shown = Library(many)
    shown.summaries()
    assert len(reads) == 2 * MAX_LISTED
    reads.clear()
    changed = many / ENV / "run0100" / "status.json"
    changed.write_text(json.dumps(STATUS | {"env_steps": 77}))
    (newest, *_), _, _ = shown.summaries()
    assert (newest["name"][-4:], newest["env_steps"]) == ("0100", 77)
    assert reads == [changed]


def test_what_is_kept_of_runs_goes_with_them(many, monkeypatch):
    monkeypatch.setattr(library, "_LIST_SECONDS", 0.0)
    shown = Library(many)
    shown.summaries()
    shutil.rmtree(many / ENV)
    assert shown.summaries() == ([], 0, 0)
    assert not shown._cache


def test_a_picture_is_sent_as_it_is_if_it_is_one(bad, tmp_path):
    """And no other file, nor one that is not in the run's folder."""
    shown, name, picture = Library(tmp_path / "runs"), BAD, bad / "thumbnail.png"
    secret = tmp_path / "secret.png"
    for data in (b"\x89PNG\r\n\x1a\n...", b"<svg onload=alert(1)>", b""):
        picture.write_bytes(data)
        secret.write_bytes(b"\x89PNG\r\n\x1a\n secret")
        assert [run["thumbnail"] for run in shown.summaries(BAD).runs] == [True]
        if data.startswith(b"\x89PNG"):
            assert shown.thumbnail(name) == data
        else:
            with pytest.raises(RunError, match="is no PNG"):
                shown.thumbnail(name)
    picture.unlink()
    with pytest.raises(RunError, match="cannot read the picture"):
        shown.thumbnail(name)
    picture.symlink_to(secret)
    with pytest.raises(RunError, match="leads out of the folder"):
        shown.thumbnail(name)
