"""Learning tests: each mechanism on the probe env that isolates it, then real envs.

`make test` runs one seed of each mechanism and each env; `make test-all` adds the tests marked
`slow`, and `make learn` runs all of them with five seeds.
"""

import os
from dataclasses import replace

import pytest
import torch
from scipy.stats import mannwhitneyu

from ludus.agents import registry
from ludus.agents.agent import Agent
from ludus.agents.capture import capture
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.ppo_config import PPOConfig
from ludus.agents.pqn_config import PQNConfig
from ludus.agents.r2d2_config import R2D2Config
from ludus.agents.random_agent import RandomConfig
from ludus.envs.board.backend import observation_space, observations
from ludus.envs.board.spiel import make_game
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.evaluate import evaluate, torch_settings
from ludus.training.loop import train_loop

slow = pytest.mark.slow
SEEDS = [0] + [pytest.param(n, marks=slow) for n in range(1, int(os.environ.get("SEEDS", "2")))]
REAL_SEEDS = SEEDS if "SEEDS" in os.environ else SEEDS[:1]  # for envs that are not probes
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


def _trained(env_id, config, steps, seed, options=None, num_envs=8, until=None) -> Agent:
    """Train for `steps` env steps, or until the callback that `until(agent)` makes is False."""
    env = make(env_id, num_envs, seed, options)
    agent = registry.build(config, env, device=torch.device("cpu"), seed=seed, steps=steps)
    assert isinstance(agent, Agent)
    capture(agent)
    state = agent.initial_state(num_envs)
    with torch_settings(env):
        on_step = until(agent) if until else lambda row, state: True
        train_loop(agent, env, env.reset(), state, steps, on_step)
    env.close()
    return agent


def _score(agent, env_id, episodes=20, options=None) -> float:
    return evaluate(agent, env_id, options or EnvOptions(), episodes=episodes).mean


@pytest.mark.parametrize("seed", SEEDS)
def test_identity(seed):
    agent = _trained("ludus/Identity-v0", PROBE, 3_000, seed)
    assert _score(agent, "ludus/Identity-v0") == 10


@pytest.mark.parametrize("n_step", [pytest.param(1, marks=slow), 3])
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
    """The value is 1 / (1 - 0.9) = 10; without bootstrapping, at most 1 + ... + 0.9^4 = 4.1."""
    agent = _trained("ludus/Truncation-v0", replace(PROBE, n_step=n_step), 6_000, seed)
    assert _value_of_going_on(agent) == pytest.approx(10, abs=0.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_recall_needs_the_stack_of_frames(seed):
    """The symbol is 3 steps old when it is needed: inside a stack of 4, outside one of 3."""
    for stack, solved in ((4, True), (3, False)):
        options = EnvOptions(stack=stack)
        agent = _trained("ludus/Recall-v0", PROBE, 5_000, seed, options)
        score = _score(agent, "ludus/Recall-v0", 100, options)
        assert (score > 0.95) == solved, f"{score} with a stack of {stack}"


RAINBOW = {
    "double": True,
    "dueling": True,
    "prioritised": True,
    "n_step": 3,
    "noisy": True,
    "head_hidden": 16,
    "epsilon_start": 0.0,
    "epsilon_end": 0.0,
    "head": "c51",
    "v_min": -1.5,
    "v_max": 1.5,
}
IQN = {"head": "iqn", "samples": 8, "target_samples": 8}


@pytest.mark.parametrize("change", [RAINBOW, IQN | {"munchausen": True}], ids=["rainbow", "m-iqn"])
@pytest.mark.parametrize("seed", SEEDS)
def test_mechanisms_combined_learn_the_delayed_reward(change, seed):
    agent = _trained("ludus/DelayedReward-v0", replace(PROBE, **change), 6_000, seed)
    assert _score(agent, "ludus/DelayedReward-v0") == 1


@slow
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
        {"optimizer": "radam"},
        {"layer_norm": "channels"},
        {"prioritised": True},
        {"noisy": True, "head_hidden": 16, "epsilon_start": 0.0, "epsilon_end": 0.0},
        {"head": "c51", "v_min": -1.5, "v_max": 1.5},
        {"head": "qr", "quantiles": 10},
        IQN,
        {"munchausen": True},
        {"value_rescaling": True},
        {"conservative": 0.01},
    ],
    ids=lambda change: next(iter(change)) + "-" + str(next(iter(change.values()))),
)
def test_every_variant_learns_the_delayed_reward(change):
    agent = _trained("ludus/DelayedReward-v0", replace(PROBE, **change), 6_000, seed=0)
    assert _score(agent, "ludus/DelayedReward-v0") == 1


def _recurrent(core, **changes) -> R2D2Config:
    """Configure a small R2D2 whose sequences hold whole episodes of 21 steps."""
    config = R2D2Config(hidden=(32,), core=core, core_units=32, batch_size=16, gamma=0.99)
    config = replace(config, sequence_length=44, burn_in=0, n_step=3, learning_rate=2e-3)
    config = replace(config, replay_ratio=1 / 16, target_interval=1, polyak=0.02)
    return replace(config, replay_size=20_000, **changes)


@pytest.mark.parametrize("seed", SEEDS)
def test_r2d2_recalls_what_it_saw_20_steps_before(seed):
    agent = _trained("ludus/LongRecall-v0", _recurrent("lstm"), 14_000, seed, num_envs=16)
    assert _score(agent, "ludus/LongRecall-v0", 100) >= 0.9  # 95% of the games, 1 or -1 each


@slow
def test_r2d2_recalls_with_a_gru_and_after_a_burn_in():
    config = replace(_recurrent("gru"), sequence_length=10, burn_in=4)
    agent = _trained("ludus/Recall-v0", config, 7_000, 0)
    assert _score(agent, "ludus/Recall-v0", 100) >= 0.9


def test_without_memory_nothing_is_recalled():
    agent = _trained("ludus/LongRecall-v0", PROBE, 14_000, 0, num_envs=16)
    assert abs(_score(agent, "ludus/LongRecall-v0", 100)) < 0.4


PROBE_PQN = PQNConfig(hidden=(32,), gamma=0.9, learning_rate=2e-3, minibatches=4, epsilon_end=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_pqn_learns_the_delayed_reward(seed):
    agent = _trained("ludus/DelayedReward-v0", PROBE_PQN, 12_000, seed)
    assert _score(agent, "ludus/DelayedReward-v0") == 1


@pytest.mark.parametrize(
    ("core", "solved"), [("lstm", True), pytest.param("gru", True, marks=slow), ("none", False)]
)
def test_pqn_recalls_with_a_core(core, solved):
    agent = _trained("ludus/Recall-v0", replace(PROBE_PQN, core=core, core_units=16), 12_000, 0)
    assert (_score(agent, "ludus/Recall-v0", 100) > 0.95) == solved


@pytest.mark.parametrize("seed", REAL_SEEDS)
def test_pqn_keeps_cartpole_up(seed):
    config = registry.preset("pqn", make("CartPole-v1", 1)).config
    solved = _until("CartPole-v1", 475, every=10_000)
    agent = _trained("CartPole-v1", config, 100_000, seed, num_envs=16, until=solved)
    assert _score(agent, "CartPole-v1") >= 475


PROBE_PPO = PPOConfig(
    hidden=(32,),
    core_units=32,
    learning_rate=1e-3,
    rollout_length=64,
    epochs=4,
    minibatches=4,
    entropy_coef=0.01,
)


@pytest.mark.parametrize("env_id", ["ludus/Identity-v0", "ludus/DelayedReward-v0"])
@pytest.mark.parametrize("seed", SEEDS)
def test_ppo_solves_the_probes(env_id, seed):
    agent = _trained(env_id, PROBE_PPO, 15_000, seed)
    assert _score(agent, env_id) == (10 if "Identity" in env_id else 1)


@pytest.mark.parametrize("statistics", [pytest.param(False, marks=slow), True])
def test_ppo_bootstraps_across_a_truncation(statistics):
    """v = p (1 + 0.9 v) + (1 - p) 2, with p the probability of continuing; 10 if p is 1."""
    config = replace(PROBE_PPO, gamma=0.9, normalize_value=statistics)
    agent = _trained("ludus/Truncation-v0", config, 30_000, 0)
    with torch.no_grad():
        out, _ = agent.network(torch.ones(1, 1, 1), (), torch.zeros(1, 1, dtype=torch.bool))
    p = float(out.logits.softmax(-1)[0, 0, 0])
    assert p > 0.9
    want = (p + 2 * (1 - p)) / (1 - 0.9 * p)
    assert float(out.value) == pytest.approx(want, rel=0.15)


@pytest.mark.parametrize(
    "core", ["lstm", pytest.param("gru", marks=slow), pytest.param("gtrxl", marks=slow)]
)
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_ppo_recalls_what_it_saw_20_steps_before(core, seed):
    config = replace(PROBE_PPO, core=core)
    solved = _until("ludus/LongRecall-v0", 0.99, every=10_000)
    agent = _trained("ludus/LongRecall-v0", config, 40_000, seed, num_envs=16, until=solved)
    assert _score(agent, "ludus/LongRecall-v0", 100) >= 0.9  # 95% of the games, 1 or -1 each


@slow
def test_ppo_without_memory_recalls_nothing():
    agent = _trained("ludus/LongRecall-v0", PROBE_PPO, 15_000, 0, num_envs=16)
    assert abs(_score(agent, "ludus/LongRecall-v0", 100)) < 0.4


@pytest.mark.parametrize(
    ("env_id", "steps", "score"),
    [
        ("CartPole-v1", 60_000, 475),  # Gymnasium's threshold
        pytest.param("Acrobot-v1", 80_000, -100, marks=slow),  # the same; random scores -500
        ("Pendulum-v1", 60_000, -350),  # random scores about -1,200
    ],
)
@pytest.mark.parametrize("seed", REAL_SEEDS)
def test_ppo_solves_classic_control(env_id, steps, score, seed):
    env = make(env_id, 1)
    config = registry.preset("ppo", env).config
    env.close()
    agent = _trained(env_id, config, steps, seed, num_envs=16)
    assert _score(agent, env_id) >= score


@pytest.mark.parametrize("seed", REAL_SEEDS)
def test_recurrent_ppo_keeps_a_cartpole_up_whose_speeds_it_does_not_see(seed):
    env_id = "ludus/MaskedCartPole-v0"
    config = registry.preset("recurrent_ppo", make(env_id, 1)).config
    solved = _until(env_id, 475, every=20_000)
    agent = _trained(env_id, config, 100_000, seed, num_envs=16, until=solved)
    assert _score(agent, env_id) >= 450


@pytest.mark.parametrize("name", ["a2c", pytest.param("impala", marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", REAL_SEEDS)
def test_an_actor_critic_keeps_cartpole_up(name, seed):
    config = registry.preset(name, make("CartPole-v1", 1)).config
    solved = _until("CartPole-v1", 475, every=20_000)
    agent = _trained("CartPole-v1", config, 200_000, seed, num_envs=16, until=solved)
    assert _score(agent, "CartPole-v1") >= 475


def _until(env_id, score, every):
    """Evaluate every `every` env steps and end the training once the score is reached."""

    def start(agent):
        due = every

        def on_step(row, state):
            nonlocal due
            if agent.env_steps < due:
                return True
            due += every
            return _score(agent, env_id) < score

        return on_step

    return start


@pytest.mark.parametrize("seed", REAL_SEEDS)
def test_cartpole_within_100_000_steps(seed):
    """Gymnasium's threshold for a solved CartPole-v1 is 475."""
    config = registry.preset("dqn", make("CartPole-v1", 1)).config
    solved = _until("CartPole-v1", 475, every=10_000)
    agent = _trained("CartPole-v1", config, 100_000, seed, num_envs=16, until=solved)
    assert _score(agent, "CartPole-v1") >= 475


@pytest.mark.parametrize("seed", REAL_SEEDS)
def test_minatar_breakout_is_clearly_above_random(seed):
    env_id, options = "MinAtar/Breakout-v1", EnvOptions()
    preset = registry.preset("dqn", make(env_id, 1)).config
    config = replace(preset, epsilon_steps=10_000, learning_starts=1_000)
    agent = _trained(env_id, config, 30_000, seed)
    player = registry.build(
        RandomConfig(), make(env_id, 1), device=torch.device("cpu"), seed=0, steps=1
    )
    at_random = evaluate(player, env_id, options, episodes=200)
    trained = evaluate(agent, env_id, options, episodes=50)
    assert at_random.mean < 0.8
    assert trained.mean > 3 * at_random.mean
    assert mannwhitneyu(trained.returns, at_random.returns, alternative="greater").pvalue < 1e-6


def lines_lost(agent) -> int:
    """Count lost games of tic-tac-toe over all replies of the opponent, playing either side."""
    game = make_game("tic_tac_toe")
    space, lost = observation_space(game), 0
    for begins in (True, False):
        board, moves = game.init(1), begins
        while len(board):
            if moves:
                chosen, _ = agent.predict(observations(game, space, board), deterministic=True)
                row, action = torch.arange(len(board)), torch.from_numpy(chosen)
            else:
                row, action = game.legal_actions(board).nonzero(as_tuple=True)
            move = game.step(board[row], action)
            lost += 0 if moves else int((move.reward > 0).sum())
            board, moves = move.board[~move.terminated].unique(dim=0), not moves
    return lost


@pytest.mark.parametrize("seed", [0])
def test_alphazero_never_loses_at_tic_tac_toe(seed):
    """Tested against every sequence of replies; `benchmarks/README.md` has more seeds."""
    env = make("tic_tac_toe", 1)
    config = replace(
        registry.preset("alphazero", env).config, tower_channels=16, blocks=2, simulations=16
    )
    untrained = registry.build(config, env, device=torch.device("cpu"), seed=seed, steps=1)
    assert lines_lost(untrained) > 0
    agent = _trained("tic_tac_toe", config, 25_000, seed, num_envs=128)
    assert lines_lost(agent) == 0
