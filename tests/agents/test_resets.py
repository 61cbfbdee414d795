"""Resets mix the encoder with fresh weights, replace the head, and restart the optimizer."""

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

OBS = spaces.Box(-9, 9, (3,), np.float32)
ACTIONS = spaces.Discrete(4)
CONFIG = DQNConfig(
    hidden=(8,),
    head_hidden=6,
    batch_size=8,
    replay_size=400,
    learning_starts=0,
    replay_ratio=1.0,
    target_interval=1,
    polyak=0.05,
    reset_interval=5,
)

AS_BBF = {  # what goes together in it, but for the augmentation of images
    **{"head": "c51", "double": True, "dueling": True, "prioritised": True, "head_hidden": 0},
    **{"features": 5, "renormalize": True, "auxiliary": "spr", "spr_steps": 2},
    **{"act_by_target": True, "optimizer": "adamw", "n_step": 4, "n_step_end": 2},
    **{"gamma": 0.9, "gamma_end": 0.99, "horizon_updates": 4},
}


def _frame(generator, t, b):
    return generator.normal(0, 1, 3).astype(np.float32)


def _filled(random_stream, *, seed=0, captured=False, **changes):
    """An agent with 40 rows of experience; no update made."""
    config = replace(CONFIG, **changes)
    spec = EnvSpec(OBS, ACTIONS, 2)
    agent = build(config, spec, device=torch.device("cpu"), seed=seed, steps=1_000)
    if captured:
        capture(agent)
    stream = random_stream(2, 1, 3, _frame, actions=4)
    for _ in range(40):
        agent.observe(stream.step())
    return agent


def _weights(network):
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def _share(now, before, fresh):
    """The share w in now = w * before + (1 - w) * fresh; fails if no one share explains all."""
    before, fresh, now = (x.flatten().double() for x in (before, fresh, now))
    share = float(((now - fresh) @ (before - fresh)) / (before - fresh).square().sum())
    torch.testing.assert_close(now, share * before + (1 - share) * fresh, atol=1e-6, rtol=1e-5)
    return share


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("auxiliary", ["none", "spr"])
def test_encoder_is_mixed_and_the_head_is_fresh_in_all_networks(random_stream, captured, auxiliary):
    """SPR's model of transitions is mixed as the encoder, its predictor is fresh as the head."""
    changes = {"reset_keep": 0.7, "auxiliary": auxiliary, "spr_units": 5, "spr_steps": 2}
    agent = _filled(random_stream, captured=captured, **changes)
    agent.study(4, 0.1)
    twin = _filled(random_stream, **changes | {"reset_interval": 0})
    twin.load_state_dict(copy.deepcopy(agent.state_dict()))
    for each in (agent, twin):
        each.study(1, 0.1)
    seeds = np.random.default_rng([0, 6])
    pairs = [(agent.network, twin.network), (agent.target.network, twin.target.network)]
    if auxiliary == "spr":
        pairs.append((agent._auxiliary.momentum.network, twin._auxiliary.momentum.network))
    fresh = [agent._resets._fresh(int(seeds.integers(1 << 32))) for _ in range(2)]
    for (network, before), other in zip(pairs, [*fresh, fresh[1]], strict=False):
        old, new = _weights(before), _weights(other)
        for name, now in _weights(network).items():
            mixed = name.startswith(("encoder.", "auxiliary.transition."))
            share = _share(now, old[name], new[name])
            assert share == pytest.approx(0.7 if mixed else 0.0, abs=1e-4), name
    online, target = _weights(agent.network), _weights(agent.target.network)
    assert not any(torch.equal(online[name], target[name]) for name in online)
    moments = agent.learner.optimizer.state[agent.learner.trained]
    assert all(float(moment.abs().sum()) == 0 for moment in moments.values())


def test_a_features_layer_is_fresh_after_a_reset(random_stream):
    agent = _filled(random_stream, features=5, renormalize=True, learning_rate=1e-9)
    before = _weights(agent.network)
    agent.study(5, 0.1)
    fresh = _weights(agent._resets._fresh(int(np.random.default_rng([0, 6]).integers(1 << 32))))
    now = _weights(agent.network)
    assert torch.equal(now["encoder.layer.weight"], fresh["encoder.layer.weight"])
    inner = "encoder.encoder.encoder.layers.0.weight"
    torch.testing.assert_close(now[inner], (before[inner] + fresh[inner]) / 2)


def test_a_reset_agent_goes_on_learning_from_its_new_weights(random_stream):
    """A captured update reads the weights of after the reset, as one that is not."""
    runs = []
    for captured in (False, True):
        agent = _filled(random_stream, captured=captured, optimizer="adamw", weight_decay=0.1)
        agent.study(13, 0.1)
        runs.append(agent.learner.flat.clone())
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-5)
    agent = _filled(random_stream)
    agent.study(5, 0.1)
    before = agent.learner.flat.clone()
    agent.study(1, 0.1)
    assert 0 < (agent.learner.flat - before).abs().max() < 10 * CONFIG.learning_rate


def test_resets_end_after_a_share_of_the_training(random_stream):
    agents = [_filled(random_stream, reset_until=until) for until in (0.4, 0.5)]
    for agent in agents:
        agent.study(5, 0.45)
    without = _filled(random_stream, reset_interval=0)
    without.study(5, 0.45)
    assert torch.equal(agents[0].learner.flat, without.learner.flat)
    assert not torch.equal(agents[1].learner.flat, without.learner.flat)


def test_a_frozen_encoder_is_not_reset(random_stream):
    agent = _filled(random_stream, freeze="encoder")
    before = _weights(agent.network)
    agent.study(5, 0.1)
    for name, now in _weights(agent.network).items():
        assert torch.equal(now, before[name]) == name.startswith("encoder."), name


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("changes", [{}, AS_BBF], ids=["alone", "as bbf"])
def test_resets_after_a_resume_are_the_same(random_stream, captured, changes):
    agent, resumed = (
        _filled(random_stream, seed=seed, captured=captured, **changes) for seed in (1, 2)
    )
    agent.study(7, 0.1)
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    for each in (agent, resumed):
        each.study(9, 0.1)
    assert torch.equal(agent.learner.flat, resumed.learner.flat)
    assert torch.equal(agent.target.flat, resumed.target.flat)
