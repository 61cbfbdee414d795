import math

import pytest
import torch
from sb3_contrib.common.utils import quantile_huber_loss
from torch.nn import functional as F

from ludus.agents.losses import (
    categorical_td,
    chosen,
    conservative,
    huber_td,
    mse_td,
    munchausen,
    project,
    quantile_td,
    rescaled,
    squash,
    unsquash,
)
from ludus.networks.heads import CategoricalOut, QOut, QuantileOut

# Three transitions with gamma 0.5. The next values are q'(s', 0) and q'(s', 1).
Q = [[1.0, 2.0], [0.0, -1.0], [4.0, 0.5]]
NEXT_Q = [[3.0, 1.0], [8.0, 2.0], [100.0, 100.0]]
ACTION, REWARD, DISCOUNT = [1, 0, 0], [1.0, -1.0, 1.5], [0.5, 0.5, 0.0]
PLAIN, DOUBLE = [0, 0, 0], [1, 1, 1]  # the target's best action; the online network's


def _data(next_action):
    q = torch.tensor(Q, requires_grad=True)
    next_q = torch.tensor(NEXT_Q, requires_grad=True)
    values = (torch.tensor(ACTION), torch.tensor(REWARD), torch.tensor(DISCOUNT))
    return (QOut(q), *values, QOut(next_q), torch.tensor(next_action))


@pytest.mark.parametrize(
    ("loss", "next_action", "expected"),
    [
        # targets 1 + 1.5, -1 + 4, 1.5 + 0; errors 0.5, 3, -2.5
        (huber_td, PLAIN, [0.125, 2.5, 2.0]),
        (mse_td, PLAIN, [0.25, 9.0, 6.25]),
        # targets 1 + 0.5, -1 + 1, 1.5 + 0; errors -0.5, 0, -2.5
        (huber_td, DOUBLE, [0.125, 0.0, 2.0]),
        (mse_td, DOUBLE, [0.25, 0.0, 6.25]),
    ],
)
def test_by_hand(loss, next_action, expected):
    torch.testing.assert_close(loss(*_data(next_action)).loss, torch.tensor(expected))


@pytest.mark.parametrize(
    ("loss", "slope"),  # of the errors 0.5, 3, -2.5 to q
    [(huber_td, [-0.5, -1.0, 1.0]), (mse_td, [-1.0, -6.0, 5.0])],
)
def test_the_gradient_reaches_the_chosen_values_alone(loss, slope):
    data = _data(PLAIN)
    loss(*data).loss.sum().backward()
    expected = torch.zeros(3, 2)
    expected[range(3), ACTION] = torch.tensor(slope)
    torch.testing.assert_close(data[0].q.grad, expected)
    assert data[4].q.grad is None


@pytest.mark.parametrize("loss", [huber_td, mse_td])
@pytest.mark.parametrize("position", [1, 2, 3, 5])
def test_a_rank_that_would_broadcast_is_refused(loss, position):
    data = list(_data(PLAIN))
    data[position] = data[position].unsqueeze(-1)  # [N, 1] against [N] makes [N, N]
    with pytest.raises(AssertionError):
        loss(*data)


@pytest.mark.parametrize("loss", [huber_td, mse_td])
@pytest.mark.parametrize("position", [0, 4])
def test_values_of_more_rows_than_actions_are_refused(loss, position):
    data = list(_data(PLAIN))
    data[position] = QOut(torch.cat([data[position].q] * 2))  # gather would take the first half
    with pytest.raises(AssertionError):
        loss(*data)


def test_equal_to_the_loss_of_stable_baselines3():
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return 2 * torch.randn(*shape, generator=generator)

    q, next_q, reward = normal(64, 5).requires_grad_(), normal(64, 5), normal(64)
    action = torch.randint(5, (64,), generator=generator)
    done = torch.randint(2, (64,), generator=generator).float()
    # stable_baselines3.dqn.DQN.train, 2.9
    target = reward[:, None] + (1 - done[:, None]) * 0.99 * next_q.max(dim=1).values.reshape(-1, 1)
    theirs = F.smooth_l1_loss(torch.gather(q, 1, action[:, None]), target)
    following = next_q.argmax(-1)
    ours = huber_td(QOut(q), action, reward, 0.99 * (1 - done), QOut(next_q), following).loss.mean()
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(value, q)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients)


# -- what the family adds -----------------------------------------------------------------------


def _normal(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _transitions(n, actions, seed):
    generator = torch.Generator().manual_seed(seed)
    action = torch.randint(actions, (n,), generator=generator)
    next_action = torch.randint(actions, (n,), generator=generator)
    ended = torch.rand(n, generator=generator) < 0.3
    return action, 3 * torch.randn(n, generator=generator), 0.9 * ~ended, next_action


@pytest.mark.parametrize("loss", [huber_td, mse_td])
def test_the_priority_is_the_size_of_the_error(loss):
    assert loss(*_data(PLAIN)).priority.tolist() == [0.5, 3.0, 2.5]


def test_an_action_and_the_policy_that_takes_it_are_the_same():
    action = torch.tensor([1, 0, 2])
    policy = F.one_hot(action, 3).float()
    for rest, values in ((0, _normal(3, 3)), (1, _normal(3, 3, 5))):
        torch.testing.assert_close(chosen(values, action, rest), chosen(values, policy, rest))
    mixed = chosen(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.25, 0.75]]))
    assert mixed.tolist() == [2.5]


def _project_by_loop(returns, p, atoms):
    """Algorithm 1 of the paper for one distribution."""
    low, high, count = atoms[0], atoms[-1], len(atoms)
    gap = (high - low) / (count - 1)
    m = [0.0] * count
    for value, mass in zip(returns, p, strict=True):
        b = (min(max(value, low), high) - low) / gap
        b = round(b, 9)  # an atom's own return must fall on the atom
        below, above = math.floor(b), math.ceil(b)
        if below == above:
            m[below] += mass
        else:
            m[below] += mass * (above - b)
            m[above] += mass * (b - below)
    return m


@pytest.mark.parametrize("seed", range(5))
def test_c51_equals_the_papers_loop_over_atoms(seed):
    n, actions, atoms = 40, 3, torch.linspace(-4, 4, 9)
    action, reward, discount, next_action = _transitions(n, actions, seed)
    reward[:10] = reward[:10].round()  # returns that fall on an atom, where the episode ends
    log_p = F.log_softmax(_normal(n, actions, 9, seed=seed), -1)
    next_log_p = F.log_softmax(_normal(n, actions, 9, seed=seed + 100), -1)
    q = torch.zeros(n, actions)
    ours = categorical_td(
        CategoricalOut(q, log_p, atoms),
        action,
        reward,
        discount,
        CategoricalOut(q, next_log_p, atoms),
        next_action,
    )
    for i in range(n):
        p = next_log_p[i, next_action[i]].exp().tolist()
        returns = [float(reward[i]) + float(discount[i]) * z for z in atoms.tolist()]
        target = torch.tensor(_project_by_loop(returns, p, atoms.tolist()))
        assert target.sum() == pytest.approx(1, abs=1e-5)
        cross = -(target * log_p[i, action[i]]).sum()
        assert float(ours.loss[i]) == pytest.approx(float(cross), rel=1e-4, abs=1e-5)
        kl = cross - torch.special.entr(target).sum()
        assert float(ours.priority[i]) == pytest.approx(float(kl), rel=1e-3, abs=1e-5)


def test_a_projection_by_hand():
    atoms = torch.tensor([0.0, 1.0, 2.0])
    returns = torch.tensor([[0.25, 2.0, 5.0], [-3.0, 1.0, 1.5]])
    p = torch.tensor([[0.4, 0.1, 0.5], [0.2, 0.2, 0.6]])
    expected = torch.tensor([[0.3, 0.1, 0.6], [0.2, 0.5, 0.3]])
    torch.testing.assert_close(project(returns, p, atoms), expected)


def _quantile_out(n, actions, count, seed):
    quantiles = _normal(n, actions, count, seed=seed).requires_grad_()
    taus = (torch.arange(count) + 0.5) / count
    return QuantileOut(quantiles.mean(-1), quantiles, taus)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_quantile_loss_of_sb3_contrib(seed):
    out, following = _quantile_out(16, 3, 7, seed), _quantile_out(16, 3, 7, seed + 9)
    action, reward, discount, next_action = _transitions(16, 3, seed)
    ours = quantile_td(out, action, reward, discount, following, next_action)
    rows = torch.arange(16)
    target = reward[:, None] + discount[:, None] * following.quantiles[rows, next_action]
    current = out.quantiles[rows, action]
    theirs = quantile_huber_loss(current, target.detach(), sum_over_quantiles=True)
    torch.testing.assert_close(ours.loss.mean(), theirs)
    gradients = [torch.autograd.grad(v, out.quantiles)[0] for v in (ours.loss.mean(), theirs)]
    torch.testing.assert_close(*gradients)
    assert torch.equal(ours.priority, ours.loss)


def test_the_quantile_loss_by_hand_with_taus_of_their_own():
    values, taus = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[0.1, 0.6]])
    out = QuantileOut(values.mean(-1), values, taus)
    following = QuantileOut(torch.zeros(1, 1), torch.tensor([[[1.0, 4.0]]]), taus)
    zero = torch.zeros(1, dtype=torch.int64)
    got = quantile_td(out, zero, torch.tensor([0.5]), torch.tensor([0.5]), following, zero)
    # targets 1 and 2.5; errors 1, 2.5 for tau 0.1 and -1, 0.5 for tau 0.6
    # huber 0.5, 2.0 and 0.5, 0.125; slopes 0.1, 0.1 and 0.4, 0.6
    expected = (0.1 * 0.5 + 0.1 * 2.0) / 2 + (0.4 * 0.5 + 0.6 * 0.125) / 2
    assert float(got.loss) == pytest.approx(expected)


def test_squash_and_its_inverse():
    x = torch.cat([torch.logspace(-6, 6, 400), -torch.logspace(-6, 6, 400), torch.zeros(1)])
    torch.testing.assert_close(unsquash(squash(x)), x, rtol=2e-4, atol=1e-6)
    # h(3) = 2 - 1 + 0.003, h(-8) = -(3 - 1) - 0.008
    torch.testing.assert_close(squash(torch.tensor([3.0, -8.0])), torch.tensor([1.003, -2.008]))


def test_a_rescaled_target_by_hand():
    # the value 1.003 stands for 3; 2 + 0.5 * 3 = 3.5; h(3.5) = sqrt(4.5) - 1 + 0.0035
    value = torch.tensor([1.003])
    got = rescaled(torch.tensor([2.0]), torch.tensor([0.5]), value)
    assert float(got) == pytest.approx(4.5**0.5 - 1 + 0.0035, rel=1e-5)
    out, following = QOut(torch.tensor([[1.0]])), QOut(value[:, None])
    zero = torch.zeros(1, dtype=torch.int64)
    td = mse_td(
        out,
        zero,
        torch.tensor([2.0]),
        torch.tensor([0.5]),
        following,
        zero,
        backup=rescaled,
    )
    assert float(td.loss) == pytest.approx((float(got) - 1) ** 2, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_munchausen_equals_equation_3_written_out(seed):
    n, actions, scale, temperature, floor = 30, 4, 0.9, 0.03, -1.0
    q, next_q = _normal(n, actions, seed=seed, scale=0.1), _normal(n, actions, seed=seed + 5)
    action, reward, discount, _ = _transitions(n, actions, seed)
    got = munchausen(
        q, next_q, action, reward, discount, scale=scale, temperature=temperature, floor=floor
    )
    td = mse_td(QOut(q), action, got.reward, discount, QOut(next_q), got.policy)
    clipped = 0
    for i in range(n):
        pi = torch.softmax(q[i].double() / temperature, 0)
        log = temperature * math.log(max(float(pi[action[i]]), 1e-300))
        clipped += log < floor
        bonus = scale * min(max(log, floor), 0)
        following = torch.softmax(next_q[i].double() / temperature, 0)
        soft = sum(
            float(p) * (float(v) - temperature * math.log(max(float(p), 1e-300)))
            for p, v in zip(following, next_q[i], strict=True)
        )
        target = float(reward[i]) + bonus + float(discount[i]) * soft
        expected = (target - float(q[i, action[i]])) ** 2
        assert float(td.loss[i]) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    low = munchausen(
        torch.tensor([[9.0, 0.0]]),
        torch.zeros(1, 2),
        torch.tensor([1]),
        torch.zeros(1),
        torch.zeros(1),
        scale=0.5,
        temperature=1.0,
        floor=-2.0,
    )
    assert float(low.reward) == -1.0  # 0.5 * the floor


def test_the_conservative_penalty_by_hand():
    q = torch.tensor([[1.0, 2.0, -1.0]])
    expected = math.log(math.e + math.e**2 + math.e**-1) - 2
    assert float(conservative(q, torch.tensor([1]))) == pytest.approx(expected)


def test_losses_take_any_leading_dimensions():
    q, next_q = _normal(4, 6, 3), _normal(4, 6, 3, seed=1)
    flat = [x.view(4, 6) for x in _transitions(24, 3, 0)]
    whole = huber_td(QOut(q), *flat[:3], QOut(next_q), flat[3])
    rows = [x.flatten(0, 1) for x in (q, *flat[:3], next_q, flat[3])]
    plain = huber_td(QOut(rows[0]), *rows[1:4], QOut(rows[4]), rows[5])
    torch.testing.assert_close(whole.loss.flatten(), plain.loss)
