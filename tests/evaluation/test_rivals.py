"""Self-play against rivals, and matches."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ludus.agents import registry
from ludus.agents.random_agent import RandomAgent
from ludus.envs.board import spiel
from ludus.envs.dict_observation import MASK
from ludus.envs.errors import EnvError
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.evaluate import EvaluationStopped, evaluate
from ludus.evaluation.match import AgentSide, FixedSide, play_match
from ludus.evaluation.rivals import Rivals
from ludus.training.run import TrainOptions
from ludus.training.train import start_session


class _Learner:
    """Counts its steps and has one weight, which says which past network it is."""

    def __init__(self, env):
        self.env_steps, self.number, self._env = 0, 0.0, env
        self.seen = 0

    def weights(self):
        return {"number": torch.tensor(self.number)}

    def load_weights(self, weights):
        self.number = float(weights["number"])

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        """The last legal move."""
        self.seen += 1
        legal = self._env.observation_space.legal_actions(torch.from_numpy(observation)).numpy()
        return legal.shape[1] - 1 - legal[:, ::-1].argmax(1), state

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


def _play(names, rows=80, envs=6, every=10, seed=0):
    """Rows, what the agent wanted (the first legal move), what was played, and whose it was."""
    env = make("connect_four", envs, 0)
    agent, past = _Learner(env), _Learner(env)
    rivals = Rivals(names, "connect_four", envs, seed, lambda: past, every)
    row, turns = env.reset(), []
    for _ in range(rows):
        legal = env.observation_space.legal_actions(torch.from_numpy(row.obs)).numpy()
        wanted = legal.argmax(1)
        played, own = rivals.replace_actions(row, wanted)
        turns.append(SimpleNamespace(row=row, legal=legal, wanted=wanted, played=played, own=own))
        env.send(played)
        row = env.recv()
        agent.env_steps += envs
        agent.number += 1
        rivals.update_pool(agent)
    return turns, rivals, past


def test_against_itself_every_move_is_the_agents():
    turns, _, _ = _play(("self",))
    assert all(t.own.all() and (t.played == t.wanted).all() for t in turns)


@pytest.mark.parametrize("name", ["random", "mcts:3"])
def test_a_fixed_player_has_one_side_of_each_game(name):
    turns, _, _ = _play((name,), rows=300)
    sides, second = set(), np.zeros(6, bool)
    theirs = np.full(6, -1)
    for t in turns:
        second = np.where(t.row.first, False, second ^ (t.row.discount_sign < 0))
        theirs[t.row.first] = -1
        for i in np.flatnonzero(~t.own):
            assert theirs[i] in (-1, second[i]), "a rival stays on its side"
            theirs[i] = second[i]
            sides.add(bool(second[i]))
            assert t.legal[i, t.played[i]]
        assert (t.played == t.wanted)[t.own].all()
        moved = (~t.own).sum() + t.own.sum()
        assert moved == 6
    assert sides == {False, True}
    share = np.mean([(~t.own)[~t.row.game_over].mean() for t in turns if not t.row.game_over.all()])
    assert 0.4 < share < 0.6


def test_past_networks_are_kept_when_due_and_play_once_there_is_one():
    turns, rivals, past = _play(("past",), rows=60, envs=6, every=60)
    assert all(t.own.all() for t in turns[:10])
    later = turns[10:]
    assert np.mean([(~t.own).mean() for t in later]) > 0.3
    for t in later:
        last = t.legal.shape[1] - 1 - t.legal[:, ::-1].argmax(1)
        assert (t.played == last)[~t.own].all()
    numbers = [float(weights["number"]) for weights in rivals._pool]
    assert numbers == [10, 20, 30, 40, 50, 60]
    assert past.number in numbers
    _, rivals, _ = _play(("past",), rows=300, envs=6, every=60)
    assert [float(w["number"]) for w in rivals._pool] == [float(n) for n in range(210, 301, 10)]


def test_a_mixture_is_drawn_for_each_game():
    turns, _, _ = _play(("self", "random", "past"), rows=400, every=6)
    games, mixed = [], {}
    for t in turns:
        for i in range(6):
            if t.row.first[i]:
                mixed[i] = []
            mixed[i].append(bool(t.own[i]))
            if t.row.game_over[i]:
                games.append(all(mixed[i]))
    assert 0.15 < np.mean(games) < 0.55


def test_an_unknown_rival_is_refused():
    with pytest.raises(EnvError, match="there is no opponent nobody"):
        Rivals(("self", "nobody"), "connect_four", 2, 0, lambda: None, 5)


def _uniform(game, seed=0):
    env = make(game, 1)
    return RandomAgent(env.observation_space, env.action_space, seed)


@pytest.mark.parametrize("game", ["tic_tac_toe", "mancala", "chess"])
def test_each_side_begins_half_of_the_games_and_all_is_counted(game):
    games = 5 if game == "chess" else 40
    sides = (FixedSide("random", game, games, 1), FixedSide("random", game, games, 2))
    match = play_match(sides, game, games, seed=0)
    assert len(match.returns) == len(match.lengths) == games
    assert sum(match.moves) == sum(match.lengths)
    assert min(match.lengths) > 3
    again = play_match(
        (FixedSide("random", game, games, 1), FixedSide("random", game, games, 2)),
        game,
        games,
        seed=0,
    )
    assert again.returns == match.returns


def test_returns_are_those_of_the_first_named_on_either_side():
    """Perfect play never loses; and the same match the other way round has the other sign."""
    perfect = FixedSide("minimax", "tic_tac_toe", 30, 0)
    match = play_match(
        (perfect, FixedSide("random", "tic_tac_toe", 30, 3)), "tic_tac_toe", 30, seed=0
    )
    assert min(match.returns) >= 0
    assert np.mean(match.returns[::2]) > 0.5
    assert np.mean(match.returns[1::2]) > 0.2
    assert match.points > 0.8
    turned = play_match(
        (FixedSide("random", "tic_tac_toe", 30, 3), perfect), "tic_tac_toe", 30, seed=0
    )
    assert max(turned.returns) <= 0
    even = play_match((perfect, perfect), "tic_tac_toe", 4, seed=0)
    assert str(even.returns) == "[0.0, 0.0, 0.0, 0.0]", "a draw has no sign"


def test_an_agent_plays_legal_moves_only_also_with_chance():
    agent = AgentSide(_uniform("connect_four"), deterministic=True, epsilon=0.5, seed=1)
    match = play_match(
        (agent, FixedSide("greedy", "connect_four", 20, 0)), "connect_four", 20, seed=0
    )
    assert match.points < 0.3


def test_an_evaluation_of_a_board_game_is_against_the_opponent():
    player = _uniform("tic_tac_toe")
    weak = evaluate(player, "tic_tac_toe", EnvOptions(), episodes=100)
    strong = evaluate(player, "tic_tac_toe", EnvOptions(opponent="minimax"), episodes=60)
    assert abs(weak.mean) < 0.3
    assert strong.mean < -0.6
    assert max(strong.returns) <= 0
    with pytest.raises(EvaluationStopped):
        evaluate(player, "tic_tac_toe", EnvOptions(), episodes=4, stop=lambda: True)


@pytest.mark.parametrize(("options", "said"), [
    ({"opponent": "nobody"}, "there is no opponent nobody"),
    ({"opponent": "mcts:x"}, "there is no opponent mcts:x"),
])  # fmt: skip
def test_an_unknown_opponent_is_refused_before_the_training(options, said):
    with pytest.raises(EnvError, match=said):
        make("tic_tac_toe", options=EnvOptions(**options))
    with pytest.raises(EnvError, match="opponent is for board games; CartPole-v1"):
        make("CartPole-v1", options=EnvOptions(opponent="random"))


def test_a_mask_is_part_of_what_is_shown():
    env = make("othello", 2)
    assert set(env.observation_space.parts) == {"board", MASK}
    assert set(make("hex", 2).observation_space.parts) == {"board", MASK, "moves"}
    assert spiel.is_game("hex(board_size=5)")


_ONE_PER_AGENT = {
    "a2c",
    "alphazero",
    "c51",
    "dqn",
    "pqn",
    "ppo",
    "r2d2",
    "rainbow",
    "recurrent_ppo",
}


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(name, marks=() if name in _ONE_PER_AGENT else pytest.mark.slow)
        for name in sorted(set(registry.AGENTS) - {"random", "dqn2013", "ppo_small"})
    ],
)
def test_every_preset_plays_against_itself_and_learns(tmp_path, agent):
    steps = 600 if agent == "alphazero" else 1_100
    options = TrainOptions(steps=steps, num_envs=8, eval_episodes=4, log_every=200)
    config = registry.preset(agent, make("tic_tac_toe", 1)).config
    if hasattr(config, "learning_starts"):
        config = replace(config, learning_starts=200)
    if agent == "alphazero":
        config = replace(config, tower_channels=8, blocks=1, simulations=8, fast_simulations=3)
    session = start_session(
        agent, "tic_tac_toe", options, EnvOptions(), config, tmp_path, quiet=True
    )
    session.run_to_end()
    assert session.agent.updates > 0
    assert len(session.run.evaluations()[-1]["returns"]) == 4
