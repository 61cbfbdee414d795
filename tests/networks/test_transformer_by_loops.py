import math

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ludus.networks.cores import make_core

DIM, UNITS, HEADS = 3, 4, 2


def _core(layers, window):
    core = make_core("gtrxl", DIM, UNITS, layers=layers, heads=HEADS, window=window)
    with torch.no_grad():  # so that the gates let something through, and biases matter
        for parameter in core.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
    return core


def _gated(gate, x, y):
    of_y, of_x = gate.of_y.weight.split(UNITS), gate.of_x.weight.split(UNITS)
    reset = torch.sigmoid(of_y[0] @ y + of_x[0] @ x)
    update = torch.sigmoid(of_y[1] @ y + of_x[1] @ x - gate.bias)
    return (1 - update) * x + update * torch.tanh(of_y[2] @ y + gate.of_reset.weight @ (reset * x))


def _by_loops(core, window, x, first):
    """One env [T, DIM] from its beginning: every layer, query, head and key in a loop."""
    each, rows = UNITS // HEADS, [F.relu(core.embedding(row)) for row in x]
    for block in core.blocks:
        normed = [block.attention_norm(row) for row in rows]
        after, opened = [], 0
        for t, row in enumerate(rows):
            opened = t if first[t] else opened
            seen = range(max(opened, t - window), t + 1)
            found = []
            for h in range(HEADS):
                of_query = slice(h * each, (h + 1) * each)
                of_value = slice(UNITS + h * each, UNITS + (h + 1) * each)
                query = block.query.weight[of_query] @ normed[t]
                scores = [
                    (query + block.content_bias[h]) @ (block.key_value.weight[of_query] @ normed[s])
                    + (query + block.position_bias[h]) @ block.position[t - s, h]
                    for s in seen
                ]
                weights = (torch.stack(scores) / math.sqrt(each)).softmax(0)
                values = torch.stack([block.key_value.weight[of_value] @ normed[s] for s in seen])
                found.append(weights @ values)
            row = _gated(block.attention_gate, row, F.relu(block.out(torch.cat(found))))
            after.append(
                _gated(block.layers_gate, row, F.relu(block.layers(block.layers_norm(row))))
            )
        rows = after
    return torch.stack(rows)


@settings(max_examples=25, deadline=None)
@example(8, 2, 2, 0, 382)
@given(
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(0, 8),
    st.integers(0, 2**31),
)
def test_episodes_layers_and_two_calls_equal_the_loops_and_so_do_gradients(
    steps, window, layers, cut, seed
):
    """In float64: float32 rounds some gradients of two layers by a hundredth."""
    torch.manual_seed(seed)
    core, cut = _core(layers, window).double(), min(cut, steps)
    x = torch.randn(steps, 2, DIM, dtype=torch.float64, requires_grad=True)
    first = torch.rand(steps, 2) < 0.3
    expected = torch.stack([_by_loops(core, window, x[:, b], first[:, b]) for b in range(2)], 1)
    out, end = core(x, core.initial_state(2), first)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)
    state, parts = core.initial_state(2), []
    for at in (slice(0, cut), slice(cut, steps)):
        if at.stop > at.start:
            part, state = core(x[at], state, first[at])
            parts.append(part)
    torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-9, atol=1e-10)
    assert torch.equal(state[1], end[1])
    leaves, ahead = [x, *core.parameters()], torch.randn_like(out)
    ours = torch.autograd.grad(out, leaves, ahead)
    theirs = torch.autograd.grad(expected, leaves, ahead, allow_unused=True)
    for got, want, leaf in zip(ours, theirs, leaves, strict=True):
        want = torch.zeros_like(leaf) if want is None else want
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)


def test_the_count_is_of_the_running_episode_and_the_window_at_most():
    core = _core(1, 3)
    first = torch.zeros(5, 3, dtype=torch.bool)
    first[0, 1] = first[4, 1] = first[2, 2] = True  # opened 5 or more, 1 and 3 rows ago
    _, (_, count) = core(torch.randn(5, 3, DIM), core.initial_state(3), first)
    assert count.tolist() == [3, 1, 3]
    _, (_, count) = core(torch.randn(1, 3, DIM), (torch.zeros(3, 3, 1, UNITS), count), first[:1])
    assert count.tolist() == [3, 1, 3]


def test_rows_of_the_state_that_do_not_count_change_nothing():
    core = _core(2, 3)
    still = torch.zeros(2, 1, dtype=torch.bool)
    _, (rows, count) = core(torch.randn(2, 1, DIM), core.initial_state(1), still)
    x = torch.randn(2, 1, DIM)
    assert count.tolist() == [2]  # of the three rows, the first is of nothing
    out, _ = core(x, (rows, count), still)
    for index, same in ((0, True), (1, False), (2, False)):
        other = rows.clone()
        other[:, index] += torch.randn(2, UNITS) * 10
        assert torch.equal(core(x, (other, count), still)[0], out) == same


def test_no_gradient_flows_into_the_call_before():
    core = _core(1, 3)
    x, first = torch.randn(2, 1, DIM, requires_grad=True), torch.zeros(2, 1, dtype=torch.bool)
    _, (rows, _) = core(x, core.initial_state(1), first)
    assert not rows.requires_grad


def test_an_env_sees_nothing_of_another():
    core = _core(2, 3)
    x = torch.randn(4, 2, DIM, requires_grad=True)
    out, _ = core(x, core.initial_state(2), torch.zeros(4, 2, dtype=torch.bool))
    (slope,) = torch.autograd.grad(out[:, 0].sum(), x)
    assert (slope[:, 1] == 0).all()
    assert (slope[:, 0] != 0).any()
