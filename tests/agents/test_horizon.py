"""n_step and gamma change after the start and after each reset, in captured updates too."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.agent import EnvSpec
from ludus.agents.capture import capture
from ludus.agents.dqn import build
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.horizon import AnnealedHorizon

CPU = torch.device("cpu")
CONFIG = DQNConfig(
    hidden=(8,),
    batch_size=8,
    replay_size=400,
    learning_starts=0,
    replay_ratio=1.0,
    n_step=10,
    n_step_end=3,
    gamma=0.97,
    gamma_end=0.997,
    horizon_updates=10,
    reset_interval=12,
)


def _frame(generator, t, b):
    return generator.normal(0, 1, 3).astype(np.float32)


def _filled(random_stream, *, captured=False, **changes):
    config = replace(CONFIG, **changes)
    spec = EnvSpec(spaces.Box(-9, 9, (3,), np.float32), spaces.Discrete(4), 2)
    agent = build(config, spec, device=CPU, seed=0, steps=1_000)
    if captured:
        capture(agent)
    stream = random_stream(2, 1, 3, _frame, actions=4)
    for _ in range(60):
        agent.observe(stream.step())
    return agent


@pytest.mark.parametrize(
    ("updates", "n_step", "gamma"),
    [(0, 10, 0.97), (5_000, 5, 1 - 0.03 * 0.1**0.5), (10_000, 3, 0.997), (90_000, 3, 0.997)],
)
def test_the_schedule_by_hand(updates, n_step, gamma):
    horizon = AnnealedHorizon(replace(CONFIG, horizon_updates=10_000), CPU)
    assert horizon.at(updates) == (n_step, pytest.approx(gamma, abs=1e-12))


def test_a_longer_return_at_the_end_has_room_in_the_memory(random_stream):
    agent = _filled(random_stream, n_step=2, n_step_end=7)
    assert agent.memory.n_step == 7
    found = []
    for _ in range(12):
        agent.study(1, 0.0)
        found.append(int(agent.memory.horizon.steps))
    assert (found[0], found[-1]) == (2, 7)
    assert found == sorted(found)


def test_the_schedule_begins_anew_after_a_reset(random_stream):
    agent = _filled(random_stream)
    found = []
    for _ in range(24):
        found.append(agent.metrics()["n_step"])
        agent.study(1, 0.0)
        assert int(agent.memory.horizon.steps) == found[-1]
    assert found[:12] == found[12:]
    assert (found[0], found[11]) == (10, 3)


def test_a_captured_update_learns_from_the_present_return(random_stream):
    weights = []
    for captured in (False, True):
        agent = _filled(random_stream, captured=captured)
        agent.study(9, 0.0)
        weights.append(agent.learner.flat.clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)
    constant = _filled(random_stream, captured=True, n_step_end=0, gamma_end=0.0)
    constant.study(9, 0.0)
    assert (constant.learner.flat - weights[1]).abs().max() > 1e-4


@pytest.mark.parametrize("captured", [False, True])
def test_a_resumed_schedule_goes_on_where_it_was(random_stream, captured):
    agent, resumed = (_filled(random_stream, captured=captured) for _ in range(2))
    agent.study(17, 0.0)
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    assert resumed.metrics()["n_step"] == agent.metrics()["n_step"] < 10
    for each in (agent, resumed):
        each.study(4, 0.0)
    assert torch.equal(agent.learner.flat, resumed.learner.flat)
