import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ludus.networks.cores import make_core
from ludus.networks.transformer import Transformer

DIM, UNITS, WINDOW = 3, 8, 3


def _core(window=WINDOW, layers=2) -> Transformer:
    core = make_core("gtrxl", DIM, UNITS, layers=layers, heads=2, window=window)
    with torch.no_grad():  # so that the gates let something through, and positions matter
        for parameter in core.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
        core.embedding.bias.fill_(3.0)  # no unit is dead
    return core


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**31))
def test_a_row_at_a_time_gives_what_a_whole_rollout_gives(steps, envs, window, seed):
    torch.manual_seed(seed)
    core = _core(window).double()  # a difference would be of the rows, not of rounding
    x, first = torch.randn(steps, envs, DIM).double(), torch.rand(steps, envs) < 0.25
    state = tuple(s.double() if s.is_floating_point() else s for s in core.initial_state(envs))
    _, state = core(torch.randn(4, envs, DIM).double(), state, torch.rand(4, envs) < 0.25)
    whole, end = core(x, state, first)
    rows = []
    for t in range(steps):
        row, state = core(x[t : t + 1], state, first[t : t + 1])
        rows.append(row)
    torch.testing.assert_close(torch.cat(rows), whole)
    torch.testing.assert_close(state[1], end[1])
    seen = torch.arange(window) >= window - end[1].unsqueeze(-1)  # [envs, window]
    torch.testing.assert_close(state[0][seen], end[0][seen])


def test_nothing_crosses_an_episode_opening():
    core = _core(window=9)
    _, state = core(torch.randn(4, 2, DIM), core.initial_state(2), torch.zeros(4, 2).bool())
    past = state[0].clone().requires_grad_()
    x = torch.randn(5, 2, DIM, requires_grad=True)
    first = torch.zeros(5, 2, dtype=torch.bool)
    first[3, 0] = True  # env 0 opens at t = 3; env 1 runs through
    out, _ = core(x, (past, state[1]), first)
    to_x, to_past = torch.autograd.grad(out[4].sum(), [x, past])
    assert (to_x[:3, 0] == 0).all()
    assert (to_past[0] == 0).all()
    assert (to_x[3:, 0] != 0).any(-1).all()
    assert (to_x[:, 1] != 0).any(-1).all()
    assert (to_past[1, -4:, 0] != 0).any(-1).all()  # the four rows that were seen
    assert (to_past[1, :-4] == 0).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_a_row_sees_its_window_once_a_layer_and_no_further(layers):
    core = _core(layers=layers)
    x = torch.randn(12, 1, DIM, requires_grad=True)
    out, _ = core(x, core.initial_state(1), torch.zeros(12, 1, dtype=torch.bool))
    (slope,) = torch.autograd.grad(out[-1].sum(), x)
    reached = (slope != 0).any(-1).flatten().tolist()
    assert reached == [False] * (11 - WINDOW * layers) + [True] * (WINDOW * layers + 1)


def test_one_block_equals_loops_over_queries_and_keys():
    core, steps = _core(layers=1), 6
    x = torch.randn(steps, 1, DIM)
    out, _ = core(x, core.initial_state(1), torch.zeros(steps, 1, dtype=torch.bool))
    block, rows = core.blocks[0], F.relu(core.embedding(x))[:, 0]  # [T, units]
    normed = F.layer_norm(rows, (UNITS,), block.attention_norm.weight, block.attention_norm.bias)
    keys, values = (normed @ block.key_value.weight.t()).split(UNITS, -1)
    for t in range(steps):
        query = block.query.weight @ normed[t]
        heads = []
        for h in range(2):
            at = slice(4 * h, 4 * h + 4)
            back = range(min(t, WINDOW), -1, -1)
            content = query[at] + block.content_bias[h]
            position = query[at] + block.position_bias[h]
            scores = [content @ keys[t - d, at] + position @ block.position[d, h] for d in back]
            weights = (torch.stack(scores) / math.sqrt(4)).softmax(0)
            heads.append(sum(w * values[t - d, at] for w, d in zip(weights, back, strict=True)))
        found = F.relu(block.out.weight @ torch.cat(heads))
        y = _gated(block.attention_gate, rows[t], found)
        normed_y = F.layer_norm(y, (UNITS,), block.layers_norm.weight, block.layers_norm.bias)
        y = _gated(block.layers_gate, y, F.relu(block.layers(normed_y)))
        torch.testing.assert_close(out[t, 0], y, rtol=1e-4, atol=1e-5)


def _gated(gate, x, y):
    """Equations of section 3.2, gate by gate."""
    of_y, of_x = gate.of_y.weight.split(UNITS), gate.of_x.weight.split(UNITS)
    reset = torch.sigmoid(of_y[0] @ y + of_x[0] @ x)
    update = torch.sigmoid(of_y[1] @ y + of_x[1] @ x - gate.bias)
    candidate = torch.tanh(of_y[2] @ y + gate.of_reset.weight @ (reset * x))
    return (1 - update) * x + update * candidate


def test_a_fresh_gate_lets_its_input_through():
    core = make_core("gtrxl", DIM, 64, heads=4, window=8)
    x = torch.randn(5, 2, DIM)
    out, _ = core(x, core.initial_state(2), torch.zeros(5, 2, dtype=torch.bool))
    embedded = F.relu(core.embedding(x))
    assert F.cosine_similarity(out, embedded, dim=-1).mean() > 0.9


def test_heads_that_do_not_divide_the_units_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide 8 units"):
        make_core("gtrxl", DIM, UNITS, heads=3)


def test_a_window_learns_to_recall_over_20_steps():
    torch.manual_seed(7)
    core = make_core("gtrxl", 3, 16, heads=2, window=20)
    head = nn.Linear(core.dim, 2)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], 3e-3)
    first = torch.zeros(21, 64, dtype=torch.bool)
    first[0] = True
    correct = []
    for _ in range(150):
        symbol = torch.randint(2, (64,))
        x = torch.randn(21, 64, 3) * 0.1
        x[0, :, :2] = F.one_hot(symbol, 2).float()
        x[-1, :, 2] = 1.0
        out, _ = core(x, core.initial_state(64), first)
        scores = head(out[-1])
        optimizer.zero_grad()
        F.cross_entropy(scores, symbol).backward()
        optimizer.step()
        correct.append(float((scores.argmax(-1) == symbol).float().mean()))
    assert sum(correct[-10:]) / 10 > 0.95
