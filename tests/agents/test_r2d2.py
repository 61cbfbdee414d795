import copy
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats

from ludus.agents.agent import EnvSpec
from ludus.agents.auxiliary_config import AuxiliaryFields
from ludus.agents.losses import squash, unsquash
from ludus.agents.r2d2 import R2D2, build
from ludus.agents.r2d2_config import R2D2Config
from ludus.envs.errors import ConfigError

CPU = torch.device("cpu")
OBS = spaces.Box(-9, 9, (3,), np.float32)
CONFIG = R2D2Config(
    hidden=(8,),
    core_units=6,
    learning_rate=1e-2,
    batch_size=5,
    sequence_length=6,
    burn_in=3,
    n_step=2,
    gamma=0.9,
    replay_size=120,
    learning_starts=10,
    replay_ratio=0.2,
    target_interval=3,
)


def _agent(envs=2, seed=0, config=CONFIG, **changes) -> R2D2:
    config = replace(config, **changes)
    return build(
        config,
        EnvSpec(OBS, spaces.Discrete(4), envs),
        device=CPU,
        seed=seed,
        steps=10_000,
    )


def _frame(generator, t, b):
    return generator.normal(0, 1, 3).astype(np.float32)


def _counted(generator, t, b):
    return np.array([t, b, 0], np.float32)


def _train(agent, stream, rows, state=None):
    """What the loop does, on a stream of its own; the states before each row and the actions."""
    state = agent.initial_state(stream.envs) if state is None else state
    states, actions = [], []
    for _ in range(rows):
        states.append(state)
        action, state, extras = agent.act(stream.obs[-1], state, stream.first[-1])
        agent.learn()
        agent.observe(stream.step(action)._replace(extras=extras))
        actions.append(action)
    return states, np.array(actions), state


@pytest.mark.parametrize("rows", [12, 40, 61, 100, 137])
def test_sequences_are_stretches_of_the_stream_with_the_state_at_their_start(random_stream, rows):
    agent = _agent(learning_starts=10_000)
    stream = random_stream(2, 1, 5, _counted, actions=4)
    states, _, _ = _train(agent, stream, rows)
    memory, length, period = agent.memory, CONFIG.rows, CONFIG.period
    assert (length, period, memory.ring.rows) == (11, 3, 60)
    oldest = max(0, rows - 60)
    starts = [s for s in range(0, rows - length + 1) if s % period == 0 and s >= oldest]
    assert len(memory) == 2 * len(starts)
    seen = set()
    for chance in np.linspace(0, 1, 40, endpoint=False):
        batch = memory.sample(torch.full((8,), float(chance), dtype=torch.float64))
        for n in range(8):
            t0, b = (int(x) for x in batch.obs[0, n, :2])
            seen.add((t0, b))
            for j in range(length):
                t = t0 + j
                assert batch.obs[j, n].tolist() == stream.obs[t][b].tolist()
                assert bool(batch.first[j, n]) == stream.first[t][b]
                assert bool(batch.valid[j, n]) == (not stream.over[t][b])
                if j < length - 1 or t + 1 < len(stream.obs):
                    assert float(batch.reward[j, n]) == stream.reward[t + 1][b]
                    assert bool(batch.discount[j, n] == 0) == stream.terminated[t + 1][b]
                assert int(batch.action[j, n]) == stream.action[t][b]
            for kept, then in zip(batch.state, states[t0], strict=True):
                assert torch.equal(kept[n], then[b])
    assert seen == {(s, b) for s in starts for b in range(2)}


def _q_by_rows(network, batch, n, burn_in):
    """Values of one sequence, row by row, the state carried and zeroed by hand."""
    state = tuple(s[n : n + 1] for s in batch.state)
    values = []
    for t in range(len(batch.obs)):
        opens = batch.first[t : t + 1, n : n + 1]
        if opens:
            state = tuple(torch.zeros_like(s) for s in state)
        out, state = network(
            batch.obs[t : t + 1, n : n + 1], state, torch.zeros(1, 1, dtype=torch.bool)
        )
        values.append(out.q[0, 0])
    return values


@pytest.mark.parametrize("n_step", [1, 3])
def test_the_loss_and_priority_by_a_loop_over_rows(random_stream, n_step):
    agent = _agent(n_step=n_step, learning_starts=10_000, priority_eta=0.7)
    _train(agent, random_stream(2, 1, 7, _frame, actions=4), 55)
    with torch.no_grad():
        for parameter in agent.target.network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    c, batch = agent.config, agent.memory.sample(agent.memory.uniforms(5))
    loss, priority, _, _ = agent.loss(batch)
    ends = 0
    for n in range(5):
        online = _q_by_rows(agent.network, batch, n, c.burn_in)
        target = _q_by_rows(agent.target.network, batch, n, c.burn_in)
        errors = []
        for t in range(c.burn_in, c.burn_in + c.sequence_length):
            if not batch.valid[t, n]:
                ends += 1
                continue
            total, power, at = 0.0, 1.0, t
            for _ in range(n_step):
                total += power * float(batch.reward[at, n])
                power *= float(batch.discount[at, n])
                at += 1
                if power == 0 or not batch.valid[at, n]:
                    break
            best = int(online[at].argmax())
            following = float(unsquash(target[at][best]))
            wanted = squash(torch.tensor(total + power * following))
            errors.append(float(wanted - online[t][batch.action[t, n]]))
        errors = np.abs(errors)
        assert float(loss[n].detach()) == pytest.approx((errors**2).mean(), rel=1e-3)
        expected = 0.7 * errors.max() + 0.3 * errors.mean()
        assert float(priority[n]) == pytest.approx(expected, rel=1e-3)
    assert ends > 0  # there were rows that only ended a game


def test_the_burn_in_changes_the_state_and_gets_no_gradient(random_stream):
    agent = _agent(learning_starts=10_000)
    _train(agent, random_stream(2, 1, 7, _frame, (0, 0, 0, 0), actions=4), 55)
    batch = agent.memory.sample(agent.memory.uniforms(5))
    obs = batch.obs.clone().requires_grad_()
    agent.loss(batch._replace(obs=obs))[0].sum().backward()
    assert (obs.grad[: CONFIG.burn_in] == 0).all()
    assert obs.grad[CONFIG.burn_in :].abs().sum() > 0
    other = batch.obs.clone()
    other[: CONFIG.burn_in] += 1
    changed = agent.loss(batch._replace(obs=other))[0]
    assert (changed - agent.loss(batch)[0]).abs().max() > 1e-5


def test_each_env_explores_at_its_own_rate():
    agent = _agent(8)
    agent.env_steps = 100
    epsilons = agent.epsilons(8)
    expected = [0.4 ** (1 + 7 * i / 7) for i in range(8)]
    assert epsilons.tolist() == pytest.approx(expected)
    assert _agent(8, epsilon_alpha=0.0).epsilons(8).tolist() == pytest.approx([0.4] * 8)
    with torch.no_grad():
        for parameter in agent.network.parameters():
            parameter.zero_()  # the greedy action is always 0
    counts = np.zeros(8)
    for _ in range(3_000):
        obs = np.zeros((8, 3), np.float32)
        actions = agent.act(obs, agent.initial_state(8), np.ones(8, bool))[0]
        counts += actions != 0
    for count, epsilon in zip(counts, expected, strict=True):
        assert stats.binomtest(int(count), 3_000, 0.75 * epsilon).pvalue > 1e-4


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_a_loaded_agent_goes_on_bit_for_bit(random_stream, core):
    agent, fresh = _agent(3, seed=1, core=core), _agent(3, seed=2, core=core)
    stream = random_stream(3, 1, 0, _frame, actions=4)
    _, _, state = _train(agent, stream, 70)  # the ring of 39 rows has wrapped
    assert agent.updates > 10
    fresh.load_state_dict(copy.deepcopy(agent.state_dict()))
    twin = copy.deepcopy(stream)
    ours, theirs = _train(agent, stream, 40, state), _train(fresh, twin, 40, state)
    assert np.array_equal(ours[1], theirs[1])
    both = zip(agent.network.parameters(), fresh.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)


def test_a_memory_grows_into_that_of_a_longer_training(random_stream):
    """The sums of priorities have other blocks then, so their rounding may differ."""
    small, large = _agent(3, seed=1, replay_size=150), _agent(3, seed=1, replay_size=450)
    stream = random_stream(3, 1, 0, _frame, actions=4)
    twin = copy.deepcopy(stream)
    _train(large, twin, 48)  # of 48 rows in the smaller ring
    _, _, state = _train(small, stream, 48)
    grown = _agent(3, seed=2, replay_size=450)
    grown.load_state_dict(copy.deepcopy(small.state_dict()))
    assert len(grown.memory) == len(large.memory) > 20
    for name, tensor in grown.memory.priorities.tensors().items():
        assert torch.allclose(tensor, large.memory.priorities.tensors()[name]), name
    uniforms = torch.linspace(0, 0.999, 64, dtype=torch.float64)
    for one, other in zip(
        grown.memory.sample(uniforms), large.memory.sample(uniforms), strict=True
    ):
        if isinstance(one, torch.Tensor):
            assert torch.allclose(one, other)
    _train(small, stream, 30, state)
    with pytest.raises(ConfigError, match=r"resume with the replay_size"):
        grown.load_state_dict(small.state_dict())  # its oldest rows were replaced
    shorter = _agent(3, seed=1, replay_size=150, sequence_length=4)
    with pytest.raises(
        ConfigError, match=r"have 11 rows, these 9; resume with the sequence_length"
    ):
        shorter.load_state_dict(small.state_dict())


LEARNING = {
    "core": "gru",
    "dueling": False,
    "double": False,
    "value_rescaling": False,
    "loss": "huber",
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "optimizer_eps": 0.1,
    "max_grad_norm": 0.01,
    "batch_size": 4,
    "sequence_length": 5,
    "burn_in": 1,
    "stored_state": False,
    "gamma": 0.5,
    "n_step": 1,
    "clip_reward": True,
    "replay_size": 100,
    "prioritised": False,
    "priority_alpha": 0.3,
    "priority_beta": 0.1,
    "priority_eta": 0.1,
    "learning_starts": 90,
    "replay_ratio": 0.1,
    "target_interval": 2,
    "polyak": 0.5,
    "epsilon_start": 0.9,
    "epsilon_end": 0.9,
    "epsilon_steps": 1_000,
    "epsilon_alpha": 1.0,
}
SHAPE = {"encoder", "hidden", "width", "core_units", "head_hidden"}


@cache
def _learned(random_stream, config):
    agent = _agent(config=config)
    _, actions, _ = _train(agent, random_stream(2, 1, 3, _frame, actions=4), 90)
    return torch.cat([p.detach().flatten() for p in agent.network.parameters()]), actions


@pytest.mark.parametrize("name", LEARNING)
def test_a_field_changes_what_is_learned_or_done(random_stream, name):
    config = replace(CONFIG, epsilon_start=0.5) if name == "epsilon_steps" else CONFIG
    assert getattr(config, name) != LEARNING[name]
    weights, actions = _learned(random_stream, config)
    other, others = _learned(random_stream, replace(config, **{name: LEARNING[name]}))
    alike = weights.shape == other.shape and bool((weights - other).abs().max() < 1e-6)
    assert not alike or not np.array_equal(actions, others)


def test_a_training_repeats(random_stream):
    (weights, actions), (again, as_before) = (
        _learned.__wrapped__(random_stream, CONFIG) for _ in range(2)
    )
    assert torch.equal(weights, again)
    assert np.array_equal(actions, as_before)


def test_no_field_is_without_a_test():
    shared = {f.name for f in fields(AuxiliaryFields)}  # test_auxiliary.py
    assert {f.name for f in fields(R2D2Config)} == {
        *LEARNING,
        "evaluation_epsilon",
    } | SHAPE | shared
    network = _agent(hidden=(5,), core_units=7, head_hidden=9).network
    assert network.encoder.dim == 5
    assert network.core.dim == 7
    assert network.head.streams.advantage.layers[0].out_features == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("batch_size", "sequence_length", "n_step", "core_units")),
        *((name, -1) for name in ("burn_in", "epsilon_alpha", "learning_starts")),
        *((name, 1.5) for name in ("gamma", "priority_eta", "priority_beta", "epsilon_start")),
        ("hidden", (0,)),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        replace(CONFIG, **{name: value})


def test_what_does_not_suit_is_refused():
    with pytest.raises(ConfigError, match="replay_size is 20"):
        _agent(replay_size=20)
    with pytest.raises(ConfigError, match="Discrete"):
        build(CONFIG, EnvSpec(OBS, OBS, 1), device=CPU, seed=0, steps=1)
