"""The viewer's page within a notebook."""

import atexit
import html
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from ludus.envs.errors import RunError
from ludus.envs.trust import consent_arguments
from ludus.training.api import TrainedAgent, folder_of
from ludus.training.run import Run
from ludus.viewer.library import link_to

_STARTED = set["Watching"]()


class Watching:
    """A viewer that runs beside this process; a notebook shows its page below the cell.

    Args:
        url: link to the page, with its token.
        process: the viewer.
        height: of the frame in pixels.
    """

    def __init__(self, url: str, process: subprocess.Popen[str], height: int) -> None:
        self.url, self._process, self._height = url, process, height
        _STARTED.add(self)

    def __repr__(self) -> str:
        """Return the link."""
        return f"<the viewer at {self.url}>"

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{html.escape(self.url)}" title="Ludus" width="100%" '
            f'height="{self._height}" style="border: 0"></iframe>'
        )

    def close(self) -> None:
        """End the viewer; a second call does nothing."""
        self._process.terminate()
        self._process.wait()
        _STARTED.discard(self)


def watch(
    run: TrainedAgent | Run | Path | str | None = None,
    *,
    run_dir: Path | str = "runs",
    port: int = 0,
    url: str = "",
    height: int = 720,
) -> Watching:
    """Show runs and playing agents in a notebook, or on a page of their own.

    The viewer is a process of its own, which ends when this one exits.

    Args:
        run: opens first, with all runs of its root folder; None for the list of `run_dir`. The
            viewer may import the modules that its settings name if this process has.
        run_dir: folder whose runs are listed.
        port: TCP port; 0 for a free one.
        url: address at which a proxy shows that port, as
            "https://hub.example/user/me/proxy/8008"; "" if the browser runs on this machine.
        height: of the page in a notebook, in pixels.

    Returns:
        The viewer, with `url` and `close()`.

    Raises:
        RunError: there is no such run, or the port is not available.
    """
    fragment, consent = "", list[str]()
    if run is not None:
        folder = folder_of(run)
        run_dir, fragment = link_to(folder, "watch")
        config = Run(folder).config()
        consent = consent_arguments(config.env, config.imported)
    command = [sys.executable, "-P", "-m", "ludus", "watch", "--run-dir", str(run_dir), "--embed"]
    command += ["--port", str(port), "--url", url, "--no-browser", *consent]
    with tempfile.TemporaryFile("w+") as errors:  # nobody reads them, so no pipe, which may fill
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # an interrupted cell does not end it
        )
        assert process.stdout is not None
        for line in process.stdout:
            link = re.search(r"https?://\S+", line)
            if link:
                threading.Thread(target=process.stdout.read, daemon=True).start()
                return Watching(link[0] + fragment, process, height)
        process.wait()
        errors.seek(0)
        raise RunError(errors.read().strip() or "the viewer did not start")


@atexit.register
def _close_all() -> None:
    for started in list(_STARTED):
        started.close()
