"""Acting in a training, captured on a CPU."""

from dataclasses import replace

import pytest
import torch

from ludus.agents import registry
from ludus.agents.capture import capture
from ludus.envs.make import make
from ludus.training.loop import train_loop

REPLAY = {"learning_starts": 24, "batch_size": 8, "replay_size": 2_000, "replay_ratio": 0.1}
CASES = [
    ("dqn", "CartPole-v1", REPLAY),
    ("rainbow", "MinAtar/Breakout-v1", REPLAY),
    ("iqn", "CartPole-v1", REPLAY | {"noisy": True}),
    ("btr", "CartPole-v1", REPLAY),
    ("dqn", "tic_tac_toe", REPLAY),  # a dictionary: not traced
    ("r2d2", "CartPole-v1", REPLAY | {"sequence_length": 6, "burn_in": 2}),
    ("pqn", "CartPole-v1", {"rollout_length": 8, "minibatches": 1, "core": "gru"}),
    ("pqn", "CartPole-v1", {"rollout_length": 8, "overlap": True}),
    ("ppo", "CartPole-v1", {"rollout_length": 8, "normalize_observation": True}),
    ("ppo", "Pendulum-v1", {"rollout_length": 8, "normalize_value": True}),
    ("ppo", "MinAtar/Breakout-v1", {"rollout_length": 8, "minibatches": 1, "overlap": True}),
    ("recurrent_ppo", "CartPole-v1", {"rollout_length": 8}),
    ("recurrent_ppo", "CartPole-v1", {"rollout_length": 8, "core": "gtrxl"}),
]


@pytest.mark.parametrize(("name", "env_id", "changes"), CASES, ids=lambda x: str(x)[:40])
def test_captured_acting_follows_weights_and_statistics(name, env_id, changes):
    env = make(env_id, 4, 0)
    config = replace(registry.preset(name, env).config, **changes)
    agent = registry.build(config, env, device=torch.device("cpu"), seed=0, steps=1_000)
    capture(agent)
    actor, acted = agent.learner.actor, []
    captured = actor.assess

    def check(*given):
        found = captured(*given)
        for ours, theirs in zip(found, actor._assess(*given), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        acted.append(found)
        return found

    actor.assess = check
    train_loop(agent, env, env.reset(), agent.initial_state(4), 200, lambda *_: True)
    agent.learner.finish()
    env.close()
    assert agent.updates > 0
    assert len(acted) >= 50
