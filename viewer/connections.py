"""Connections of the viewer's server: a deadline for headers, and a limit for strangers.

Whoever can reach the port can open connections. Those that have not shown the token must send their
headers in time, and they cannot use up the connections of the viewer's own pages.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # that the headers of a request may take
MAX_STRANGERS = 64  # open connections without the token; a further one ends the oldest


class Connection(H11Protocol):
    """One HTTP connection; a stranger until the guard calls `scope["ludus.welcome"]`."""

    _strangers: dict["Connection", None] = {}  # noqa: RUF012  of all, the oldest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base
        """Begin as a stranger."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._upgraded = False
        self._wait_for_headers()
        Connection._strangers[self] = None
        if len(Connection._strangers) > MAX_STRANGERS:
            next(iter(Connection._strangers))._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        Connection._strangers.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive data; the deadline runs unless a request is being answered."""
        super().data_received(data)
        if self._upgraded:  # a WebSocket may be silent for as long as it likes
            return
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_headers()
        else:
            self._stop_waiting()

    def handle_events(self) -> None:
        """Handle requests; give the guard a way to welcome this connection."""
        super().handle_events()
        if self.scope is not None:  # its task starts after this
            self.scope["ludus.welcome"] = self._welcome  # type: ignore[typeddict-unknown-key]  # ASGI allows own keys

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Leave the connection to the WebSocket protocol, which asks the guard at once."""
        self._upgraded = True
        self._stop_waiting()
        Connection._strangers.pop(self, None)
        super().handle_websocket_upgrade(event)

    def _welcome(self) -> None:
        Connection._strangers.pop(self, None)

    def _wait_for_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._end)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        self._stop_waiting()
        Connection._strangers.pop(self, None)
        self.transport.abort()
