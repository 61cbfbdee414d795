"""Packed runs, and the hub's HTTP API as a local server answers it; the real one is not asked."""

import json
import sys

import numpy as np
import pytest

import ludus
from ludus.cli.main import main
from ludus.envs.errors import RunError
from ludus.training import hub
from ludus.training.find_run import find_run
from ludus.training.logger import Episodes
from ludus.training.packed import MOST_GAMES, command_of, pack
from ludus.training.run import Run
from tests.forked import run_forked
from tests.training.hub_stand_in import HubStandIn

OBS = np.random.default_rng(0).normal(0, 1, (200, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    settings = {"steps": 2_000, "num_envs": 2, "eval_episodes": 3, "quiet": True}
    return ludus.train("dqn", "CartPole-v1", root=root, **settings).run


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    server = HubStandIn()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub.download.cache_clear()
    yield server
    server.close()
    hub.download.cache_clear()


def _files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_a_packed_run_plays_as_the_run_and_trains_no_further(run, tmp_path):
    copy = pack(run, tmp_path / "env" / "agent" / "copy")
    actions = [
        ludus.load(path).predict(OBS, deterministic=True)[0] for path in (run.path, copy.path)
    ]
    assert np.array_equal(*actions)
    assert copy.evaluations() == run.evaluations()
    assert copy.status() == run.status()
    assert not list(copy.checkpoints.glob("*"))
    before = _files(copy.path)
    for settings in ({}, {"steps": 9_000}):
        with pytest.raises(RunError, match=r"is packed: .* starts from it with --init-from"):
            ludus.resume(copy.path, **settings)
    further = ludus.train(
        "dqn", "CartPole-v1", steps=64, init_from=str(copy.path), root=tmp_path / "r", quiet=True
    )
    assert json.loads((further.run.path / "transfer.json").read_text())["taken"]
    assert _files(copy.path) == before


def test_half_of_the_bytes_keep_nearly_the_values(run, tmp_path):
    whole, half = pack(run, tmp_path / "whole"), pack(run, tmp_path / "half", half=True)
    sizes = [sum(map(len, _files(copy.weights).values())) for copy in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    values = [ludus.load(copy.path).advise(OBS)[0].q for copy in (whole, half)]
    assert not np.array_equal(*values)
    assert np.allclose(*values, rtol=0.01, atol=0.01)


def test_packing_refuses_what_it_cannot_do(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(RunError, match="is not empty"):
        pack(run, tmp_path / "full")
    random = ludus.train("random", "CartPole-v1", steps=16, root=tmp_path, quiet=True)
    with pytest.raises(RunError, match="no weights to hand on: its agent is random"):
        pack(random.run, tmp_path / "random")


def test_of_many_games_some_are_kept(run, tmp_path):
    games = np.stack(
        [np.arange(1, 50_001), np.arange(50_000) / 7, np.ones(50_000), np.ones(50_000)]
    )
    long = Run(tmp_path / "long")
    long.path.mkdir()
    for name, content in _files(run.path).items():
        (long.path / name).parent.mkdir(parents=True, exist_ok=True)
        (long.path / name).write_bytes(content)
    with (long.path / "episodes.csv").open("w") as file:
        np.savetxt(file, games.T, "%g", ",", header=",".join(Episodes.columns), comments="")
    kept = Episodes.read(pack(long, tmp_path / "packed").path / "episodes.csv")
    assert len(kept) == MOST_GAMES
    assert kept[0, 0] == 1
    assert kept[-1, 0] == 50_000


def test_a_command_loses_its_folders():
    words = ["/home/a/bin/ludus", "train", "dqn", "CartPole-v1", "--run-dir", "/home/a/runs"]
    assert command_of({"command": [*words, "--steps", "9"]}) == [
        *("ludus", "train", "dqn", "CartPole-v1", "--steps", "9")
    ]
    kept = ["/x/ludus/__main__.py", "train", "--run_dir=/home/a/runs", "--init-from", "/home/a/b"]
    assert command_of({"command": kept}) == ["ludus", "train", "--init-from", "b"]
    assert command_of({"command": ["/home/a/script.py", "--fast"]}) == []
    assert command_of({}) == command_of({"command": None}) == command_of({"command": []}) == []


def test_no_folder_of_this_machine_is_handed_on(run, tmp_path):
    odd = Run(tmp_path / "odd")
    for name, content in _files(run.path).items():
        (odd.path / name).parent.mkdir(parents=True, exist_ok=True)
        (odd.path / name).write_bytes(content)
    record = json.loads((odd.path / "config.json").read_text())
    record["command"] = ["/home/a/bin/ludus", "train", "--resume", "/home/a/runs/x", "--steps", "9"]
    record["history"] = [{"env_steps": 1, "changed": {}, "command": record["command"]}]
    record["launch"] = "/home/a/torchrun"
    record["train"]["init_from"] = "/home/a/runs/y"
    (odd.path / "config.json").write_text(json.dumps(record))
    (odd.path / "episodes.csv").write_text("env_steps,seconds,return,length\nnan,nan,nan,nan\n")
    text = (pack(odd, tmp_path / "packed").path / "config.json").read_text()
    assert "/home/a" not in text
    assert json.loads(text)["history"][0]["command"] == ["ludus", "train", "--steps", "9"]


def test_push_and_use(run, stand_in, tmp_path):
    environment = {"HF_ENDPOINT": stand_in.url, "HF_TOKEN": "hf_token"}
    done = run_forked("push", run.path, "anna/cart", "--private", environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{stand_in.url}/anna/cart: hub:anna/cart"
    assert stand_in.private == {"anna/cart": True}
    sent = stand_in.repositories["anna/cart"][-1][1]
    assert {"config.json", "README.md", "curve.png", "replay.mp4", "report.html"} < sent.keys()
    assert all(hub._known(name) for name in sent if name != ".gitattributes")
    assert b"ludus watch hub:anna/cart" in sent["README.md"]
    folder = find_run("hub:anna/cart")
    assert _files(folder) == {n: c for n, c in sent.items() if n != ".gitattributes"}
    theirs, ours = ludus.load("hub:anna/cart"), ludus.load(run.path)
    assert np.array_equal(
        theirs.predict(OBS, deterministic=True)[0], ours.predict(OBS, deterministic=True)[0]
    )
    hub.download.cache_clear()
    asked = len(stand_in.requests)
    assert find_run("hub:anna/cart") == folder
    assert len(stand_in.requests) <= asked + 2  # the commit is here already
    # a later commit is another folder, and the former one has its name
    first = stand_in.repositories["anna/cart"][-1][0]
    stand_in.commit("anna/cart", sent | {"status.json": b"{}"})
    hub.download.cache_clear()
    assert find_run("hub:anna/cart") != folder
    assert find_run(f"hub:anna/cart@{first}") == folder


def test_only_files_of_known_names_are_fetched(run, stand_in, tmp_path):
    packed = _files(pack(run, tmp_path / "packed").path)
    evil = {
        "agent.pkl": b"",
        "model.py": b"",
        "weights/x.pt": b"",
        "weights/../../../evil/rank-0/a.safetensors": b"",
        "weights/a/../../rank-0/b.safetensors": b"",
        "weights/9/rank-0/[a].safetensors": b"kept",
    }
    stand_in.commit("anna/evil", packed | evil)
    folder = find_run("hub:anna/evil")
    assert _files(folder) == packed | {"weights/9/rank-0/[a].safetensors": b"kept"}
    assert {p.name for p in folder.parent.iterdir()} == {folder.name}


def test_mistakes_are_one_sentence(run, stand_in, tmp_path, monkeypatch):
    for name in ("cart", "a/b/c", "../cart", "a/..", "anna/cart@", ""):
        with pytest.raises(RunError, match="names no repository; write owner/name"):
            find_run(f"hub:{name}")
    with pytest.raises(RunError, match="the hub has no such repository"):
        find_run("hub:anna/nothing")
    stand_in.gated.add("anna/gated")
    with pytest.raises(RunError, match="the repository is gated: ask for access on its page"):
        find_run("hub:anna/gated")
    stand_in.commit("anna/other", {"pytorch_model.bin": b""})
    with pytest.raises(RunError, match=r"holds no run of Ludus: it has no config.json"):
        find_run("hub:anna/other")
    packed = _files(pack(run, tmp_path / "packed").path)
    stand_in.commit("anna/large", packed)
    with monkeypatch.context() as patch:
        patch.setattr(hub, "_MOST_BYTES", 1_000)
        with pytest.raises(RunError, match="at most 1,000 are read"):
            find_run("hub:anna/large")
    with pytest.raises(RunError, match=r"the hub refuses: .*Revision Not Found"):
        find_run("hub:anna/large@no-such-branch")
    environment = {"HF_ENDPOINT": stand_in.url, "HF_TOKEN": "", "HF_HOME": str(tmp_path / "hf")}
    done = run_forked(
        "push", run.path, "anna/cart", "--no-film", "--no-report", environment=environment
    )
    assert (done.returncode, "the hub refuses: Client error '401" in done.stderr) == (2, True), (
        done.stderr
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hub.download.cache_clear()
    with pytest.raises(RunError, match="pip install huggingface_hub"):
        find_run("hub:anna/large")


def test_a_push_without_the_package_says_so_first(run, monkeypatch, capsys):
    def make(*_, **__):
        pytest.fail("something was made that cannot be sent")

    for name in ("pack", "write_card", "record"):
        monkeypatch.setattr(f"ludus.cli.push.{name}", make)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SystemExit) as ended:
        main(["push", str(run.path), "anna/cart"])
    assert ended.value.code == 2
    assert "pip install huggingface_hub" in capsys.readouterr().err


def test_without_a_connection_the_last_copy_is_used(run, stand_in, tmp_path, monkeypatch):
    stand_in.commit("anna/cart", _files(pack(run, tmp_path / "packed").path))
    folder = find_run("hub:anna/cart")
    hub.download.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    assert find_run("hub:anna/cart") == folder
    for name in ("anna/cart@main", "anna/other"):
        with pytest.raises(RunError, match=r"cannot be fetched: .*refused"):
            find_run(f"hub:{name}")
