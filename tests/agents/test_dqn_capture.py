import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.agent import EnvSpec
from ludus.agents.capture import capture
from ludus.agents.dqn import DQN, build
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.memory.ring_rows import RingRows

DEVICES = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
ACTIONS = spaces.Discrete(3)
SPACES = {
    "mlp": spaces.Box(-9, 9, (3,), np.float32),
    "minatar": spaces.Box(0, 1, (2, 6, 6), np.uint8),
    "nature": spaces.Box(0, 255, (2, 36, 36), np.uint8),
    "dqn2013": spaces.Box(0, 255, (2, 20, 20), np.uint8),
    "impala": spaces.Box(0, 255, (2, 8, 8), np.uint8),
}
CONFIG = DQNConfig(
    hidden=(8,),
    head_hidden=8,
    learning_rate=1e-3,
    batch_size=8,
    replay_size=90,
    learning_starts=0,
    replay_ratio=1.0,
    target_interval=7,
)


def _frame(space):
    def draw(generator, t, b):
        if space.dtype == np.uint8:
            return generator.integers(0, int(space.high.max()) + 1, space.shape, np.uint8)
        return generator.normal(0, 1, space.shape).astype(np.float32)

    return draw


def _agent(device, **changes) -> DQN:
    config = replace(CONFIG, **changes)
    space = SPACES[config.encoder]
    return build(config, EnvSpec(space, ACTIONS, 3), device=device, seed=0, steps=100)


def _train(agent, stream, updates):
    """Observe and learn until so many updates are made."""
    due = agent.updates + updates
    while agent.updates < due:
        agent.observe(stream.step())
        agent.learn()


def _tensors(agent):
    """Every tensor that training may change, by name."""
    state = agent.state_dict()
    named = {f"network.{k}": v for k, v in state["network"].items()}
    named |= {f"target.{k}": v for k, v in state["target"].items()}
    named |= {f"moment.{k}": v for k, v in state["optimizer"].items()}
    memory = state["memory"]
    for key, value in memory.items():
        if isinstance(value, RingRows):
            named[f"memory.{key}"] = torch.from_numpy(value.read(value.first, value.written))
        elif key != "written":
            named[f"memory.{key}"] = torch.as_tensor(value)
    named |= {k: state[k] for k in ("acting_noise", "update_noise", "beta")}
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def _numbers(agent):
    """What else the next step depends on: numpy's generators and the counts."""
    state = agent.state_dict()
    names = ("exploration", "evaluation", "env_steps", "updates")
    return {name: copy.deepcopy(state[name]) for name in names}


VARIANTS = [
    *({"encoder": encoder} for encoder in ("mlp", "minatar", "nature", "dqn2013")),
    *({"optimizer": name, "momentum": 0.5} for name in ("rmsprop", "sgd", "adagrad")),
    {"double": True, "dueling": True, "n_step": 3},
    {"loss": "mse", "max_grad_norm": 0.0, "hidden": ()},
    pytest.param({"max_grad_norm": 0.05, "clip_reward": True}, marks=pytest.mark.slow),
    {"munchausen": True, "freeze": "encoder"},
    {"value_rescaling": True, "optimizer": "radam"},
    {"head": "c51", "double": True, "dueling": True, "noisy": True, "prioritised": True},
    {"head": "qr", "quantiles": 7, "n_step": 3, "value_rescaling": True},
    pytest.param(
        {"head": "iqn", "samples": 5, "target_samples": 3, "munchausen": True, "prioritised": True},
        marks=pytest.mark.slow,
    ),
    {"encoder": "impala", "spectral_norm": True, "pool": 2, "noisy": True},
    {
        "encoder": "minatar",
        "layer_norm": "channels",
        "prioritised": True,
        "noisy": True,
        "n_step": 3,
    },
    pytest.param(
        {"encoder": "impala", "freeze": "encoder", "prioritised": True, "conservative": 0.3},
        marks=pytest.mark.slow,
    ),
    {"head": "c51", "munchausen": True, "conservative": 0.3, "prioritised": True, "hidden": ()},
    pytest.param(
        {"head": "c51", "value_rescaling": True, "noisy": True, "layer_norm": "all"},
        marks=pytest.mark.slow,
    ),
    pytest.param(
        {"head": "qr", "quantiles": 7, "noisy": True, "dueling": True, "double": True},
        marks=pytest.mark.slow,
    ),
    pytest.param(
        {
            "head": "qr",
            "quantiles": 7,
            "munchausen": True,
            "prioritised": True,
            "priority_alpha": 0.0,
        },
        marks=pytest.mark.slow,
    ),
    {
        "head": "iqn",
        "samples": 5,
        "target_samples": 3,
        "policy_samples": 4,
        "noisy": True,
        "dueling": True,
        "double": True,
        "prioritised": True,
        "n_step": 3,
    },
]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_captured_update_equals_the_eager_one(random_stream, device, changes):
    eager, captured = _agent(device, **changes), _agent(device, **changes)
    begun = _tensors(captured)
    capture(captured)
    stream = random_stream(3, 1, 0, _frame(SPACES[eager.config.encoder]))
    twin = copy.deepcopy(stream)
    _train(eager, stream, 50)  # the ring of 30 rows is still growing: nothing is frozen in
    _train(captured, twin, 50)
    assert captured.updates == eager.updates
    assert _numbers(captured) == _numbers(eager)
    got, wanted = _tensors(captured), _tensors(eager)
    assert got.keys() == wanted.keys()
    for name, want in wanted.items():
        torch.testing.assert_close(got[name], want, rtol=1e-6, atol=1e-6, msg=name)
    moved = [n for n in begun if n.startswith("network") and not torch.equal(begun[n], got[n])]
    assert moved
    ours, theirs = captured.metrics(), eager.metrics()
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        *({"optimizer": name, "momentum": 0.5} for name in ("adam", "radam", "rmsprop", "sgd")),
        {"optimizer": "adagrad"},
        {"prioritised": True, "noisy": True},
        {"head": "iqn", "samples": 5, "target_samples": 3, "prioritised": True},
        {"encoder": "impala", "spectral_norm": True, "freeze": "encoder"},
    ],
    ids=str,
)
def test_capturing_leaves_every_tensor_and_generator_unchanged(random_stream, device, changes):
    agent = _agent(device, **changes)
    space = SPACES[agent.config.encoder]
    _train(agent, random_stream(3, 1, 0, _frame(space)), 10)
    twin = copy.deepcopy(agent)
    before, numbers, everyone = _tensors(agent), _numbers(agent), torch.get_rng_state()
    capture(agent)
    after = _tensors(agent)
    assert before.keys() == after.keys()
    assert [n for n in before if not torch.equal(before[n], after[n])] == []
    assert _numbers(agent) == numbers
    assert torch.equal(torch.get_rng_state(), everyone)
    assert agent.metrics() == pytest.approx(twin.metrics())  # the sums too


RAINBOW = {"head": "c51", "atoms": 7, "noisy": True, "prioritised": True, "double": True}


@pytest.mark.parametrize("changes", [{}, RAINBOW], ids=["plain", "rainbow"])
def test_a_captured_agent_loads_a_state_and_follows_it(random_stream, changes):
    eager, captured = _agent(DEVICES[-1], **changes), _agent(DEVICES[-1], **changes)
    stream = random_stream(3, 1, 0, _frame(SPACES["mlp"]))
    capture(captured)
    _train(eager, stream, 90)  # the ring has wrapped
    captured.load_state_dict(copy.deepcopy(eager.state_dict()))
    _train(eager, copy.deepcopy(stream), 20)
    _train(captured, stream, 20)
    got = _tensors(captured)
    for name, want in _tensors(eager).items():
        torch.testing.assert_close(got[name], want, rtol=1e-6, atol=1e-6, msg=name)
