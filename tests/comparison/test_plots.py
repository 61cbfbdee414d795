import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib import pyplot as plt

from ludus.comparison import plots
from ludus.comparison.aggregates import AGGREGATES, Estimate
from ludus.comparison.figure import dark_file

_NAMES = ["dqn", "ddqn", "c51", "iqn", "ppo", "a2c", "pqn", "r2d2", "sb3:dqn", "sb3:ppo"]


@pytest.fixture(autouse=True)
def _closed():
    yield
    assert not plt.get_fignums()


def _episodes(seed, games=60):
    generator = np.random.default_rng(seed)
    steps = np.cumsum(generator.integers(5, 30, games))
    return np.stack([steps, steps / 40, np.linspace(0, 1, games), np.full(games, 9)], axis=1)


def _picture(path):
    """[height, width, 3]."""
    return plt.imread(path)[..., :3]


def test_ten_agents_can_be_given_apart():
    look = plots.agent_styles([*_NAMES, "random"], ["sb3:dqn", "sb3:ppo"], ["random"])
    assert len({(style.colour, str(style.line)) for style in look.values()}) == 11
    trained = [look[name] for name in _NAMES]
    assert len({style.marker for style in trained}) == 10
    assert [style.baseline for style in trained] == [False] * 8 + [True] * 2
    assert look["dqn"].face == look["dqn"].colour
    assert look["sb3:dqn"].face == "white"


def test_an_agent_looks_the_same_with_and_without_one_that_does_not_train():
    with_random = plots.agent_styles(["random", "dqn", "ppo"], [], ["random"])
    assert with_random["ppo"] == plots.agent_styles(["dqn", "ppo"])["ppo"]


def test_several_runs_have_a_band_and_one_has_none(tmp_path):
    colours = {}
    for runs in (1, 6):
        path = tmp_path / f"{runs}.png"
        plots.learning_curves({"a": [_episodes(i) for i in range(runs)]}, {}, "t", path)
        pale = _picture(path) * 255
        # the first colour at 16% on white
        colours[runs] = (np.abs(pale - np.array([214, 232, 243])).max(axis=2) < 6).sum()
    assert colours[6] > 10 * max(colours[1], 1)


@pytest.mark.parametrize(
    "name", ["$\\frac{", "_hidden", "x" * 300, "two\nlines", "<b>&", "", "\x00"]
)
def test_any_name_can_be_drawn(tmp_path, name):
    plots.learning_curves({name: [_episodes(0)]}, {name + "2": 0.5}, name, tmp_path / "a.png")
    found = {name: {key: Estimate(0.5, 0.4, 0.6) for key in AGGREGATES}}
    plots.intervals(found, [name], "score", tmp_path / "b.png")
    plots.improvement([(name, name, Estimate(0.5, 0.4, 0.6))], [name], [], tmp_path / "c.png")
    taus = np.linspace(0, 1, 11)
    plots.profiles(taus, {name: np.stack([1 - taus] * 3)}, [name], "score", tmp_path / "d.png")
    for name in "abcd":
        path = tmp_path / f"{name}.png"
        assert _picture(path)[0, 0].tolist() == [1, 1, 1], path  # white ground
        assert _picture(dark_file(path))[0, 0].max() < 0.2, path
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        assert ET.parse(path.with_suffix(".svg")).getroot().tag.endswith("svg")


def test_an_interval_is_drawn_only_where_it_says_something(tmp_path):
    found = {"a": {"IQM": Estimate(0.5, 0.1, 0.9)}}
    ink = {}
    for certain in ([], ["a"]):
        plots.intervals(found, certain, "score", tmp_path / "x.png")
        ink[len(certain)] = (_picture(tmp_path / "x.png").min(axis=2) < 0.9).sum()
    assert ink[1] > 2 * ink[0]


def test_a_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    plots.improvement([("a", "b", Estimate(0.5, 0.4, 0.6))], [], [], path)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert sorted(before) == ["x-dark.png", "x.pdf", "x.png", "x.svg"]

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.improvement([("a", "c", Estimate(0.5, 0.4, 0.6))], [], [], path)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_a_dark_picture_has_light_words_and_the_same_shapes(tmp_path):
    """Black and the dark blue of an agent would not be seen on a dark page."""
    path = tmp_path / "x.png"
    plots.learning_curves({name: [_episodes(i)] for i, name in enumerate("abcdefg")}, {}, "t", path)
    light, dark = _picture(path), _picture(dark_file(path))
    assert light.shape == dark.shape
    assert (light.min(axis=2) < 0.05).sum() > 100  # the title, and the seventh agent in black
    assert (dark.max(axis=2) < 0.05).sum() == 0
    assert (dark.min(axis=2) > 0.85).sum() > 100


@pytest.mark.parametrize(("times", "log"), [(1.0, False), (4.0, False), (8.0, True)])
def test_times_that_differ_much_have_a_logarithmic_axis(times, log):
    fast, slow = _episodes(0), _episodes(1)
    slow[:, 1] = fast[:, 1] * times
    assert plots.needs_log_time([[fast], [slow]]) == log
    figure = plots.learning_curves({"fast": [fast], "slow": [slow]}, {}, "t", None)
    assert figure.axes[1].get_xscale() == ("log" if log else "linear")
    assert figure.axes[0].get_xscale() == "linear"
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert not plots.needs_log_time([[slow]])
