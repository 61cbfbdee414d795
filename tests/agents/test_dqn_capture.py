import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.dqn import DQN, DQNConfig, build
from ludus.training.graphs import capture

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
    return build(config, space, ACTIONS, num_envs=3, stack=1, device=device, seed=0, steps=100)


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
    named |= {f"memory.{k}": torch.as_tensor(v) for k, v in memory.items() if k != "written"}
    return {name: tensor.detach().clone() for name, tensor in named.items()}


VARIANTS = [
    *({"encoder": encoder} for encoder in SPACES),
    *({"optimizer": name, "momentum": 0.5} for name in ("rmsprop", "sgd", "adagrad")),
    {"double": True, "dueling": True, "n_step": 3},
    {"loss": "mse", "max_grad_norm": 0.0, "hidden": ()},
    {"max_grad_norm": 0.05, "clip_reward": True},
    {"prioritised": True, "conservative": 0.3},
    {"noisy": True, "layer_norm": True},
    {"munchausen": True, "freeze": "encoder"},
    {"value_rescaling": True, "optimizer": "radam"},
    {"head": "c51", "double": True, "dueling": True, "noisy": True, "prioritised": True},
    {"head": "qr", "quantiles": 7, "n_step": 3, "value_rescaling": True},
    {"head": "iqn", "samples": 5, "target_samples": 3, "munchausen": True, "prioritised": True},
    {"encoder": "impala", "spectral_norm": True, "pool": 2, "head": "iqn", "noisy": True},
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
    got = _tensors(captured)
    for name, want in _tensors(eager).items():
        torch.testing.assert_close(got[name], want, rtol=1e-6, atol=1e-6, msg=name)
    moved = [n for n in begun if n.startswith("network") and not torch.equal(begun[n], got[n])]
    assert moved
    ours, theirs = captured.metrics(), eager.metrics()
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd", "adagrad"])
def test_capturing_leaves_every_tensor_unchanged(random_stream, device, optimizer):
    agent = _agent(device, optimizer=optimizer, momentum=0.5)
    _train(agent, random_stream(3, 1, 0, _frame(SPACES["mlp"])), 10)
    twin = copy.deepcopy(agent)
    before = _tensors(agent)
    capture(agent)
    after = _tensors(agent)
    assert before.keys() == after.keys()
    assert [n for n in before if not torch.equal(before[n], after[n])] == []
    assert agent.metrics() == pytest.approx(twin.metrics())  # the sums too


def test_a_captured_agent_loads_a_state_and_follows_it(random_stream):
    eager, captured = _agent(DEVICES[-1]), _agent(DEVICES[-1])
    stream = random_stream(3, 1, 0, _frame(SPACES["mlp"]))
    capture(captured)
    _train(eager, stream, 90)  # the ring has wrapped
    captured.load_state_dict(copy.deepcopy(eager.state_dict()))
    _train(eager, copy.deepcopy(stream), 20)
    _train(captured, stream, 20)
    got = _tensors(captured)
    for name, want in _tensors(eager).items():
        torch.testing.assert_close(got[name], want, rtol=1e-6, atol=1e-6, msg=name)
