"""The viewer's page in a browser, as a person uses it."""

import http.server
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from .conftest import LIMIT

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

MILLISECONDS = 1000 * LIMIT
HOSTILE = "<img src=x onerror=alert(1)>"
SCRIPT = "<script>alert(2)</script>"
expect = playwright.expect
expect.set_options(timeout=MILLISECONDS)

# what a canvas shows: a number that stands for all its pixels, and how many colours there are
PICTURE = """canvas => {
  const copy = document.createElement("canvas");
  copy.width = canvas.width; copy.height = canvas.height;
  const pen = copy.getContext("2d", {willReadFrequently: true});  // or Chromium warns
  pen.drawImage(canvas, 0, 0);
  const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 7; const colours = new Set();
  for (let i = 0; i < data.length; i += 4) {
    const colour = data[i] * 65536 + data[i + 1] * 256 + data[i + 2];
    colours.add(colour); sum = (sum * 31 + colour) % 1000003;
  }
  return [sum, colours.size];
}"""
NARROW = "document.documentElement.scrollWidth <= window.innerWidth"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def place(runs, tmp_path_factory):
    """Good runs, and one whose names are HTML."""
    trained, names = runs
    root = shutil.copytree(trained, tmp_path_factory.mktemp("browser") / "runs")
    hostile = root / "Html" / HOSTILE / "0"
    shutil.copytree(root / names["cartpole"], hostile)
    config = json.loads((hostile / "config.json").read_text())
    config |= {"agent": SCRIPT, "env": f"{HOSTILE}-v0", "protocol": {HOSTILE: SCRIPT}}
    (hostile / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="module")
def at(place, served):
    return served(place)


@pytest.fixture
def new_page(browser):
    """Opens a page; what goes wrong on any of them fails the test at its end."""
    contexts, wrong = [], []

    def said(message):
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def asked(dialog):
        wrong.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def open_page(link, **options):
        contexts.append(browser.new_context(**{"reduced_motion": "reduce"} | options))
        page = contexts[-1].new_page()
        page.set_default_timeout(MILLISECONDS)
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", asked)
        page.goto(link)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def _to(at, page, *names):
    """The link of a page that opens with the token."""
    return f"{at.link}#/{page}/{'/'.join(quote(name, safe='') for name in names)}"


def _fact(page, name, at=0):
    """One number beside the picture."""
    box = page.locator(".facts div", has=page.get_by_text(name, exact=True)).nth(at)
    return box.locator("dd")


def _number(locator):
    return float(locator.inner_text().replace(",", ""))


def test_an_atari_run_is_watched(at, runs, new_page, wait_until):
    page = new_page(_to(at, "watch", runs[1]["pong"]))
    assert "token" not in page.url
    canvas = page.locator(".screen canvas").first
    expect(page.locator("figcaption")).to_contain_text("Action:")
    expect(page.locator(".bars li")).to_have_count(6)
    names = page.locator(".bars li span:first-child").all_inner_texts()
    assert names == ["noop", "fire", "right", "left", "rightfire", "leftfire"]
    first, colours = canvas.evaluate(PICTURE)
    assert colours >= 3
    wait_until(lambda: canvas.evaluate(PICTURE)[0] != first, "another picture")
    percents = page.locator(".bars .number").all_inner_texts()
    assert all(re.fullmatch(r"\d+%", text) for text in percents)
    expect(page.locator(".bars li.chosen")).to_have_count(1)

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    page.get_by_label("seed").fill("11")
    page.get_by_role("button", name="Restart").click()
    expect(_fact(page, "seed")).to_have_text("11")
    step = _fact(page, "step")
    expect(step).to_have_text("0")
    page.get_by_role("button", name="Step", exact=True).click()
    expect(step).to_have_text("1")

    page.get_by_label("Saliency").select_option("gradient")
    heat = page.locator("canvas.over")
    wait_until(lambda: heat.evaluate("canvas => canvas.width > 1 && !canvas.hidden"), "saliency")
    size = "canvas => [canvas.width, canvas.height, canvas.getBoundingClientRect().x]"
    assert heat.evaluate(size) == canvas.evaluate(size)  # so that it lies on what it is about
    page.locator("label", has_text="Feature maps").locator("select").select_option(index=1)
    expect(page.locator(".maps")).to_be_visible()
    maps = page.locator(".maps canvas")
    wait_until(lambda: maps.evaluate(PICTURE)[1] > 5, "feature maps of several greys")
    expect(step).to_have_text("1")

    points = page.locator('svg[aria-label^="Value over time"] polyline').get_attribute("points")
    assert len(points.split()) >= 2
    page.get_by_label("seed").fill("12")
    page.get_by_role("button", name="Restart").click()
    expect(_fact(page, "seed")).to_have_text("12")
    expect(step).to_have_text("0")
    page.get_by_label("Similar states").check()
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.locator("ol.similar li").first).to_contain_text("seed 12, step")
    assert page.locator(".alike canvas").first.evaluate(PICTURE)[1] >= 3

    page.get_by_label("Features map").check()
    features = page.locator(".places canvas").first
    expect(features).to_have_attribute(
        "aria-label", re.compile(r"map of the features of \d+ states")
    )
    wait_until(lambda: features.evaluate(PICTURE)[1] >= 3, "a map of several colours")
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("state of the map").fill("1")
    expect(page.locator(".places output")).to_contain_text("seed 12, step")
    opened = page.locator(".places canvas").last
    expect(opened).to_be_visible()
    wait_until(lambda: opened.evaluate(PICTURE)[1] >= 3, "a frame of the map")
    page.get_by_label("Features map").uncheck()
    expect(features).to_be_hidden()
    for name, heading in (("First layer", "First layer"), ("Units", "Units")):
        page.get_by_label(name, exact=True).check()
        box = page.locator("div", has=page.get_by_role("heading", name=heading, exact=True)).last
        expect(box).to_be_visible()
        wait_until(lambda box=box: box.locator("canvas").evaluate(PICTURE)[1] >= 3, name)
    expect(page.locator("ol.units li").first).to_contain_text("feature")


def test_keys_pause_and_step(at, runs, new_page):
    page = new_page(_to(at, "watch", runs[1]["cartpole"]))
    expect(page.locator("figcaption")).to_contain_text("Action:")
    page.locator("main").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    page.get_by_label("seed").fill("5")
    page.get_by_role("button", name="Restart").click()
    expect(_fact(page, "seed")).to_have_text("5")
    expect(_fact(page, "step")).to_have_text("0")
    page.locator("main").focus()
    page.keyboard.press("ArrowRight")
    expect(_fact(page, "step")).to_have_text("1")
    page.keyboard.press("ArrowLeft")
    expect(_fact(page, "step")).to_have_text("0")
    page.keyboard.press("ArrowRight")
    expect(_fact(page, "step")).to_have_text("1")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    # a control that was used with the mouse does not take the page's keys from then on
    page.get_by_role("button", name="Restart").click()
    page.evaluate("window.scrollTo(0, 0)")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    assert page.evaluate("window.scrollY") == 0
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("pause or play")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Tab")
    page.locator("main").focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "none"


def test_a_board_game_is_watched(at, runs, new_page):
    page = new_page(_to(at, "watch", runs[1]["tic_tac_toe"]))
    expect(page.locator("svg.board")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("seed").fill("7")
    page.get_by_role("button", name="Restart").click()
    # Wait for a frame of the new game: a second Step before the first is taken would be lost.
    expect(_fact(page, "seed")).to_have_text("7")
    expect(_fact(page, "step")).to_have_text("2")  # the random opening
    for number in (3, 4):
        page.get_by_role("button", name="Step", exact=True).click()
        expect(_fact(page, "step")).to_have_text(str(number))
    crosses, rings = page.locator("svg.board > path"), page.locator("svg.board > circle[r='0.29']")
    expect(rings.first).to_be_attached()
    expect(crosses.first).to_be_attached()
    expect(page.locator("svg.board .visit-text").first).to_have_text(re.compile(r"\d+"))
    expect(page.get_by_role("columnheader", name="visits")).to_be_visible()


def test_two_runs_side_by_side_have_one_seed(at, runs, new_page):
    page = new_page(at.link)
    for name in ("cartpole", "pong"):
        page.get_by_label(f"select {runs[1][name]} to watch side by side").check()
    page.get_by_role("button", name="Watch side by side").click()
    expect(page.locator(".stage")).to_have_count(2)
    seeds = [_fact(page, "seed", at=i) for i in (0, 1)]
    for i in (0, 1):
        caption = page.locator(".stage").nth(i).locator("figcaption")
        expect(caption).to_have_text(re.compile("^(Action:|Game over)"))
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    page.get_by_label("seed").fill("31")
    page.get_by_role("button", name="Restart").click()
    for i in (0, 1):
        expect(seeds[i]).to_have_text("31")
        expect(_fact(page, "step", at=i)).to_have_text("0")
    assert [seed.inner_text() for seed in seeds] == ["31", "31"]
    before = [_number(_fact(page, "step", at=i)) for i in (0, 1)]
    page.get_by_role("button", name="Step", exact=True).click()
    for i in (0, 1):
        expect(_fact(page, "step", at=i)).to_have_text(f"{before[i] + 1:.0f}")


# `ludus train` that waits, once it has written weights, until a file exists
GATED = """
import sys, time
from pathlib import Path
from ludus.cli.main import main
from ludus.envs.vector import VectorEnv
gate, root, send = Path(sys.argv[1]), Path(sys.argv[2]), VectorEnv.send
steps = 0
def gated(env, action):
    global steps
    steps += 1
    while steps >= 2000 and list(root.glob("*/*/*/weights/0*")) and not gate.exists():
        time.sleep(0.02)
    return send(env, action)
VectorEnv.send = gated
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture
def training(tmp_path):
    """A training that waits in its middle for a file: its folder, its program and the file."""
    root, gate = tmp_path / "runs", tmp_path / "gate"
    command = [sys.executable, "-c", GATED, str(gate), str(root), "train", "dqn", "CartPole-v1"]
    command += ["--quiet", "--run-dir", str(root), "--checkpoint-seconds", "0.05", "--device"]
    command += ["cpu", "--steps", "6000", "--eval-episodes", "0", "--num-envs", "1"]
    program = subprocess.Popen(command, cwd=tmp_path)
    yield root, program, gate
    program.kill()
    program.wait()


def test_a_training_is_followed_to_its_end(training, served, new_page, wait_until):
    """From an empty list to the finished run, in one page that is never loaded again."""
    root, program, gate = training
    page = new_page(served(root).link)
    link = page.get_by_role("link", name="Watch")
    link.wait_for()
    wait_until(lambda: list(root.glob("*/*/*/weights/0*")), "weights")
    link.click()
    state = page.locator("main .state")
    expect(state).to_have_text("running")
    shown = _fact(page, "weights at step")
    expect(shown).to_have_text(re.compile(r"\d"))
    first = _number(shown)
    assert first < 6000
    curve = page.locator('svg[aria-label^="Learning curve"] polyline')
    expect(curve).to_be_attached()

    def last_step():
        texts = page.locator('svg[aria-label^="Learning curve"] text').all_text_contents()
        return _as_number(texts[-1]) if len(texts) > 1 else 0.0

    early = last_step()
    assert early < 5000
    gate.touch()
    wait_until(lambda: _number(shown) > first, "newer weights")
    wait_until(lambda: last_step() > early, "a longer curve")
    assert program.wait(LIMIT) == 0
    expect(state).to_have_text("finished")
    expect(shown).to_have_text("6,000")


def _as_number(text):
    return float(text.replace(",", ""))


RESULT = re.compile(r"^(You won\.|You lost\.|A draw\.)$")


def _my_move(page):
    """Wait for the move, or the end of the game; say whether there is a move."""
    caption = page.locator("figcaption")
    expect(caption).to_have_text(re.compile(r"^(Your move|You won|You lost|A draw)"))
    return caption.inner_text().startswith("Your move")


def test_a_game_is_played_to_its_end_by_clicking(at, runs, new_page, wait_until):
    page = new_page(_to(at, "play", runs[1]["tic_tac_toe"]))
    cells = page.locator("svg.board [role=button]")
    expect(cells).to_have_count(9)
    page.get_by_label("simulations").fill("1")
    cells.nth(0).click()
    expect(cells).to_have_count(7)
    page.get_by_role("button", name="Undo").click()
    expect(cells).to_have_count(9)
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()

    page.get_by_role("button", name="Hint").click()
    expect(page.locator("svg.board .visit-text").first).to_be_attached()
    page.get_by_role("button", name="Show evaluation").click()
    expect(page.get_by_role("table")).to_be_visible()
    page.get_by_role("button", name="Hide evaluation").click()
    expect(page.get_by_role("table")).to_have_count(0)

    left = 9
    while _my_move(page):
        expect(cells).to_have_count(left)
        cells.nth(0).click()
        left -= 2
        expect(page.locator("figcaption")).not_to_have_text("The agent is thinking.")
        wait_until(lambda left=left: cells.count() in (left, 0), "the agent's answer")
    expect(page.locator("figcaption")).to_have_text(RESULT)
    expect(cells).to_have_count(0)
    page.get_by_role("button", name="New game").click()
    expect(cells).to_have_count(9)


def test_a_game_is_played_with_the_keyboard_alone(at, runs, new_page, wait_until):
    """Tab goes to a cell, Enter plays there; the focus stays where the person is."""
    page = new_page(_to(at, "play", runs[1]["tic_tac_toe"]))
    cells = page.locator("svg.board [role=button]")
    expect(cells).to_have_count(9)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.cell") == "4":
            break
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith("play here")
    page.keyboard.press("Enter")
    expect(cells).to_have_count(7)
    expect(page.locator("svg.board > path")).to_have_count(1)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.cell"):
            break
    page.keyboard.press("Space")
    wait_until(lambda: cells.count() in (5, 0), "the answer to the second move")


def test_an_atari_game_is_played_with_the_keyboard(at, runs, new_page, wait_until):
    page = new_page(_to(at, "play", runs[1]["pong"]))
    expect(page.get_by_role("button", name="rightfire")).to_be_visible()
    screens = page.locator(".screen canvas:not(.over)")
    wait_until(lambda: screens.first.evaluate(PICTURE)[1] > 2, "a picture")
    assert screens.nth(0).evaluate(PICTURE) == screens.nth(1).evaluate(PICTURE)
    page.get_by_role("button", name="Play", exact=True).click()
    page.keyboard.down("ArrowUp")
    expect(screens.first).to_have_attribute("aria-label", re.compile(r"your game, step \d\d"))
    page.keyboard.up("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "main"


def test_an_empty_folder_says_what_to_do(served, new_page, tmp_path):
    page = new_page(served(tmp_path).link)
    expect(page.locator("main")).to_contain_text(f"There are no runs under {tmp_path} yet.")
    expect(page.locator("main")).to_contain_text("ludus train dqn CartPole-v1")


def test_the_list_is_filtered(at, runs, new_page):
    page = new_page(at.link)
    expect(page.locator("li.run")).to_have_count(4)
    page.get_by_role("searchbox").fill("PONG")
    expect(page.locator("li.run")).to_have_count(1)
    expect(page.locator("li.run h3")).to_contain_text("ppo_small on PongNoFrameskip-v4")
    expect(page.locator("main")).to_contain_text("1 of 4 runs")
    page.get_by_role("searchbox").fill("finished")
    expect(page.locator("li.run")).to_have_count(4)
    page.get_by_role("searchbox").fill("nothing of the kind")
    expect(page.locator("li.run")).to_have_count(0)


def test_names_that_are_html_are_text(at, new_page):
    """In the list and on the run's own page nothing of them becomes an element, or runs."""
    page = new_page(at.link)
    line = page.locator("li.run", has_text="Html/")
    expect(line.locator("h3")).to_contain_text(f"{SCRIPT} on {HOSTILE}-v0")
    expect(line.locator(".where")).to_have_text(f"Html/{HOSTILE}/0")
    assert page.locator("main img, main script").count() == 0
    line.get_by_role("link", name="Watch").click()
    expect(page.locator("h1")).to_have_text(f"Html/{HOSTILE}/0")
    expect(page.locator("#breadcrumb")).to_have_text(f"Html/{HOSTILE}/0")
    expect(page.locator("details").first).to_contain_text(SCRIPT)
    expect(page.locator("figcaption .error")).to_be_visible()  # there is no such env
    assert page.locator("main img, main script, nav img").count() == 0
    assert page.locator("img").count() == 1


def test_without_the_token_the_page_says_so(at, browser):
    """The answer of 403 is itself an error to the browser's console, so it is not listened to."""
    context = browser.new_context()
    page = context.new_page()
    for link in (f"http://{at.at}/", f"http://{at.at}/?token=wrong"):
        assert page.goto(link).status == 403
        expect(page.locator("body")).to_contain_text(
            "The token is missing or wrong: open the link that ludus watch printed."
        )
    context.close()


def test_a_viewer_that_was_started_again_is_said(watch, place, runs, browser):
    """The new one has another token; the page would try to reconnect for ever."""
    first = watch("--run-dir", place, cwd=place.parent)
    context = browser.new_context()
    page = context.new_page()
    page.goto(_to(first.address, "watch", runs[1]["cartpole"]))
    expect(_fact(page, "step")).to_have_text(re.compile(r"\d"))
    first.end(signal.SIGTERM)
    expect(page.locator("main")).to_contain_text("Connection lost. Reconnecting…")
    watch("--run-dir", place, "--port", first.address.port, cwd=place.parent)
    again = "The viewer was started again. Open the link that it printed."
    expect(page.locator("main")).to_contain_text(again)
    context.close()


@pytest.mark.parametrize("hash", ["#/watch/nothing", "#/play/nothing", "#/two/a/b", "#/x", "#/%E0"])
def test_a_link_that_leads_nowhere_says_so(at, browser, hash):
    context = browser.new_context()
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(at.link + hash)
    text = re.compile("there is no run|Two runs on the same seed|Runs")
    expect(page.locator("main")).to_contain_text(text)
    context.close()
    assert not wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone(at, runs, new_page, scheme):
    """390 pixels, with and without the dark colours; the ground is bright or dark accordingly."""
    page = new_page(
        at.link, viewport={"width": 390, "height": 800}, color_scheme=scheme, has_touch=True
    )
    expect(page.locator("li.run")).to_have_count(4)
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    red = int(re.search(r"\d+", ground).group())
    assert red > 200 if scheme == "light" else red < 60
    assert page.evaluate(NARROW)
    names = runs[1]
    for link, ready in (
        (_to(at, "watch", names["pong"]), ".bars li.chosen"),
        (_to(at, "watch", names["tic_tac_toe"]), "svg.board .visit-text"),
        (_to(at, "play", names["tic_tac_toe"]), "svg.board [role=button]"),
        (_to(at, "play", names["pong"]), ".row button >> text=rightfire"),
        (_to(at, "two", names["pong"], names["cartpole"]), ".panel:nth-child(2) .bars li.chosen"),
        (_to(at, "watch", f"Html/{HOSTILE}/0"), "figcaption .error"),
    ):
        page.goto("about:blank")
        page.goto(link)
        page.locator(ready).first.wait_for(state="attached")
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert page.evaluate(NARROW), link


FITS = """() => [...document.querySelectorAll('.view, [aria-label="Playback"], .scrub, #board')]
  .map(part => part.getBoundingClientRect())
  .every(box => box.width > 0 && box.top >= 0 && box.bottom <= innerHeight)"""
READY = {
    "watch pong": ".bars li.chosen",
    "watch cartpole": ".bars li.chosen",
    "watch tic_tac_toe": "svg.board .visit-text",
    "play tic_tac_toe": "svg.board [role=button]",
    "play pong": ".row button >> text=rightfire",
    "two pong cartpole": ".panel:nth-child(2) .bars li.chosen",
}


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1920, 1080), (390, 844)])
def test_the_picture_and_its_controls_fit_the_window(at, runs, new_page, width, height):
    page = new_page(at.link, viewport={"width": width, "height": height})
    for name, ready in READY.items():
        kind, *short = name.split()
        page.goto("about:blank")
        page.goto(_to(at, kind, *(runs[1][each] for each in short)))
        page.locator(ready).first.wait_for(state="attached")
        assert page.evaluate(FITS), name
        picture = page.locator(".view").first.bounding_box()
        assert picture["height"] >= 0.25 * height, name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(at, runs, new_page, scheme):
    """By the rules of axe-core: names, roles, contrast, keyboards."""
    page = new_page(at.link, color_scheme=scheme)
    expect(page.locator("li.run")).to_have_count(4)
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = {"list": axe.run(page).generate_report()} if axe.run(page).violations_count else {}
    for name, ready in READY.items():
        kind, *short = name.split()
        page.goto("about:blank")
        page.goto(_to(at, kind, *(runs[1][each] for each in short)))
        page.locator(ready).first.wait_for(state="attached")
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        if name.startswith("play tic"):
            page.get_by_role("button", name="Show evaluation").click()
            page.get_by_role("table").first.wait_for()
            page.keyboard.press("?")
        result = axe.run(page)
        if result.violations_count:
            found[name] = result.generate_report()
    assert not found, "\n".join(found.values())


def test_what_was_played_is_looked_at_again(at, runs, new_page, wait_until):
    """By the slider below the picture; and the game is saved as a film."""
    page = new_page(_to(at, "watch", runs[1]["cartpole"]))
    slider = page.get_by_label("frame of the last games")
    expect(slider).to_have_attribute("max", re.compile(r"[5-9]|\d\d+"))  # frames were received
    slider.evaluate("box => { box.value = 2; box.dispatchEvent(new Event('input')); }")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    shown = page.locator(".scrub output")
    expect(shown).to_have_text(re.compile(r"step \d+, seed \d+"))
    early = shown.inner_text()
    step, _ = re.findall(r"\d+", early)  # not always the third: a page may join a game late
    expect(_fact(page, "step")).to_have_text(step)
    page.get_by_role("button", name="Step", exact=True).click()
    expect(slider).to_have_js_property("value", "3")
    expect(shown).not_to_have_text(early)
    _, seed = re.findall(r"\d+", shown.inner_text())
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save clip").click()
    name = saving.value.suggested_filename
    assert name == f"{runs[1]['cartpole'].replace('/', '-')}-seed-{seed}.mp4"
    assert b"ftyp" in Path(saving.value.path()).read_bytes()[:32]
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.locator(".scrub output")).to_have_text("")


def test_earlier_stages_of_the_training_are_watched(at, runs, new_page):
    page = new_page(_to(at, "watch", runs[1]["cartpole"]))
    slider = page.get_by_label("stage of the training")
    expect(slider).to_be_visible()
    expect(_fact(page, "weights at step")).to_have_text(re.compile(r"\d"))
    newest = _fact(page, "weights at step").inner_text()
    slider.evaluate("box => { box.value = 0; box.dispatchEvent(new Event('change')); }")
    expect(_fact(page, "weights at step")).to_have_text("0")
    slider.evaluate("box => { box.value = box.max; box.dispatchEvent(new Event('change')); }")
    expect(_fact(page, "weights at step")).to_have_text(newest)


def test_moves_of_a_game_are_looked_at_again(at, runs, new_page):
    page = new_page(_to(at, "play", runs[1]["tic_tac_toe"]))
    cells = page.locator("svg.board [role=button]")
    expect(cells).to_have_count(9)
    page.get_by_label("simulations").fill("1")
    cells.nth(4).click()
    expect(cells).to_have_count(7)
    page.get_by_role("button", name="1. x(1,1)").click()
    expect(cells).to_have_count(0)
    expect(page.locator("svg.board > path")).to_have_count(1)
    expect(page.locator("svg.board > circle[r='0.29']")).to_have_count(0)
    page.keyboard.press("ArrowRight")
    expect(cells).to_have_count(7)
    legal = page.locator("svg.board .legal").first
    assert legal.evaluate("mark => getComputedStyle(mark).opacity") == "0"
    page.keyboard.press("l")
    assert legal.evaluate("mark => getComputedStyle(mark).opacity") == "0.6"


def test_the_page_works_in_a_frame_of_another_site(runs, served, browser, tmp_path):
    """As in a notebook, whose host has another name: no cookie is sent there."""
    inner = served(runs[0], embed=True)
    link = _to(inner, "watch", runs[1]["cartpole"])
    notebook = f'<iframe src="{link}" width="900" height="700"></iframe>'
    (tmp_path / "index.html").write_text(notebook)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    outer = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=outer.serve_forever, daemon=True).start()
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://localhost:{outer.server_port}/")
    frame = page.frame_locator("iframe")
    expect(frame.locator("figcaption")).to_contain_text("Action:")
    expect(frame.locator(".state")).to_have_text("finished")
    assert context.cookies() == []
    context.close()
    outer.shutdown()
    outer.server_close()


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (99.97, 99.99, ["99.97", "99.98", "99.99"]),
        (-21, 19.5, ["-21", "-0.8", "19.5"]),
        (0, 1_500_000, ["0", "750,000", "1,500,000"]),
    ],
)
def test_the_values_of_an_axis_differ(at, new_page, low, high, labels):
    page = new_page(at.link)
    shown = page.evaluate(
        """async ([low, high]) => {
            const { chart } = await import("./charts.js");
            const { picture, update } = chart("values");
            update([[0, low], [10, high]]);
            return [...picture.querySelectorAll("text")].map((label) => label.textContent);
        }""",
        [low, high],
    )
    assert shown[:3] == labels
