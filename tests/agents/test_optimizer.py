import copy
import math
from typing import get_args

import pytest
import torch

from ludus.agents.learner import clip_norm, take_step
from ludus.agents.optimizer import decay_factors, make_optimizer
from ludus.agents.preset import AnyOptimizerName


@pytest.mark.parametrize("name", get_args(AnyOptimizerName))
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_step_equals_torchs_own_bit_for_bit(name, as_tensor):
    flat = torch.randn(999)
    ours, theirs = flat.clone(), flat.clone()
    rate = torch.tensor(1e-2) if as_tensor else 1e-2
    mine, other = (make_optimizer(name, x, 1e-2, 1e-5, momentum=0.0) for x in (ours, theirs))
    assert torch.equal(ours, flat), "making an optimizer must not move anything"
    for optimizer in (mine, other):
        optimizer.param_groups[0]["lr"] = rate
    for _ in range(5):
        gradient = torch.randn(999)
        take_step(mine, ours, gradient.clone())
        theirs.grad = gradient
        other.step()
        assert torch.equal(ours, theirs)
    assert (ours - flat).abs().min() > 0
    before, after = mine.state[ours], other.state[theirs]
    assert all(
        torch.equal(torch.as_tensor(before[key]), torch.as_tensor(after[key])) for key in after
    )


def test_plain_rmsprop_by_hand():
    """v = 0.99 v + 0.01 g^2; the step is rate * g / (sqrt(v) + eps)."""
    flat = torch.tensor([1.0])
    optimizer = make_optimizer("plain_rmsprop", flat, 0.1, 1e-5)
    v, x = 0.0, 1.0
    for g in (2.0, -1.0):
        take_step(optimizer, flat, torch.tensor([g]))
        v = 0.99 * v + 0.01 * g * g
        x -= 0.1 * g / (math.sqrt(v) + 1e-5)
        assert float(flat) == pytest.approx(x, abs=1e-5)


def test_adamw_decays_weights_but_no_biases_as_torchs_own():
    matrix, bias = torch.randn(7, 5), torch.randn(7)
    flat = torch.cat([matrix.flatten(), bias])
    factors = decay_factors([matrix, bias], 1e-2 * 0.3)
    optimizer = make_optimizer("adamw", flat, 1e-2, 1e-5, decay=factors)
    groups = [{"params": [matrix], "weight_decay": 0.3}, {"params": [bias], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, 1e-2, eps=1e-5)
    for _ in range(5):
        matrix.grad, bias.grad = torch.randn(7, 5), torch.randn(7)
        take_step(optimizer, flat, torch.cat([matrix.grad.flatten(), bias.grad]))
        theirs.step()
    torch.testing.assert_close(flat, torch.cat([matrix.flatten(), bias]))


@pytest.mark.parametrize(("limit", "expected"), [(0.0, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_a_gradient_is_scaled_down_to_the_limit(limit, expected):
    gradient = torch.tensor([3.0, 4.0])
    before = copy.deepcopy(gradient)
    assert float(clip_norm(gradient, limit)) == 5.0
    assert float(gradient.norm()) == pytest.approx(expected)
    torch.testing.assert_close(gradient / gradient.norm(), before / before.norm())
