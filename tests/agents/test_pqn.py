import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.agent import ConfigError
from ludus.agents.pqn import PQN, PQNConfig, build
from ludus.training.graphs import capture

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


def _agent(envs=4, seed=0, steps=1_000, config=CONFIG, **changes) -> PQN:
    config = replace(config, **changes)
    space = spaces.Discrete(4)
    return build(config, OBS, space, num_envs=envs, device=CPU, seed=seed, steps=steps)


def _frame(generator, t, b):
    return generator.normal(0, 1, 3).astype(np.float32)


def _train(agent, stream, rows, state=None):
    state = agent.initial_state(stream.envs) if state is None else state
    actions = []
    for _ in range(rows):
        action, state, extras = agent.act(stream.obs[-1], state, stream.first[-1], explore=True)
        agent.learn()
        agent.observe(stream.step(action)._replace(extras=extras))
        actions.append(action)
    return np.array(actions), state


def _parameters(agent):
    return torch.cat([p.detach().flatten() for p in agent.network.parameters()])


def _values(agent, obs):
    out, _ = agent.network(obs.unsqueeze(0), (), torch.zeros(1, len(obs), dtype=torch.bool))
    return out.q[0]


def test_rollouts_follow_each_other_without_a_gap_and_targets_equal_a_loop(random_stream):
    agent, stream = _agent(), random_stream(4, 1, 2, _frame, actions=4)
    state, rollouts, ends = agent.initial_state(4), 0, 0
    used = []
    agent.update = lambda index: used.append(index.clone())
    for _ in range(40):
        action, state, extras = agent.act(stream.obs[-1], state, stream.first[-1], explore=True)
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


def test_the_loss_of_a_minibatch_by_hand(random_stream):
    agent, stream = _agent(), random_stream(4, 1, 2, _frame, actions=4)
    agent.learn = lambda: 0
    _train(agent, stream, 7)
    agent._set_targets()
    index = torch.tensor([0, 5, 9, 14, 22, 23])
    rows, envs = index // 4, index % 4
    total, count = 0.0, 0
    for t, b in zip(rows.tolist(), envs.tolist(), strict=True):
        if stream.over[t][b]:
            continue
        q = _values(agent, torch.from_numpy(stream.obs[t][b : b + 1]))[0, stream.action[t][b]]
        total, count = total + 0.5 * float(q - agent._target[t, b]) ** 2, count + 1
    metrics, gradient = agent.gradients(index)
    assert float(metrics[0]) == pytest.approx(total / count, rel=1e-4)
    assert gradient.norm() > 0


@pytest.mark.parametrize(
    "changes", [{}, {"dueling": True, "head_hidden": 5}, {"optimizer": "adam"}]
)
def test_a_captured_update_equals_the_eager_one(random_stream, changes):
    eager, captured = _agent(**changes), _agent(**changes)
    capture(captured)
    assert captured.gradients != captured._gradients
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
    capture(agent)  # a core cannot be captured: nothing happens then
    capture(fresh)
    stream = random_stream(4, 1, 0, _frame, actions=4)
    _, state = _train(agent, stream, rows)
    fresh.load_state_dict(copy.deepcopy(agent.state_dict()))
    twin = copy.deepcopy(stream)
    ours, theirs = _train(agent, stream, 30, state), _train(fresh, twin, 30, state)
    assert np.array_equal(ours[0], theirs[0])
    assert torch.equal(_parameters(agent), _parameters(fresh))
    assert agent.updates == fresh.updates > 0


def test_with_a_core_a_minibatch_is_whole_rows_of_some_envs(random_stream):
    agent = _agent(core="lstm", minibatches=2)
    used = []
    agent.update = lambda index: used.append(index.tolist())
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


CHANGES = {
    "core": "lstm",
    "dueling": True,
    "layer_norm": False,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "optimizer_eps": 0.1,
    "max_grad_norm": 0.01,
    "rollout_length": 4,
    "epochs": 1,
    "minibatches": 2,
    "gamma": 0.5,
    "lam": 0.1,
    "clip_reward": True,
    "epsilon_start": 0.5,
    "epsilon_end": 0.9,
    "epsilon_fraction": 1.0,
}
SHAPE = {"encoder", "hidden", "core_units", "head_hidden"}


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
    assert {f.name for f in fields(PQNConfig)} == {*CHANGES, "evaluation_epsilon"} | SHAPE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("learning_rate", "rollout_length", "epochs", "minibatches")),
        *((name, 1.5) for name in ("gamma", "lam", "epsilon_start", "epsilon_fraction")),
        ("max_grad_norm", -1),
        ("hidden", (0,)),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        replace(CONFIG, **{name: value})


def test_minibatches_that_do_not_divide_are_refused():
    with pytest.raises(
        ConfigError, match="minibatches is 5, which does not divide 4 envs x 6 rows"
    ):
        _agent(minibatches=5)
    with pytest.raises(ConfigError, match="minibatches is 3, which does not divide 4 envs;"):
        _agent(minibatches=3, core="gru")
    with pytest.raises(ConfigError, match="Discrete"):
        build(CONFIG, OBS, OBS, num_envs=4, device=CPU, seed=0, steps=1)
