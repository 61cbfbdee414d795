"""Connections without the token: headers have a deadline, and strangers lock nobody out."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from websockets.sync.client import connect

from ludus.viewer import connections

LIMIT = 600.0  # seconds that a test waits for an event


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await send({"type": "websocket.send", "text": "hello"})
        return
    if scope["type"] != "http":
        return
    if scope["path"] == "/own":
        scope["ludus.welcome"]()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def port(monkeypatch: Any, wait_until: Any) -> Iterator[int]:
    monkeypatch.setattr(connections, "MAX_STRANGERS", 8)
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    bound.listen()
    config = uvicorn.Config(_app, http=connections.Connection, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    wait_until(lambda: server.started, "the server listens")
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join(LIMIT)


def _connect(port: int, start: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), LIMIT)
    connection.sendall(start)
    return connection


def _ask(connection: socket.socket, path: str) -> bytes:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = b""
    while b"hello" not in answer:
        answer += (received := connection.recv(1000))
        if not received:
            break
    return answer


def _wait_for_end(connection: socket.socket) -> None:
    """Read until the server has ended a connection."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(1000):
            pass


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_headers_have_a_deadline(port: int, start: bytes, monkeypatch: Any) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    with _connect(port, start) as slow:
        _wait_for_end(slow)


def test_a_second_request_has_a_deadline_too(port: int, monkeypatch: Any) -> None:
    with _connect(port) as connection:
        monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
        assert b"hello" in _ask(connection, "/")
        connection.sendall(b"GET /")
        _wait_for_end(connection)


def test_strangers_do_not_use_up_the_connections(port: int) -> None:
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(_connect(port))
        assert b"hello" in _ask(own, "/own")
        strangers = [stack.enter_context(_connect(port, b"GET /")) for _ in range(20)]
        assert b"hello" in _ask(stack.enter_context(_connect(port)), "/own")
        for stranger in strangers[:12]:
            _wait_for_end(stranger)
        assert b"hello" in _ask(own, "/own")


def test_a_websocket_has_no_deadline(port: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.1)
    with connect(f"ws://127.0.0.1:{port}/", open_timeout=LIMIT) as page:
        with _connect(port, b"GET /") as slow:  # connected later, and ended by its deadline
            _wait_for_end(slow)
        page.send("are you there?")
        assert page.recv(LIMIT) == "hello"
