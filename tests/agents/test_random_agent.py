import copy

import numpy as np
import pytest
from gymnasium import spaces
from scipy import stats

from ludus.agents.agent import Agent
from ludus.agents.memory.step import Step
from ludus.agents.random_agent import RandomAgent

OBS = spaces.Box(-1, 1, (3,), np.float32)


def _agent(seed=0, actions=None):
    return RandomAgent(OBS, actions or spaces.Discrete(5, start=2), seed)


def _act(agent, envs):
    obs, first = np.zeros((envs, 3), np.float32), np.zeros(envs, bool)
    return agent.act(obs, agent.initial_state(envs), first)[0]


def test_every_action_is_as_likely():
    actions = np.concatenate([_act(_agent(seed), 100) for seed in range(20)])
    assert set(actions.tolist()) == {2, 3, 4, 5, 6}
    assert stats.chisquare(np.bincount(actions)[2:]).pvalue > 1e-3


def test_one_seed_is_one_sequence_and_the_state_goes_on_with_it():
    one, same, other = _agent(1), _agent(1), _agent(2)
    first = _act(one, 50)
    assert np.array_equal(first, _act(same, 50))
    assert not np.array_equal(first, _act(other, 50))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert np.array_equal(_act(one, 50), _act(other, 50))


def test_decisions_are_counted_and_nothing_is_learned():
    agent = _agent()
    assert isinstance(agent, Agent)
    valid = np.array([True, False, True])
    nothing = np.zeros(3, np.float32)
    agent.observe(Step(np.zeros((3, 3)), ~valid, valid, nothing, nothing, ~valid, {}))
    assert (agent.env_steps, agent.learn(), agent.metrics(), agent.weights()) == (2, 0, {}, {})


@pytest.mark.parametrize("actions", [spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)])
def test_predict_takes_one_observation_or_a_batch(actions):
    agent = _agent(0, actions)
    assert agent.predict(np.zeros(3, np.float32))[0].shape == actions.shape
    batch, state = agent.predict(np.zeros((4, 3), np.float32))
    assert (batch.shape, state) == ((4, *actions.shape), None)
    assert all(actions.contains(action) for action in batch)
