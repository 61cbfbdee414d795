"""What a network looks at: maps against networks whose answer is known, and naive versions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from ludus.agents import registry
from ludus.agents.agent import Advice
from ludus.envs.make import make
from ludus.evaluation.saliency import NetworkInspector
from ludus.networks.cores import NoCore
from ludus.networks.heads import QOut
from ludus.networks.network import Network

FIRST = np.ones(1, bool)


class _Spot(nn.Module):
    """A convolution whose output at one place alone is passed on."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 3, 3, padding=1)
        self.at, self.dim = (row, column), 3

    def forward(self, obs):  # [N, 2, H, W]
        return self.layer(obs.to(torch.float32))[:, :, *self.at]


class _Head(nn.Module):
    def forward(self, x, chance):
        return QOut(x * torch.tensor([1.0, 2.0, 3.0]))


class _Agent:
    def __init__(self, encoder: nn.Module) -> None:
        self.network = Network(encoder, NoCore(encoder.dim), _Head())


def _pictures(seed: int, side: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 2, side, side)).astype(np.float32)


SPACE = spaces.Box(-9, 9, (2, 12, 12), np.float32)


@pytest.mark.parametrize("at", [(5, 7), (0, 0), (11, 3)])
def test_a_gradient_is_where_the_answer_comes_from_and_as_large_as_a_small_change_says(at):
    agent, obs = _Agent(_Spot(*at)), _pictures(0)
    heat = NetworkInspector(agent, SPACE).saliency("gradient", obs, None, FIRST)
    assert heat.shape == (12, 12)
    near = np.zeros((12, 12), bool)
    near[max(0, at[0] - 1) : at[0] + 2, max(0, at[1] - 1) : at[1] + 2] = True
    assert (heat[~near] == 0).all()
    assert heat.max() == 1

    def best(changed: np.ndarray) -> float:
        with torch.no_grad():
            out, _ = agent.network(torch.from_numpy(changed)[None], (), torch.ones(1, 1) > 0)
        return float(out.q.max())

    slopes = np.zeros((2, 12, 12))
    for channel, row, column in np.argwhere(np.broadcast_to(near, (2, 12, 12))):
        more = obs.copy()
        more[0, channel, row, column] += 1e-2
        slopes[channel, row, column] = abs(best(more) - best(obs)) / 1e-2
    largest = slopes.max(0)
    assert heat == pytest.approx(largest / largest.max(), abs=2e-2)


def test_feature_maps_are_the_layers_own_after_relu():
    agent, obs = _Agent(_Spot(3, 3)), _pictures(1)
    inspector = NetworkInspector(agent, SPACE)
    assert inspector.layers == ("1: 3 filters of 3x3",)
    maps = inspector.features(inspector.layers[0], obs, None, FIRST)
    with torch.no_grad():
        own = agent.network.encoder.layer(torch.from_numpy(obs))[0].clamp(min=0).numpy()
    assert maps == pytest.approx(own / own.max(), abs=1e-6)


class _Sum:
    """Values an observation by the sum of a part of it."""

    def __init__(self, rows: slice, columns: slice) -> None:
        self.part = (slice(None), slice(None), rows, columns)
        self.batches: list[int] = []

    def advise(self, obs, state=None, first=None):
        self.batches.append(len(obs))
        total = obs[self.part].astype(np.float64).sum((1, 2, 3))
        q = np.stack([total, -total], 1)
        return Advice(q.argmax(1), q.max(1), q, None), state


def _naive(obs: np.ndarray, agent: _Sum) -> np.ndarray:
    """The paper's equations 1 and 2 in loops, at every fifth pixel."""
    from scipy.ndimage import gaussian_filter

    before = agent.advise(obs)[0].q[0]
    blurred = np.stack([gaussian_filter(p, 3.0) for p in obs[0].astype(np.float32)])
    scores = np.zeros((17, 17))
    y, x = np.mgrid[:84, :84]
    for i, row in enumerate(range(0, 84, 5)):
        for j, column in enumerate(range(0, 84, 5)):
            mask = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 5.0**2))
            changed = np.rint(obs[0] * (1 - mask) + blurred * mask).astype(np.uint8)
            after = agent.advise(changed[None])[0].q[0]
            scores[i, j] = 0.5 * ((after - before) ** 2).sum()
    return scores


def test_a_perturbation_is_the_papers():
    obs = np.random.default_rng(2).integers(0, 256, (1, 1, 84, 84)).astype(np.uint8)
    agent = _Sum(slice(20, 40), slice(50, 70))
    space = spaces.Box(0, 255, (1, 84, 84), np.uint8)
    heat = NetworkInspector(agent, space).saliency("perturbation", obs, None, FIRST)
    naive = _naive(obs, agent)
    assert heat[::84, ::84] == pytest.approx(naive[:1, :1] / heat.max(), abs=0.05)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 15 <= row < 45
    assert 45 <= column < 75
    # between its points the map is drawn, at them it is the paper's
    places = np.round(np.linspace(0, 83, 17)).astype(int)
    drawn = heat[np.ix_(places, places)]
    assert np.corrcoef(drawn.ravel(), naive.ravel())[0, 1] > 0.97
    assert agent.batches[0] == 1 + 17 * 17  # asked once for all


def test_a_small_picture_loses_one_cell_at_a_time():
    obs = np.ones((1, 1, 10, 10), np.uint8)
    agent = _Sum(slice(4, 5), slice(6, 7))
    space = spaces.Box(0, 1, (1, 10, 10), np.uint8)
    heat = NetworkInspector(agent, space).saliency("perturbation", obs, None, FIRST)
    assert np.argwhere(heat > 0.5).tolist() == [[4, 6]]


@pytest.mark.parametrize("name", ["dqn", "ppo", "r2d2", "pqn"])
def test_every_agent_that_sees_pictures_can_be_looked_into(name):
    env = make("MinAtar/Breakout-v1", 1, 0)
    agent = registry.build(
        registry.preset(name, env).config,
        env,
        device=torch.device("cpu"),
        seed=0,
        steps=1,
        training=False,
    )
    row = env.reset()
    inspector = NetworkInspector(agent, env.observation_space)
    assert inspector.kinds == ("gradient", "perturbation")
    _, state = agent.advise(row.obs, None, row.first)
    threshold = torch.get_rng_state()
    for kind in inspector.kinds:
        for before in (None, state):
            heat = inspector.saliency(kind, row.obs, before, np.zeros(1, bool))
            assert heat.shape == (10, 10)
            assert 0 <= heat.min() <= heat.max() <= 1
            assert heat.max() > 0.99
    assert inspector.features(inspector.layers[0], row.obs, state, FIRST).ndim == 3
    assert all(p.grad is None for p in agent.network.parameters())  # a training goes on untouched
    assert torch.equal(torch.get_rng_state(), threshold)
    env.close()


def test_what_is_no_picture_has_no_map():
    env = make("CartPole-v1", 1, 0)
    agent = registry.build(
        registry.preset("dqn", env).config,
        env,
        device=torch.device("cpu"),
        seed=0,
        steps=1,
        training=False,
    )
    inspector = NetworkInspector(agent, env.observation_space)
    assert (inspector.kinds, inspector.layers) == ((), ())
    env.close()
