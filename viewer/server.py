"""The viewer's server: the page, the runs as JSON, and web sockets for sessions."""

import asyncio
import json
import secrets
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
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
from ludus.envs.errors import EnvError, RunError
from ludus.envs.trust import require_trust
from ludus.training.run import Run, RunConfig
from ludus.viewer import priority
from ludus.viewer.connections import Connection
from ludus.viewer.game_session import GameSession
from ludus.viewer.guard import Guard
from ludus.viewer.library import Library
from ludus.viewer.messages import error_message, plain
from ludus.viewer.playback_session import PlaybackSession, Publish
from ludus.viewer.worker import Worker

MAX_MESSAGE_BYTES = 4096  # of a message from a page; a longer one ends the connection
MAX_SESSIONS = 12
MAX_CONNECTIONS = 256
BUSY_PAGES = 8  # pages of one run; with more, the server only uses idle cores
_FILMS = ThreadPoolExecutor(1, "ludus-film")  # films, one at a time
_SEND_SECONDS = 10.0  # in which a page must take a message; otherwise it is disconnected
_SCRIPTS = (
    "app",
    "board",
    "charts",
    "connection",
    "elements",
    "features",
    "list",
    "page",
    "play",
    "player",
    "watch",
)
_PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in _SCRIPTS},
}


class _SafeJSONResponse(JSONResponse):
    """JSON of values from run files, made plain; in ASCII."""

    def render(self, content: Any) -> bytes:
        return json.dumps(plain(content)).encode()


class Outbox:
    """Messages that one page has yet to receive: all lasting ones, but only the newest frame."""

    def __init__(self) -> None:
        self._lasting, self._newest = deque[bytes](maxlen=100), deque[bytes](maxlen=1)
        self._filled = asyncio.Event()

    def put(self, message: bytes, lasting: bool) -> None:
        """Add a message; one that is not lasting is replaced by the next of its kind."""
        (self._lasting if lasting else self._newest).append(message)
        self._filled.set()

    async def get(self) -> bytes:
        """Wait for the next message and return it."""
        while not self._lasting and not self._newest:
            self._filled.clear()
            await self._filled.wait()
        return (self._lasting or self._newest).popleft()


def _thread_safe(put: Publish) -> Publish:
    """Return a function that calls `put` in the event loop; it may be called from any thread."""
    loop = asyncio.get_running_loop()

    def publish(message: bytes, lasting: bool) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(put, message, lasting)

    return publish


class SharedSession:
    """A playback session and the pages that watch it; a slow page misses frames."""

    def __init__(self, run: Run, config: RunConfig, *, hold: bool) -> None:
        self._outboxes = set[Outbox]()
        self.session = PlaybackSession(run, config, _thread_safe(self._put), hold=hold)

    def _put(self, message: bytes, lasting: bool) -> None:
        for outbox in self._outboxes:
            outbox.put(message, lasting)

    @property
    def pages(self) -> int:
        """Return the number of pages that watch."""
        return len(self._outboxes)

    def join(self) -> Outbox:
        """Add a page; return the outbox that receives the session's messages from now on."""
        outbox = Outbox()
        self._outboxes.add(outbox)
        self.session.worker.submit({"do": "hello"})
        return outbox

    def leave(self, outbox: Outbox) -> None:
        """Remove a page."""
        self._outboxes.discard(outbox)


class Viewer:
    """The viewer's routes and its running sessions.

    Args:
        library: the runs to show.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._shared: dict[tuple[str, str], SharedSession] = {}
        self._workers = set[Worker]()
        folder = files("ludus.viewer").joinpath("page")
        self._files = {
            path: (folder.joinpath(name).read_bytes(), media_type)
            for path, (name, media_type) in _PAGES.items()
        }

    def app(self) -> Starlette:
        """Return the application. Its routes are exact paths: no part of a path names a file."""
        routes: list[Any] = [Route(path, self._file) for path in self._files]
        routes += [
            Route("/api/ping", self._ping),
            Route("/api/runs", self._runs),
            Route("/api/run", self._run),
            Route("/clip", self._clip),
            Route("/thumbnail", self._thumbnail),
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
        data, media_type = self._files[request.url.path]
        return Response(data, media_type=media_type)

    async def _ping(self, _: Request) -> Response:
        """Answer a page that wants to know whether its token is still accepted."""
        return JSONResponse({})

    async def _runs(self, request: Request) -> Response:
        wanted = request.query_params.get("filter", "")
        listing = await asyncio.to_thread(self._library.summaries, wanted)
        return _SafeJSONResponse({"root": str(self._library.root), **listing._asdict()})

    async def _run(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        try:
            return _SafeJSONResponse(await asyncio.to_thread(self._library.details, name))
        except (RunError, EnvError) as error:
            return _SafeJSONResponse({"error": str(error)}, 404)

    async def _thumbnail(self, request: Request) -> Response:
        """Send the picture of a run."""
        name = request.query_params.get("run", "")
        try:
            data = await asyncio.to_thread(self._library.thumbnail, name)
        except RunError as error:
            return _SafeJSONResponse({"error": str(error)}, 404)
        return Response(data, media_type="image/png")

    async def _clip(self, request: Request) -> Response:
        """Send a film of frames that a page has received."""
        query = request.query_params
        shared = self._shared.get((query.get("run", ""), query.get("twin", "")))
        try:
            if shared is None:
                raise RunError("no page watches this run")
            first, last = int(query.get("first", "")), int(query.get("last", ""))
            job = _FILMS.submit(shared.session.clip, first, last)
            data = await asyncio.wrap_future(job)
        except (RunError, ValueError, OSError) as error:
            return _SafeJSONResponse({"error": str(error)}, 404)
        return Response(data, media_type="video/mp4")

    def _find(self, name: str) -> tuple[Run, RunConfig]:
        """Return a run and its config.

        Raises:
            RunError: there is no such run, or it is damaged.
            EnvError: its env is in a module that was not allowed.
        """
        run, config = self._library.open(name)
        require_trust(config.env, config.imported, f"the run {run.path}")
        return run, config

    async def _watch(self, socket: WebSocket) -> None:
        """Serve a page that watches a run."""
        await socket.accept()
        name = socket.query_params.get("run", "")
        # Two runs side by side need sessions of their own, whose game no other page controls.
        twin = socket.query_params.get("twin", "")
        key = (name, twin)
        try:
            run, config = await asyncio.to_thread(self._find, name)
            shared = self._shared.get(key)
            if shared is None or shared.session.worker.ending:
                self._require_capacity()
                shared = self._shared[key] = SharedSession(run, config, hold=bool(twin))
                self._workers.add(shared.session.worker)
        except Exception as error:  # a damaged config may raise anything
            await _send_error(socket, error)
            return
        outbox = shared.join()
        if shared.pages > BUSY_PAGES:
            priority.lower_to_idle()
        try:
            await _exchange(socket, outbox, shared.session.worker.submit)
        finally:
            shared.leave(outbox)
            if not shared.pages and self._shared.get(key) is shared:
                del self._shared[key]
                shared.session.worker.close(0)

    def _require_capacity(self) -> None:
        self._workers = {worker for worker in self._workers if worker.alive}
        if len(self._workers) >= MAX_SESSIONS:
            raise RunError(f"{MAX_SESSIONS} agents are playing already; close a page first")

    async def _play(self, socket: WebSocket) -> None:
        """Serve a page on which a person plays against an agent, or beside it."""
        await socket.accept()
        try:
            run, config = await asyncio.to_thread(self._find, socket.query_params.get("run", ""))
            self._require_capacity()
        except Exception as error:  # a damaged config may raise anything
            await _send_error(socket, error)
            return
        outbox = Outbox()
        publish = _thread_safe(outbox.put)
        session: GameSession | PlaybackSession
        if spiel.is_game(config.env):
            session = GameSession(run, config, publish)
        else:
            session = PlaybackSession(run, config, publish, person=True)
            session.worker.submit({"do": "hello"})
        self._workers.add(session.worker)
        try:
            await _exchange(socket, outbox, session.worker.submit)
        finally:
            session.worker.close(0)


async def _exchange(
    socket: WebSocket, outbox: Outbox, submit: Callable[[dict[str, Any]], None]
) -> None:
    """Send the outbox's messages and submit the page's commands, until either side ends."""

    async def send() -> None:
        while True:
            message = await outbox.get()
            await asyncio.wait_for(socket.send_bytes(message), _SEND_SECONDS)

    async def receive() -> None:
        while True:
            try:
                command = json.loads(await socket.receive_text())
            except (ValueError, KeyError, RecursionError):  # not JSON, or a message of bytes
                await socket.close(1003)
                return
            if isinstance(command, dict):
                submit(command)

    tasks = [asyncio.create_task(send()), asyncio.create_task(receive())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        disconnected = (WebSocketDisconnect, TimeoutError, asyncio.CancelledError, RuntimeError)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, disconnected):
                raise result
        with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
            # A page that takes no messages does not take the end of the connection either.
            await asyncio.wait_for(socket.close(), 1)


async def _send_error(socket: WebSocket, error: Exception) -> None:
    """Send an error and close the connection."""
    with suppress(WebSocketDisconnect, RuntimeError):
        await socket.send_bytes(error_message(error))
        await socket.close()


def serve(
    library: Library,
    announce: Callable[[str], None],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    fragment: str = "",
    url: str = "",
    embed: bool = False,
) -> None:
    """Serve until a signal.

    Args:
        library: the runs to show.
        announce: called with the link once the port is bound.
        host: the address to bind to.
        port: 0 for any free port.
        fragment: appended to the link; it selects the page that opens first.
        url: address at which a proxy shows the page; "" without one.
        embed: other pages may embed the page.

    Raises:
        RunError: the address or the port is not available.
    """
    bound = _bind(host, port)
    port = bound.getsockname()[1]
    token, app = secrets.token_urlsafe(24), Viewer(library).app()
    public = _PAGES.keys() - {"/"}
    config = uvicorn.Config(
        Guard(app, token, host, port, public, url=url, embed=embed),
        log_level="warning",
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_max_queue=8,
        limit_concurrency=MAX_CONNECTIONS,
        http=Connection,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    torch.set_num_threads(1)
    priority.lower()  # before the link is known: a signal while a pool starts would hang the exit
    here = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    announce(f"{url.rstrip('/') or here}/?token={token}{fragment}")
    with suppress(KeyboardInterrupt):  # Ctrl-C is the normal way to stop
        uvicorn.Server(config).run(sockets=[bound])


def _bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        RunError: the address or the port is not available.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen()
    except (OSError, OverflowError, TypeError, UnicodeError) as error:  # a host of odd characters
        bound.close()
        reason = getattr(error, "strerror", None) or error
        sentence = f"cannot listen on {host} port {port}: {reason}; try another --host or --port"
        raise RunError(sentence) from error
    return bound
