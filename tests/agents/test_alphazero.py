from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
import torch

from ludus.agents import registry
from ludus.agents.alphazero import build
from ludus.agents.alphazero_config import AlphaZeroConfig
from ludus.agents.capture import capture
from ludus.agents.memory.step import Step
from ludus.agents.search import Tree, search, subtree
from ludus.agents.search_rules import Puct, dirichlet_noise
from ludus.envs.errors import ConfigError
from ludus.envs.make import make
from ludus.networks.heads import ILLEGAL

CPU = torch.device("cpu")
CONFIG = AlphaZeroConfig(
    tower_channels=8,
    blocks=1,
    simulations=4,
    considered=2,
    batch_size=16,
    replay_size=4 * 100,
    learning_starts=40,
    replay_ratio=0.25,
    anneal_learning_rate=False,
    outcome_share=1.0,
    random_moves=0,
)


def _agent(game="connect_four", envs=4, seed=0, steps=400, **changes):
    config = replace(CONFIG, **changes)
    return build(config, make(game, envs), device=CPU, seed=seed, steps=steps)


def _train(agent, rows, game="connect_four"):
    """Play and learn; the actions [rows, B] and what was kept of each row."""
    env = make(game, agent.memory.num_envs, 0)
    row, actions, kept = env.reset(), [], []
    state = agent.initial_state(env.num_envs)
    for _ in range(rows):
        action, state, extras = agent.act(row.obs, state, row.first)
        env.send(action)
        agent.learn()
        after = env.recv()
        agent.observe(
            Step(
                row.obs,
                row.first,
                ~row.game_over,
                action,
                after.reward,
                after.terminated,
                extras,
                after.discount_sign,
            )
        )
        actions.append(action)
        kept.append(extras["position"])
        row = after
    return np.array(actions), kept


def _weights(agent):
    return torch.cat([w.flatten() for w in agent.weights().values()])


def test_updates_are_as_many_as_the_ratio_says_whatever_the_envs():
    for envs in (1, 4, 8):
        agent = _agent(envs=envs, replay_size=envs * 100, simulations=2)
        _train(agent, 160 // envs)
        agent.learn()
        assert agent.updates == (agent.env_steps - 40) // 4 > 0


def test_the_value_learns_who_won_and_the_policy_what_the_search_found():
    """One batch against sums over its rows; captured alike."""
    agent = _agent(symmetries=False, value_coef=0.5, max_grad_norm=0.0)
    _train(agent, 60)
    place, turn, count = agent.randomness()
    metrics, gradient = agent.gradients(place, turn, count)
    sample = agent.memory.gather(place)
    policy_loss = value_loss = torch.tensor(0.0)
    for i in range(16):
        scores, value = agent.forward(sample.board[i : i + 1])
        logits = scores[0].masked_fill(~sample.legal[i], ILLEGAL)
        policy_loss = policy_loss - (sample.policy[i] * logits.log_softmax(0)).sum() / 16
        value_loss = value_loss + (value[0] - sample.value[i]) ** 2 / 16
    assert float(metrics[1]) == pytest.approx(policy_loss.item(), rel=1e-5)
    assert float(metrics[2]) == pytest.approx(value_loss.item(), rel=1e-5)
    own = torch.autograd.grad(policy_loss + 0.5 * value_loss, list(agent.network.parameters()))
    flat = torch.cat(
        [g.contiguous().permute(0, 2, 3, 1).flatten() if g.ndim == 4 else g.flatten() for g in own]
    )
    torch.testing.assert_close(gradient, flat, atol=1e-6, rtol=1e-3)
    entropy = -(sample.policy * sample.policy.clamp(min=1e-30).log()).sum(1).mean()
    assert float(metrics[3]) == pytest.approx((policy_loss - entropy).item(), abs=1e-5)
    capture(agent)
    norm, traced, clipped = agent.learner.clipped_gradients(place, turn, count)
    torch.testing.assert_close(traced, metrics, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(clipped, gradient, atol=1e-6, rtol=1e-4)
    assert float(norm) == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_a_turned_position_has_its_policy_turned_with_it():
    """Mirrored, connect four's first column becomes the last, in board, mask and policy."""
    seen = {}

    def look(agent):
        shown = agent._forward

        def keep(board):
            seen["board"] = board
            return shown(board)

        agent._forward = keep

    agent = _agent()
    _train(agent, 60)
    look(agent)
    place, _, count = agent.randomness()
    sample = agent.memory.gather(place)
    turn = torch.arange(16) % 2
    metrics, _ = agent.gradients(place, turn, count)
    for i in range(16):
        mirrored = sample.board[i].flip(-1) if turn[i] else sample.board[i]
        assert torch.equal(seen["board"][i], mirrored)
    logits = agent.network(seen["board"].unsqueeze(0), (), torch.zeros(1, 16))[0].logits[0]
    loss = torch.tensor(0.0)
    for i in range(16):
        legal, policy = sample.legal[i], sample.policy[i]
        legal, policy = (legal.flip(0), policy.flip(0)) if turn[i] else (legal, policy)
        loss = loss - (policy * logits[i].masked_fill(~legal, ILLEGAL).log_softmax(0)).sum() / 16
    assert float(metrics[1]) == pytest.approx(loss.item(), rel=1e-5)


CHANGES = {
    "tower_channels": 4,
    "blocks": 2,
    "search": "puct",
    "simulations": 6,
    "fast_simulations": 2,
    "considered": 4,
    "c_visit": 1.0,
    "c_scale": 0.01,
    "optimizer_eps": 1.0,
    "learning_rate": 1e-2,
    "anneal_learning_rate": True,
    "max_grad_norm": 0.01,
    "value_coef": 0.0,
    "outcome_share": 0.0,
    "random_moves": 3,
    "symmetries": False,
    "batch_size": 8,
    "replay_size": 4 * 44,
    "learning_starts": 60,
    "replay_ratio": 0.5,
}
PUCT = {
    "reuse_tree": True,
    "c_puct": 0.01,
    "dirichlet": 0.1,
    "noise_share": 0.9,
    "sampled_moves": 0,
}


@cache
def _learned(**changes):
    agent = _agent(**changes)
    _train(agent, 50)
    return _weights(agent)


@pytest.mark.parametrize("field", [*CHANGES, *PUCT])
def test_every_field_changes_what_is_learned(field):
    base = {"search": "puct", "simulations": 9} if field in PUCT else {}
    before, after = _learned(**base), _learned(**base, **{field: (CHANGES | PUCT)[field]})
    assert before.shape != after.shape or not torch.equal(before, after)


def test_there_is_no_field_without_a_test():
    others = {"encoder", "hidden", "full_share", "play_simulations", "play_c_scale"}  # below
    others |= {"value_target", "play_leaves"}
    assert {f.name for f in fields(AlphaZeroConfig)} == {*CHANGES, *PUCT, *others}


@pytest.mark.parametrize("search", ["gumbel", "puct"])
def test_the_value_target_is_the_searchs_that_is_asked_for(search):
    values = {}
    for target in ("policy", "visits", "mix"):
        agent = _agent(value_target=target, search=search, simulations=9, considered=4)
        found = []
        searched = agent._search
        agent._search = lambda *given, s=searched, f=found, **leaves: (
            f.append(s(*given, **leaves)) or f[-1]
        )
        _, kept = _train(agent, 1)
        result = found[0][0]
        mean = (result.value + result.root_mean) / 2
        wanted = {"policy": result.value, "visits": result.root_mean, "mix": mean}
        assert torch.equal(kept[0].value, wanted[target])
        values[target] = kept[0].value
    same = torch.allclose(values["policy"], values["visits"])
    assert same == (search == "puct")  # its policy is the visits


def test_fully_connected_layers_are_for_positions_that_are_no_planes():
    agent = _agent("tic_tac_toe", encoder="mlp", hidden=(12, 10))
    assert agent.network.encoder.dim == 10
    _train(agent, 40, "tic_tac_toe")
    with pytest.raises(ConfigError, match=r"of mancala.* have shape \[17\]; use the encoder mlp"):
        _agent("mancala")
    env = make("mancala", 1)
    assert registry.preset("alphazero", env).config.encoder == "mlp"


@pytest.mark.parametrize(("share", "low", "high"), [(0.25, 0.1, 0.4), (0.0, 0, 0), (1.0, 1, 1)])
def test_the_playout_cap(share, low, high):
    """So many moves have all simulations, and only their policy is learned from."""
    agent = _agent(fast_simulations=1, full_share=share)
    _, kept = _train(agent, 100)
    full = np.array([bool(position.policy_trained[0]) for position in kept])
    assert low <= full.mean() <= high
    counts = []
    searched = agent._search
    agent._search = lambda *given, leaves: (
        counts.append(given[-3:-1]) or searched(*given, leaves=leaves)
    )
    _, kept = _train(agent, 50)
    for (count, noise), position in zip(counts, kept, strict=True):
        assert count == (4 if position.policy_trained[0] else 1)
        assert (noise is not None) == bool(position.policy_trained[0])  # a fast move plays its best


def test_moves_are_sampled_at_first_and_the_best_later():
    agent = _agent(search="puct", simulations=16, sampled_moves=3, noise_share=0.0)
    actions, kept = _train(agent, 12)
    apart = [(a != p.policy.argmax(1).numpy()).any() for a, p in zip(actions, kept, strict=True)]
    assert any(apart[:3])
    assert not any(
        a[i] not in np.flatnonzero(p.policy[i] == p.policy[i].max())
        for a, p in zip(actions[3:7], kept[3:7], strict=True)
        for i in range(4)
    )


def test_games_begin_with_moves_at_random_that_are_not_learned_from():
    agent = _agent(
        random_moves=5, envs=50, replay_size=50 * 100, simulations=2, learning_starts=9999
    )
    agent.network.head.policy.bias.data[3] = 50.0  # the search always plays the middle
    actions, kept = _train(agent, 6)
    own = np.stack([position.trained for position in kept])  # [rows, B]
    openings = 6 - own.sum(0)
    assert (np.diff(own.astype(int), axis=0) >= 0).all(), "only at the beginning"
    assert set(openings) == {0, 1, 2, 3, 4, 5}
    assert (actions[own] == 3).all()
    assert set(actions[~own]) == set(range(7))


@pytest.mark.parametrize("game", ["connect_four", "breakthrough(rows=4,columns=4)"])
def test_a_tree_that_is_used_again_knows_what_was_found_below_the_move(game):
    """Two moves on, the root's visits are those of the node before, and the new ones."""
    agent = _agent(game, search="puct", play_simulations=24, reuse_tree=True, noise_share=0.0)
    env = make(game, 4, 0)
    row, state, known = env.reset(), agent.initial_state(4), torch.zeros(4)
    largest = known
    for _ in range(8):
        action, after = agent.choose(row.obs, state, row.first, deterministic=True)
        visits, child = after[2], after[6]  # [B, N, A] each
        below = child[torch.arange(4), 0, torch.from_numpy(action)]  # [B] rows
        assert (visits[:, 0].sum(-1) == 24 + known).all()
        known = visits.flatten(0, 1)[below.clamp(min=0)].sum(-1) * (below >= 0)
        largest = largest.maximum(known)
        env.send(action)
        row, state = env.recv(), after
        if row.game_over.any():
            break
    assert (row.episode_length > 3).all()
    assert (largest > 0).all()
    fresh = make(game, 4, 0).reset()  # another position: nothing is known of it
    _, after = agent.choose(fresh.obs, state, fresh.first, deterministic=True)
    assert (after[2][:, 0].sum(-1) == 24).all()


def test_a_tree_that_is_used_again_is_the_one_below_the_move():
    """Every node below the move, by its position, with its visits and returns."""
    agent = _agent(search="puct", simulations=60, reuse_tree=True, noise_share=0.0)
    game, env = agent.game, make("connect_four", 4, 0)
    env.reset()
    tree = Tree(game, game.init(4), 200, CPU)
    search(game, game.init(4), agent.evaluate, Puct(), 60, tree=tree)
    action = torch.tensor([3, 3, 2, 4])
    env.send(action.numpy())
    board = game.from_observation(agent._unpack(torch.from_numpy(env.recv().obs)))
    chosen = tree.child[tree.root, action]
    assert (chosen >= 0).all()
    for most in (200, 3):
        part = subtree(game, tree, chosen, board, most)

        def recorded(tree, root):
            """Positions below a row, with what is known there."""
            found, stack = {}, [int(root)]
            while stack:
                at = stack.pop()
                key = tuple(tree.boards[at].tolist())
                found[key] = tree.visits[at].tolist(), tree.total[at].tolist()
                stack += [c for c in tree.child[at].tolist() if c >= 0]
            return found

        for i in range(4):
            before, after = recorded(tree, chosen[i]), recorded(part, part.root[i])
            assert len(after) == min(most, len(before)) == int(part.used[i])
            assert all(before[key] == value for key, value in after.items())
        rows = torch.arange(len(part.raw))
        assert torch.equal(part.following, part.behind(rows, part.choice))
        search(game, board, agent.evaluate, Puct(), 20, tree=part, leaves=8)
        torch.testing.assert_close(part.judged, Puct().judge(part.edges(rows)))


def test_the_learning_rate_falls_to_zero():
    agent = _agent(anneal_learning_rate=True, steps=200)
    _train(agent, 40)
    share = agent.env_steps / 200
    assert agent.metrics()["learning_rate"] == pytest.approx(3e-3 * (1 - share), abs=2e-4)


def test_dirichlet_noise_has_its_mean_and_spread_over_legal_moves_only():
    legal = torch.tensor([[True, True, False, True, True]]).expand(40_000, 5)
    noise = dirichlet_noise(legal, 10.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(noise.sum(1), torch.ones(40_000))
    assert (noise[:, 2] == 0).all()
    assert noise[:, 0].mean() == pytest.approx(0.25, abs=0.005)
    alpha = 10 / 4  # the variance of one share: p (1 - p) / (4 alpha + 1)
    assert noise[:, 0].var() == pytest.approx(0.25 * 0.75 / (4 * alpha + 1), rel=0.05)


def test_predict_searches_without_chance_and_takes_one_position_or_many():
    agent, env = _agent(), make("connect_four", 3)
    obs = env.reset().obs
    first, _ = agent.predict(obs, deterministic=True)
    assert (first == agent.predict(obs, deterministic=True)[0]).all()
    assert agent.predict(obs[0], deterministic=True)[0] == first[0]
    drawn = {int(agent.predict(obs[0])[0]) for _ in range(30)}
    assert len(drawn) > 1
    parts = {k: agent._space.part(torch.from_numpy(obs[0]), k).numpy() for k in agent._space.parts}
    assert agent.predict(parts, deterministic=True)[0] == first[0]


def test_a_search_in_play_has_its_own_number_of_simulations_and_trust_in_values():
    agent = _agent(play_simulations=11, play_c_scale=0.7, play_leaves=3, c_scale=0.3)
    obs, recorded = make("connect_four", 4).reset().obs, []
    searched = agent._search

    def record(*given, leaves):
        recorded.append((given[4], given[6], leaves))
        return searched(*given, leaves=leaves)

    agent._search = record
    agent.predict(obs)
    agent.advise(obs)
    agent.act(obs, (), np.ones(4, bool))
    assert recorded == [(11, 0.7, 3), (11, 0.7, 3), (4, 0.3, 1)]
    assert agent._chooser(None, 0.7).c_scale == 0.7


def test_acting_elsewhere_changes_nothing_of_a_training():
    """What `act` remembers travels in the extras."""
    alone, watched = _agent(), _agent()
    _train(alone, 30)
    _train(watched, 15)
    obs = make("connect_four", 7).reset().obs
    for _ in range(5):
        watched.predict(obs, deterministic=False)
    lone = _agent()
    _train(lone, 15)
    assert torch.equal(_weights(watched), _weights(lone))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"simulations": 0}, "simulations is 0; it must be 1 or more"),
        ({"fast_simulations": 4}, "fast_simulations is 4; it must be below simulations, 4"),
        ({"full_share": 1.5}, "full_share is 1.5; it must be from 0 to 1"),
        ({"c_visit": -1.0}, "c_visit is -1.0; it must be 0 or more"),
        ({"reuse_tree": True}, "reuse_tree needs the search puct"),
        ({"hidden": (0,)}, "hidden is .*; it must be 1 or more"),
        ({"replay_size": 100}, "replay_size is 100; 4 games of up to 42 moves need 176"),
    ],
)
def test_values_that_cannot_work_are_refused(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        _agent(**change)


def test_only_board_games():
    with pytest.raises(ConfigError, match=r"alphazero is for board games.*not CartPole-v1"):
        registry.preset("alphazero", make("CartPole-v1", 1))
