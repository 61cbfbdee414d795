"""Take the pictures of the viewer that the documentation shows, with chromium and playwright.

python benchmarks/screenshots.py RUN OUT.png [--saliency gradient] [--dark] [--seconds 8]
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1366, 768  # pixels of a laptop


def take(link: str, out: Path, *, saliency: str, dark: bool, seconds: float) -> None:
    """Open a page, let its agent play for some seconds, and write what the window shows.

    Args:
        link: to the page, with its token.
        out: the PNG.
        saliency: kind of saliency map; "" for none.
        dark: with the dark colours.
        seconds: of play.
    """
    with sync_playwright() as started:
        path = shutil.which("chromium")
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="dark" if dark else "light"
        )
        page.goto(link)
        page.locator(".bars li.chosen, svg.board .visit-text").first.wait_for(state="attached")
        if saliency:
            page.get_by_label("Saliency").select_option(saliency)
        page.wait_for_timeout(1000 * seconds)
        page.get_by_role("button", name="Pause").click()
        page.screenshot(path=out)
        browser.close()


def main() -> None:
    """Serve the runs beside RUN, and take the picture of its page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--saliency", default="")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    command = [sys.executable, "-m", "ludus", "watch", str(given.run), "--port", "0"]
    viewer = subprocess.Popen([*command, "--no-browser"], stdout=subprocess.PIPE, text=True)
    try:
        assert viewer.stdout is not None
        link = next(found[0] for line in viewer.stdout if (found := re.search(r"http://\S+", line)))
        options = {"saliency": given.saliency, "dark": given.dark, "seconds": given.seconds}
        take(link, given.out, **options)
    finally:
        viewer.terminate()
        viewer.wait()


if __name__ == "__main__":
    main()
