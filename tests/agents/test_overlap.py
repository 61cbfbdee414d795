"""Learning on one rollout while the next is played."""

import copy
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents import ppo, pqn
from ludus.agents.agent import EnvSpec
from ludus.agents.capture import capture
from ludus.agents.ppo_config import PPOConfig
from ludus.agents.pqn_config import PQNConfig
from ludus.envs.errors import TrainingError
from ludus.training.checkpoint import newest_checkpoint, save_checkpoint

OBS = spaces.Box(-9, 9, (3,), np.float32)
SIZES = {"hidden": (8,), "core_units": 6, "rollout_length": 6, "epochs": 2, "minibatches": 2}
RATES = {"learning_rate": 1e-2, "gamma": 0.9, "overlap": True}
PPO, PQN = PPOConfig(**SIZES, **RATES), PQNConfig(**SIZES, **RATES)
CASES = {
    "ppo": PPO,
    "ppo with V-trace": replace(PPO, vtrace=True),
    "ppo with an LSTM": replace(PPO, core="lstm"),
    "pqn": PQN,
    "pqn with a GRU": replace(PQN, core="gru"),
}
STATISTICS = {
    "normalize_observation": True,
    "normalize_reward": True,
    "normalize_value": True,
    "anneal_learning_rate": False,
    "desired_kl": 0.01,
    "vtrace": True,
}


def _agent(config, seed=0):
    build = ppo.build if isinstance(config, PPOConfig) else pqn.build
    env = EnvSpec(OBS, spaces.Discrete(4), 4)
    agent = build(config, env, device=torch.device("cpu"), seed=seed, steps=400)
    capture(agent)
    return agent


def _stream(random_stream):
    def frame(generator, t, b):
        return generator.normal(0, 1, 3).astype(np.float32)

    return random_stream(4, 1, 2, frame, actions=4)


def _train(agent, stream, rows, state=None, before_learning=lambda: None):
    state = agent.initial_state(4) if state is None else state
    for _ in range(rows):
        action, state, extras = agent.act(stream.obs[-1], state, stream.first[-1])
        before_learning()
        agent.learn()
        agent.observe(stream.step(action)._replace(extras=extras))
    return state


def _flat(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_a_rollout_is_played_by_the_network_of_one_round_before(random_stream, config):
    """Each rollout is learned again by an agent without overlap."""
    agent, plain = _agent(config), _agent(replace(config, overlap=False))
    learned, rollouts = [_flat(agent.network)], 0

    def follow():
        nonlocal rollouts
        if agent.playing.full:
            assert torch.equal(_flat(agent._overlap.network), learned[max(0, rollouts - 1)])
            plain.rollout.copy_from(agent.playing)
            plain.env_steps = agent.env_steps
            plain.learn()
            learned.append(_flat(plain.network))
            rollouts += 1

    _train(agent, _stream(random_stream), 38, before_learning=follow)
    agent.learner.finish()
    assert rollouts == 6
    assert torch.equal(_flat(agent.network), learned[-1])
    assert not torch.equal(learned[-1], learned[-2])
    assert agent.updates == plain.updates == 6 * 4


class _AtOnce:
    """Runs the updates before the next row is played."""

    def submit(self, updates):
        done = Future()
        done.set_result(updates())
        return done


class _AtLast:
    """Runs the updates when they are waited for."""

    def submit(self, updates):
        late = Future()
        late.result = updates
        return late


@pytest.mark.parametrize("config", [replace(PPO, **STATISTICS), PQN], ids=["ppo", "pqn"])
def test_the_speed_of_either_side_changes_nothing(random_stream, config):
    stream, ends = _stream(random_stream), []
    for runs in (None, _AtOnce(), _AtLast()):
        agent = _agent(config)
        if runs is not None:
            agent._overlap._thread = runs
        _train(agent, copy.deepcopy(stream), 40)
        metrics = agent.metrics()
        ends.append((agent.updates, metrics, _flat(agent._overlap.network)))
        agent.learner.finish()
        ends[-1] += (_flat(agent.network),)
    for updates, metrics, playing, learned in ends[1:]:
        assert (updates, metrics) == ends[0][:2]
        assert "loss" in metrics
        assert torch.equal(playing, ends[0][2])
        assert torch.equal(learned, ends[0][3])


@pytest.mark.parametrize("rows", [3, 9, 16])
@pytest.mark.parametrize(
    "config",
    [replace(PPO, **STATISTICS), replace(PPO, core="lstm", vtrace=True), replace(PQN, core="gru")],
    ids=["ppo", "V-trace and an LSTM", "pqn"],
)
def test_a_resume_is_exact(random_stream, tmp_path, config, rows):
    agent, fresh = _agent(config, seed=1), _agent(config, seed=2)
    stream = _stream(random_stream)
    state = _train(agent, stream, rows)
    save_checkpoint(tmp_path, 0, agent.state_dict(), keep=1)
    fresh.load_state_dict(newest_checkpoint(tmp_path)[0])
    twin = copy.deepcopy(stream)
    for each, rest in ((agent, stream), (fresh, twin)):
        _train(each, rest, 24, tuple(part.clone() for part in state))
    assert torch.equal(_flat(agent._overlap.network), _flat(fresh._overlap.network))
    weights = fresh.weights()
    assert all(torch.equal(weights[name], weight) for name, weight in agent.weights().items())
    assert agent.updates == fresh.updates > 0


def test_what_is_asked_of_an_agent_includes_the_updates_that_run(random_stream):
    agent, obs = _agent(PPO), np.ones((2, 3), np.float32)
    agent._overlap._thread = _AtLast()
    stream = _stream(random_stream)
    state = _train(agent, stream, 2)
    for ask in (
        agent.weights,
        agent.state_dict,
        lambda: agent.advise(obs),
        lambda: agent.predict(obs),
    ):
        before = _flat(agent.network)
        state = _train(agent, stream, 6, state)
        assert torch.equal(_flat(agent.network), before)
        ask()
        assert not torch.equal(_flat(agent.network), before)


def test_weights_that_are_loaded_play_at_once(random_stream):
    agent, other = _agent(PPO), _agent(PPO, seed=1)
    agent.start_from(other.weights())
    assert torch.equal(_flat(agent._overlap.network), _flat(other.network))


def test_an_error_of_the_updates_is_raised_when_the_next_rollout_is_full(random_stream):
    agent, stream = _agent(PPO), _stream(random_stream)
    state = _train(agent, stream, 6)
    agent.playing.reward[2] = np.inf
    state = _train(agent, stream, 7, state)
    with pytest.raises(TrainingError, match="became"):
        _train(agent, stream, 1, state)
    agent.learner.finish()  # it is raised once
