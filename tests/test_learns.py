"""Learning tests: each mechanism on the probe that isolates it, then real envs, several seeds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ludus.agents import presets
from ludus.agents.dqn import DQN, DQNConfig
from ludus.envs.make import EnvOptions, make
from ludus.training.evaluate import evaluate
from ludus.training.graphs import capture
from ludus.training.loop import train_loop

SEEDS = (0, 1, 2)
PROBE = DQNConfig(
    hidden=(32,),
    learning_rate=3e-3,
    gamma=0.9,
    replay_size=2_000,
    learning_starts=100,
    replay_ratio=0.5,
    target_interval=20,
    epsilon_steps=1_500,
    epsilon_end=0.1,
)


@pytest.fixture(autouse=True)
def _one_thread():
    """Small networks are faster on one thread, and runs repeat on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _trained(env_id, config, steps, seed, options=None, num_envs=8) -> DQN:
    env = make(env_id, num_envs, seed, options)
    agent = presets.build(config, env, device=torch.device("cpu"), seed=seed)
    assert isinstance(agent, DQN)
    capture(agent)
    state = agent.initial_state(num_envs)
    train_loop(agent, env, env.reset(), state, steps, lambda row, state: True)
    env.close()
    return agent


def _score(agent, env_id, episodes=20, options=None) -> float:
    return evaluate(agent, env_id, options or EnvOptions(), episodes=episodes).mean


@pytest.mark.parametrize("seed", SEEDS)
def test_identity(seed):
    agent = _trained("ludus/Identity-v0", PROBE, 3_000, seed)
    assert _score(agent, "ludus/Identity-v0") == 10


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_delayed_reward(seed, n_step):
    agent = _trained("ludus/DelayedReward-v0", replace(PROBE, n_step=n_step), 5_000, seed)
    assert _score(agent, "ludus/DelayedReward-v0") == 1


def _value_of_going_on(agent) -> float:
    with torch.no_grad():
        out, _ = agent.network(torch.ones(1, 1, 1), (), torch.zeros(1, 1, dtype=torch.bool))
    return float(out.q[0, 0, 0])


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_truncation_is_bootstrapped_across(seed, n_step):
    """1 / (1 - 0.9) = 10; who takes the cut for an end learns at most 1 + ... + 0.9^4 = 4.1."""
    agent = _trained("ludus/Truncation-v0", replace(PROBE, n_step=n_step), 6_000, seed)
    assert _value_of_going_on(agent) == pytest.approx(10, abs=0.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_recall_needs_the_stack_of_frames(seed):
    """The symbol is 3 steps old when asked for: in a stack of 4, not in one of 3."""
    for stack, solved in ((4, True), (3, False)):
        options = EnvOptions(stack=stack)
        agent = _trained("ludus/Recall-v0", PROBE, 5_000, seed, options)
        score = _score(agent, "ludus/Recall-v0", 100, options)
        assert (score > 0.95) == solved, f"{score} with a stack of {stack}"


@pytest.mark.parametrize(
    "change",
    [
        {"double": True},
        {"dueling": True},
        {"loss": "mse"},
        {"polyak": 0.05, "target_interval": 1},
        {"optimizer": "rmsprop", "learning_rate": 1e-3, "optimizer_eps": 1e-5},
        {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9},
        {"optimizer": "adagrad", "learning_rate": 0.05},
    ],
    ids=lambda change: next(iter(change)) + "-" + str(next(iter(change.values()))),
)
def test_every_variant_learns_the_delayed_reward(change):
    agent = _trained("ludus/DelayedReward-v0", replace(PROBE, **change), 6_000, seed=0)
    assert _score(agent, "ludus/DelayedReward-v0") == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_cartpole_within_100_000_steps(seed):
    """475 is where Gymnasium calls CartPole-v1 solved."""
    env = make("CartPole-v1", 1)
    config = presets.preset("dqn", env)
    agent = _trained("CartPole-v1", config, 50_000, seed, num_envs=16)
    assert _score(agent, "CartPole-v1") >= 475


@pytest.mark.parametrize("seed", SEEDS)
def test_minatar_breakout_is_clearly_above_random(seed):
    """A random player scores 0.5 (1,000 games); 3 is out of its reach."""
    env_id = "MinAtar/Breakout-v1"
    config = replace(presets.preset("dqn", make(env_id, 1)), epsilon_steps=10_000)
    agent = _trained(env_id, config, 30_000, seed)
    assert _score(agent, env_id, 50) >= 3
    assert np.isfinite(agent.metrics()["loss"])
