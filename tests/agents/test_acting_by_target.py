"""An agent that acts by its target network does so everywhere, and saves those weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.agent import EnvSpec
from ludus.agents.ahead import ActingAhead
from ludus.agents.capture import capture
from ludus.agents.dqn import build
from ludus.agents.dqn_config import DQNConfig

CONFIG = DQNConfig(hidden=(8,), learning_starts=0, epsilon_start=0.0, epsilon_end=0.0)
SPEC = EnvSpec(spaces.Box(-9, 9, (3,), np.float32), spaces.Discrete(4), 60)
OBS = np.random.default_rng(0).normal(0, 3, (60, 3)).astype(np.float32)
FIRST = np.zeros(60, bool)


def _agent(*, seed=0, act_by_target=True):
    """An agent whose two networks prefer other actions."""
    config = replace(CONFIG, act_by_target=act_by_target)
    agent = build(config, SPEC, device=torch.device("cpu"), seed=seed, steps=1_000)
    with torch.no_grad():
        agent.target.flat.normal_(generator=torch.Generator().manual_seed(5))
    return agent


def _best(network):
    out, _ = network(torch.from_numpy(OBS).unsqueeze(0), (), torch.zeros(1, 60, dtype=torch.bool))
    return out.q[0].argmax(-1).numpy()


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("act_by_target", [False, True])
def test_actions_of_training_and_evaluation_are_those_of_one_network(act_by_target, captured):
    agent = _agent(act_by_target=act_by_target)
    if captured:
        capture(agent)
    network, other = agent.learner.network, agent.target.network
    if act_by_target:
        network, other = other, network
    assert agent.network is network  # which is explained, attacked and exported
    best = _best(network)
    assert not np.array_equal(best, _best(other))
    assert np.array_equal(agent.act(OBS, (), FIRST)[0], best)
    assert np.array_equal(agent.predict(OBS, deterministic=True)[0], best)
    assert np.array_equal(agent.advise(OBS)[0].action, best)


def test_saved_weights_play_as_the_agent_does():
    agent = _agent()
    weights = {name: weight.clone() for name, weight in agent.weights().items()}
    other = _agent(seed=3)
    other.load_weights(weights)
    played = agent.predict(OBS, deterministic=True)[0]
    assert np.array_equal(other.predict(OBS, deterministic=True)[0], played)
    assert np.array_equal(_best(other.network), played)


def test_acting_ahead_takes_over_the_targets_weights():
    agent = _agent()
    ahead = ActingAhead(agent)
    ahead.begin(None)
    assert np.array_equal(_best(agent.learner.actor.acting_network), _best(agent.target.network))
