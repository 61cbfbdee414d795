"""`ludus watch`: show runs and playing agents in the browser."""

import os
import sys
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Annotated
from urllib.parse import urlsplit

from tyro.conf import Positional

from ludus.cli.options import PORT, parse
from ludus.cli.output import print_result
from ludus.envs.bounds import check_bounds
from ludus.envs.errors import UsageError
from ludus.training.signals import hangup_as_sigterm
from ludus.viewer.library import Library, link_to
from ludus.viewer.server import serve

_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")  # without one, Linux has text browsers only


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus watch`."""

    run: Positional[Path | None] = None
    """run to open first, listed with the other runs of its root (default: all of --run-dir)"""
    run_dir: Path = Path("runs")
    """folder whose runs are listed"""
    port: Annotated[int, PORT] = 8008
    """TCP port of the page; 0 for a free one"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 gives access to everyone who has the link"""
    browser: bool = True
    """open the page in the browser, where this terminal has one"""
    url: str = ""
    """address at which a proxy shows the page, as https://hub.example/user/me/proxy/8008"""
    embed: bool = False
    """let other pages show this page in a frame, as notebooks do"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)
        address = urlsplit(self.url)
        if self.url and (address.scheme not in ("http", "https") or not address.netloc):
            raise UsageError(
                f"url is {self.url}; it is a whole address, as https://hub.example/proxy/8008"
            )


def run(argv: list[str]) -> int:
    """Serve the page until Ctrl-C."""
    about = "Show runs and playing agents in the browser."
    given = parse(Arguments, argv, command="watch", about=about)
    root, fragment = given.run_dir, ""
    if given.run is not None:
        root, fragment = link_to(given.run, "watch")
    library = Library(root)
    count = len(library.runs())
    runs = f"{count} run{'' if count == 1 else 's'}"
    print_result(f"{runs} under {root}; Ctrl-C stops the server")
    open_link = browser_opener() if given.browser else None

    def announce(link: str) -> None:
        print_result(f"open {link}")
        if open_link:
            open_link(link)

    with hangup_as_sigterm():
        serve(
            library,
            announce,
            host=given.host,
            port=given.port,
            fragment=fragment,
            url=given.url,
            embed=given.embed,
        )
    return 0


def browser_opener() -> Callable[[str], None]:
    """Return a function that opens a link in the browser.

    It does nothing unless this is a terminal with a screen of its own. Its thread starts here, at
    the usual priority, which the browser inherits; `serve` lowers that of its own thread.
    """
    here = sys.platform in ("darwin", "win32") or any(map(os.environ.get, _SCREENS))
    if not here or not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return lambda link: None
    links = Queue[str]()
    threading.Thread(target=lambda: webbrowser.open(links.get()), daemon=True).start()
    return links.put
