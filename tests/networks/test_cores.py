import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ludus.networks import cores
from ludus.networks.cores import NoCore, make_core

DIM, UNITS = 3, 4
KINDS = ("lstm", "gru")


@pytest.fixture(autouse=True, scope="module", params=[0, 32], ids=["segments", "rows"])
def _both_ways(request):
    """A recurrent core maps sequences up to this length row by row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cores, "_MOST_ROWS", request.param)
        yield


@st.composite
def _firsts(draw):
    steps, envs = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    flags = draw(st.lists(st.booleans(), min_size=steps * envs, max_size=steps * envs))
    return torch.tensor(flags).reshape(steps, envs)


def _by_hand(core, x, state, first):
    """torch's own one-step cells, env by env, the state replaced by zeros where one opens."""
    weights = list(core.cell.parameters())
    outs = []
    for t in range(len(x)):
        rows = [torch.where(first[t].unsqueeze(-1), torch.zeros_like(s), s) for s in state]
        if len(rows) == 2:
            state = torch._VF.lstm_cell(x[t], (rows[0], rows[1]), *weights)
        else:
            state = (torch._VF.gru_cell(x[t], rows[0], *weights),)
        outs.append(state[0])
    return torch.stack(outs), state


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(first=_firsts(), seed=st.integers(0, 2**31))
def test_one_call_equals_a_loop_that_zeroes_the_state(kind, first, seed):
    torch.manual_seed(seed)
    steps, envs = first.shape
    core = make_core(kind, DIM, UNITS)
    x = torch.randn(steps, envs, DIM, requires_grad=True)
    state = tuple(torch.randn_like(s, requires_grad=True) for s in core.initial_state(envs))
    given_first = first.clone()
    out, after = core(x, state, first)
    expected, expected_after = _by_hand(core, x, state, first)
    assert torch.equal(first, given_first)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(after, tuple(expected_after))
    leaves = [x, *state, *core.parameters()]
    ahead = torch.randn_like(out)
    ours = torch.autograd.grad(out, leaves, ahead)
    theirs = torch.autograd.grad(expected, leaves, ahead, allow_unused=True)
    for got, want, leaf in zip(ours, theirs, leaves, strict=True):
        want = torch.zeros_like(leaf) if want is None else want
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_passed_on_makes_two_calls_one(kind):
    core = make_core(kind, DIM, UNITS)
    x, first = torch.randn(6, 2, DIM), torch.rand(6, 2) < 0.3
    whole, end = core(x, core.initial_state(2), first)
    early, middle = core(x[:2], core.initial_state(2), first[:2])
    late, end_of_two = core(x[2:], middle, first[2:])
    torch.testing.assert_close(torch.cat([early, late]), whole)
    torch.testing.assert_close(end_of_two, end)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_crosses_an_episode_opening(kind):
    core = make_core(kind, DIM, UNITS)
    x = torch.randn(5, 2, DIM, requires_grad=True)
    state = tuple(torch.randn_like(s, requires_grad=True) for s in core.initial_state(2))
    first = torch.zeros(5, 2, dtype=torch.bool)
    first[3, 0] = True  # env 0 opens at t = 3; env 1 runs through
    _, after = core(x, state, first)
    to_x, *to_state = torch.autograd.grad(sum(s.sum() for s in after), [x, *state])
    assert torch.equal(to_x[:3, 0], torch.zeros(3, DIM))
    assert all(torch.equal(g[0], torch.zeros(UNITS)) for g in to_state)
    assert (to_x[3:, 0] != 0).any()
    assert (to_x[:, 1] != 0).any(-1).all()
    assert all((g[1] != 0).any() for g in to_state)


def test_no_core_passes_features_through():
    core = make_core("none", DIM)
    x = torch.randn(4, 2, DIM)
    out, state = core(x, core.initial_state(2), torch.ones(4, 2, dtype=torch.bool))
    assert isinstance(core, NoCore)
    assert (out is x, state, core.dim) == (True, (), DIM)


def _recall_accuracy(kind, seed=7, updates=100, delay=20, batch=64):
    """Two symbols; the first observation says which, and is asked for `delay` steps later."""
    torch.manual_seed(seed)
    core = make_core(kind, 3, 16)
    head = nn.Linear(core.dim, 2)
    if kind != "none":  # an LSTM's forget and a GRU's update gate keep at first (Gers et al. 2000)
        with torch.no_grad():
            core.cell.bias_ih_l0[16:32].fill_(2.0)
    parameters = [*core.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 2e-2)
    first = torch.zeros(delay + 1, batch, dtype=torch.bool)
    first[0] = True
    correct = torch.zeros(())
    for update in range(updates):
        symbol = torch.randint(2, (batch,))
        x = torch.randn(delay + 1, batch, 3) * 0.1
        x[0, :, :2] = F.one_hot(symbol, 2).float()
        x[-1, :, 2] = 1.0
        out, _ = core(x, core.initial_state(batch), first)
        scores = head(out[-1])
        optimizer.zero_grad()
        F.cross_entropy(scores, symbol).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if update >= updates - 10:
            correct += (scores.argmax(-1) == symbol).float().mean() / 10
    return float(correct)


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_learns_to_recall_over_20_steps(kind):
    assert _recall_accuracy(kind) > 0.95


def test_without_memory_nothing_can_be_recalled():
    assert _recall_accuracy("none") < 0.65
