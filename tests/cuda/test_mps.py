"""Every kind of agent on a device that is not of CUDA and has no float64, as Apple's GPUs."""

from pathlib import Path

import pytest
from cuda_device import REASON, SIMULATED

if REASON or not SIMULATED:
    pytest.skip(REASON or "only a CPU build simulates Apple's GPUs", allow_module_level=True)
import simulator
import torch
from cuda_cases import (
    CPU,
    ENVS,
    GAMES,
    GTRXL,
    MINATAR,
    PONG,
    REPLAY,
    RESETS,
    ROLLOUT,
    SEQUENCES,
    Case,
    build,
    on_host,
    play,
)

import ludus
from ludus.agents.agent import Agent
from ludus.agents.capture import capture
from ludus.training.run import Run, TrainOptions

SIMULATES = simulator.MPS
MPS = torch.device("mps")
NORMALISED = {"normalize_observation": True}
ON_POLICY = [
    Case("ppo", changes=ROLLOUT),
    Case("ppo", "Pendulum-v1", ROLLOUT | NORMALISED),
    Case("ppo", changes=ROLLOUT | {"optimizer": "adagrad"}),
    Case("ppo_small", PONG, ROLLOUT),
    Case("a2c"),
    Case("impala", changes={"rollout_length": 8}),
    Case("recurrent_ppo", changes=GTRXL),
    Case("pqn", MINATAR, ROLLOUT),
]
SAMPLING = [  # by numbers in float32, and so not the rows that a CPU would
    Case("dqn", changes=REPLAY),
    Case("dqn", changes=REPLAY | NORMALISED),
    Case("dqn2013", PONG, REPLAY),
    Case("rainbow", changes=REPLAY),
    Case("bbf", changes=RESETS),
    Case("r2d2", changes=SEQUENCES),
    Case("alphazero", "tic_tac_toe", GAMES),
]


def _trained(case: Case, device: torch.device) -> Agent:
    agent, env = build(case, device)
    try:
        capture(agent)
        play(agent, env, 72)
    finally:
        env.close()
    assert agent.updates > 0
    return agent


@pytest.mark.parametrize("case", ON_POLICY, ids=str)
def test_an_agent_learns_what_it_learns_on_a_cpu(case: Case) -> None:
    weights = on_host(_trained(case, CPU).weights())
    for name, weight in on_host(_trained(case, MPS).weights()).items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", SAMPLING, ids=str)
def test_an_agent_with_a_memory_learns(case: Case) -> None:
    before = on_host(build(case, MPS)[0].weights())
    after = on_host(_trained(case, MPS).weights())
    assert all(weight.isfinite().all() for weight in after.values())
    assert any(not torch.equal(weight, before[name]) for name, weight in after.items())


def test_a_run_moves_to_the_device_and_back(tmp_path: Path) -> None:
    options = TrainOptions(num_envs=ENVS, eval_episodes=1, device="mps")
    ludus.train(
        "dqn",
        "CartPole-v1",
        steps=200,
        train_options=options,
        root=tmp_path,
        quiet=True,
        normalize_observation=True,
        learning_starts=50,
    )
    (folder,) = tmp_path.glob("*/*/*")
    for device, steps in (("cpu", 400), ("mps", 600)):
        ludus.resume(folder, device=device, steps=steps, quiet=True)
        status = Run.open(folder).status()
        assert status.state == "finished"
        assert status.env_steps >= steps
