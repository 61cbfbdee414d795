"""Access control of the viewer: only its own pages, which hold the token, get answers.

A page of another site could reach a local server through the browser: by a link, by a form, or by a
host name that resolves to this machine (DNS rebinding). Therefore `Host` and `Origin` must be the
viewer's own, and every request must contain the token: once as `?token=`, and then as a cookie.
Where the page is embedded in another one, as in a notebook, the browser would send no cookie, and
every request has `?token=`. The page's scripts and styles are the same for everyone and need none.
"""

import ipaddress
import secrets
import socket
from collections.abc import Container
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FORBIDDEN_IN_PATHS = (b"..", b"%2e", b"%2f", b"%5c", b"%00", b"\\", b"//")
_NO_TOKEN = "The token is missing or wrong: open the link that ludus watch printed.\n"


class Guard:
    """ASGI middleware that refuses requests from anywhere but the viewer's own pages.

    Args:
        app: receives the requests that are not refused.
        token: that every request must contain.
        host: name or address that the server is bound to.
        port: that it listens on.
        public: paths that need no token.
        url: address at which a proxy shows the page, with its scheme and path; "" without one.
        embed: other pages may embed the page; no cookie is set.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str,
        host: str,
        port: int,
        public: Container[str] = (),
        *,
        url: str = "",
        embed: bool = False,
    ) -> None:
        self._app, self._token, self._host, self._port = app, token, host, port
        self._public, self._embed = public, embed
        # as a browser writes it: in lower case, without the port that its scheme implies
        parts = urlsplit(url)
        netloc = parts.netloc.lower().removesuffix({"https": ":443"}.get(parts.scheme, ":80"))
        self._url = parts._replace(netloc=netloc)
        self._cookie = f"ludus_{port}"  # a browser sends cookies to all ports of a host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it to the app."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            if scope["path"] not in self._public:
                scope.get("ludus.welcome", lambda: None)()  # no stranger any more
            await self._app(scope, receive, self._with_headers(scope, send))
        elif scope["type"] == "http":
            await refusal(scope, receive, self._with_headers(scope, send))
        else:
            await send({"type": "websocket.close", "code": 1008})  # before accept: HTTP 403

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that is not passed to the app; None if it is passed."""
        headers = Headers(scope=scope)
        if not self._is_own_host(headers.get("host", "")):
            return PlainTextResponse("The host name in the request is not the viewer's.\n", 403)
        origin = headers.get("origin")
        proxy = f"{self._url.scheme}://{self._url.netloc}"
        direct = (
            f"http://{headers['host']}" if headers["host"].lower() != self._url.netloc else proxy
        )
        if origin not in (None, proxy, direct):
            return PlainTextResponse("Requests from other sites are refused.\n", 403)
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse(
                "Only GET and HEAD are supported.\n", 405, {"allow": "GET, HEAD"}
            )
        if any(part in scope.get("raw_path", b"").lower() for part in _FORBIDDEN_IN_PATHS):
            return PlainTextResponse("There is no such page.\n", 404)
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if token and self._matches(token):
            if scope["type"] == "http" and scope["path"] == "/" and not self._embed:
                return self._redirect_with_cookie()
            return None
        if scope["path"] in self._public:
            return None
        for part in headers.get("cookie", "").split(";"):  # includes cookies of other ports
            name, _, value = part.strip().partition("=")
            if name == self._cookie and self._matches(value):
                return None
        return PlainTextResponse(_NO_TOKEN, 403)

    def _matches(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())

    def _redirect_with_cookie(self) -> Response:
        """Move the token from the address bar to a cookie."""
        answer = RedirectResponse("./", 303)  # a proxy may show the page below another path
        answer.set_cookie(
            self._cookie,
            self._token,
            path=self._url.path or "/",
            secure=self._url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    def _is_own_host(self, host: str) -> bool:
        if host and host.lower() == self._url.netloc:
            return True
        name, colon, port = host.rpartition(":")
        if not colon or port != str(self._port):
            return False
        name = name.strip("[]").lower()
        if name in ("127.0.0.1", "localhost", "::1", self._host.lower()):
            return True
        if self._host not in ("0.0.0.0", "::"):
            return False
        # Bound to every address: accept any IP address, since DNS rebinding needs a name.
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == socket.gethostname().lower()
        return True

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        host = Headers(scope=scope).get("host", "")
        socket = "" if host.startswith("[") else f" ws://{host}"  # a policy has no IPv6 addresses
        if self._url.netloc:
            socket += f" {'wss' if self._url.scheme == 'https' else 'ws'}://{self._url.netloc}"
        # Embedded in another page, the viewer answers nobody without the token in the address.
        around = "* vscode-webview:" if self._embed else "'none'"
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
            f"connect-src 'self'{socket}; base-uri 'none'; form-action 'none'; "
            f"frame-ancestors {around}"
        )

        async def send_with_headers(message: Message) -> None:
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

        return send_with_headers
