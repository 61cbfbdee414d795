import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ludus.agents.returns import gae, lambda_return, n_step_return, vtrace


def _discount(terminated, gamma):
    return torch.where(terminated, 0.0, gamma)


def _one(reward, terminated, stops, gamma):
    """One window, step by step: (sum of rewards, discount of the bootstrap, steps to it)."""
    total, power = 0.0, 1.0
    for step, (r, ended, cut) in enumerate(zip(reward, terminated, stops, strict=True), start=1):
        total += power * r
        power *= gamma
        if ended:
            return total, 0.0, step
        if cut:
            return total, power, step
    return total, power, len(reward)


@st.composite
def _windows(draw):
    n, batch = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    flags = st.lists(st.booleans(), min_size=n * batch, max_size=n * batch)
    number = st.floats(-4, 4, width=32)
    reward = draw(st.lists(number, min_size=n * batch, max_size=n * batch))
    tensors = torch.tensor(reward), torch.tensor(draw(flags)), torch.tensor(draw(flags))
    return *(x.reshape(n, batch) for x in tensors), draw(st.floats(0.01, 1))


@settings(max_examples=300, deadline=None)
@given(_windows())
def test_equal_to_a_loop_over_each_window(windows):
    reward, terminated, stops, gamma = windows
    got = n_step_return(reward, _discount(terminated, gamma), stops)
    expected = [
        _one(*(x[:, i].tolist() for x in (reward, terminated, stops)), gamma)
        for i in range(reward.shape[1])
    ]
    totals, discounts, steps = zip(*expected, strict=True)
    torch.testing.assert_close(got.reward, torch.tensor(totals), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.discount, torch.tensor(discounts), rtol=1e-5, atol=1e-6)
    assert got.steps.tolist() == list(steps)
    assert got.reward.dtype == got.discount.dtype == torch.float32


def test_by_hand():
    # columns: nothing, terminated at once, terminated at step 1, cut at step 1, cut at the last
    reward = torch.tensor([[1.0, 1, 1, 1, 1], [2, 2, 2, 2, 2], [4, 4, 4, 4, 4]])
    terminated, stops = torch.zeros(3, 5, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    terminated[0, 1] = terminated[1, 2] = True
    stops[1, 3] = stops[2, 4] = True
    got = n_step_return(reward, _discount(terminated, 0.5), stops)
    assert got.reward.tolist() == [3.0, 1.0, 2.0, 2.0, 3.0]
    assert got.discount.tolist() == [0.125, 0.0, 0.0, 0.25, 0.125]
    assert got.steps.tolist() == [3, 1, 2, 2, 3]


def test_a_termination_beyond_a_cut_belongs_to_the_next_episode():
    stops = torch.tensor([[True], [False]])
    got = n_step_return(torch.tensor([[1.0], [9.0]]), _discount(~stops, 0.5), stops)
    assert (got.reward.item(), got.discount.item(), got.steps.item()) == (1.0, 0.5, 1)


def test_the_inputs_are_left_as_they_were():
    reward, ends = torch.ones(3, 2), torch.tensor([[False, True]] * 3)
    discount = _discount(ends, 0.9)
    before = reward.clone(), discount.clone(), ends.clone()
    n_step_return(reward, discount, ends)
    for now, then in zip((reward, discount, ends), before, strict=True):
        assert torch.equal(now, then)


@settings(max_examples=100, deadline=None)
@given(_windows(), st.floats(0, 1))
def test_lambda_returns_equal_a_recursion(windows, lam):
    reward, terminated, stops, gamma = windows
    value = torch.linspace(-2, 2, reward.numel()).view(reward.shape)
    got = lambda_return(reward, _discount(terminated, gamma), value, ~stops, lam)
    for b in range(reward.shape[1]):
        after = None  # the return of the row after, where there is one
        for t in reversed(range(len(reward))):
            v = float(value[t, b])
            goes_on = after is not None and not stops[t, b]
            mixed = (1 - lam) * v + lam * after if goes_on else v
            after = float(reward[t, b]) + (0 if terminated[t, b] else gamma) * mixed
            assert float(got[t, b]) == pytest.approx(after, rel=1e-4, abs=1e-4)


def test_lambda_returns_by_hand():
    column = [torch.tensor(x)[:, None] for x in ([1.0, 2.0, 3.0], [0.5, 0.5, 0.5], [4.0, 8.0, 16])]
    goes_on = torch.ones(3, 1, dtype=torch.bool)
    for lam, expected in ((0.0, [3.0, 6.0, 11.0]), (1.0, [4.75, 7.5, 11.0])):
        assert lambda_return(*column, goes_on, lam).flatten().tolist() == expected
    # half of each: 3 + 8 = 11; 2 + 0.5 (4 + 5.5) = 6.75; 1 + 0.5 (2 + 3.375) = 3.6875
    assert lambda_return(*column, goes_on, 0.5).flatten().tolist() == [3.6875, 6.75, 11.0]


def test_lambda_returns_over_episode_ends_by_hand():
    # columns: the middle step terminates, or its episode is cut and bootstraps
    reward = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    value = torch.tensor([[8.0, 8.0], [16.0, 16.0], [32.0, 32.0]])
    discount = torch.tensor([[0.5, 0.5], [0.0, 0.5], [0.5, 0.5]])
    goes_on = torch.tensor([[True, True], [False, False], [True, True]])
    for lam, expected in (
        (0.0, [[5.0, 5.0], [2.0, 10.0], [20.0, 20.0]]),
        (1.0, [[2.0, 6.0], [2.0, 10.0], [20.0, 20.0]]),  # 1 + 0.5 * 2 and 1 + 0.5 * 10
        (0.5, [[3.5, 5.5], [2.0, 10.0], [20.0, 20.0]]),
    ):
        assert lambda_return(reward, discount, value, goes_on, lam).tolist() == expected


def test_a_life_lost_ends_the_return_and_the_game_goes_on():
    discount = torch.tensor([[0.5], [0.0], [0.5]])
    reward, value = torch.tensor([[1.0], [2.0], [4.0]]), torch.full((3, 1), 9.0)
    goes_on = torch.ones(3, 1, dtype=torch.bool)
    got = lambda_return(reward, discount, value, goes_on, 1.0)
    assert got.flatten().tolist() == [2.0, 2.0, 8.5]


def test_vtrace_gives_the_numbers_of_rlax():
    """Printed by rlax 0.1.9, vtrace_td_error_and_advantage; step 3 is terminal."""
    columns = (
        [1.0, -2.0, 0.5, 3.0],  # reward
        [0.9, 0.9, 0.0, 0.9],  # discount
        [0.5, 1.5, -1.0, 2.0],  # value
        [1.5, -1.0, 2.0, 4.0],  # next value
        [True] * 4,
        [0.5, 2.0, 0.25, 0.8],  # ratio
    )
    for lam, expected in (
        (1.0, [-0.903125, -4.0625, 0.375, 3.68]),
        (0.8, [-0.5618, -4.13, 0.375, 3.68]),
    ):
        got = vtrace(*(torch.tensor(column)[:, None] for column in columns), lam)
        assert got.flatten().tolist() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(_windows(), st.floats(0, 1), st.integers(0, 2**31))
def test_vtrace_equals_a_recursion_and_gae_where_the_policy_is_the_same(windows, lam, seed):
    reward, terminated, stops, gamma = windows
    generator = torch.Generator().manual_seed(seed)
    value, ratio = torch.rand(2, len(reward) + 1, reward.shape[1], generator=generator) * 3
    value, next_value, ratio = value[:-1], value[1:], ratio[:-1]
    discount = _discount(terminated, gamma)
    steps = (reward, discount, value, next_value, ~stops)
    torch.testing.assert_close(vtrace(*steps, torch.ones_like(reward), lam), gae(*steps, lam))
    got = vtrace(*steps, ratio, lam)
    for b in range(reward.shape[1]):
        after = 0.0
        for t in reversed(range(len(reward))):
            rho, g = min(1.0, float(ratio[t, b])), float(discount[t, b])
            delta = float(reward[t, b] + g * next_value[t, b] - value[t, b])
            after = rho * (delta + g * lam * (0.0 if stops[t, b] else after))
            assert float(got[t, b]) == pytest.approx(after, rel=1e-4, abs=1e-4)
