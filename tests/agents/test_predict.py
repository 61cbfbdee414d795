"""`predict` with Stable-Baselines3's signature, for every agent."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents import registry
from ludus.agents.agent import EnvSpec
from ludus.envs.dict_observation import PackedDict
from ludus.envs.make import make

SPACE = PackedDict(
    {
        "image": spaces.Box(0, 255, (3, 10, 10), np.uint8),
        "speed": spaces.Box(-9, 9, (2,), np.float32),
    }
)
ENV = EnvSpec(SPACE, spaces.Discrete(4), num_envs=3, env_id="dictionaries")
# one of each class, and of each kind of network and head
AGENTS = ["dqn", "c51", "iqn", "rainbow", "pqn", "r2d2", "ppo", "recurrent_ppo", "a2c", "random"]


def _agent(name, env):
    config = registry.preset(name, env).config
    return registry.build(config, env, device=torch.device("cpu"), seed=0, steps=9, training=False)


def _dictionaries(count, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "image": generator.integers(0, 256, (count, 3, 10, 10), np.uint8),
        "speed": generator.normal(0, 1, (count, 2)).astype(np.float32),
    }


@pytest.mark.parametrize("name", [*AGENTS, "sb3:dqn", "sb3:ppo"])
def test_dictionaries_are_predicted_as_their_packed_arrays(name):
    batch = _dictionaries(5)
    packed, one = SPACE.pack(batch), {key: value[2] for key, value in batch.items()}
    agents = [_agent(name, ENV) for _ in range(4)]  # the random agent's generator moves
    if name.startswith("sb3"):
        weights = _sb3_weights(agents[0])
        for agent in agents:
            agent.load_weights(weights)
    for deterministic in (True, False):
        actions, _ = agents[0].predict(batch, deterministic=deterministic)
        expected, _ = agents[1].predict(packed, deterministic=deterministic)
        assert actions.shape == (5,)
        if deterministic or not name.startswith("sb3"):  # SB3 samples from torch's generator
            assert np.array_equal(actions, expected)
    single, _ = agents[2].predict(one, deterministic=True)
    alone, _ = agents[3].predict(packed[2], deterministic=True)
    assert np.ndim(single) == 0
    assert single == alone


def _sb3_weights(agent):
    agent._model = agent._make(_spaces_only(), 1)
    return agent.weights()


def _spaces_only():
    from ludus.agents.sb3 import _SpacesOnly

    return _SpacesOnly(SPACE, ENV.action_space)


def test_a_board_position_is_predicted_as_a_dictionary():
    env = make("tic_tac_toe", 2)
    for name in ("alphazero", "dqn", "random"):
        agents = [_agent(name, env) for _ in range(2)]
        row = env.reset()
        parts = {
            key: env.observation_space.part(torch.from_numpy(row.obs), key).numpy()
            for key in env.observation_space.parts
        }
        actions, _ = agents[0].predict(parts, deterministic=True)
        assert np.array_equal(actions, agents[1].predict(row.obs, deterministic=True)[0])


@pytest.mark.parametrize("name", ["dqn", "pqn", "r2d2", "ppo", "random"])
def test_a_dictionary_is_refused_by_an_agent_of_arrays(name):
    env = EnvSpec(spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(2), env_id="vectors")
    with pytest.raises(ValueError, match="this agent was trained on arrays"):
        _agent(name, env).predict({"a": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match=r"has shape \[5\]; this agent was trained on \[4\]"):
        _agent(name, env).predict(np.zeros((2, 5), np.float32))
