import base64
import csv
import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from ludus.comparison.aggregates import AGGREGATES, estimate
from ludus.comparison.analysis import About
from ludus.comparison.groups import Training
from ludus.comparison.published_scores import PUBLISHED_NAMES, published_table
from ludus.comparison.report import write_report

_ABOUT = About(
    title="A comparison",
    command="ludus compare dqn ppo --env CartPole-v1 && echo <done>",
    hardware={"cpu": "some cpu", "cores": "2"},
    versions={"torch": "2.13.0"},
    commit="abcdef0123456789",
    date="2026-01-02",
)
_PROTOCOLS = {
    "CartPole-v1": {"kind": "gymnasium", "max_episode_steps": 500},
    "MinAtar/Breakout-v1": {"kind": "minatar", "game": "breakout", "sticky": 0.1},
    "ALE/Pong-v5": {"kind": "atari", "rom": "pong", "sticky": 0.25, "frameskip": 4},
}


def _training(env="CartPole-v1", agent="dqn", seed=0, level=100.0, games=8, **changes):
    generator = np.random.default_rng(seed)
    learns = agent != "random"
    steps = np.arange(10, 1000, 10)
    episodes = np.stack([steps, steps / 50, steps / 10, np.full(99, 10)], axis=1).astype(float)
    training = Training(
        env=env,
        agent=agent,
        seed=seed,
        run=f"runs/{env}/{agent}/{seed}" if learns else None,
        steps=1000 if learns else 0,
        minutes=0.0,
        done=1000 if learns else 0,
        returns=(level + generator.normal(0, 1, games)).tolist(),
        lengths=[10 + game for game in range(games)],
        episodes=episodes if learns else np.zeros((0, 4)),
        seconds=20.0 if learns else None,
        protocol={**_PROTOCOLS.get(env, {"kind": "x"}), "epsilon": 0.01, "episodes": games},
        settings={"learning_rate": 1e-3, "hidden": (64, 64)} if learns else {},
        versions={"torch": "2.13.0"},
        commit=_ABOUT.commit,
        reused=False,
    )
    return replace(training, **changes)


class _Page(HTMLParser):
    """Elements, text, and what a page asks for from outside."""

    empty = ("meta", "img", "source")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.outside, self.ids = [], [], [], []
        self.alts, self.headings, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag not in self.empty:
            self.open.append(tag)
        if tag == "img":
            self.alts.append(given["alt"])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [given["id"]] if "id" in given else []
        links = [
            given[name] for name in ("src", "srcset", "href", "data", "action") if name in given
        ]
        self.outside += [x for x in links if not x.startswith(("#", "data:image/png;base64,"))]
        assert not [name for name in given if name.startswith("on")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += re.sub(r"\s+", " ", data)


def _write(tmp_path, trainings, about=_ABOUT):
    write_report(tmp_path, trainings, about)
    page = _Page((tmp_path / "report.html").read_text())
    return page, json.loads((tmp_path / "results.json").read_text())


def _several(seeds=5):
    levels = {"CartPole-v1": 200.0, "MinAtar/Breakout-v1": 5.0, "ALE/Pong-v5": -10.0}
    return [
        _training(env, agent, seed, level + better + seed)
        for env, level in levels.items()
        for agent, better in {"dqn": 3, "ppo": 6, "sb3:dqn": 2, "random": -8}.items()
        for seed in range(seeds)
    ]


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The folder of a comparison on three envs, its page, its results and its trainings."""
    folder = tmp_path_factory.mktemp("several")
    trainings = _several()
    page, results = _write(folder, trainings)
    return folder, page, results, trainings


def test_the_page_stands_alone(several):
    _, page, _, _ = several
    assert page.outside == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    style = (several[0] / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_can_be_read_by_a_machine(several):
    _, page, _, _ = several
    assert len(page.alts) == 6  # curves of 3 envs, aggregates, profiles, improvement
    assert all(len(alt) > 20 for alt in page.alts)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    steps = np.diff(page.headings)
    assert steps.max() == 1  # no level is left out on the way down
    assert len(set(page.ids)) == len(page.ids)


def test_files_are_whole_and_listed(several, tmp_path):
    folder, _, _, trainings = several
    listed = write_report(tmp_path, trainings, _ABOUT)
    assert listed[0].name == "report.html"
    dark = {path.name for path in tmp_path.glob("*-dark.png")}
    assert {path.name for path in listed} == {path.name for path in tmp_path.iterdir()} - dark
    assert len(dark) == 6
    assert {p.name for p in folder.iterdir()} == {p.name for p in listed} | dark


def test_the_page_says_how_it_was_made(several):
    text = several[1].text
    for word in (_ABOUT.command, "some cpu", "2.13.0", _ABOUT.commit, _ABOUT.date, "learning_rate"):
        assert word in text


def test_scores_hold_every_game(several):
    folder, _, _, trainings = several
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["env", "agent", "seed", "game", "return", "length"]
    assert len(rows) == sum(len(t.returns) for t in trainings)
    returns = [float(r["return"]) for r in rows if (r["agent"], r["env"]) == ("ppo", "ALE/Pong-v5")]
    mine = [t.returns for t in trainings if (t.agent, t.env) == ("ppo", "ALE/Pong-v5")]
    assert returns == [score for returns in mine for score in returns]


def test_results_hold_the_inputs_and_the_aggregates(several):
    _, _, results, trainings = several
    first = results["trainings"][0]
    assert set(first) == {field.name for field in fields(Training)} - {"episodes"}
    assert first["returns"] == trainings[0].returns
    overall = results["overall"]
    matrix = np.array(overall["normalised"]["ppo"])
    assert matrix.shape == (5, 3)
    for name, aggregate in AGGREGATES.items():
        found = estimate(matrix, aggregate)
        assert overall["aggregates"]["ppo"][name] == pytest.approx(vars(found))
    assert len(overall["profiles"]["dqn"]["low"]) == len(overall["taus"])
    pairs = {(p["x"], p["y"]) for p in overall["improvement"]}
    assert pairs == {("ppo", "dqn"), ("ppo", "sb3:dqn"), ("dqn", "sb3:dqn")}
    assert all(0 <= p["low"] <= p["value"] <= p["high"] <= 1 for p in overall["improvement"])


def test_each_env_is_normalised_as_it_says(several):
    _, page, results, trainings = several

    def at(env, agent):
        return [np.mean(t.returns) for t in trainings if (t.env, t.agent) == (env, agent)]

    cartpole, minatar, pong = np.array(results["overall"]["normalised"]["dqn"]).T
    assert cartpole == pytest.approx(np.array(at("CartPole-v1", "dqn")) / 500)
    low, best = (np.mean(at("MinAtar/Breakout-v1", agent)) for agent in ("random", "ppo"))
    mine = np.array(at("MinAtar/Breakout-v1", "dqn"))
    assert minatar == pytest.approx((mine - low) / (best - low))
    assert pong == pytest.approx((np.array(at("ALE/Pong-v5", "dqn")) + 20.7) / (14.6 + 20.7))
    assert "the env's range of returns: 0 maps to 0 and 500 to 1" in page.text
    assert (
        f"the random agent's mean {low:.2f} maps to 0 and the best mean, ppo's {best:.2f}, to 1"
        in page.text
    )
    assert "a random player's -20.7 maps to 0 and a human player's 14.6 to 1" in page.text
    assert "cannot be compared with those of other reports" in page.text


def test_without_a_random_agent_the_lowest_mean_is_0(tmp_path):
    trainings = [
        _training("Acrobot-v1", agent, seed, level)
        for agent, level in (("dqn", -80), ("ppo", -99))
        for seed in (0, 1)
    ]
    page, results = _write(tmp_path, trainings)
    scores = results["overall"]["normalised"]
    assert min(scores["ppo"]) == [0.0]
    assert np.mean(scores["dqn"]) == pytest.approx(1)
    assert "without a random agent, the lowest mean of any training" in page.text


def test_only_a_scale_of_its_own_forbids_a_comparison(tmp_path):
    page, _ = _write(tmp_path, [_training(), _training(agent="ppo")])
    assert "other reports" not in page.text


def test_where_all_score_alike_there_is_nothing_to_normalise(tmp_path):
    same = [_training("X-v0", a, returns=[1.0, 1.0], lengths=[1, 1]) for a in ("dqn", "ppo")]
    page, results = _write(tmp_path, same)
    assert results["overall"] is None
    assert "no agent has a mean above the score that maps to 0" in page.text


def test_the_best_and_the_baseline_are_marked(several):
    html = (several[0] / "report.html").read_text()
    best = re.findall(r'<tr class="best">\s*<th scope="row">(\w+)<span class="tag">best', html)
    assert best == ["ppo"] * 3
    assert re.search(r'class="baseline">\s*<th scope="row">sb3:dqn<span class="tag">baseline', html)


def test_names_are_escaped(tmp_path):
    bad = '<script>alert("1")</script><img src=x onerror=y>'
    trainings = [_training(bad, bad + name, run=bad, settings={bad: bad}) for name in "ab"]
    about = replace(_ABOUT, title=bad, command=bad, hardware={bad: bad}, versions={bad: bad})
    page, _ = _write(tmp_path, [*trainings, _training(agent=bad)], about)
    assert "script" not in page.tags
    assert page.outside == []
    assert bad in page.text
    assert all(path.parent == tmp_path for path in tmp_path.iterdir())


@pytest.mark.parametrize("env", ["../../x", "été-v0", "\udcff", "a" * 400, "?"])
def test_any_env_has_a_file_name(tmp_path, env):
    _write(tmp_path / "out", [_training(env)])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(list((tmp_path / "out").glob("curves-*.svg"))) == 1


def test_protocols_that_differ_are_kept_apart_and_named(tmp_path):
    sticky = [_training("ALE/Pong-v5", a, s, -5) for a in ("dqn", "ppo") for s in (0, 1)]
    protocol = {**sticky[0].protocol, "sticky": 0.0}
    plain = [replace(t, protocol=protocol, returns=[20.0] * 8) for t in sticky]
    random = _training("ALE/Pong-v5", "random", level=-20)
    page, results = _write(tmp_path, [*sticky, random, *plain])
    first, second = results["groups"]
    assert first["label"] == "ALE/Pong-v5 (sticky 0.25)"
    assert second["label"] == "ALE/Pong-v5 (sticky 0)"
    assert [row["agent"] for row in first["agents"]] == ["dqn", "ppo", "random"]
    assert [row["agent"] for row in second["agents"]] == ["dqn", "ppo"]
    assert [row["score"]["mean"] for row in second["agents"]] == [20, 20]
    assert results["overall"]["envs"] == ["ALE/Pong-v5 (sticky 0.25)"]
    assert np.max(results["overall"]["normalised"]["dqn"]) < 0.5
    assert "under 2 protocols" in page.text
    with (tmp_path / "scores.csv").open() as file:
        groups = {(row["group"], row["return"] == "20.0") for row in csv.DictReader(file)}
    assert groups == {("1", False), ("2", True)}


def test_numbers_of_steps_that_differ_are_kept_apart(tmp_path):
    trainings = [_training(), _training(steps=5000), _training(agent="random")]
    _, results = _write(tmp_path, trainings)
    labels = [group["label"] for group in results["groups"]]
    assert labels == ["CartPole-v1 (1,000 env steps)", "CartPole-v1 (5,000 env steps)"]
    for group in results["groups"]:  # it did not train, so its score belongs to both
        assert [row["agent"] for row in group["agents"]] == ["dqn", "random"]


def test_published_scores_stand_beside_ours_with_what_differs(tmp_path):
    trainings = [
        _training("ALE/Pong-v5", agent, s, -5, steps=2_500_000)
        for agent in ("dqn", "sb3:dqn", "alphazero")
        for s in (0, 1)
    ]
    page, results = _write(tmp_path, trainings)
    found = {(p["agent"], p["source"], p["name"]): p for p in results["groups"][0]["published"]}
    assert {agent for agent, _, _ in found} == {"dqn", "sb3:dqn"}
    dopamine = found["dqn", "dopamine", "DQN"]
    assert dopamine["score"] == -9.11  # of 10M, 40M and 200M frames
    assert dopamine["differences"] == [
        "training returns against held-out games",
        "mean over the last 5 iterations",
    ]
    zoo = found["sb3:dqn", "sb3-zoo", "dqn"]
    assert (zoo["score"], zoo["std"]) == (20.602, 0.613)
    assert zoo["human"] == pytest.approx((20.602 + 20.7) / 35.3)
    assert zoo["differences"] == [
        "40M frames against 10M",
        "no sticky actions against sticky actions 0.25",
        "one training against 2",
    ]
    assert "; ".join(zoo["differences"]) in page.text


def test_published_scores_after_100_000_steps(tmp_path):
    trainings = [
        _training("ALE/Pong-v5", agent, s, 10, steps=100_000, done=100_000)
        for agent in ("bbf", "spr", "der")
        for s in (0, 1)
    ]
    _, results = _write(tmp_path, trainings)
    found = {(p["agent"], p["name"]): p for p in results["groups"][0]["published"]}
    assert {key: (p["score"], p["std"]) for key, p in found.items()} == {
        ("bbf", "BBF (replay ratio 2)"): (13.7, 6.39),
        ("bbf", "BBF (replay ratio 8)"): (16.37, 6.1),
        ("spr", "SPR"): (-5.4119, 10.64),
        ("der", "DER"): (-19.3, None),
    }
    sticky = "no sticky actions against sticky actions 0.25"
    assert found["bbf", "BBF (replay ratio 8)"]["differences"] == [sticky]
    assert found["der", "DER"]["differences"][1:] == [
        "an unknown protocol of evaluation",
        "quoted by a third party",
    ]


def test_what_a_source_does_not_say_is_a_difference(tmp_path):
    trainings = [
        _training("MinAtar/Breakout-v1", agent, s) for agent in ("dqn", "ppo") for s in (0, 1)
    ]
    page, results = _write(tmp_path, trainings)
    (published,) = results["groups"][0]["published"]
    assert (published["agent"], published["score"], published["human"]) == ("dqn", 19.16, None)
    assert published["differences"][0] == "an unknown number of frames against 0.001M"
    assert published["differences"][2] == "an unknown protocol of evaluation"
    assert "arXiv:2508.07452: DQN" in page.text


def test_too_few_seeds_are_given_in_words(tmp_path):
    envs = ("CartPole-v1", "ALE/Pong-v5")
    once = [_training(env, agent) for env in envs for agent in ("dqn", "ppo")]
    one, _ = _write(tmp_path / "1", once)
    assert "One training of dqn and ppo on each env: no interval over trainings" in one.text
    assert "too few for an interval over trainings" in one.text
    assert "One training of dqn and ppo: no band" in one.text
    assert "(-)" in one.text
    three, _ = _write(tmp_path / "3", [_training(seed=seed) for seed in range(3)])
    assert "Fewer than 5 trainings of dqn on each env" in three.text
    assert "the band is narrower than it should be" in three.text
    five, _ = _write(tmp_path / "5", [_training(seed=seed) for seed in range(5)])
    assert "too few" not in five.text
    assert "narrower" not in five.text


def test_an_agent_without_a_score_on_an_env_is_left_out_and_named(tmp_path):
    trainings = [_training(), _training("ALE/Pong-v5", level=0), _training(agent="ppo")]
    page, results = _write(tmp_path, trainings)
    assert list(results["overall"]["normalised"]) == ["dqn"]
    assert (
        "ppo is excluded from the results over all envs: it has no score on ALE/Pong-v5"
        in page.text
    )


def test_trainings_beyond_the_fewest_are_left_out_over_all_envs(tmp_path):
    trainings = [_training(seed=seed) for seed in range(3)]
    trainings += [_training("ALE/Pong-v5", seed=seed, level=0) for seed in range(2)]
    page, results = _write(tmp_path, trainings)
    assert np.shape(results["overall"]["normalised"]["dqn"]) == (2, 2)
    assert "use the first 2 trainings of dqn on each env" in page.text


def test_what_is_absent_or_no_number_is_a_dash(tmp_path):
    odd = _training(agent="ppo", returns=[float("nan")] * 8, seconds=None)
    page, results = _write(tmp_path, [_training(), odd, replace(_training(), returns=[])])
    assert not re.search(r"\bnan\b", page.text)
    row = next(row for row in results["groups"][0]["agents"] if row["agent"] == "ppo")
    assert row["score"]["mean"] is None
    assert results["overall"] is None
    assert "ppo is excluded from the results over all envs: a return is not finite" in page.text
    assert "1 training without held-out games" in page.text


def test_a_comparison_not_made_in_one_go_says_so(tmp_path):
    old = _training(seed=1, reused=True, commit="0" * 40, versions={"torch": "2.12.0"})
    page, _ = _write(tmp_path, [_training(), old])
    assert "1 of 2 trainings" in page.text
    assert "000000000000 (1)" in page.text
    assert "different versions of torch: 2.13.0 and 2.12.0" in page.text


def test_without_a_game_there_is_no_report(tmp_path):
    with pytest.raises(ValueError, match="nothing to compare"):
        write_report(tmp_path, [replace(_training(), returns=[])], _ABOUT)
    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_only_plays_can_stand_alone(tmp_path):
    page, results = _write(tmp_path, [_training(agent="random")])
    assert results["groups"][0]["agents"][0]["score"]["over"] == "8 games"
    assert "no training" in page.text
    assert not list(tmp_path.glob("curves-*"))


def test_published_scores_are_all_of_known_agents():
    """A new agent in the table must be given to one of ours, or left out on purpose."""
    table = published_table()
    assert len(table) == 55 + 4  # games of Atari and of MinAtar
    theirs = {row["agent"] for rows in table.values() for row in rows}
    named = {name for names in PUBLISHED_NAMES.values() for name in names}
    assert named - theirs == set()
    assert theirs - named == {"pqn_lstm", "Ape-X", "DrQ(eps)", "SimPLe", "IRIS"}


def test_of_one_training_no_statistic_is_shown(tmp_path):
    page, results = _write(tmp_path, [_training(), _training(agent="ppo", level=30.0)])
    assert results["overall"] is None
    for word in ("Probability of improvement", "Performance profiles", "Published", "bootstrap"):
        assert word not in page.text.replace("95% bootstrap interval of the interquartile", "")
    assert not list(tmp_path.glob("improvement*"))
    assert results["groups"][0]["best"] is None
    shows = "The scores do not show whether dqn or ppo is better: 1 training of each is too few."
    assert shows in page.text
    # on two envs there are aggregates, but still no statistic over trainings
    envs = ("CartPole-v1", "ALE/Pong-v5")
    more = [_training(env, agent) for env in envs for agent in ("dqn", "ppo")]
    page, results = _write(tmp_path / "two", more)
    assert results["overall"]["profiles"] == {}
    assert results["overall"]["improvement"] == []
    assert "Performance profiles" not in page.text


@pytest.mark.parametrize(
    ("seeds", "better", "sentence"),
    [
        (5, 9.0, "ppo scores higher than every other agent, by more than chance."),
        (5, 0.1, "The scores do not show whether ppo or dqn is better."),
        (2, 9.0, "The scores do not show whether ppo or dqn is better: 2 trainings of each are"),
    ],
)
def test_what_the_scores_show_is_said(tmp_path, seeds, better, sentence):
    trainings = [
        _training("X-v0", agent, seed, level + 3 * seed)
        for agent, level in {"dqn": 20.0, "ppo": 20.0 + better * 2, "random": 0.0}.items()
        for seed in range(seeds)
    ]
    page, results = _write(tmp_path, trainings)
    assert f"ppo and dqn play better than the random agent. {sentence}" in page.text
    assert results["groups"][0]["best"] == ("ppo" if sentence.startswith("ppo") else None)
    assert [row["agent"] for row in results["groups"][0]["agents"]] == ["ppo", "dqn", "random"]


def test_no_agent_above_chance_is_said(tmp_path):
    levels = {"dqn": 1.0, "random": 1.0}
    page, _ = _write(tmp_path, [_training("X-v0", a, 0, level) for a, level in levels.items()])
    assert "No agent is shown to play better than the random agent." in page.text


def test_the_film_is_in_the_page(tmp_path):
    film = tmp_path / "dqn.mp4"
    film.write_bytes(b"ftyp film")
    write_report(tmp_path, [_training()], _ABOUT, film)
    html = (tmp_path / "report.html").read_text()
    assert f"data:video/mp4;base64,{base64.b64encode(film.read_bytes()).decode()}" in html
    assert '<a href="dqn.mp4">dqn.mp4</a>' in html
