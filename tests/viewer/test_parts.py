"""Parts of the viewer by themselves: messages, outboxes, and the folder of runs."""

import asyncio
import io
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from ludus.envs.errors import RunError
from ludus.viewer import library, server
from ludus.viewer.library import Library
from ludus.viewer.messages import (
    encode_grey_png,
    encode_png,
    finite_list,
    finite_or_none,
    pack,
    tile_maps,
)
from ludus.viewer.server import Outbox

from .conftest import LIMIT, unpack


@pytest.mark.parametrize(
    ("head", "pictures"),
    [
        ({}, {}),
        ({"kind": "frame", "text": "é\u2028𝄞", "nothing": None, "list": [1, 2.5]}, {}),
        ({"kind": "frame"}, {"picture": b"\x00\xff" * 100, "empty": b"", "heat": b"abc"}),
    ],
)
def test_what_is_packed_comes_back(head, pictures):
    assert unpack(pack(head, pictures)) == (head, pictures)


def test_a_number_that_json_does_not_know_is_refused_or_left_out():
    with pytest.raises(ValueError, match="JSON compliant"):
        pack({"value": float("nan")}, {})
    assert finite_or_none(float("inf")) is None
    assert finite_list(np.array([1.5, np.nan, -np.inf])) == [1.5, None, None]
    assert finite_list(None) is None


def test_a_png_is_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    assert np.array_equal(np.array(Image.open(io.BytesIO(encode_png(picture)))), picture)
    shades = np.array([[0.0, 0.5, 1.0]])
    assert np.array(Image.open(io.BytesIO(encode_grey_png(shades)))).tolist() == [[0, 127, 255]]


def test_the_maps_lie_in_rows_with_a_grey_line_between():
    """Three maps of 2x2 in two columns: the fourth place stays grey."""
    maps = np.stack([np.full((2, 2), value) for value in (0.0, 0.5, 1.0)])
    g = 0.25
    assert tile_maps(maps).tolist() == [
        [0.0, 0.0, g, 0.5, 0.5],
        [0.0, 0.0, g, 0.5, 0.5],
        [g, g, g, g, g],
        [1.0, 1.0, g, g, g],
        [1.0, 1.0, g, g, g],
    ]


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 1, 9), (32, 20, 20), (7, 9, 1), (64, 7, 7)])
def test_every_map_is_in_the_mosaic(shape):
    count, height, width = shape
    maps = np.arange(1, count + 1, dtype=np.float32)[:, None, None] * np.ones(shape, np.float32)
    sheet = tile_maps(maps)
    found, counts = np.unique(sheet[sheet >= 1], return_counts=True)
    assert found.tolist() == list(range(1, count + 1))
    assert set(counts) == {height * width}


def test_the_newest_picture_wins_and_all_that_lasts_arrives_in_order():
    async def story():
        outbox = Outbox()
        for i in range(50):
            outbox.put(b"picture %d" % i, False)
            outbox.put(b"lasting %d" % i, True)
        return [await outbox.get() for _ in range(51)], outbox

    taken, _ = asyncio.run(story())
    assert taken == [b"lasting %d" % i for i in range(50)] + [b"picture 49"]


def test_an_outbox_waits_until_there_is_something():
    async def story():
        outbox = Outbox()
        waiting = asyncio.create_task(outbox.get())
        for _ in range(3):
            await asyncio.sleep(0)
        early = waiting.done()
        outbox.put(b"a", False)
        first = await waiting
        again = asyncio.create_task(outbox.get())
        for _ in range(3):
            await asyncio.sleep(0)
        twice = again.done()
        outbox.put(b"b", True)
        return early, first, twice, await again

    assert asyncio.run(story()) == (False, b"a", False, b"b")


def test_an_outbox_that_nobody_empties_does_not_grow():
    """It keeps the last hundred messages that must arrive, and one frame."""

    async def story():
        outbox = Outbox()
        for i in range(10_000):
            outbox.put(b"%d" % i, i % 2 == 0)
        taken = [await outbox.get() for _ in range(101)]
        more = asyncio.create_task(outbox.get())
        for _ in range(3):
            await asyncio.sleep(0)
        empty = not more.done()
        more.cancel()
        return taken, empty

    taken, empty = asyncio.run(story())
    assert taken == [b"%d" % i for i in range(9_800, 10_000, 2)] + [b"9999"]
    assert empty


class _Page:
    """A web socket of a page that never takes a message, nor its end."""

    def __init__(self):
        self.tried = []

    async def send_bytes(self, data):
        self.tried.append(data)
        await asyncio.Event().wait()

    async def receive_text(self):
        await asyncio.Event().wait()

    async def close(self, code=1000):
        self.tried.append(code)
        await asyncio.Event().wait()


def test_a_page_that_takes_nothing_is_left(monkeypatch):
    """Even where it does not take the end of the connection either."""
    monkeypatch.setattr(server, "_SEND_SECONDS", 0.05)
    page = _Page()

    async def story():
        outbox = Outbox()
        outbox.put(b"picture", False)
        await asyncio.wait_for(server._exchange(page, outbox, lambda command: None), LIMIT)

    asyncio.run(story())
    assert page.tried[0] == b"picture"


def test_what_a_page_says_is_obeyed_until_it_goes():
    """Objects only; the end of the page is the end of the sending, too."""
    said = iter(['{"do": "pause"}', "[1]", "3", '{"do": "play"}'])
    obeyed = []

    class Page:
        async def receive_text(self):
            try:
                return next(said)
            except StopIteration:
                raise WebSocketDisconnect(1001) from None

        async def close(self, code=1000):
            pass

    asyncio.run(server._exchange(Page(), Outbox(), obeyed.append))
    assert obeyed == [{"do": "pause"}, {"do": "play"}]


@pytest.fixture
def root(runs, tmp_path):
    """One run that may be changed."""
    shutil.copytree(runs[0] / runs[1]["cartpole"], tmp_path / "CartPole-v1" / "dqn" / "a")
    return tmp_path


NAME = "CartPole-v1/dqn/a"


def test_a_run_is_described(root):
    (line,) = Library(root).summaries().runs
    expected = {"name": NAME, "env": "CartPole-v1", "agent": "dqn", "steps": 300, "seed": 0}
    assert {key: line[key] for key in expected} == expected
    assert (line["state"], line["env_steps"], line["board"]) == ("finished", 300, False)
    assert line["broken"] is None
    details = Library(root).details(NAME)
    assert details["agent_config"]["batch_size"] > 0
    assert details["protocol"]["kind"]
    assert details["evaluations"] == []


def test_a_board_game_is_known_as_one(runs):
    boards = {line["env"]: line["board"] for line in Library(runs[0]).summaries().runs}
    assert boards == {"tic_tac_toe": True, "CartPole-v1": False, "PongNoFrameskip-v4": False}


def test_evaluations_are_points(root):
    path = root / NAME / "evaluations.json"
    path.write_text('[{"env_steps": 100, "returns": [1, 3], "lengths": [1, 3]}]')
    assert Library(root).details(NAME)["evaluations"] == [[100, 2.0]]


def _episodes(root, text):
    (root / NAME / "episodes.csv").write_text("env_steps,seconds,return,length\n" + text)


def test_the_curve_is_the_mean_of_games(root):
    _episodes(root, "10,0.1,1,10\n20,0.2,3,10\n30,0.3,5,10\n")
    curve = Library(root).details(NAME)["curve"]
    assert [step for step, _ in curve] == [10, 20, 30]
    assert curve[0][1] == 1.0
    assert curve[-1][1] == 3.0  # of all three, as there are fewer than 20


def test_a_line_that_is_half_written_is_left_out(root):
    whole = Library(root)
    _episodes(root, "10,0.1,1,10\n20,0.2,3,10\n")
    before = whole.details(NAME)["curve"]
    _episodes(root, "10,0.1,1,10\n20,0.2,3,10\n30,0.3,5")
    assert whole.details(NAME)["curve"] == before
    _episodes(root, "10,0.1,1,10\n20,0.2,3,10\n30,0.3,5,10\n")
    assert len(whole.details(NAME)["curve"]) == 3


def test_a_damaged_file_has_no_curve(root):
    for text in ("", "10,0.1\n", "a,b,c,d\n", "\x00\n", "10,0.1,1,10\n20\n"):
        _episodes(root, text)
        assert Library(root).details(NAME)["curve"] == [], text


def test_the_curve_is_read_again_only_where_the_file_has_grown(root, monkeypatch):
    monkeypatch.setattr(library, "_LIST_SECONDS", 0.0)
    read, reads = library.Episodes.read, []
    monkeypatch.setattr(library.Episodes, "read", lambda path: (reads.append(path), read(path))[1])
    shown = Library(root)
    first = shown.summaries().runs[0]["curve"]
    assert shown.summaries().runs[0]["curve"] == first
    assert len(reads) == 1
    with (root / NAME / "episodes.csv").open("a") as file:
        file.write("100000,99.0,500,500\n")
    assert shown.summaries().runs[0]["curve"][-1][0] == 100000
    assert len(reads) == 2


def test_a_long_curve_is_short_in_the_list_and_longer_on_its_page(root):
    _episodes(root, "".join(f"{10 * i},{i},{i % 7},10\n" for i in range(1, 1001)))
    shown = Library(root)
    assert len(shown.summaries().runs[0]["curve"]) == 40
    assert len(shown.details(NAME)["curve"]) == 300


def test_a_new_run_is_found_and_a_removed_one_forgotten(root, monkeypatch):
    monkeypatch.setattr(library, "_LIST_SECONDS", 0.0)
    shown = Library(root)
    shutil.copytree(root / NAME, root / "CartPole-v1" / "dqn" / "b")
    assert set(shown.runs()) == {NAME, NAME[:-1] + "b"}
    shutil.rmtree(root / NAME)
    assert set(shown.runs()) == {NAME[:-1] + "b"}


def test_many_pages_list_the_folder_once(root, monkeypatch):
    monkeypatch.setattr(library, "_LIST_SECONDS", LIMIT)
    listed = []
    found = library._run_folders
    monkeypatch.setattr(library, "_run_folders", lambda root: (listed.append(root), found(root))[1])
    shown = Library(root)
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: NAME in shown.runs(), range(40)))
    assert len(listed) == 1


def test_the_run_that_was_written_to_last_comes_first(root):
    for name, at in (("b", 2e9), ("c", 1e9)):
        shutil.copytree(root / NAME, root / "CartPole-v1" / "dqn" / name)
        os.utime(root / "CartPole-v1" / "dqn" / name / "status.json", (at, at))
    names = [line["name"][-1] for line in Library(root).summaries().runs]
    assert names[0] == "b"
    assert names[-1] == "c"


def test_a_run_is_found_by_its_exact_name_only(root):
    assert Library(root).find(NAME).path == root / NAME
    for name in ("", "..", "CartPole-v1/dqn", "CartPole-v1/dqn/a/", "./" + NAME):
        with pytest.raises(RunError, match="there is no run"):
            Library(root).find(name)


def test_links_are_followed_inside_the_folder_and_not_out_of_it(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    shutil.copytree(root / NAME, outside / "a")
    dqn = root / "CartPole-v1" / "dqn"
    (dqn / "inside").symlink_to(dqn / "a")
    (dqn / "out").symlink_to(outside / "a")
    (root / "all").symlink_to(outside.parent)
    assert set(Library(root).runs()) == {NAME, "CartPole-v1/dqn/inside"}


def test_a_folder_that_is_not_there_has_no_runs(tmp_path):
    assert Library(tmp_path / "none").summaries() == ([], 0, 0)


def test_pages_may_ask_at_the_same_time(root):
    """As they do: every request is answered on a thread of its own."""
    shown, wrong = Library(root), []

    def ask():
        try:
            for _ in range(10):
                assert len(shown.summaries().runs) == 1
                assert shown.details(NAME)["name"] == NAME
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_runs_of_one_agent_are_distinguished_by_their_settings(root):
    other = root / "CartPole-v1" / "dqn" / "b"
    shutil.copytree(root / NAME, other)
    record = json.loads((other / "config.json").read_text())
    record["config"]["auxiliary"], record["train"]["seed"] = "spr", 5
    (other / "config.json").write_text(json.dumps(record))
    os.utime(other / "status.json", (2e9, 2e9))  # the newer one
    lines = {line["name"][-1]: line["distinction"] for line in Library(root).summaries().runs}
    assert lines == {"a": "", "b": "auxiliary spr"}
