"""What agents think of a position is what they act on."""

import numpy as np
import pytest
import torch

from ludus.agents import registry
from ludus.agents.agent import Advisor
from ludus.envs.make import make


def _agent(name, env):
    config = registry.preset(name, env).config
    return registry.build(config, env, device=torch.device("cpu"), seed=1, steps=9, training=False)


@pytest.mark.parametrize("env_id", ["connect_four", "CartPole-v1"])
@pytest.mark.parametrize("name", ["dqn", "rainbow", "pqn", "r2d2", "ppo", "recurrent_ppo"])
def test_advice_is_what_predict_does(name, env_id):
    env = make(env_id, 3, 0)
    agent = _agent(name, env)
    assert isinstance(agent, Advisor)
    row, state, advised_state = env.reset(), None, None
    for _ in range(6):
        first = row.first
        advice, advised_state = agent.advise(row.obs, advised_state, first)
        actions, state = agent.predict(row.obs, state, first, deterministic=True)
        assert (advice.action == actions).all()
        assert advice.value.shape == (3,)
        if advice.q is not None:
            assert (np.nanargmax(advice.q, 1) == actions).all()
            np.testing.assert_allclose(advice.value, np.nanmax(advice.q, 1))
        else:
            assert (advice.probability.argmax(1) == actions).all()
            np.testing.assert_allclose(advice.probability.sum(1), 1, rtol=1e-5)
        env.send(actions)
        row = env.recv()


def test_illegal_moves_have_no_value_and_no_probability():
    env = make("connect_four", 1, 0)
    row = env.reset()
    for _ in range(6):  # the first column is full
        env.send(np.array([0]))
        row = env.recv()
    assert np.isnan(_agent("dqn", env).advise(row.obs)[0].q[0]).tolist() == [True] + [False] * 6
    assert _agent("ppo", env).advise(row.obs)[0].probability[0, 0] == 0
    searched = _agent("alphazero", env).advise(row.obs)[0]
    assert searched.probability[0, 0] == 0
    assert np.isnan(searched.q[0, 0])
    assert -1 <= searched.value[0] <= 1


def test_a_policy_of_continuous_actions_has_no_probabilities():
    env = make("Pendulum-v1", 2, 0)
    advice, _ = _agent("ppo", env).advise(env.reset().obs)
    assert advice.probability is None
    assert advice.q is None
    assert advice.action.shape == (2, 1)
