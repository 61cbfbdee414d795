"""The viewer's server: a page, the runs as JSON, and web sockets on which agents play."""

import asyncio
import json
import math
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ludus.envs.board import spiel
from ludus.envs.errors import RunError
from ludus.training.run import Run, RunConfig
from ludus.viewer.board import BoardGame
from ludus.viewer.guard import Guard
from ludus.viewer.library import Library
from ludus.viewer.messages import error
from ludus.viewer.stage import Stage, step_back, step_back_further
from ludus.viewer.worker import Worker

LARGEST = 4096  # bytes of a message from a page; more ends the connection
STAGES = 12  # agents that play at once
CLIENTS = 256  # connections at once
MANY = 8  # pages of one run; serving more takes only the time that nobody else wants
_SLOW_SECONDS = 10.0  # a page that has not taken a message for so long is dropped
_PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/board.js": ("board.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class _Answer(JSONResponse):
    """JSON of what a run may hold: what JSON does not know is null, half letters are escaped."""

    def render(self, content: Any) -> bytes:
        return json.dumps(_known(content)).encode()


def _known(told: Any) -> Any:
    if isinstance(told, dict):
        return {key: _known(value) for key, value in told.items()}
    if isinstance(told, list | tuple):
        return [_known(value) for value in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


class Outbox:
    """What one page has yet to be sent: all that it must know, and the newest picture only."""

    def __init__(self) -> None:
        self._lasting, self._newest = deque[bytes](maxlen=100), deque[bytes](maxlen=1)
        self._filled = asyncio.Event()

    def put(self, message: bytes, lasting: bool) -> None:
        """Take a message; one that does not last gives way to the next of its kind."""
        (self._lasting if lasting else self._newest).append(message)
        self._filled.set()

    async def get(self) -> bytes:
        """The next message."""
        while not self._lasting and not self._newest:
            self._filled.clear()
            await self._filled.wait()
        return (self._lasting or self._newest).popleft()


def _from_thread(put: Callable[[bytes, bool], None]) -> Callable[[bytes, bool], None]:
    """The same for another thread to call; nothing happens once the loop has ended."""
    loop = asyncio.get_running_loop()

    def publish(message: bytes, lasting: bool) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(put, message, lasting)

    return publish


class Hub:
    """A stage and the pages that watch it; a page that is slow misses pictures."""

    def __init__(self, run: Run, config: RunConfig, *, hold: bool) -> None:
        self._outboxes = set[Outbox]()
        self.stage = Stage(run, _from_thread(self._put), hold=hold, config=config)

    def _put(self, message: bytes, lasting: bool) -> None:
        for outbox in self._outboxes:
            outbox.put(message, lasting)

    def join(self) -> Outbox:
        """What happens from now on."""
        outbox = Outbox()
        self._outboxes.add(outbox)
        self.stage.worker.command({"do": "hello"})
        return outbox

    @property
    def pages(self) -> int:
        """How many watch."""
        return len(self._outboxes)

    def leave(self, outbox: Outbox) -> bool:
        """Say whether nobody watches any more."""
        self._outboxes.discard(outbox)
        return not self._outboxes


class Viewer:
    """All that is shown.

    Args:
        library: the runs.
        modules: whose envs may be loaded; a run cannot name others.
    """

    def __init__(self, library: Library, modules: Iterable[str]) -> None:
        self._library, self._modules = library, frozenset(modules)
        self._hubs: dict[str, Hub] = {}
        self._workers = set[Worker]()
        page = files("ludus.viewer").joinpath("page")
        self._files = {
            path: (page.joinpath(name).read_bytes(), kind) for path, (name, kind) in _PAGES.items()
        }

    def app(self) -> Starlette:
        """The routes; each is an exact path, and no part of an address names a file."""
        routes: list[Any] = [Route(path, self._file) for path in self._files]
        routes += [
            Route("/api/runs", self._runs),
            Route("/api/run", self._run),
            WebSocketRoute("/watch", self._watch),
            WebSocketRoute("/play", self._play),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        for worker in self._workers:
            worker.close(0)
        for worker in self._workers:
            await asyncio.to_thread(worker.close)

    async def _file(self, request: Request) -> Response:
        data, kind = self._files[request.url.path]
        return Response(data, media_type=kind)

    async def _runs(self, _: Request) -> Response:
        told = await asyncio.to_thread(self._library.listing)
        return _Answer({"root": str(self._library.root), "runs": told})

    async def _run(self, request: Request) -> Response:
        try:
            name = request.query_params.get("name", "")
            return _Answer(await asyncio.to_thread(self._library.details, name))
        except RunError as problem:
            return _Answer({"error": str(problem)}, 404)

    def _find(self, socket: WebSocket) -> tuple[Run, RunConfig]:
        """The run that a page asks for, and its config, which is not read again.

        Raises:
            RunError: there is none, it is broken, or its env is in a module that was not named.
        """
        run = self._library.find(socket.query_params.get("run", ""))
        config = run.config()
        module, colon, _ = config.env.rpartition(":")
        if colon and not spiel.is_game(config.env) and module not in self._modules:
            raise RunError(
                f"the env {config.env} is code of the module {module}; start ludus watch "
                f"with --modules {module} if you trust it"
            )
        return run, config

    async def _watch(self, socket: WebSocket) -> None:
        """One page watches one run."""
        await socket.accept()
        name = socket.query_params.get("run", "")
        twin = socket.query_params.get("twin", "")  # beside another run: a stage of its own
        key = f"{name}\n{twin}"
        try:
            run, config = await asyncio.to_thread(self._find, socket)
            if key not in self._hubs or not self._hubs[key].stage.worker.alive:
                self._refuse_more()
                self._hubs[key] = Hub(run, config, hold=bool(twin))
                self._workers.add(self._hubs[key].stage.worker)
        except Exception as problem:  # whatever a config may hold
            await _say_and_close(socket, problem)
            return
        hub = self._hubs[key]
        outbox = hub.join()
        if hub.pages > MANY:
            step_back_further()
        try:
            await _both(socket, outbox, hub.stage.worker.command)
        finally:
            if hub.leave(outbox) and self._hubs.get(key) is hub:
                del self._hubs[key]
                hub.stage.worker.close(0)

    def _refuse_more(self) -> None:
        self._workers = {worker for worker in self._workers if worker.alive}
        if len(self._workers) >= STAGES:
            raise RunError(f"{STAGES} agents play already; close a page first")

    async def _play(self, socket: WebSocket) -> None:
        """One page plays against, or beside, one run's agent."""
        await socket.accept()
        try:
            run, config = await asyncio.to_thread(self._find, socket)
            self._refuse_more()
        except Exception as problem:  # whatever a config may hold
            await _say_and_close(socket, problem)
            return
        outbox = Outbox()
        publish = _from_thread(outbox.put)
        game: BoardGame | Stage
        if spiel.is_game(config.env):
            game = BoardGame(run, publish, config)
        else:
            game = Stage(run, publish, person=True, config=config)
            game.worker.command({"do": "hello"})
        self._workers.add(game.worker)
        try:
            await _both(socket, outbox, game.worker.command)
        finally:
            game.worker.close(0)


async def _both(
    socket: WebSocket, outbox: Outbox, command: Callable[[dict[str, Any]], None]
) -> None:
    """Send what is in the outbox and obey what the page says, until either ends."""

    async def send() -> None:
        while True:
            message = await outbox.get()
            await asyncio.wait_for(socket.send_bytes(message), _SLOW_SECONDS)

    async def receive() -> None:
        while True:
            try:
                told = json.loads(await socket.receive_text())
            except (ValueError, KeyError, RecursionError):  # no JSON, or bytes
                await socket.close(1003)
                return
            if isinstance(told, dict):
                command(told)

    tasks = [asyncio.create_task(send()), asyncio.create_task(receive())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            gone = (WebSocketDisconnect, TimeoutError, asyncio.CancelledError, RuntimeError)
            if isinstance(result, BaseException) and not isinstance(result, gone):
                raise result
        with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
            await asyncio.wait_for(socket.close(), 1)  # a slow page does not take this either


async def _say_and_close(socket: WebSocket, problem: Exception) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):
        await socket.send_bytes(error(problem))
        await socket.close()


def serve(
    library: Library,
    say: Callable[[str], None],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    modules: Iterable[str] = (),
    fragment: str = "",
) -> None:
    """Serve until a signal.

    Args:
        library: the runs.
        say: called with the link once the port is bound.
        host: the address to bind to.
        port: 0 for any that is free.
        modules: whose envs may be loaded.
        fragment: of the link: which page opens first.

    Raises:
        RunError: the address or port cannot be had.
    """
    torch.set_num_threads(1)
    step_back()
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen()
    except (OSError, OverflowError) as problem:
        bound.close()
        why = getattr(problem, "strerror", None) or problem
        sentence = f"cannot listen on {host} port {port}: {why}; try another --port"
        raise RunError(sentence) from problem
    port = bound.getsockname()[1]
    token = secrets.token_urlsafe(24)
    shown = f"[{host}]" if ":" in host else host
    guarded = Guard(Viewer(library, modules).app(), token, host, port)
    config = uvicorn.Config(
        guarded,
        log_level="warning",
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=LARGEST,
        ws_max_queue=8,
        limit_concurrency=CLIENTS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    say(f"http://{shown}:{port}/?token={token}{fragment}")
    with suppress(KeyboardInterrupt):  # how a person ends it
        uvicorn.Server(config).run(sockets=[bound])
