"""Access to the page behind a proxy and in a frame of another page."""

import asyncio
from http.cookies import SimpleCookie

import pytest
from starlette.responses import PlainTextResponse

from ludus.viewer.guard import Guard

TOKEN = "a-token-of-32-characters-or-more-"
HUB = "https://hub.example/user/me/proxy/8008"


def _answer(path="/", query="", headers=(), **options):
    """The status and headers of a guard's answer."""
    guard = Guard(PlainTextResponse("the app"), TOKEN, "127.0.0.1", 8008, {"/app.js"}, **options)
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(k.encode(), v.encode()) for k, v in dict(headers).items()],
    }
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}


def _policy(headers):
    return dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))


@pytest.mark.parametrize("host", ["hub.example", "127.0.0.1:8008", "localhost:8008"])
def test_a_proxy_may_keep_its_host_name_or_not(host):
    status, headers = _answer("/", f"token={TOKEN}", {"host": host}, url=HUB)
    assert (status, headers["location"]) == (303, "./")
    (morsel,) = SimpleCookie(headers["set-cookie"]).values()
    assert (morsel["path"], morsel["secure"]) == ("/user/me/proxy/8008", True)
    cookie = f"{morsel.key}={morsel.value}"
    for origin in {"https://hub.example", f"http://{host}"} - {"http://hub.example"}:
        sent = {"host": host, "cookie": cookie, "origin": origin}
        assert _answer("/api/runs", headers=sent, url=HUB)[0] == 200
    for origin in ("http://hub.example", "https://hub.example.evil", "https://evil", "null"):
        sent = {"host": host, "cookie": cookie, "origin": origin}
        assert _answer("/api/runs", headers=sent, url=HUB)[0] == 403, origin
    assert "wss://hub.example" in _policy(headers)["connect-src"].split()


def test_without_a_proxy_its_name_is_foreign():
    for host in ("hub.example", "", "127.0.0.1"):
        assert _answer("/", f"token={TOKEN}", {"host": host})[0] == 403
    status, headers = _answer("/", f"token={TOKEN}", {"host": "127.0.0.1:8008"})
    (morsel,) = SimpleCookie(headers["set-cookie"]).values()
    assert (status, morsel["path"], morsel["secure"]) == (303, "/", "")


def test_in_a_frame_the_token_is_in_every_address():
    """There is no cookie, so a page that frames it without the token gets no answer."""
    sent = {"host": "127.0.0.1:8008"}
    status, headers = _answer("/", f"token={TOKEN}", sent, embed=True)
    assert status == 200
    assert "set-cookie" not in headers
    assert _policy(headers)["frame-ancestors"] == "* vscode-webview:"
    assert _answer("/", "", sent, embed=True)[0] == 403
    assert _answer("/api/runs", "token=wrong", sent, embed=True)[0] == 403
    assert _answer("/app.js", "", sent, embed=True)[0] == 200
    _, headers = _answer("/", "", sent)
    assert _policy(headers)["frame-ancestors"] == "'none'"
