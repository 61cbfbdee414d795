import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.agent import EnvSpec
from ludus.agents.auxiliary_config import AuxiliaryFields
from ludus.agents.capture import capture
from ludus.agents.memory import rollout
from ludus.agents.pqn import PQN, build
from ludus.agents.pqn_config import PQNConfig
from ludus.envs.errors import ConfigError
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.evaluate import evaluate
from ludus.training.checkpoint import newest_checkpoint, save_checkpoint
from ludus.training.loop import train_loop

CPU = torch.device("cpu")
OBS = spaces.Box(-9, 9, (3,), np.float32)
CONFIG = PQNConfig(
    hidden=(8,),
    core_units=6,
    learning_rate=1e-2,
    rollout_length=6,
    epochs=2,
    minibatches=4,
    gamma=0.9,
    lam=0.6,
)


def _agent(envs=4, seed=0, steps=400, config=CONFIG, **changes) -> PQN:
    config = replace(config, **changes)
    space = spaces.Discrete(4)
    return build(config, EnvSpec(OBS, space, envs), device=CPU, seed=seed, steps=steps)


def _frame(generator, t, b):
    return generator.normal(0, 1, 3).astype(np.float32)


def _train(agent, stream, rows, state=None):
    state = agent.initial_state(stream.envs) if state is None else state
    actions = []
    for _ in range(rows):
        action, state, extras = agent.act(stream.obs[-1], state, stream.first[-1])
        agent.learn()
        agent.observe(stream.step(action)._replace(extras=extras))
        actions.append(action)
    return np.array(actions), state


def _gradients(agent, index):
    agent.rollout.weigh(index.unsqueeze(0))
    return agent.gradients(index)


def _parameters(agent):
    return torch.cat([p.detach().flatten() for p in agent.network.parameters()])


@torch.no_grad()
def _values(agent, obs):
    out, _ = agent.network(obs.unsqueeze(0), (), torch.zeros(1, len(obs), dtype=torch.bool))
    return out.q[0]


def test_rollouts_follow_each_other_without_a_gap_and_targets_equal_a_loop(random_stream):
    agent, stream = _agent(), random_stream(4, 1, 2, _frame, actions=4)
    state, rollouts, ends = agent.initial_state(4), 0, 0
    used = []
    agent.learner.step = lambda index: used.append(index.clone())
    for _ in range(40):
        action, state, extras = agent.act(stream.obs[-1], state, stream.first[-1])
        full, start = agent.rollout.full, 6 * rollouts
        used.clear()
        if agent.learn():
            assert full
            rollouts += 1
            # every place once an epoch
            for epoch in (used[:4], used[4:]):
                assert sorted(torch.cat(epoch).tolist()) == list(range(24))
            for b in range(4):
                after = None
                for t in reversed(range(start, start + 6)):
                    value = float(
                        _values(agent, torch.from_numpy(stream.obs[t + 1][b : b + 1])).max()
                    )
                    goes_on = after is not None and not stream.over[t + 1][b]
                    mixed = 0.4 * value + 0.6 * after if goes_on else value
                    discount = 0.0 if stream.terminated[t + 1][b] else 0.9
                    after = float(stream.reward[t + 1][b]) + discount * mixed
                    ends += stream.over[t + 1][b]
                    if not stream.over[t][b]:  # else the row is no decision
                        got = float(agent._target[t - start, b])
                        assert got == pytest.approx(after, rel=1e-4, abs=1e-4)
        agent.observe(stream.step(action)._replace(extras=extras))
    assert rollouts == 6  # of 6 rows each, after 7, 13, 19, 25, 31 and 37 rows
    assert ends > 0


@pytest.mark.parametrize("core", ["none", "lstm", "gru"])
@pytest.mark.parametrize("at_once", [1, 14, 10_000])
def test_targets_are_the_same_however_many_observations_are_valued_at_once(
    random_stream, monkeypatch, core, at_once
):
    agent = _agent(core=core)
    agent.learn = lambda: 0
    _train(agent, random_stream(4, 1, 2, _frame, actions=4), 7)
    agent._set_targets()
    want = agent._target.clone()
    monkeypatch.setattr(rollout, "_CHUNK", at_once)
    agent._set_targets()
    torch.testing.assert_close(agent._target, want)
    assert want.abs().min() > 0


def test_the_loss_and_gradient_of_a_minibatch_by_hand(random_stream):
    agent, stream = _agent(max_grad_norm=0.0), random_stream(4, 1, 2, _frame, actions=4)
    agent.learn = lambda: 0
    _train(agent, stream, 7)
    agent._set_targets()
    index = torch.arange(5, 23)
    errors, means = [], []
    for t, b in zip((index // 4).tolist(), (index % 4).tolist(), strict=True):
        if stream.over[t][b]:
            continue
        obs = torch.from_numpy(stream.obs[t][b]).view(1, 1, 3)
        out, _ = agent.network(obs, (), torch.zeros(1, 1, dtype=torch.bool))
        errors.append(out.q[0, 0, stream.action[t][b]] - agent._target[t, b])
        means.append(float(out.q[0, 0, stream.action[t][b]].detach()))
    assert len(errors) < 18, "a row without a decision must be there"
    loss = 0.5 * torch.stack(errors).square().mean()
    parts = torch.autograd.grad(loss, list(agent.network.parameters()))
    metrics, gradient = _gradients(agent, index)
    want = torch.cat([part.flatten() for part in parts])
    torch.testing.assert_close(gradient, want, rtol=1e-4, atol=1e-6)
    expected = [float(loss.detach()), np.mean(means)]
    assert metrics.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_with_a_core_the_loss_is_that_of_playing_the_rollout_again_row_by_row(random_stream, core):
    """From the state that was stored, and from zeros where an episode opens."""
    agent = _agent(core=core, minibatches=2)
    stream, states = random_stream(4, 1, 2, _frame, actions=4), []
    state = agent.initial_state(4)
    for _ in range(13):  # rows 0 to 6 are learned from, rows 6 to 12 are there at the end
        states.append(state)
        action, state, extras = agent.act(stream.obs[-1], state, stream.first[-1])
        agent.learn()
        agent.observe(stream.step(action)._replace(extras=extras))
    assert agent.updates == 4
    assert agent.rollout.full
    agent._set_targets()
    index, total, count, values = torch.tensor([3, 1]), 0.0, 0, []
    hidden = tuple(s[index] for s in states[6])
    assert any(part.abs().sum() > 0 for part in hidden)
    for t in range(6, 13):
        first = torch.from_numpy(stream.first[t])[index]
        hidden = tuple(s * ~first.unsqueeze(1) for s in hidden)
        obs = torch.from_numpy(stream.obs[t])[index].unsqueeze(0)
        with torch.no_grad():
            out, hidden = agent.network(obs, hidden, torch.zeros(1, 2, dtype=torch.bool))
        values.append(out.q[0].amax(-1))
        for place, b in enumerate(index.tolist()):
            if t < 12 and not stream.over[t][b]:
                q = float(out.q[0, place, stream.action[t][b]])
                total += 0.5 * (q - float(agent._target[t - 6, b])) ** 2
                count += 1
    torch.testing.assert_close(agent._values(index), torch.stack(values, 1))
    assert count < 12
    assert float(_gradients(agent, index)[0][0]) == pytest.approx(total / count, rel=1e-4)


def test_what_a_row_without_a_decision_holds_changes_nothing(random_stream):
    agent, stream = _agent(max_grad_norm=0.0), random_stream(4, 1, 2, _frame, actions=4)
    agent.learn = lambda: 0
    _train(agent, stream, 7)
    agent._set_targets()
    before = _gradients(agent, torch.arange(24))
    idle = ~agent.rollout.valid[:6]
    assert idle.any()
    agent._target[idle] = 1e3
    agent.rollout.action[:6][idle] = 0
    after = _gradients(agent, torch.arange(24))
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True]
    agent.rollout.valid.zero_()
    assert _gradients(agent, torch.arange(24))[1].abs().max() == 0  # a minibatch of nothing


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dueling": True, "head_hidden": 5},
        {"optimizer": "adam"},
        {"anneal_learning_rate": True, "layer_norm": "none"},
        {"core": "lstm"},
        {"core": "gru"},
    ],
)
def test_a_captured_update_equals_the_eager_one(random_stream, changes):
    eager, captured = _agent(**changes), _agent(**changes)
    capture(captured)
    assert captured.learner.clipped_gradients != captured.learner._clipped_gradients
    stream = random_stream(4, 1, 2, _frame, actions=4)
    twin = copy.deepcopy(stream)
    _train(eager, stream, 30)
    _train(captured, twin, 30)
    torch.testing.assert_close(_parameters(captured), _parameters(eager), rtol=1e-5, atol=1e-6)
    assert (_parameters(eager) - _parameters(_agent(**changes))).abs().max() > 1e-3


@pytest.mark.parametrize("core", ["none", "lstm", "gru"])
@pytest.mark.parametrize("rows", [3, 7, 25])
def test_a_loaded_agent_goes_on_bit_for_bit_within_a_rollout(random_stream, core, rows):
    agent, fresh = _agent(seed=1, core=core), _agent(seed=2, core=core)
    capture(agent)
    capture(fresh)
    stream = random_stream(4, 1, 0, _frame, actions=4)
    _, state = _train(agent, stream, rows)
    fresh.load_state_dict(copy.deepcopy(agent.state_dict()))
    twin = copy.deepcopy(stream)
    ours, theirs = _train(agent, stream, 30, state), _train(fresh, twin, 30, state)
    assert np.array_equal(ours[0], theirs[0])
    assert torch.equal(_parameters(agent), _parameters(fresh))
    assert agent.updates == fresh.updates > 0


def test_an_agent_without_a_row_goes_through_a_checkpoint(random_stream, tmp_path):
    agent, fresh = _agent(seed=1), _agent(seed=2)
    save_checkpoint(tmp_path, 0, agent.state_dict(), keep=1)
    fresh.load_state_dict(newest_checkpoint(tmp_path)[0])
    stream = random_stream(4, 1, 0, _frame, actions=4)
    twin = copy.deepcopy(stream)
    _train(agent, stream, 20)
    _train(fresh, twin, 20)
    assert torch.equal(_parameters(agent), _parameters(fresh))


def test_a_rollout_of_another_size_is_refused():
    state = _agent().state_dict()
    with pytest.raises(ConfigError, match=r"the saved rollout has \[6, 4\] rows and envs"):
        _agent(envs=2).load_state_dict(state)


def test_without_training_any_number_of_envs_will_do():
    agent = build(
        CONFIG, EnvSpec(OBS, spaces.Discrete(4)), device=CPU, seed=0, steps=1, training=False
    )
    agent.load_weights(_agent(seed=3).weights())
    assert torch.equal(_parameters(agent), _parameters(_agent(seed=3)))


def test_with_a_core_a_minibatch_is_whole_rows_of_some_envs(random_stream):
    agent = _agent(core="lstm", minibatches=2)
    used = []
    agent.learner.step = lambda index: used.append(index.tolist())
    _train(agent, random_stream(4, 1, 0, _frame, actions=4), 8)
    assert [len(index) for index in used] == [2] * 4
    assert sorted(used[0] + used[1]) == sorted(used[2] + used[3]) == [0, 1, 2, 3]


def test_epsilon_falls_over_its_share_of_the_training():
    agent = _agent(steps=1_000, epsilon_fraction=0.2, epsilon_end=0.1)
    seen = []
    for steps in (0, 100, 200, 900):
        agent.env_steps = steps
        seen.append(agent.epsilon)
    assert seen == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_the_learning_rate_falls_to_0_over_the_training_and_the_optimizer_takes_it(random_stream):
    agent = _agent(steps=400, anneal_learning_rate=True, optimizer="sgd", max_grad_norm=0.0)
    capture(agent)
    _train(agent, random_stream(4, 1, 0, _frame, actions=4), 7)
    for steps, rate in ((0, 0.01), (100, 0.0075), (400, 0.0), (999, 0.0)):
        agent.env_steps, agent.rollout.filled = steps, 7
        moved = []
        update = agent.learner.step

        def spy(index, update=update, moved=moved):
            before = agent.learner.flat.clone()
            update(index)  # sgd keeps the gradient
            moved.append((before - agent.learner.flat).norm() / agent.learner.trained.grad.norm())

        agent.learner.step = spy
        agent.learn()
        agent.learner.step = update
        assert agent.metrics()["learning_rate"] == pytest.approx(rate)
        assert torch.stack(moved).tolist() == pytest.approx([rate] * 8, rel=1e-3)


def test_predict_is_greedy_but_for_the_evaluations_epsilon():
    agent = _agent(evaluation_epsilon=0.5)
    obs = np.random.default_rng(0).normal(0, 1, (400, 3)).astype(np.float32)
    best = _values(agent, torch.from_numpy(obs)).argmax(1).numpy()
    assert np.array_equal(agent.predict(obs, deterministic=True)[0], best)
    share = (agent.predict(obs, deterministic=False)[0] != best).mean()
    assert 0.25 < share < 0.5  # half of 3 in 4
    assert agent.predict(obs[0], deterministic=True)[0] == best[0]


def test_actions_that_do_not_count_from_0_are_learned_as_if_they_did(random_stream):
    space = spaces.Discrete(4, start=2)
    agent = build(CONFIG, EnvSpec(OBS, space, 4), device=CPU, seed=0, steps=400)
    actions, _ = _train(agent, random_stream(4, 1, 2, _frame, actions=4), 6)
    assert set(actions.flatten()) == {2, 3, 4, 5}
    assert np.array_equal(agent.rollout.action[:6].numpy(), actions - 2)


def test_metrics_are_means_since_the_last_call(random_stream):
    agent, recorded = _agent(), []
    update = agent.gradients

    def spy(index):
        metrics, gradient = update(index)
        recorded.append([*metrics.tolist(), float(gradient.norm())])
        return metrics, gradient

    agent.learner.gradients = spy
    _train(agent, random_stream(4, 1, 2, _frame, actions=4), 14)
    metrics = agent.metrics()
    assert len(recorded) == agent.updates == 16
    got = [metrics[name] for name in ("loss", "q_values", "grad_norm")]
    assert got == pytest.approx(np.mean(recorded, 0).tolist(), rel=1e-5)
    assert set(agent.metrics()) == {"exploration_rate", "learning_rate"}


CHANGES = {
    "core": "lstm",
    "dueling": True,
    "layer_norm": "none",
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "anneal_learning_rate": True,
    "optimizer_eps": 0.1,
    "max_grad_norm": 0.01,
    "rollout_length": 4,
    "epochs": 1,
    "minibatches": 2,
    "gamma": 0.5,
    "lam": 0.1,
    "overlap": True,
    "clip_reward": True,
    "epsilon_start": 0.5,
    "epsilon_end": 0.9,
    "epsilon_fraction": 1.0,
}
PICTURES = spaces.Box(0, 255, (2, 20, 20), np.uint8)
WIDE = {"encoder": "impala", "width": 2, "layer_norm": "none"}
SHAPES = [  # what is changed, the space, and how many parameters there are then, norms included
    ({"hidden": (5,)}, OBS, (3 + 1) * 5 + 2 * 5 + (5 + 1) * 4),
    ({"head_hidden": 5}, OBS, (3 + 1) * 8 + 2 * 8 + (8 + 1) * 5 + 2 * 5 + (5 + 1) * 4),
    ({"core": "gru", "core_units": 2}, OBS, 32 + 16 + 3 * 2 * (8 + 2 + 1 + 1) + (2 + 1) * 4),
    ({"encoder": "dqn2013"}, PICTURES, 129 * 16 + 2 * 16 + 257 * 32 + 2 * 32 + (32 + 1) * 4),
    (
        WIDE,
        PICTURES,
        (19 + 4 * 289) * 32 + (289 + 4 * 577) * 64 + (577 + 4 * 577) * 64 + (64 * 9 + 1) * 4,
    ),
]


@pytest.mark.parametrize(("changes", "space", "parameters"), SHAPES, ids=lambda x: str(x)[:40])
def test_the_fields_of_the_network_make_it_as_they_say(changes, space, parameters):
    config = replace(CONFIG, **changes)
    agent = build(config, EnvSpec(space, spaces.Discrete(4), 4), device=CPU, seed=0, steps=1)
    assert agent.learner.flat.numel() == parameters


def _learned(random_stream, config):
    agent = _agent(config=config, steps=200)
    actions, _ = _train(agent, random_stream(4, 1, 3, _frame, actions=4), 40)
    return _parameters(agent), actions


@pytest.mark.parametrize("name", CHANGES)
def test_a_field_changes_what_is_learned_or_done(random_stream, name):
    assert getattr(CONFIG, name) != CHANGES[name]
    weights, actions = _learned(random_stream, CONFIG)
    other, others = _learned(random_stream, replace(CONFIG, **{name: CHANGES[name]}))
    alike = weights.shape == other.shape and bool((weights - other).abs().max() < 1e-6)
    assert not alike or not np.array_equal(actions, others)


def test_no_field_is_without_a_test():
    of_shapes = {name for changes, *_ in SHAPES for name in changes}
    shared = {f.name for f in fields(AuxiliaryFields)}  # test_auxiliary.py
    own = {*CHANGES, *of_shapes, "evaluation_epsilon"}
    assert {f.name for f in fields(PQNConfig)} == own | shared


POSITIVE = "width core_units learning_rate optimizer_eps rollout_length epochs minibatches"
SHARES = "gamma lam epsilon_start epsilon_end epsilon_fraction evaluation_epsilon"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in POSITIVE.split()),
        *((name, 1.5) for name in SHARES.split()),
        *((name, -1) for name in ("max_grad_norm", "head_hidden")),
        ("hidden", (0,)),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        replace(CONFIG, **{name: value})


def test_combinations_and_spaces_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="layer_norm does not go with the encoder impala"):
        replace(CONFIG, encoder="impala")
    with pytest.raises(
        ConfigError, match="minibatches is 5, which does not divide 4 envs x 6 rows"
    ):
        _agent(minibatches=5)
    with pytest.raises(ConfigError, match="minibatches is 3, which does not divide 4 envs;"):
        _agent(minibatches=3, core="gru")
    with pytest.raises(ConfigError, match="Discrete"):
        build(CONFIG, EnvSpec(OBS, OBS, 4), device=CPU, seed=0, steps=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_annealed_training_ends_with_every_symbol_named(seed):
    """With a constant step one symbol of four is often named wrong when the training ends."""
    env_id, envs, steps = "ludus/Identity-v0", 8, 12_000
    config = PQNConfig(hidden=(32,), gamma=0.9, learning_rate=1e-2, minibatches=4, epochs=4)
    config = replace(config, epsilon_end=0.1, epsilon_fraction=0.5, anneal_learning_rate=True)
    env = make(env_id, envs, seed)
    spaces_of = env.observation_space, env.action_space
    agent = build(config, EnvSpec(*spaces_of, envs), device=CPU, seed=seed, steps=steps)
    capture(agent)
    train_loop(agent, env, env.reset(), agent.initial_state(envs), steps, lambda *_: True)
    env.close()
    assert evaluate(agent, env_id, EnvOptions(), episodes=20).mean == 10
