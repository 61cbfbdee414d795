"""Similar states of a session and of a replay, against a naive search."""

import threading

import numpy as np
import pytest
from gymnasium import spaces

from ludus.training.saved_replay import ReplayedStates
from ludus.viewer import similar
from ludus.viewer.similar import SimilarInReplay, SimilarStates


@pytest.fixture
def states(monkeypatch):
    """Its features are the observations; it remembers eight states, each second one."""
    monkeypatch.setattr(similar, "features_of", lambda agent, space, obs: obs)
    monkeypatch.setattr(similar, "_EVERY", 2)
    monkeypatch.setattr(similar, "_REMEMBERED", 8)
    return SimilarStates(None, None)


def _cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_the_most_similar_are_those_of_a_loop_over_what_is_remembered(states):
    generator = np.random.default_rng(0)
    remembered = []
    for look in range(60):
        obs = generator.normal(size=(1, 5)).astype(np.float32)
        game, step = look // 30, 7 * (look % 30)
        picture = np.full((120, 160, 3), look, np.uint8)
        found, strip = states.look(obs, picture, game, step, 0.0)
        far = [
            (-_cosine(obs[0], other), seed, at, grey)
            for other, seed, at, grey in remembered[-8:]
            if seed != game or abs(at - step) >= 20
        ]
        best = sorted(far)[:4]
        assert [(each["seed"], each["step"]) for each in found] == [b[1:3] for b in best]
        assert [each["similarity"] for each in found] == pytest.approx(
            [-b[0] for b in best], abs=1e-6
        )
        if best:
            assert strip.shape == (60, 82 * len(best), 3)
            assert strip[0, ::82, 0].tolist() == [b[3] for b in best]
        if look % 2 == 0:
            remembered.append((obs[0], game, step, look))
    assert far


def test_other_weights_forget_what_was_seen(states):
    picture = np.zeros((10, 10, 3), np.uint8)
    assert states.look(np.ones((1, 3)), picture, 0, 0, 0.0) == ([], None)
    assert len(states.look(np.ones((1, 3)), picture, 1, 0, 0.0)[0]) == 1
    states.forget()
    assert states.look(np.ones((1, 3)), picture, 2, 0, 0.0) == ([], None)


def _look(states, obs, number):
    """Looks at a state twice, so that it is remembered once."""
    for _ in range(2):
        picture = np.full((4, 4, 3), number, np.uint8)
        states.look(np.array([obs], np.float32), picture, number, 10 * number, number / 2)


def test_a_map_has_the_states_that_are_remembered_at_their_components(states):
    """The points by hand: along (3, 4) / 5 the features are 0, 5, 10, ... apart."""
    assert states.new_map(now=True) is None
    for number in range(11):
        _look(states, [3 * number, 4 * number], number)
    found = states.new_map(now=False)
    assert sorted(found["states"]) == list(range(3, 11))  # the last eight
    for state, point, value, game, step in zip(
        *(found[key] for key in ("states", "points", "values", "games", "steps")), strict=True
    ):
        assert point == pytest.approx([5 * (state - 6.5), 0], abs=1e-3)
        assert (value, game, step) == (state / 2, state, 10 * state)
        assert (states.picture_of(state) == state).all()
    assert found["share"] == pytest.approx((1, 0))
    assert states.present() == {"map": 1, "point": pytest.approx([5 * 3.5, 0], abs=1e-3)}
    for number in (-1, 0, 2, 11):
        assert states.picture_of(number) is None


def test_a_new_map_is_made_when_there_are_enough_new_states_or_at_once(states):
    for number in range(4):
        _look(states, [number, 1], number)
    assert states.new_map(now=False) is None
    assert len(states.new_map(now=True)["states"]) == 4
    made = []
    for number in range(4, 20):
        _look(states, [number, 1], number)
        if states.new_map(now=False) is not None:
            made.append(number + 1)
    assert made == [8, 10, 12, 14, 16, 18, 20]  # a quarter of the eight more
    assert states.new_map(now=True) is not None


def test_a_map_of_umap_is_made_beside_and_given_once(states, monkeypatch):
    asked, go_on = [], threading.Event()

    def points_of(features, seed):
        asked.append(features)
        go_on.wait()
        return features[:, ::-1] + 1

    monkeypatch.setattr(similar, "umap_points", points_of)
    for number in range(3):
        _look(states, [number, 1], number)
    assert states.new_umap(now=True) is None
    assert not asked  # of three states there is none
    _look(states, [3, 1], 3)
    assert states.new_umap(now=False) is None
    assert states.new_umap(now=True) is None
    _look(states, [4, 1], 4)  # is not on it
    assert states.new_umap(now=True) is None  # it is being made
    go_on.set()
    states._umap[1].result()
    found = states.new_umap(now=False)
    assert found["points"] == [[2, pytest.approx(x + 1)] for x in range(4)]
    assert (found["states"], found["share"]) == ([0, 1, 2, 3], None)
    assert len(asked) == 1
    assert states.present() is None
    assert states.new_umap(now=False) is None
    assert states.new_map(now=True)["map"] > found["map"]
    assert states.present() is not None


def test_a_map_of_umap_of_other_weights_is_not_given(states, monkeypatch):
    monkeypatch.setattr(similar, "umap_points", lambda features, seed: features)
    for number in range(4):
        _look(states, [number, 1], number)
    states.new_umap(now=True)
    states.forget()
    assert states.new_umap(now=False) is None


def test_other_weights_have_a_map_of_their_own(states):
    for number in range(5):
        _look(states, [number, 1], number)
    assert states.new_map(now=True)["states"] == [0, 1, 2, 3, 4]
    states.forget()
    assert states.present() is None
    assert states.picture_of(4) is None
    for number in range(3):
        _look(states, [number, 1], 100 + number)
    assert states.new_map(now=True)["states"] == [5, 6, 7]
    assert (states.picture_of(6) == 101).all()


def test_the_most_similar_of_a_replay_are_those_of_a_loop(monkeypatch):
    monkeypatch.setattr(similar, "features_of", lambda agent, space, obs: obs)
    generator = np.random.default_rng(0)
    obs = generator.normal(size=(50, 11)).astype(np.float32)
    states = ReplayedStates(obs, np.arange(50)[::-1] * 8)
    space = spaces.Box(-np.inf, np.inf, (11,), np.float32)
    replay = SimilarInReplay(None, space, 1, states)
    feature = generator.normal(size=11).astype(np.float32)
    found, strip = replay.look(feature)
    assert strip is None  # numbers are no picture
    best = sorted(range(50), key=lambda i: -_cosine(feature, obs[i]))[:4]
    for each, i in zip(found, best, strict=True):
        assert each["similarity"] == pytest.approx(_cosine(feature, obs[i]), abs=1e-6)
        assert each["age"] == (49 - i) * 8
        assert each["numbers"] == pytest.approx(obs[i, :8].tolist())


def test_images_of_a_replay_are_drawn_by_their_newest_frames(monkeypatch):
    monkeypatch.setattr(similar, "features_of", lambda agent, space, obs: obs[:, -1, 0, :2] / 255)
    obs = np.zeros((3, 4, 84, 84), np.uint8)  # a stack of 4
    obs[:, -1, 0, :2] = [(255, 0), (0, 255), (200, 10)]
    replay = SimilarInReplay(
        None, spaces.Box(0, 255, (4, 84, 84), np.uint8), 4, ReplayedStates(obs, np.arange(3))
    )
    found, strip = replay.look(np.array([1.0, 0.0]))
    assert [each["age"] for each in found] == [0, 2, 1]
    assert strip.shape == (84, 3 * 86, 3)
    assert strip[0, ::86, 0].tolist() == [255, 200, 0]
    planes = np.zeros((1, 4, 10, 10), bool)
    planes[0, 0, 5, 5] = True
    monkeypatch.setattr(similar, "features_of", lambda agent, space, obs: np.ones((len(obs), 2)))
    space = spaces.Box(0, 1, (4, 10, 10), bool)
    _, strip = SimilarInReplay(None, space, 1, ReplayedStates(planes, np.zeros(1))).look(np.ones(2))
    assert strip.shape == (80, 82, 3)
    assert strip[44, 44].tolist() == [230, 159, 0]  # the first plane's colour
    assert strip[0, 0].tolist() == [0, 0, 0]


def test_units_are_those_that_vary_most_with_the_states_that_excite_them_most(states):
    assert states.exciting() == ([], None)
    for number in range(8):  # the second feature varies most, the third not at all
        _look(states, [number, 10 * (number % 4), 0], number)
    found, pictures = states.exciting()
    assert [each["unit"] for each in found] == [1, 0]
    best = [s["seed"] for s in found[0]["states"]]
    assert (set(best[:2]), set(best[2:])) == ({3, 7}, {2, 6})
    assert [s["output"] for s in found[1]["states"]] == pytest.approx([7, 6, 5, 4])
    assert [s["step"] for s in found[1]["states"]] == [70, 60, 50, 40]
    assert found[0]["present"] == pytest.approx(30)
    assert found[1]["present"] == pytest.approx(7)
    assert pictures.shape == (2 * 4, 4 * 6, 3)
    assert pictures[::4, ::6, 0].tolist() == [best, [7, 6, 5, 4]]


def test_a_unit_with_few_states_has_blank_pictures(states):
    for number in range(2):
        _look(states, [number + 1, 0], number)
    found, pictures = states.exciting()
    assert [len(each["states"]) for each in found] == [2]
    assert pictures[0, ::6, 0].tolist() == [1, 0, 0, 0]
