"""Runs that were trained for a moment, and viewers that show them."""

import http.client
import json
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import quote

import pytest
import torch
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from ludus.training.run import TrainOptions
from ludus.training.train import train
from ludus.viewer.library import Library
from ludus.viewer.messages import unpack
from ludus.viewer.server import serve

PATIENCE = 120.0  # seconds for what takes a moment on a machine that has nothing else to do


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small networks: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder with three runs, and their names: cartpole, pong and tic_tac_toe."""
    root = tmp_path_factory.mktemp("trained")
    names = {}
    for short, agent, env, steps, envs in (
        ("cartpole", "dqn", "CartPole-v1", 300, 1),
        ("pong", "ppo_small", "PongNoFrameskip-v4", 256, 2),
        ("tic_tac_toe", "alphazero", "tic_tac_toe", 200, 8),
    ):
        more = TrainOptions(num_envs=envs, eval_episodes=0, device="cpu")
        train(agent, env, steps=steps, train_options=more, root=root, quiet=True)
        (path,) = root.glob(f"{env}/{agent}/*")
        names[short] = path.relative_to(root).as_posix()
    return root, names


class Stream:
    """A page's web socket.

    Args:
        socket: connected, or None for one that `told` is fed by another thread.
    """

    def __init__(self, socket):
        self.socket = socket

    def do(self, what, value=None):
        """Give a command, as the page does."""
        self.socket.send(json.dumps({"do": what, "value": value}))

    def next(self, timeout=PATIENCE):
        """Head and pictures of the next message."""
        return unpack(self.socket.recv(timeout=timeout))

    def until(self, wanted):
        """The head of the first message that is wanted."""
        return self.until_with_pictures(wanted)[0]

    def until_with_pictures(self, wanted):
        """The first message that is wanted, and its pictures."""
        end, seen = time.monotonic() + PATIENCE, []
        while time.monotonic() < end:
            head, pictures = self.next(max(0.1, end - time.monotonic()))
            seen.append({k: v for k, v in head.items() if k not in ("scene", "history")})
            if wanted(head):
                return head, pictures
            if head["kind"] == "error":
                break
        raise AssertionError(f"never came; the last were {seen[-3:]}")

    def ends(self):
        """Read until the server ends the connection; the code that it gives."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                self.socket.recv(timeout=PATIENCE)
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else None
        raise AssertionError("the connection was not ended")


class Address:
    """Where a viewer is, and the token that opens it.

    Args:
        link: that it printed.
    """

    def __init__(self, link):
        self.link = link
        host, port, self.token = re.match(r"http://(.+):(\d+)/\?token=([\w-]+)", link).groups()
        self.port = int(port)
        self.host = "127.0.0.1" if host == "0.0.0.0" else host
        self.at = f"{self.host}:{port}"
        self.cookie = f"ludus_{port}={self.token}"

    def get(self, path, *, method="GET", cookie=True, **headers):
        """Status, headers and body of an answer; a header of None is left out."""
        told = {"Host": self.at, "Cookie": self.cookie if cookie else None}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in told.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, path):
        """What the API says."""
        status, _, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def raw(self, text):
        """The answer to bytes that no client would send, up to its end."""
        with socket.create_connection((self.host, self.port), timeout=PATIENCE) as plain:
            plain.sendall(text)
            answer = b""
            while data := plain.recv(1 << 16):
                answer += data
        return answer

    def connect(self, path, *, cookie=True, **headers):
        """A web socket; it must be closed."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if cookie:
            told["Cookie"] = self.cookie
        url = f"ws://{self.at}{path}"
        return connect(
            url, additional_headers=told, proxy=None, open_timeout=PATIENCE, max_size=None
        )

    def stream(self, page, run, **query):
        """A page's web socket: `watch` or `play`, to be used in a with."""
        asked = "".join(f"&{name}={quote(value, safe='')}" for name, value in query.items())
        return _Closing(self.connect(f"/{page}?run={quote(run, safe='')}{asked}"))


class _Closing:
    """Closes a stream's socket."""

    def __init__(self, socket):
        self._socket = socket

    def __enter__(self):
        return Stream(self._socket)

    def __exit__(self, *_):
        self._socket.close()


def _wait_until_it_listens(address):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((address.host, address.port), timeout=PATIENCE).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < end, "the viewer never listened"
            time.sleep(0.02)


class Process:
    """`ludus watch` as a program.

    Args:
        arguments: of the verb.
        cwd: where it is called.
    """

    def __init__(self, arguments, cwd):
        command = [sys.executable, "-m", "ludus.cli", "watch", "--port", "0", *arguments]
        self.program = subprocess.Popen(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._said = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self.first_lines = [self.program.stdout.readline() for _ in range(2)]
        assert self.first_lines[1].startswith("open http"), self.errors()
        self.address = Address(self.first_lines[1].split()[1])
        _wait_until_it_listens(self.address)

    def _read_errors(self):
        self._said.extend(iter(self.program.stderr.readline, ""))

    def errors(self):
        """All that it wrote to stderr; of a program that has ended."""
        self._reader.join(PATIENCE)
        return "".join(self._said)

    def end(self, number):
        """Send a signal and wait; its exit code."""
        self.program.send_signal(number)
        return self.program.wait(PATIENCE)

    def kill(self):
        """End it at once."""
        self.program.kill()
        self.program.wait(PATIENCE)
        self.program.stdout.close()
        self._reader.join(PATIENCE)
        self.program.stderr.close()


@pytest.fixture(scope="module")
def watch():
    """Starts `ludus watch` with arguments in a folder; ended after the module."""
    started = []

    def start(*arguments, cwd):
        started.append(Process([str(a) for a in arguments], cwd))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def served():
    """Serves a folder from a thread of this process, which costs nothing to start."""
    patch, threads, started = pytest.MonkeyPatch(), [], []

    class Stoppable(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            started.append(self)

    patch.setattr("ludus.viewer.server.uvicorn.Server", Stoppable)
    patch.setattr("ludus.viewer.server.step_back", lambda: None)  # the tests go first, too

    def start(root, **options):
        links = queue.Queue()
        thread = threading.Thread(
            target=serve, args=(Library(root), links.put), kwargs=options, daemon=True
        )
        thread.start()
        threads.append(thread)
        address = Address(links.get(timeout=PATIENCE))
        _wait_until_it_listens(address)
        return address

    yield start
    for server in started:
        server.should_exit = True
    for thread in threads:
        thread.join(PATIENCE)
    patch.undo()
    assert not any(thread.is_alive() for thread in threads), "a viewer did not end"


class Told:
    """What a stage or a game publishes from its thread, kept in order."""

    def __init__(self):
        self._messages = queue.Queue()

    def __call__(self, message, lasting):
        self._messages.put((message, lasting))

    def until(self, wanted):
        """The first head from here on that is wanted."""
        return self.until_with_pictures(wanted)[0]

    def until_with_pictures(self, wanted):
        """The first message from here on that is wanted, and its pictures."""
        end, seen = time.monotonic() + PATIENCE, []
        while time.monotonic() < end:
            try:
                message, _ = self._messages.get(timeout=max(0.1, end - time.monotonic()))
            except queue.Empty:
                break
            head, pictures = unpack(message)
            seen.append({k: v for k, v in head.items() if k not in ("scene", "history")})
            if wanted(head):
                return head, pictures
            if head["kind"] == "error":
                break
        raise AssertionError(f"never came; the last were {seen[-3:]}")


@pytest.fixture
def told():
    """Takes what is published."""
    return Told()
