"""The viewer over the network: access control, invalid requests, and damaged runs."""

import contextlib
import hashlib
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import socket
import threading
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ludus.cli.main import main
from ludus.training.train import load
from ludus.viewer import priority
from ludus.viewer.server import MAX_MESSAGE_BYTES

from .conftest import LIMIT

EVIL = """
from pathlib import Path

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

Path(__file__).with_name("imported").touch()
gym.register("Env-v0", entry_point=CartPoleEnv, max_episode_steps=9)
"""


def _change(run, **values):
    """Rewrite some of a run's config.json."""
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class _Trap:
    """A pickle that makes a folder where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def place(runs, tmp_path_factory):
    """A folder to call `ludus watch` in, with good runs and such as nobody would want."""
    trained, names = runs
    here = tmp_path_factory.mktemp("place")
    root = shutil.copytree(trained, here / "runs")
    good = root / names["cartpole"]

    def like(env, name):
        return shutil.copytree(good, root / env / "dqn" / name)

    (like("Damaged", "text") / "config.json").write_text('{"agent": "dqn", ')
    _change(like("Damaged", "type"), config_type="Unheard")
    _change(like("Damaged", "field"), config={"of_no_config": 1})
    _change(like("Evil", "env"), env="evil:Env-v0")
    (here / "evil.py").write_text(EVIL)

    pickled = like("Damaged", "pickle")
    *older, weights = sorted(pickled.glob("weights/*/rank-0/tensors.safetensors"))
    for file in older:
        shutil.rmtree(file.parents[1])
    trap = pickle.dumps(_Trap(here / "unpickled"))
    body = json.loads(json.loads((weights.parents[1] / "manifest.json").read_text())["body"])
    weights.write_bytes(trap)
    _seal(weights.parents[1], body, trap)

    outside = here / "outside"
    shutil.copytree(good, outside / "run")
    (root / "Linked" / "dqn").mkdir(parents=True)
    (root / "Linked" / "dqn" / "out").symlink_to(outside / "run")
    return here, names


def _seal(folder, body, data):
    """Make a checkpoint's sums right for what was put into it."""
    sums = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    body["parts"][0]["tensors"] |= sums
    text = json.dumps(body)
    manifest = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def viewer(place, watch):
    """Nothing of all that these tests send it may come as a surprise, which is a traceback."""
    process = watch("--run-dir", "runs", cwd=place[0])
    yield process
    process.end(signal.SIGTERM)
    assert "Traceback" not in process.errors()


@pytest.fixture(scope="module")
def at(viewer):
    return viewer.address


@pytest.fixture(autouse=True)
def it_lives(at):
    """Whatever a test does, the viewer answers after it."""
    yield
    assert at.get("/")[0] == 200


def _refused(address, path, **headers):
    with pytest.raises(InvalidStatus) as refused:
        address.connect(path, **headers)
    return refused.value.response.status_code


def test_without_the_token_there_is_no_answer(at):
    paths = ("/", "/api/ping", "/api/runs", "/api/run?name=x", "/clip?run=x", "/nothing")
    for path, token in itertools.product(paths, (None, "wrong", "")):
        mark = "&" if "?" in path else "?"
        target = path if token is None else f"{path}{mark}token={token}"
        status, _, body = at.get(target, cookie=False)
        assert status == 403, target
        assert body == b"The token is missing or wrong: open the link that ludus watch printed.\n"
        for cookie in (f"ludus_{at.port}={token}", f"other={at.token}"):
            assert at.get(target, cookie=False, Cookie=cookie)[0] == 403, (target, cookie)


def test_scripts_and_styles_are_the_same_for_everyone(at):
    """A page in a frame of another one has no cookie to send for them."""
    for path in ("/app.js", "/player.js", "/style.css", "/icon.svg"):
        assert at.get(path, cookie=False)[0] == 200
        assert at.get(path, cookie=False, Host="evil.example")[0] == 403


def test_without_the_token_no_web_socket(at, place):
    run = place[1]["cartpole"]
    for page in ("watch", "play"):
        for query in ("", "&token=", f"&token={at.token[:-1]}"):
            assert _refused(at, f"/{page}?run={run}{query}", cookie=False) == 403
        with at.connect(f"/{page}?run={run}&token={at.token}", cookie=False) as socket:
            assert socket.recv(timeout=LIMIT)


def test_the_link_gives_a_cookie_and_drops_the_token(at):
    status, headers, body = at.get(f"/?token={at.token}", cookie=False)
    assert status == 303
    assert headers["location"] == "./"
    assert at.token.encode() not in body
    (morsel,) = SimpleCookie(headers["set-cookie"]).values()
    assert (morsel.key, morsel.value) == (f"ludus_{at.port}", at.token)
    assert morsel["httponly"]
    assert morsel["samesite"].lower() == "strict"
    assert at.get("/", cookie=False, Cookie=f"{morsel.key}={morsel.value}")[0] == 200
    assert len(at.token) >= 32


def test_with_the_cookie_the_page_and_the_api_work(at, place):
    assert b"<title>Ludus</title>" in at.get("/")[2]
    names = {run["name"] for run in at.json("/api/runs")["runs"]}
    assert set(place[1].values()) <= names
    assert at.json(f"/api/run?name={place[1]['cartpole']}")["train_options"]["steps"] == 300


def test_cookies_of_other_sites_on_this_machine_do_no_harm(at):
    """A browser sends cookies to all ports of a host, so those of any local server may arrive."""
    for other in ("a@b=1; {}", "path=/; {}", '"; {}', "a=\x80\xff; {}", "=; ;; {}"):
        cookie = other.format("x=y")
        assert at.get("/", cookie=False, Cookie=cookie)[0] == 403, cookie
        status, _, _ = at.get("/", cookie=False, Cookie=f"{cookie}; {at.cookie}")
        assert status in (200, 403), cookie


FOREIGN_HOSTS = (
    "evil.example:{}",
    "localhost.evil.example:{}",
    "127.0.0.1:1",
    "127.0.0.1",
    "localhost",
    "",
    "127.0.0.1:{}.evil.example",
    "evil.example:80@127.0.0.1:{}",
    "10.0.0.1:{}",
    "[::2]:{}",
    ":{}",
)


def test_a_foreign_host_is_refused(at, place):
    """As when the name of another site resolves to this machine."""
    for pattern in FOREIGN_HOSTS:
        host = pattern.format(at.port)
        assert at.get("/", Host=host)[0] in (400, 403), host
        assert at.get(f"/?token={at.token}", Host=host)[0] in (400, 403), host
        upgrade = (
            f"GET /watch?run={place[1]['cartpole']} HTTP/1.1\r\nHost: {host}\r\n"
            f"Cookie: {at.cookie}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        answer = at.raw(upgrade.encode())
        assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400")), host


def test_the_names_of_this_machine_are_its_own(at):
    for host in ["127.0.0.1:{}", "localhost:{}", "LOCALHOST:{}", "[::1]:{}"]:
        host = host.format(at.port)
        assert at.get("/", Host=host)[0] == 200
        assert at.get("/api/runs", Host=host, Origin=f"http://{host}")[0] == 200


def test_a_policy_holds_no_ipv6_address_which_browsers_do_not_know(at):
    for host, allowed in [("127.0.0.1", "'self' ws://127.0.0.1:{}"), ("[::1]", "'self'")]:
        _, headers, _ = at.get("/", Host=f"{host}:{at.port}")
        assert f"connect-src {allowed.format(at.port)};" in headers["content-security-policy"]


def test_the_server_answers_while_an_agent_loads(served, place, monkeypatch, wait_until):
    at = served(place[0] / "runs")
    loading, may_end = threading.Event(), threading.Event()

    def load_slowly(*arguments, **options):
        loading.set()
        assert may_end.wait(LIMIT)
        return load(*arguments, **options)

    monkeypatch.setattr("ludus.viewer.playback_session.load", load_slowly)
    with at.stream("watch", place[1]["cartpole"]) as slow:
        try:
            wait_until(loading.is_set, "the agent loads")
            assert at.json("/api/runs")["runs"]
            with at.stream("watch", "no such run") as other:
                assert other.next()[0]["kind"] == "error"
        finally:
            may_end.set()
        slow.until(lambda head: head["kind"] == "frame")


def test_a_foreign_origin_is_refused(at, place):
    for origin in [
        "http://evil.example",
        "null",
        "https://127.0.0.1:{}",
        "http://127.0.0.1:1",
        "http://localhost:{}",
        "http://127.0.0.1:{}.evil.example",
        "",
    ]:
        origin = origin.format(at.port)
        assert at.get("/api/runs", Origin=origin)[0] == 403
        asked = f"/watch?run={place[1]['cartpole']}"
        assert _refused(at, asked, Origin=origin) == 403
        assert _refused(at, f"{asked}&token={at.token}", cookie=False, Origin=origin) == 403


def test_its_own_origin_is_accepted(at, place):
    own = f"http://{at.at}"
    assert at.get("/api/runs", Origin=own)[0] == 200
    with at.connect(f"/watch?run={place[1]['cartpole']}", Origin=own) as socket:
        assert socket.recv(timeout=LIMIT)


def test_nothing_can_be_sent_but_questions(at):
    for path in ["/", "/api/runs"]:
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "GETS"]:
            assert at.get(path, method=method)[0] == 405


def test_head_has_no_body(at):
    status, _, body = at.get("/", method="HEAD")
    assert (status, body) == (200, b"")


def test_no_path_names_a_file(at):
    for path in [
        "/..%2f..%2fetc/passwd",
        "/../../etc/passwd",
        "/%2e%2e/",
        "/static/../../x",
        "/..\\..\\x",
        "/%5c..%5c",
        "//etc/passwd",
        "/app.js/..",
        "/app.js%00",
        "/%2e%2e%2fserver.py",
        "/server.py",
        "/page/app.js",
        "/app.js/",
        "http://{}/../../etc/passwd",
        "http://evil.example/etc/passwd",
    ]:
        path = path.format(at.at)
        answer = at.raw(
            f"GET {path} HTTP/1.1\r\nHost: {at.at}\r\nCookie: {at.cookie}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        status = int(answer.split(b" ", 2)[1])
        assert status in (400, 403, 404, 307)
        assert b"root:" not in answer
        assert b"import " not in answer
        if status == 307:  # to the same without the slash at its end, on this host
            assert f"location: http://{at.at}/".encode() in answer


def test_only_runs_that_are_listed_can_be_asked_for(at, place):
    for name in [
        "",
        ".",
        "..",
        "../../etc",
        "/etc/passwd",
        "%2e%2e",
        "Linked/dqn/out",
        "nothing",
        "\x00",
        "../outside/run",
        "CartPole-v1",
        "../runs",
        "x" * 3000,
    ]:
        for asked in (name, str(place[0] / "runs" / name.replace("\x00", ""))):
            status, _, body = at.get(f"/api/run?name={quote(asked)}")
            assert status == 404
            assert json.loads(body)["error"].startswith("there is no run ")
            with at.stream("watch", asked) as page:
                head, _ = page.next()
                assert head["kind"] == "error"
                assert head["text"].startswith("there is no run ")
                page.close_code()


def test_a_link_that_leads_out_of_the_folder_is_not_listed(at, place):
    assert (place[0] / "runs" / "Linked" / "dqn" / "out" / "config.json").exists()
    names = [run["name"] for run in at.json("/api/runs")["runs"]]
    assert place[1]["cartpole"] in names
    assert not [name for name in names if "Linked" in name]


def test_every_answer_keeps_the_page_to_itself(at):
    for path in ["/", "/app.js", "/api/runs", "/nothing"]:
        for cookie in (True, False):
            headers = at.get(path, cookie=cookie)[1]
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert "*" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert "no-store" in headers["cache-control"]


def test_the_page_asks_no_other_site(at):
    """The only addresses in it are names of XML, which nobody opens, and its own web socket."""
    for path in ["/", "/app.js", "/board.js", "/style.css", "/icon.svg"]:
        text = at.get(path)[2].decode()
        found = re.findall(r"(?:https?|wss?)://[^\s\"'`<>)]*|[\"'(]//[a-z]", text)
        assert not set(found) - {"http://www.w3.org/2000/svg", "ws://${location.host}${path}"}
        assert "<style" not in text
        assert not re.search(r"\son\w+=[\"']|\sstyle=[\"']|javascript:", text)
        assert "innerHTML" not in text


def test_too_long_a_message_ends_that_connection_only(at, place):
    with (
        at.stream("watch", place[1]["cartpole"]) as other,
        at.stream("watch", place[1]["cartpole"]) as page,
    ):
        page.socket.send("x" * (MAX_MESSAGE_BYTES + 1))
        assert page.close_code() == 1009
        other.do("seed", 5)
        other.until(lambda head: head["kind"] == "frame" and head["seed"] == 5)


def test_a_message_in_pieces_is_not_longer_for_that(at, place):
    with at.stream("watch", place[1]["cartpole"]) as page:
        with contextlib.suppress(ConnectionClosed):  # it may be ended before all is sent
            page.socket.send(["x" * 1000] * (MAX_MESSAGE_BYTES // 1000 + 1))
        assert page.close_code() == 1009


def test_what_is_no_json_ends_the_connection(at, place):
    for data in [b'{"do": "pause"}', "{", "", "{'do': 1}", "[" * 4000]:
        with at.stream("watch", place[1]["cartpole"]) as page:
            page.socket.send(data)
            page.close_code()


NONSENSE = [
    *({"do": "seed", "value": v} for v in (-1, 1.5, "1", 1 << 40, 10**3000, None, [], {})),
    *({"do": "speed", "value": v} for v in (-1, 1001, "x", None, [1], float("nan"), float("inf"))),
    *({"do": "saliency", "value": v} for v in (1, None, "nothing of the kind", "x" * 3000)),
    *({"do": "layer", "value": v} for v in (0, True, "no layer", "../../x")),
    *({"do": "press", "value": v} for v in (-1, 10**30, "0", None, 2.0)),
    *({"do": "move", "value": v} for v in (-1, 99, "0", 1.0, None, 10**30)),
    *({"do": "simulations", "value": v} for v in (0, -5, 2001, 10**30, "9", None, 1.5)),
    *({"do": "side", "value": v} for v in (2, -1, "first", None, [], {})),
    *({"do": "show", "value": v} for v in (1, "yes", None)),
    *({"do": v} for v in ("close", "__init__", "", None, 1, [], {}, True)),
    {}, {"value": 1}, {"do": "pause", "more": "x"}, [], [1], "pause", 1, None, True,
]  # fmt: skip


@pytest.mark.parametrize("page", ["watch", "play"])
@pytest.mark.parametrize("run", ["cartpole", "tic_tac_toe"])
def test_nonsense_is_passed_over(at, place, page, run):
    with at.stream(page, place[1][run]) as stream:
        stream.next()
        for command in NONSENSE:
            stream.socket.send(json.dumps(command))
        if page == "play" and run == "tic_tac_toe":
            stream.do("simulations", 7)
            head = stream.until(lambda head: head["simulations"] == 7)
            assert (head["side"], head["show"], head["step"]) == (0, False, 0)
            return
        stream.do("seed", 3)
        head = stream.until(lambda head: head["kind"] != "hello" and head["seed"] == 3)
        assert head["speed"] == 1.0
        assert head["paused"]  # one pause was no nonsense


@pytest.mark.parametrize(
    ("page", "run", "what", "after"),
    [
        ("watch", "cartpole", "seed", ("seed", 3)),
        ("watch", "cartpole", "speed", ("seed", 3)),
        ("play", "cartpole", "press", ("seed", 3)),
        ("play", "tic_tac_toe", "move", ("simulations", 7)),
        ("play", "tic_tac_toe", "simulations", ("simulations", 7)),
        ("play", "tic_tac_toe", "side", ("simulations", 7)),
    ],
)
def test_true_is_no_number(at, place, page, run, what, after):
    with at.stream(page, place[1][run]) as stream:
        before, _ = stream.next()
        stream.do(what, True)
        stream.do(*after)
        head = stream.until(lambda head: head.get(after[0]) == after[1] and head["kind"] != "hello")
        for name in ("speed", "side"):
            if name in before:
                assert head[name] == before[name]
        assert head["step"] == 0 or page == "watch" or run == "cartpole"


def test_no_speed_stops_it_for_good(at, place):
    """After the slowest that can be asked for, a new game and the usual speed go on at once."""
    for speed in [1e-300, 1e-12, 1e-6]:
        with at.stream("watch", place[1]["cartpole"], twin=str(speed)) as stream:
            stream.do("speed", speed)
            stream.until(lambda head, speed=speed: head.get("speed") == speed)
            stream.do("speed", 1)
            step = stream.until(lambda head: head["kind"] == "frame" and head["speed"] == 1)["step"]
            stream.until(lambda h, step=step: h["kind"] == "frame" and h["step"] != step)


def test_a_thousand_commands_at_once(at, place):
    with at.stream("watch", place[1]["cartpole"]) as stream:
        for number in range(1000):
            stream.do(("pause", "play", "step", "hello", "seed")[number % 5], number)
        stream.do("seed", 77)
        stream.until(lambda head: head["kind"] == "frame" and head["seed"] == 77)


def _shake_hands(at, run, buffer):
    """A web socket of nothing but a socket, with a small buffer."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.settimeout(LIMIT)
    plain.connect((at.host, at.port))
    plain.sendall(
        f"GET /watch?run={run} HTTP/1.1\r\nHost: {at.at}\r\nCookie: {at.cookie}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    assert plain.recv(12) == b"HTTP/1.1 101"
    return plain


def test_who_does_not_read_slows_nobody_and_fills_no_memory(at, viewer, place):
    program = psutil.Process(viewer.program.pid)
    run = place[1]["cartpole"]
    with at.stream("watch", run) as page:
        page.do("speed", 0)
        page.until(lambda head: head["speed"] == 0 and head["kind"] == "frame")
        before = program.memory_info().rss
        slow = [_shake_hands(at, run, 1024) for _ in range(8)]
        for _ in range(60):
            assert page.next()[0]["kind"] in ("frame", "hello")
        assert program.memory_info().rss - before < 50 << 20
        for plain in slow:
            plain.close()


def test_who_does_not_read_is_dropped(runs, served, monkeypatch, wait_until):
    """Its agent stops to play, though the connection is still open."""
    monkeypatch.setattr("ludus.viewer.server._SEND_SECONDS", 0.2)
    monkeypatch.setattr("ludus.viewer.views.encode_png", lambda picture: bytes(4 << 20))
    at = served(runs[0])
    before = set(threading.enumerate())
    plain = _shake_hands(at, runs[1]["cartpole"], 1024)
    (playback,) = wait_until(
        lambda: [
            t
            for t in set(threading.enumerate()) - before
            if t.name == "ludus-playback" and t.is_alive()
        ],
        "its agent plays",
    )
    playback.join(LIMIT)
    assert not playback.is_alive()
    plain.close()


def test_so_many_agents_play_and_no_more(runs, served, monkeypatch, wait_until):
    """Until one of them ends."""
    monkeypatch.setattr("ludus.viewer.server.MAX_SESSIONS", 2)
    at, names = served(runs[0]), runs[1]
    with at.stream("watch", names["cartpole"]) as first:
        with at.stream("play", names["tic_tac_toe"]) as second:
            for stream in (first, second):
                stream.next()
            for page in ("watch", "play"):
                with at.stream(page, names["tic_tac_toe"], twin="more") as third:
                    head, _ = third.next()
                    assert head["text"] == "2 agents are playing already; close a page first"
            with at.stream("watch", names["cartpole"]) as same:  # plays already
                same.until(lambda head: head["kind"] == "hello")

        def again():
            with at.stream("play", names["tic_tac_toe"]) as stream:
                return stream.next()[0]["kind"] == "game"

        wait_until(again, "another agent may play")


def test_a_bad_run_is_a_sentence_and_runs_nothing(at, place):
    for page in ["watch", "play"]:
        for name, says in [
            ("Damaged/dqn/text", "config.json"),
            ("Damaged/dqn/type", "Unheard"),
            ("Damaged/dqn/field", "has no field 'of_no_config'"),
            ("Damaged/dqn/pickle", "header"),
            (
                "Evil/dqn/env",
                "names the module evil, which would be imported and run; add --modules evil",
            ),
        ]:
            here = place[0]
            with at.stream(page, name) as stream:
                head, _ = stream.next()
            assert head["kind"] == "error"
            assert says in head["text"]
            assert not (here / "unpickled").exists()
            assert not (here / "imported").exists()


def test_the_trap_would_have_sprung(place, tmp_path):
    """Loading the weights as a pickle makes the folder, so its absence proves something."""
    (weights,) = place[0].glob("runs/Damaged/dqn/pickle/weights/*/rank-0/tensors.safetensors")
    made = place[0] / "unpickled"
    pickle.loads(weights.read_bytes())
    assert made.is_dir()
    made.rmdir()


def test_bad_runs_are_listed_with_what_is_wrong(at):
    listed = {run["name"]: run for run in at.json("/api/runs")["runs"]}
    assert listed["Damaged/dqn/text"]["broken"].startswith("cannot read config.json")
    assert listed["Evil/dqn/env"]["env"] == "evil:Env-v0"
    assert listed["Evil/dqn/env"]["broken"] is None


def _like(runs, root, name="X/dqn/bad"):
    """A root with one run, to be damaged."""
    return Path(shutil.copytree(runs[0] / runs[1]["cartpole"], root / name))


def _with_status(run, **values):
    path = run / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGES = {
    "a score that is no number": lambda run: _with_status(run, score=float("nan")),
    "a mean return without end": lambda run: _with_status(run, mean_return=float("inf")),
    "returns that are no numbers": lambda run: (run / "episodes.csv").write_text(
        "env_steps,seconds,return,length\n10,1.0,nan,10\n20,2.0,inf,10\n"
    ),
    "steps without end": lambda run: _change(run, train={"steps": float("inf"), "seed": 0}),
    "half a letter": lambda run: _change(run, env="\ud800"),
    "a list": lambda run: (run / "config.json").write_text("[]"),
    "much nested": lambda run: (run / "config.json").write_text("[" * 200_000),
    "an env that is a number": lambda run: _change(run, env=5),
    "options that are none": lambda run: _change(run, train=[], options=3),
    "a value that no config takes": lambda run: _change(
        run, config=json.loads((run / "config.json").read_text())["config"] | {"batch_size": -1}
    ),
    "numbers that are none": lambda run: _change(run, protocol={"x": float("nan")}),
    "evaluations of nothing": lambda run: (run / "evaluations.json").write_text(
        '[{"env_steps": 1, "returns": []}]'
    ),
    "evaluations of another kind": lambda run: (run / "evaluations.json").write_text("[1]"),
    "a checkpoint with another name": lambda run: (run / "weights" / "5x").mkdir(),
    "a name of other letters": lambda run: run.rename(
        os.fsdecode(os.fsencode(run.parent) + b"/\xff\xfe")
    ),
}


@pytest.fixture(scope="module")
def damaged(runs, served, tmp_path_factory):
    """Viewers of one damaged run beside a good one each, by what is wrong; made when asked for."""
    made = {}

    def of(what):
        if what not in made:
            root = tmp_path_factory.mktemp("damaged")
            _like(runs, root, "X/dqn/good")
            DAMAGES[what](_like(runs, root))
            made[what] = served(root)
        return made[what]

    return of


def test_one_damaged_run_does_not_hide_the_others(damaged):
    for what in DAMAGES:
        status, _, body = damaged(what).get("/api/runs")
        assert status == 200
        assert "X/dqn/good" in [run["name"] for run in json.loads(body)["runs"]]


def test_a_damaged_run_has_a_page_all_the_same(damaged):
    for what in [w for w in DAMAGES if w != "a name of other letters"]:
        at = damaged(what)
        status, _, body = at.get("/api/run?name=X/dqn/bad")
        assert status == 200
        assert json.loads(body)["name"] == "X/dqn/bad"


def test_a_damaged_run_that_cannot_be_played_says_so(damaged):
    for page in ["watch", "play"]:
        for what in [
            "a list",
            "much nested",
            "half a letter",
            "an env that is a number",
            "options that are none",
            "a value that no config takes",
        ]:
            with damaged(what).stream(page, "X/dqn/bad") as stream:
                head, _ = stream.next()
            assert head["kind"] == "error"
            assert len(head["text"]) > 10


def test_who_comes_after_an_error_gets_it_too(at):
    """Also while the first page that received it is still open."""
    with at.stream("watch", "Damaged/dqn/pickle") as first:
        assert first.next()[0]["kind"] == "error"
        with at.stream("watch", "Damaged/dqn/pickle") as second:
            head, _ = second.next()
            assert head["kind"] == "error"


def test_it_listens_on_this_machine_only(viewer, at):
    found = psutil.Process(viewer.program.pid).net_connections(kind="inet")
    listening = [c.laddr for c in found if c.status == psutil.CONN_LISTEN]
    assert [tuple(address) for address in listening] == [("127.0.0.1", at.port)]
    assert at.link.startswith("http://127.0.0.1:")


def test_what_it_says_when_it_starts(viewer, place):
    count = len(viewer.address.json("/api/runs")["runs"])
    assert viewer.first_lines[0].startswith(f"{count} runs under runs")


@pytest.mark.parametrize(
    "more",
    [(), *(("--host", host) for host in ("192.0.2.1", "no such host", "a\0b", "\udcff", "é" * 70))],
)
def test_an_address_that_cannot_be_had_is_one_sentence(at, place, more, capsys, monkeypatch):
    monkeypatch.chdir(place[0])
    with pytest.raises(SystemExit) as ended:
        main(["watch", "--port", str(at.port), *more])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("ludus: cannot listen on ")
    assert err.count("\n") == 1


def test_what_is_no_port_is_one_sentence(capsys):
    for port in ["-1", "65536", "x"]:
        with pytest.raises(SystemExit) as ended:
            main(["watch", "--port", port])
        assert ended.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="priorities of threads are Linux's")
def test_all_threads_of_the_program_give_way_to_a_training(watch, place, wait_until):
    """Those that play use idle cores only; the others have the lowest niceness but the loader."""
    process = watch("--run-dir", "runs", cwd=place[0], program=("-m", "ludus"))
    with process.address.stream("watch", place[1]["cartpole"]) as stream:
        stream.until(lambda head: head["kind"] == "hello")
        tasks = Path(f"/proc/{process.program.pid}/task")

        def threads():
            found = {}
            for task in tasks.iterdir():
                number = int(task.name)
                niceness = os.getpriority(os.PRIO_PROCESS, number)
                found.setdefault(niceness, []).append(os.sched_getscheduler(number))
            return found

        wait_until(
            lambda: os.SCHED_IDLE in threads().get(priority.SERVING_NICENESS, []), "its agent plays"
        )
        found = threads()
        assert os.sched_getscheduler(process.program.pid) == os.SCHED_OTHER
        assert os.getpriority(os.PRIO_PROCESS, process.program.pid) == priority.SERVING_NICENESS
        # of a viewer that was started with `nice`, no thread can be less nice
        waited_for = max(priority.WAITED_FOR_NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
        before = len(found[waited_for])
        assert before >= 1
    with process.address.stream("play", place[1]["tic_tac_toe"]) as stream:
        stream.until(lambda head: head["kind"] == "game")
        found = threads()
        assert len(found[waited_for]) > before
        assert set(found[waited_for]) == {os.SCHED_OTHER}


@pytest.fixture(scope="module")
def opened(place, watch):
    """A viewer that listens on every address and trusts evil.py."""
    return watch("--run-dir", "runs", "--host", "0.0.0.0", "--modules", "evil", cwd=place[0])


def test_on_every_address_numbers_are_its_own_and_foreign_names_are_not(opened):
    at = opened.address
    for host in ("127.0.0.1", "10.1.2.3", "[fe80::1]", "localhost", socket.gethostname()):
        assert at.get("/", Host=f"{host}:{at.port}")[0] == 200, host
    for host in ("evil.example", "localhost.evil.example", "1.2.3.4.evil.example", "0x7f.1"):
        assert at.get("/", Host=f"{host}:{at.port}")[0] == 403, host
    assert at.get("/", cookie=False)[0] == 403


def test_a_module_that_was_named_is_imported(opened, place):
    mark = place[0] / "imported"
    assert not mark.exists()
    try:
        with opened.address.stream("watch", "Evil/dqn/env") as stream:
            stream.until(lambda head: head["kind"] == "frame" and head["step"] > 2)
        assert mark.exists()
    finally:
        mark.unlink(missing_ok=True)


def test_ctrl_c_ends_it_with_pages_open(opened, place):
    """Of two runs at play and a game, and a page that has stopped reading."""
    at, names = opened.address, place[1]
    idle = socket.create_connection((at.host, at.port), timeout=LIMIT)
    slow = _shake_hands(at, names["cartpole"], 1024)
    with (
        at.stream("watch", names["cartpole"], twin="a") as first,
        at.stream("watch", names["pong"]) as second,
        at.stream("watch", names["tic_tac_toe"]) as third,
        at.stream("play", names["tic_tac_toe"]) as fourth,
    ):
        for stream in (first, second, third, fourth):
            stream.next()
        code = opened.end(signal.SIGINT)
    idle.close()
    slow.close()
    assert code in (0, 130)
    errors = opened.errors()
    assert "Traceback" not in errors
    assert "Error" not in errors
