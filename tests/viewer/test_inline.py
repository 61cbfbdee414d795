"""The page within a notebook."""

import http.client
import re
import socket
from urllib.parse import unquote, urlsplit

import pytest

import ludus
from ludus.envs.errors import RunError


def _status(watching, path):
    parts = urlsplit(watching.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=600)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_run_is_shown_in_a_frame_until_it_is_closed(runs):
    root, names = runs
    watching = ludus.watch(root / names["cartpole"], height=500)
    link = urlsplit(watching.url)
    assert unquote(link.fragment) == f"/watch/{names['cartpole']}"
    source = re.search(r'src="([^"]+)"', watching._repr_html_())[1]
    assert source == watching.url
    assert 'height="500"' in watching._repr_html_()
    token = link.query
    assert _status(watching, f"/?{token}") == 200
    assert _status(watching, f"/api/runs?{token}") == 200
    assert _status(watching, "/api/runs") == 403
    watching.close()
    watching.close()
    with pytest.raises(ConnectionError):
        _status(watching, "/")


def test_what_cannot_be_shown_is_said(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        ludus.watch(tmp_path / "nothing")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"cannot listen on .* port {port}: "):
            ludus.watch(run_dir=tmp_path, port=port)


def test_an_agent_of_a_module_of_one_s_own_is_shown(tmp_path, monkeypatch):
    (tmp_path / "inline_carts.py").write_text(
        "from gymnasium.envs.classic_control.cartpole import CartPoleEnv as Cart"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = {"steps": 20, "eval_episodes": 0, "quiet": True, "max_episode_steps": 10}
    agent = ludus.train("random", "inline_carts:Cart", **options)
    watching = ludus.watch(agent)
    assert watching._process.args[-2:] == ["--modules", "inline_carts"]
    assert _status(watching, f"/?{urlsplit(watching.url).query}") == 200
    watching.close()


def test_a_proxy_s_address_is_in_the_link(tmp_path):
    watching = ludus.watch(run_dir=tmp_path, url="https://hub.example/user/me/proxy/1/")
    assert watching.url.startswith("https://hub.example/user/me/proxy/1/?token=")
    watching.close()
    with pytest.raises(RunError, match=r"url is hub\.example; it is a whole address"):
        ludus.watch(run_dir=tmp_path, url="hub.example")
