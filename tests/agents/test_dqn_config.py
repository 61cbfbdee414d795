"""Each field of DQNConfig changes what its docstring says, and refuses what cannot work."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from ludus.agents.agent import ConfigError
from ludus.agents.dqn import DQNConfig, build
from ludus.networks.encoders import MLP, ImpalaResNet
from ludus.networks.heads import DuelingHead, QHead

VECTOR = spaces.Box(-9, 9, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (1, 12, 12), np.uint8)
CONFIG = DQNConfig(
    hidden=(8,),
    learning_rate=1e-2,
    batch_size=8,
    gamma=0.9,
    replay_size=60,
    learning_starts=10,
    replay_ratio=0.5,
    target_interval=3,
    epsilon_steps=50,
)


def _agent(config=CONFIG, space=VECTOR, actions=None, **more):
    actions = actions or spaces.Discrete(4)
    options = {"num_envs": 2, "stack": 1, "device": torch.device("cpu"), "seed": 0} | more
    return build(config, space, actions, **options)


def _linears(module):
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def _frame(generator, t, b):
    return generator.normal(0, 1, 3).astype(np.float32)


def _trained(config, stream):
    """The weights, target and actions after the same 80 rows."""
    agent, actions = _agent(config), []
    for _ in range(80):
        actions.append(agent.act(stream.obs[-1], (), stream.first[-1], explore=True)[0])
        agent.observe(stream.step())
        agent.learn()
    both = (*agent.network.parameters(), *agent.target.parameters())
    return torch.cat([p.detach().flatten() for p in both]), np.array(actions)


TRAINING = {
    "double": True,
    "loss": "mse",
    "optimizer": "sgd",
    "learning_rate": 2e-2,
    "optimizer_eps": 1e-2,
    "max_grad_norm": 0.1,
    "batch_size": 7,
    "gamma": 0.5,
    "n_step": 2,
    "clip_reward": True,
    "replay_size": 40,
    "learning_starts": 30,
    "replay_ratio": 0.25,
    "target_interval": 4,
    "polyak": 0.5,
}
EXPLORATION = {"epsilon_start": 0.5, "epsilon_end": 0.9, "epsilon_steps": 500}
ELSEWHERE = {"encoder", "hidden", "width", "head_hidden", "dueling", "momentum"}
ELSEWHERE |= {"evaluation_epsilon"}  # test_dqn.py


@pytest.mark.parametrize(("name", "value"), TRAINING.items(), ids=str)
def test_a_field_of_the_training_changes_what_is_learned(random_stream, name, value):
    assert getattr(CONFIG, name) != value
    weights, _ = _trained(CONFIG, random_stream(2, 1, 0, _frame))
    again, _ = _trained(CONFIG, random_stream(2, 1, 0, _frame))
    changed, _ = _trained(replace(CONFIG, **{name: value}), random_stream(2, 1, 0, _frame))
    assert torch.equal(weights, again)
    assert (changed - weights).abs().max() > 1e-5


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_momentum_changes_what_is_learned(random_stream, optimizer):
    learned = [
        _trained(
            replace(CONFIG, optimizer=optimizer, momentum=momentum), random_stream(2, 1, 0, _frame)
        )[0]
        for momentum in (0.0, 0.9)
    ]
    assert (learned[0] - learned[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "value"), EXPLORATION.items(), ids=str)
def test_a_field_of_the_exploration_changes_the_actions_alone(random_stream, name, value):
    assert getattr(CONFIG, name) != value
    weights, actions = _trained(CONFIG, random_stream(2, 1, 0, _frame))
    changed = replace(CONFIG, **{name: value})
    same_weights, other_actions = _trained(changed, random_stream(2, 1, 0, _frame))
    assert not np.array_equal(actions, other_actions)
    assert torch.equal(weights, same_weights)  # the stream here does not listen to the actions


def test_no_field_is_without_a_test():
    assert {f.name for f in fields(DQNConfig)} == {*TRAINING, *EXPLORATION} | ELSEWHERE


def test_the_network_is_what_the_config_says():
    plain = _agent(replace(CONFIG, hidden=(9, 7), head_hidden=0)).network
    assert isinstance(plain.encoder, MLP)
    assert isinstance(plain.head, QHead)
    assert _linears(plain.encoder) == [(3, 9), (9, 7)]
    assert _linears(plain.head) == [(7, 4)]
    assert _linears(_agent(replace(CONFIG, head_hidden=6)).network.head) == [(8, 6), (6, 4)]
    dueling = _agent(replace(CONFIG, dueling=True, head_hidden=6)).network.head
    assert isinstance(dueling, DuelingHead)
    assert sorted(_linears(dueling)) == [(6, 1), (6, 4), (8, 6), (8, 6)]
    wide = _agent(replace(CONFIG, encoder="impala", width=3), PICTURE).network.encoder
    assert isinstance(wide, ImpalaResNet)
    assert wide.layers[0].out_channels == 48


def test_replay_size_is_what_the_memory_holds():
    assert _agent().memory.capacity == 60
    assert _agent(training=False).memory.capacity == 2 * (1 + 1 + 1)


BAD = [
    *((name, 0) for name in ("learning_rate", "optimizer_eps", "batch_size", "n_step", "width")),
    *((name, 0) for name in ("replay_size", "replay_ratio", "target_interval", "polyak")),
    *((name, -1) for name in ("learning_starts", "epsilon_steps", "momentum", "max_grad_norm")),
    *((name, -1) for name in ("head_hidden", "learning_rate", "n_step")),
    *((name, -0.1) for name in ("gamma", "epsilon_start", "epsilon_end", "evaluation_epsilon")),
    *((name, 1.1) for name in ("gamma", "polyak", "epsilon_start", "epsilon_end")),
    *((name, float("nan")) for name in ("learning_rate", "gamma", "epsilon_end", "max_grad_norm")),
    *((name, float("inf")) for name in ("learning_rate", "optimizer_eps", "replay_ratio")),
    ("evaluation_epsilon", 1.1),
    ("hidden", (8, 0)),
    ("replay_size", 7),  # below the batch of 8
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_a_value_that_cannot_work_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        replace(CONFIG, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_starts", 0),
        ("epsilon_steps", 0),
        ("max_grad_norm", 0.0),
        ("gamma", 0.0),
        ("gamma", 1.0),
        ("hidden", ()),
        ("replay_ratio", 3.0),
    ],
)
def test_a_value_at_the_edge_trains(random_stream, name, value):
    weights, _ = _trained(replace(CONFIG, **{name: value}), random_stream(2, 1, 0, _frame))
    assert weights.isfinite().all()


def test_what_does_not_suit_the_env_is_refused():
    with pytest.raises(ConfigError, match="Discrete action space"):
        _agent(actions=spaces.Box(-1, 1, (2,), np.float32))
    with pytest.raises(ConfigError, match=r"nature encoder .* shape \[3\]"):
        _agent(replace(CONFIG, encoder="nature"))
    with pytest.raises(ConfigError, match="replay_size is 60"):
        _agent(num_envs=40)
