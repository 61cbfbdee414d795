"""Who may speak to the viewer: only pages that hold the token, at the address it is bound to.

A page of another site could reach a local server through the browser, by a link, a form, or a name
that it makes point here. So `Host` and `Origin` must be ours, and every request must bring the
token, as `?token=` once and as a cookie from then on.
"""

import ipaddress
import secrets
import socket
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TRICKS = (b"..", b"%2e", b"%2f", b"%5c", b"%00", b"\\", b"//")
_NO_TOKEN = "The token is missing or wrong: open the link that ludus watch printed.\n"


class Guard:
    """Refuses what is not ours before anything else sees it.

    Args:
        app: what is guarded.
        token: that every request must bring.
        host: what the server is bound to; a name or an address.
        port: what it listens on.
    """

    def __init__(self, app: ASGIApp, token: str, host: str, port: int) -> None:
        self._app, self._token, self._host, self._port = app, token, host, port
        self._cookie = f"ludus_{port}"  # cookies do not tell ports apart

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, self._protected(scope, send))
        elif scope["type"] == "http":
            await refusal(scope, receive, self._protected(scope, send))
        else:
            await send({"type": "websocket.close", "code": 1008})  # before accept: HTTP 403

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to what is not passed on; None where it is."""
        headers = Headers(scope=scope)
        if not self._is_ours(headers.get("host", "")):
            return PlainTextResponse("This host name is not the viewer's.\n", 403)
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{headers['host']}":
            return PlainTextResponse("Other sites may not ask the viewer.\n", 403)
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("Only GET.\n", 405, {"allow": "GET, HEAD"})
        if any(trick in scope.get("raw_path", b"").lower() for trick in _TRICKS):
            return PlainTextResponse("There is no such page.\n", 404)
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if asked and self._matches(asked):
            if scope["type"] == "http" and scope["path"] == "/":
                return self._remember()
            return None
        for part in headers.get("cookie", "").split(";"):  # other ports' cookies come along
            name, _, value = part.strip().partition("=")
            if name == self._cookie and self._matches(value):
                return None
        return PlainTextResponse(_NO_TOKEN, 403)

    def _matches(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())

    def _remember(self) -> Response:
        """Keep the token in a cookie and out of the address bar."""
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return answer

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or port != str(self._port):
            return False
        name = name.strip("[]").lower()
        if name in ("127.0.0.1", "localhost", "::1", self._host.lower()):
            return True
        if self._host not in ("0.0.0.0", "::"):
            return False
        try:  # bound to every address: any number, which no foreign name can stand for
            ipaddress.ip_address(name)
        except ValueError:
            return name == socket.gethostname().lower()
        return True

    def _protected(self, scope: Scope, send: Send) -> Send:
        host = Headers(scope=scope).get("host", "")
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
            f"connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", policy.encode("latin-1", "ignore")),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                    (b"cache-control", b"no-store"),
                    (b"cross-origin-resource-policy", b"same-origin"),
                ]
            await send(message)

        return send_protected
