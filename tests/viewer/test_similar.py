"""Similar states of a session, against a naive search."""

import numpy as np
import pytest

from ludus.viewer import similar
from ludus.viewer.similar import SimilarStates


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
        found, strip = states.look(obs, picture, game, step)
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
    assert states.look(np.ones((1, 3)), picture, 0, 0) == ([], None)
    assert len(states.look(np.ones((1, 3)), picture, 1, 0)[0]) == 1
    states.forget()
    assert states.look(np.ones((1, 3)), picture, 2, 0) == ([], None)
