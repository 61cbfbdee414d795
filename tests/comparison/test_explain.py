"""The page of `ludus explain`, of small trained agents."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from ludus.cli.main import main
from ludus.comparison.explain import spread
from ludus.comparison.explain_page import unit_square
from ludus.comparison.explain_pictures import shaded_board, sheets, weights_picture
from ludus.comparison.explain_reconstruction import shown_states
from ludus.envs.make import EnvOptions
from ludus.evaluation.played_states import play_states
from ludus.training import api
from ludus.training.run import TrainOptions
from ludus.training.train import load, start_session

# of each, what the page must have
RUNS = {
    "pixels": ("dqn", "MinAtar/Breakout-v1", {"first", "saliency-maps"}),
    "numbers": ("ppo", "CartPole-v1", {"first"}),
    "continuous": ("ppo", "Pendulum-v1", {"first"}),
    "recurrent": ("recurrent_ppo", "MinAtar/Asterix-v1", {"first", "saliency-maps"}),
    "board": ("alphazero", "tic_tac_toe", {"first", "pieces"}),
    "values": ("dqn", "connect_four", {"first", "pieces"}),
    "go": ("alphazero", "go(board_size=3)", {"first", "pieces"}),
}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    root, done = tmp_path_factory.mktemp("runs"), {}

    def trained(agent, env_id):
        if (agent, env_id) not in done:
            options = TrainOptions(steps=40, eval_episodes=0, num_envs=8, video_every=0)
            session = start_session(agent, env_id, options, EnvOptions(), None, root, quiet=True)
            session.run_to_end()
            done[agent, env_id] = session.run.path
        return done[agent, env_id]

    return trained


@pytest.fixture(autouse=True)
def no_umap(monkeypatch):
    """It compiles itself for a minute; its own test has it."""
    monkeypatch.setattr("ludus.comparison.explain.umap_points", lambda features, seed: None)


def _explain(*words):
    with pytest.raises(SystemExit) as ended:
        main(["explain", *map(str, words)])
    return ended.value.code or 0


def _data(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


@pytest.mark.parametrize("name", RUNS)
def test_the_page_is_one_file_with_all_that_suits_the_agent(train, tmp_path, capsys, name):
    agent, env_id, parts = RUNS[name]
    out = tmp_path / "page.html"
    words = train(agent, env_id), "--states", 30, "--every", 1, "--out", out
    assert _explain(*words) == 0
    assert "states" in capsys.readouterr().out
    page = out.read_text()
    assert "http" not in page
    for source in re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'> )]+)""", page):
        assert source.startswith(("data:image/png;base64,", "#")), source
    assert "Map of features" in page
    assert ('id="first"' in page) == ("first" in parts)
    assert ('id="pieces"' in page) == ("pieces" in parts)
    assert ('class="maps"' in page) == ("saliency-maps" in parts)
    assert ("The network is recurrent" in page) == (name == "recurrent")
    colours = "the player who begins is blue, the other orange" in page
    assert colours == (env_id == "tic_tac_toe")
    data = _data(page)
    count = len(data["value"])
    assert 2 <= count <= 30
    assert ("a larger --epsilon makes them differ" in page) == (count < 3)
    assert len(data["maps"]["PCA"]) == len(data["near"]) == len(data["chosen"]) == count
    assert {other for row in data["near"] for other, _ in row} <= set(range(count))
    assert bool(data["actions"][0]) == (name != "continuous")
    assert 'id="reconstruction"' not in page
    assert page.count("data-sheet hidden") == 1
    first = out.read_bytes()
    assert _explain(*words) == 0
    assert out.read_bytes() == first  # the same seed gives the same page
    assert _explain(*words, "--seed", 1) == 0
    assert out.read_bytes() != first


@pytest.mark.parametrize(
    ("agent", "env_id", "auxiliary"),
    [
        ("dqn", "MinAtar/Breakout-v1", "reconstruction"),
        ("ppo", "CartPole-v1", "variational"),
        ("dqn", "MinAtar/Breakout-v1", "inverse"),
    ],
)
def test_a_network_with_a_decoder_has_its_frames_on_the_page(
    tmp_path, capsys, agent, env_id, auxiliary
):
    options = TrainOptions(eval_episodes=0, num_envs=8, video_every=0)
    more = {"train_options": options, "root": tmp_path / "runs", "quiet": True}
    api.train(agent, env_id, steps=40, auxiliary=auxiliary, **more)
    (run,) = tmp_path.glob("runs/*/*/*")
    out = tmp_path / "page.html"
    assert _explain(run, "--states", 30, "--every", 1, "--out", out, "--json") == 0
    errors = json.loads(capsys.readouterr().out)["reconstruction"]
    page = out.read_text()
    assert "http" not in page
    for source in re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'> )]+)""", page):
        assert source.startswith(("data:image/png;base64,", "#")), source
    assert ('id="reconstruction"' in page) == (auxiliary != "inverse")
    if auxiliary == "inverse":
        assert errors is None
        return
    assert errors["explained"] == pytest.approx(1 - errors["error"] / errors["mean_frame_error"])
    assert f"<strong>{errors['error']:.3g}</strong>" in page
    assert ("here its mean" in page) == (auxiliary == "variational")
    section = page[page.index('id="reconstruction"') : page.index('<h2 id="saliency"')]
    planes = env_id.startswith("MinAtar")
    assert 9 <= section.count("<figure>" if planes else '<th scope="row">game') <= 12
    assert section.count("<img") == 3 * section.count("<figure>")
    assert section.count("</i> plane ") == (4 if planes else 0)


def test_states_that_are_shown_are_of_all_games_and_of_the_largest_errors():
    game = np.arange(64) % 8  # games run side by side
    step = np.arange(64) // 8
    error = np.zeros(64)
    error[[3, 11, 12, 60]] = [9, 8, 7, 6]  # of games 3, 3, 4, 4
    even, worst = shown_states(error, game, step, apart=5)
    assert len(even) == 8
    assert game[even].tolist() == list(range(8))
    assert worst[:3].tolist() == [3, 12, 60]  # 11 is next to 3
    assert not set(even) & set(worst)
    even, worst = shown_states(np.array([1.0, 2.0]), np.zeros(2, int), np.array([0, 50]), apart=5)
    assert (even.tolist(), worst.tolist()) == ([0, 1], [])


def test_json_has_the_correlations(train, tmp_path, capsys):
    run = train("dqn", "MinAtar/Breakout-v1")
    out = tmp_path / "page.html"
    assert _explain(run, "--states", 20, "--out", out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["page"] == str(out)
    assert printed["randomised_saliency"].keys() == {"gradient", "perturbation"}


@pytest.mark.parametrize(
    ("agent", "says"),
    [("random", "the agent random has no network"), ("sb3:ppo", "Stable-Baselines3")],
)
def test_an_agent_without_a_network_of_ludus_is_refused(train, tmp_path, capsys, agent, says):
    assert _explain(train(agent, "CartPole-v1"), "--out", tmp_path / "page.html") == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_what_cannot_be_written_is_refused_before_the_games(train, tmp_path, capsys):
    run = train("ppo", "CartPole-v1")
    assert _explain(run, "--out", tmp_path / "page.pdf") == 2
    assert "does not end in .html" in capsys.readouterr().err
    assert _explain(run, "--out", tmp_path / "no" / "page.html") == 2
    assert "does not exist" in capsys.readouterr().err
    if Path("/proc").is_dir():
        assert _explain(run, "--out", "/proc/page.html") == 2
        assert "no file can be written in the folder /proc" in capsys.readouterr().err
    assert _explain("nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def test_states_differ_and_are_those_of_the_games(train):
    agent = load(train("dqn", "MinAtar/Breakout-v1"))
    played = play_states(
        agent, "MinAtar/Breakout-v1", EnvOptions(), count=50, every=2, seed=0, epsilon=0.1
    )
    assert len(np.unique(played.obs.reshape(len(played.obs), -1), axis=0)) == len(played.obs)
    assert (played.step % 2 == 0)[played.game < 8].all()
    assert len(played.features) == len(played.value) == len(played.obs)
    for i, scores in enumerate(played.actions):
        assert played.chosen[i] == scores[0].name
        assert played.value[i] == pytest.approx(scores[0].score)
        advice, _ = agent.advise(played.obs[i : i + 1], None, np.ones(1, bool))
        assert advice.value[0] == pytest.approx(played.value[i], abs=1e-4)


def test_names_of_moves_are_those_of_the_position(train):
    agent = load(train("alphazero", "tic_tac_toe"))
    played = play_states(
        agent, "tic_tac_toe", EnvOptions(), count=200, every=1, seed=0, epsilon=0.5
    )
    for step, chosen in zip(played.step, played.chosen, strict=True):
        assert chosen[0] == "xo"[step % 2]
    assert played.game.max() > 8


def test_frames_are_found_in_their_sheets_and_shrink_to_fit():
    colours = np.random.default_rng(0).integers(0, 256, (500, 3), np.uint8)
    frames = np.tile(colours[:, None, None], (1, 64, 48, 1))
    found = sheets(frames, 10_000_000)
    assert (found.width, found.height, len(found.images)) == (48, 64, 2)
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 48, 3), np.uint8)
    small = sheets(noise, 100_000)
    assert 40 <= small.height < 64
    assert small.bytes < 120_000


def test_pictures_of_weights_have_the_sign_as_colour():
    picture = weights_picture(np.array([[1.0, -1.0], [0.0, 0.5]]))  # [units, inputs]
    cells = picture[8::16, 8::16].astype(int)
    assert cells.shape == (2, 2, 3)
    assert cells[0, 0, 0] > cells[0, 0, 2] + 50  # red
    assert cells[1, 0, 2] > cells[1, 0, 0] + 50  # blue
    assert cells[0, 1].min() > 240  # white
    filters = np.zeros((4, 2, 3, 3))
    assert weights_picture(filters).ndim == 3


def test_the_shade_is_on_the_rim_of_its_square():
    frame = np.full((40, 60, 3), 255, np.uint8)
    change = np.full((2, 3), np.nan)
    change[1, 2] = 1.0
    shaded = shaded_board(frame, change)
    changed = np.argwhere((shaded != 255).any(-1))
    assert changed.min(0).tolist() == [20, 40]
    assert changed.max(0).tolist() == [39, 59]
    assert (shaded[30, 50] == 255).all()


def test_one_state_far_away_leaves_space_for_the_others():
    line = np.stack([np.linspace(0, 1, 200), np.linspace(3, 2, 200)], 1)
    scaled = np.array(unit_square(line))
    assert scaled == pytest.approx(np.stack([line[:, 0], 1 - line[:, 0]], 1), abs=1e-4)
    far = np.array(unit_square(np.concatenate([line, [[-90, 2.5]]])))
    assert far[-1] == pytest.approx([0, 0.5], abs=1e-4)
    assert np.ptp(far[:200, 0]) > 0.6
    assert np.diff(far[:200, 0]).min() > 0


def test_indices_are_spread_over_all():
    assert spread(10, 3).tolist() == [0, 4, 9]
    assert spread(2, 5).tolist() == [0, 1]
    assert spread(0, 5).tolist() == []


def test_a_dot_opens_its_state_in_a_browser(train, tmp_path):
    browser_of = pytest.importorskip("playwright.sync_api").sync_playwright
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    out = tmp_path / "page.html"
    run = train("dqn", "MinAtar/Breakout-v1")
    assert _explain(run, "--states", 30, "--every", 1, "--out", out) == 0
    data = _data(out.read_text())
    with browser_of() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(out.as_uri())
        best = int(np.argmax(data["value"]))
        where = [f"game {g}, step {s}" for g, s in zip(data["game"], data["step"], strict=True)]
        page.wait_for_function("document.getElementById('where').textContent !== ''")
        assert page.locator("#where").inner_text() == where[best]
        page.locator("#near button").first.click()
        assert page.locator("#where").inner_text() == where[data["near"][best][0][0]]
        page.locator("#number").fill("3")
        assert page.locator("#where").inner_text() == where[3]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not errors
        browser.close()
