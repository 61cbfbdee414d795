"""Runs that were trained for a moment, and viewers that show them.

No test depends on the speed of the machine: each waits for an event, and fails only after `LIMIT`.
"""

import http.client
import json
import logging
import queue
import re
import socket
import struct
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

from ludus.training.api import train
from ludus.training.run import Run, TrainOptions
from ludus.viewer import priority
from ludus.viewer.library import Library
from ludus.viewer.server import serve

LIMIT = 600.0  # seconds that any event may take

# `ludus` with the viewer's threads at the usual priority: on a busy machine, threads that only use
# idle cores would take minutes
UNHURRIED = """
import sys
from ludus.cli.main import main
from ludus.viewer import priority
priority.lower = priority.lower_to_idle = lambda: None
sys.exit(main(sys.argv[1:]))
"""


def unpack(message):
    """Split a message into its head and images; the inverse of `messages.pack`."""
    (length,) = struct.unpack_from(">I", message)
    head = json.loads(message[4 : 4 + length])
    images, offset = {}, 4 + length
    for name, size in head.pop("parts").items():
        images[name], offset = message[offset : offset + size], offset + size
    assert offset == len(message)
    return head, images


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small networks are no faster with a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def usual_priority():
    """Keep the threads of this process at the usual priority."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priority, "lower", lambda: None)
        patch.setattr(priority, "lower_to_idle", lambda: None)
        yield


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
        options = TrainOptions(num_envs=envs, eval_episodes=0, device="cpu")
        train(agent, env, steps=steps, train_options=options, root=root, quiet=True)
        (path,) = root.glob(f"{env}/{agent}/*")
        names[short] = path.relative_to(root).as_posix()
    return root, names


def open_run(runs, name):
    """Return a run by its short name, and its config."""
    run = Run.open(runs[0] / runs[1][name])
    return run, run.config()


class Messages:
    """Messages in the order in which they arrive.

    Args:
        receive: returns the next message, given a limit in seconds.
    """

    def __init__(self, receive):
        self._receive = receive

    def next(self):
        """Return the head and images of the next message."""
        return unpack(self._receive(LIMIT))

    def until(self, wanted):
        """Return the head of the first message from here on that is wanted."""
        return self.until_with_images(wanted)[0]

    def until_with_images(self, wanted):
        """Return the first message from here on that is wanted, with its images."""
        end, seen = time.monotonic() + LIMIT, []
        while time.monotonic() < end:
            head, images = self.next()
            seen = [*seen[-2:], {k: v for k, v in head.items() if k not in ("position", "history")}]
            if wanted(head):
                return head, images
            if head["kind"] == "error":
                break
        raise AssertionError(f"the message did not come; the last were {seen}")


class Stream(Messages):
    """A page's web socket.

    Args:
        socket: connected.
    """

    def __init__(self, socket):
        super().__init__(lambda limit: socket.recv(timeout=limit))
        self.socket = socket

    def do(self, what, value=None):
        """Send a command, as the page does."""
        self.socket.send(json.dumps({"do": what, "value": value}))

    def close_code(self):
        """Read until the server ends the connection; return its code."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            try:
                self.socket.recv(timeout=LIMIT)
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else None
        raise AssertionError("the connection was not ended")


class Published(Messages):
    """Messages that a session publishes from its thread."""

    def __init__(self):
        self._messages = queue.Queue()
        super().__init__(lambda limit: self._messages.get(timeout=limit))

    def __call__(self, message, lasting):
        self._messages.put(message)


@pytest.fixture
def published():
    return Published()


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
        """Return the status, headers and body of an answer; a header of None is left out."""
        sent = {"Host": self.at, "Cookie": self.cookie if cookie else None}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=LIMIT)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, path):
        """Return the JSON of an answer."""
        status, _, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def raw(self, text):
        """Return the whole answer to bytes that no client would send."""
        with socket.create_connection((self.host, self.port), timeout=LIMIT) as plain:
            plain.sendall(text)
            answer = b""
            while data := plain.recv(1 << 16):
                answer += data
        return answer

    def connect(self, path, *, cookie=True, **headers):
        """Return a web socket; it must be closed."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if cookie:
            sent["Cookie"] = self.cookie
        return connect(
            f"ws://{self.at}{path}",
            additional_headers=sent,
            proxy=None,
            open_timeout=LIMIT,
            ping_interval=None,
            max_size=None,
        )

    def stream(self, page, run, **query):
        """Return a page's web socket, `watch` or `play`, for a with statement."""
        more = "".join(f"&{name}={quote(value, safe='')}" for name, value in query.items())
        return _Closing(self.connect(f"/{page}?run={quote(run, safe='')}{more}"))


class _Closing:
    """Closes a stream's socket."""

    def __init__(self, socket):
        self._socket = socket

    def __enter__(self):
        return Stream(self._socket)

    def __exit__(self, *_):
        self._socket.close()


class Process:
    """`ludus watch` as a program.

    Args:
        arguments: of the command.
        cwd: where it is called.
        program: arguments of Python that stand for `ludus`.
    """

    def __init__(self, arguments, cwd, program=("-c", UNHURRIED)):
        command = [sys.executable, *program, "watch", "--port", "0", *arguments]
        self.program = subprocess.Popen(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._error_lines = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self.first_lines = []
        while not self.first_lines or "http://" not in self.first_lines[-1]:
            self.first_lines.append(self.program.stdout.readline())
            assert self.first_lines[-1], self.errors()
        self.address = Address(re.search(r"http://\S+", self.first_lines[-1])[0])

    def _read_errors(self):
        self._error_lines.extend(iter(self.program.stderr.readline, ""))

    def errors(self):
        """Return all that it wrote to stderr, once it has ended."""
        self._reader.join(LIMIT)
        return "".join(self._error_lines)

    def end(self, number):
        """Send a signal and wait; return the exit code."""
        self.program.send_signal(number)
        return self.program.wait(LIMIT)

    def kill(self):
        """Kill it."""
        self.program.kill()
        self.program.wait(LIMIT)
        self.program.stdout.close()
        self._reader.join(LIMIT)
        self.program.stderr.close()


@pytest.fixture(scope="module")
def watch():
    """Starts `ludus watch` with arguments in a folder; killed after the module."""
    started = []

    def start(*arguments, cwd, **options):
        started.append(Process([str(a) for a in arguments], cwd, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def served():
    """Serves a folder from a thread of this process, which starts faster than a program.

    An exception that the server logs fails the module.
    """
    patch, threads, started, logged = pytest.MonkeyPatch(), [], [], []

    class Stoppable(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            started.append(self)

    class Collect(logging.Handler):
        def emit(self, record):
            if record.exc_info or record.levelno >= logging.ERROR:
                logged.append(record.getMessage())

    patch.setattr("ludus.viewer.server.uvicorn.Server", Stoppable)
    collect = Collect()
    logging.getLogger("uvicorn.error").addHandler(collect)

    def start(root, **options):
        links = queue.Queue()
        thread = threading.Thread(
            target=serve, args=(Library(root), links.put), kwargs=options, daemon=True
        )
        thread.start()
        threads.append(thread)
        return Address(links.get(timeout=LIMIT))  # its port is bound already

    yield start
    assert not logged
    for server in started:
        server.should_exit = True
    for thread in threads:
        thread.join(LIMIT)
    patch.undo()
    logging.getLogger("uvicorn.error").removeHandler(collect)
    assert not any(thread.is_alive() for thread in threads), "a viewer did not end"
