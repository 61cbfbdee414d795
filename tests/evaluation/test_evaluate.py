from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import episode_seed
from ludus.evaluation.evaluate import HELD_OUT_SEEDS, evaluate, torch_settings


class _Always:
    """Takes the same action for ever."""

    def __init__(self, action=0):
        self.action, self.seen = action, []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert deterministic
        self.seen.append(episode_start.copy())
        return np.full(len(observation), self.action), (state or 0) + 1


class _Bold:
    """Pushes the cart towards where the pole falls."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return (observation[:, 2] > 0).astype(np.int64), None


def test_the_same_seed_plays_the_same_games_and_another_seed_others():
    first, again, other = (
        evaluate(_Bold(), "CartPole-v1", EnvOptions(), episodes=5, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_slow_games_count_as_often_as_fast_ones():
    result = evaluate(_Always(), "CartPole-v1", EnvOptions(), episodes=7, num_envs=3)
    assert len(result.returns) == len(result.lengths) == 7
    assert result.returns == [float(n) for n in result.lengths]
    assert result.mean == pytest.approx(np.mean(result.returns))


def test_held_out_seeds_are_not_training_seeds():
    training = {episode_seed(s, i, e) for s in range(3) for i in range(8) for e in range(20)}
    held_out = {
        episode_seed(s + HELD_OUT_SEEDS, i, e)
        for s in range(3)
        for i in range(8)
        for e in range(20)
    }
    assert not training & held_out


def test_scores_are_unclipped_and_over_whole_games_not_lives():
    """FIRE for ever in Breakout loses all 5 lives; the score is of the game."""
    with_lives = EnvOptions(life_loss=True)
    games = [
        evaluate(_Always(1), "BreakoutNoFrameskip-v4", options, episodes=3)
        for options in (with_lives, EnvOptions(life_loss=False))
    ]
    assert games[0] == games[1]
    assert min(games[0].lengths) > 100


def test_epsilon_1_is_the_random_player():
    at_random = evaluate(_Always(), "CartPole-v1", EnvOptions(), episodes=40, epsilon=1.0)
    always_left = evaluate(_Always(), "CartPole-v1", EnvOptions(), episodes=40)
    assert always_left.mean < 11 < 17 < at_random.mean < 30


def test_small_networks_are_tuned_and_the_rest_left_alone():
    before = torch.get_num_threads()
    torch.set_flush_denormal(False)  # the command line, if a test called it, has turned it on
    with torch_settings(make("CartPole-v1", 1)):
        assert torch.get_num_threads() == 1
        assert float(torch.tensor([1e-40]) * 1.0) == 0
    assert torch.get_num_threads() == before
    assert float(torch.tensor([1e-40]) * 1.0) > 0
    with torch_settings(make("CartPole-v1", 1), SimpleNamespace(multithreaded=True)):
        assert torch.get_num_threads() == before
    with torch_settings(make("ALE/Pong-v5", 1)):
        assert torch.get_num_threads() == before
