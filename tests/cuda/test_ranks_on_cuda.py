"""Ranks on a CUDA device: what lies on both sides of their exchange is captured."""

import pytest
from cuda_device import REASON, SIMULATED

if REASON:
    pytest.skip(REASON, allow_module_level=True)

import torch
from cuda_cases import MINATAR, REPLAY, ROLLOUT, Case, build, on_host, play
from torch import Tensor

from ludus.agents.agent import Agent
from ludus.agents.capture import capture
from ludus.agents.ranks import Ranks

CASES = [
    Case("rainbow", MINATAR, REPLAY),
    Case("ppo", "Pendulum-v1", ROLLOUT | {"normalize_observation": True}),
    Case("pqn", MINATAR, ROLLOUT),
]


class Twins(Ranks):
    """Two ranks with the same rows: a mean over them is what each has."""

    def __init__(self) -> None:
        super().__init__()
        self.size, self.sums = 2, 0

    def sum(self, x: Tensor) -> Tensor:
        self.sums += 1
        return x + x

    def mean(self, x: Tensor) -> Tensor:
        return self.sum(x) / 2

    def gather(self, *numbers: int) -> Tensor:
        return torch.tensor([numbers, numbers])

    def all(self, condition: bool) -> bool:
        return condition


def _trained(case: Case, twins: Twins | None) -> Agent:
    agent, env = build(case)
    try:
        if twins is not None:
            agent.learner.join(twins, twins)
            capture(agent)
            assert agent.learner.gradients.__name__ == "replay"
        play(agent, env, 120)
    finally:
        env.close()
    assert agent.updates > 5
    return agent


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_that_exchange_between_two_graphs_learn_as_one_without_graphs(case: Case) -> None:
    twins = Twins()
    weights, alone = _trained(case, twins).weights(), on_host(_trained(case, None).weights())
    assert twins.sums > 5
    for name, weight in on_host(weights).items():
        if SIMULATED:
            assert torch.equal(weight, alone[name]), name
        else:
            torch.testing.assert_close(weight, alone[name], rtol=1e-2, atol=1e-3)
