import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ludus.agents.losses import (
    bellman,
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


def _normal(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _transitions(n, actions, seed):
    generator = torch.Generator().manual_seed(seed)
    action = torch.randint(actions, (n,), generator=generator)
    next_action = torch.randint(actions, (n,), generator=generator)
    ended = torch.rand(n, generator=generator) < 0.3
    return action, 3 * torch.randn(n, generator=generator), 0.9 * ~ended, next_action


KINDS = {
    "huber": huber_td,
    "mse": mse_td,
    "c51": categorical_td,
    "qr": quantile_td,
    "iqn": quantile_td,
}


def _out(kind, leading, count, seed):
    """What a head of that kind would say, of 3 actions; and the tensor that its network gave."""
    if kind in ("huber", "mse"):
        q = _normal(*leading, 3, seed=seed).requires_grad_()
        return QOut(q), q
    values = _normal(*leading, 3, count, seed=seed).requires_grad_()
    if kind == "c51":
        atoms, log_p = torch.linspace(-3, 3, count), values.log_softmax(-1)
        return CategoricalOut((log_p.exp() * atoms).sum(-1), log_p, atoms), values
    taus = (torch.arange(count) + 0.5) / count
    if kind == "iqn":
        generator = torch.Generator().manual_seed(seed)
        taus = torch.rand(*leading, count, generator=generator)
    return QuantileOut(values.mean(-1), values, taus), values


def _case(kind, leading=(8,), seed=0):
    """Arguments of a loss, a batch with episode ends; and what the gradient may reach or not."""
    batch = [x.view(leading) for x in _transitions(math.prod(leading), 3, seed)]
    out, ours = _out(kind, leading, 5, seed + 1)
    following, theirs = _out(kind, leading, 4 if kind == "iqn" else 5, seed + 2)
    return [out, *batch[:3], following, batch[3]], ours, theirs


def _flat(out, rows):
    """The same with its leading dimensions as one."""
    return type(out)(*(x.flatten(0, 1) if x.shape[:2] == rows else x for x in out))


@pytest.mark.parametrize("kind", KINDS)
def test_leading_dimensions_may_be_any(kind):
    arguments, _, _ = _case(kind, (4, 6))
    whole = KINDS[kind](*arguments)
    assert whole.loss.shape == whole.priority.shape == (4, 6)
    rows = [_flat(x, (4, 6)) if isinstance(x, tuple) else x.flatten(0, 1) for x in arguments]
    for got, want in zip(whole, KINDS[kind](*rows), strict=True):
        torch.testing.assert_close(got.flatten(), want)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_the_taken_actions_of_the_online_network_alone(kind):
    arguments, ours, theirs = _case(kind)
    td = KINDS[kind](*arguments)
    assert not td.priority.requires_grad
    assert (td.priority >= 0).all()
    td.loss.sum().backward()
    assert theirs.grad is None
    taken = F.one_hot(arguments[1], 3).bool()
    reached = ours.grad.reshape(8, 3, -1).abs().sum(-1) > 0
    assert torch.equal(reached, taken)


@pytest.mark.parametrize("kind", KINDS)
def test_a_next_action_and_the_policy_that_takes_it_are_the_same(kind):
    arguments, _, _ = _case(kind)
    plain = KINDS[kind](*arguments)
    policy = F.one_hot(arguments[5], 3).float()
    for got, want in zip(KINDS[kind](*arguments[:5], policy), plain, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_a_terminal_next_observation_counts_for_nothing(kind):
    arguments, _, _ = _case(kind)
    arguments[3] = torch.zeros(8)
    plain = KINDS[kind](*arguments)
    arguments[4], _ = _out(kind, (8,), 5, 77)
    for got, want in zip(KINDS[kind](*arguments), plain, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", [1, 2, 3, 5])
def test_a_rank_that_would_broadcast_is_refused(kind, position):
    arguments, _, _ = _case(kind)
    arguments[position] = arguments[position].unsqueeze(-1)  # [N, 1] against [N] makes [N, N]
    with pytest.raises(AssertionError):
        KINDS[kind](*arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", [0, 4])
def test_values_of_more_rows_than_actions_are_refused(kind, position):
    arguments, _, _ = _case(kind)  # gather would take the first half
    arguments[position], _ = _out(kind, (16,), 5, 3)
    with pytest.raises(AssertionError):
        KINDS[kind](*arguments)


@pytest.mark.parametrize("loss", [huber_td, mse_td])
def test_the_priority_is_the_size_of_the_error(loss):
    assert loss(*_data(PLAIN)).priority.tolist() == [0.5, 3.0, 2.5]


@pytest.mark.parametrize("leading", [(3,), (2, 3)])
def test_what_is_chosen_equals_a_loop(leading):
    n = math.prod(leading)
    action = torch.randint(3, leading)
    policy = torch.rand(*leading, 3)
    for rest, values in ((0, torch.randn(*leading, 3)), (1, torch.randn(*leading, 3, 5))):
        rows = zip(values.view(n, 3, -1), action.flatten(), policy.view(n, 3), strict=True)
        taken, mixed = zip(
            *((v[a], sum(p[i] * v[i] for i in range(3))) for v, a, p in rows), strict=True
        )
        shape = values.shape[: len(leading)] + values.shape[len(leading) + 1 :]
        assert torch.equal(chosen(values, action, rest), torch.stack(taken).view(shape))
        torch.testing.assert_close(chosen(values, policy, rest), torch.stack(mixed).view(shape))
        one_hot = F.one_hot(action, 3).float()
        torch.testing.assert_close(chosen(values, one_hot, rest), chosen(values, action, rest))


@pytest.mark.parametrize(
    ("values", "choice", "rest"),
    [
        ((4, 3), torch.zeros(4, 1, dtype=torch.int64), 0),
        ((4, 3), torch.zeros(1, dtype=torch.int64), 0),
        ((4, 3), torch.zeros(4), 0),  # a policy without its actions
        ((4, 3), torch.zeros(4, 1), 0),
        ((4, 3, 5), torch.zeros(4, 5), 1),
        ((4, 3, 5), torch.zeros(4, 3, 1), 1),
        ((4, 3, 5), torch.zeros(4, 3, dtype=torch.int64), 1),
    ],
)
def test_a_choice_that_does_not_fit_the_values_is_refused(values, choice, rest):
    with pytest.raises(AssertionError):
        chosen(torch.zeros(values), choice, rest)


def _project_by_loop(returns, p, atoms):
    """Algorithm 1 of the paper for one distribution."""
    low, high, count = atoms[0], atoms[-1], len(atoms)
    gap = (high - low) / (count - 1)
    m = [0.0] * count
    for value, mass in zip(returns, p, strict=True):
        b = (min(max(value, low), high) - low) / gap
        b = min(round(b, 9), count - 1)  # an atom's own return must fall on the atom
        below, above = math.floor(b), math.ceil(b)
        if below == above:
            m[below] += mass
        else:
            m[below] += mass * (above - b)
            m[above] += mass * (b - below)
    return m


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(2, 12),
    low=st.floats(-20, 19, width=32),
    width=st.floats(0.5, 40, width=32),
    seed=st.integers(0, 2**31),
)
def test_a_projection_equals_the_papers_loop(count, low, width, seed):
    generator = np.random.default_rng(seed)
    atoms = torch.linspace(low, low + width, count)
    middle, kinds = low + width / 2, generator.integers(4, size=(6, count))
    on_an_atom = generator.choice(atoms.numpy(), (6, count))
    inside = generator.uniform(low, low + width, (6, count))
    beyond = middle + np.sign(generator.normal(size=(6, count))) * width * 3
    ends = generator.choice(atoms.numpy()[[0, -1]], (6, count))
    returns = torch.from_numpy(np.choose(kinds, (on_an_atom, inside, beyond, ends))).float()
    p = torch.from_numpy(generator.dirichlet(np.ones(count), 6)).float()
    got = project(returns, p, atoms)
    rows = zip(returns.tolist(), p.tolist(), strict=True)
    want = torch.tensor([_project_by_loop(r, mass, atoms.tolist()) for r, mass in rows])
    near = {"rtol": 0, "atol": 2e-5 * (1 + (abs(low) + width) / width)}  # float32 on its scale
    torch.testing.assert_close(got, want, **near)
    assert (got >= 0).all()
    torch.testing.assert_close(got.sum(-1), torch.ones(6), **near)
    clipped = returns.clamp(atoms[0], atoms[-1])  # the mean is kept but for what was clipped
    mean, kept = (p * clipped).sum(-1) - middle, (got * atoms).sum(-1) - middle
    torch.testing.assert_close(kept / width, mean / width, **near)


def test_a_projection_by_hand():
    atoms = torch.tensor([0.0, 1.0, 2.0])
    returns = torch.tensor([[0.25, 2.0, 5.0], [-3.0, 1.0, 1.5]])
    p = torch.tensor([[0.4, 0.1, 0.5], [0.2, 0.2, 0.6]])
    expected = torch.tensor([[0.3, 0.1, 0.6], [0.2, 0.5, 0.3]])
    torch.testing.assert_close(project(returns, p, atoms), expected)


def test_c51_by_hand():
    p = torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]]).expand(2, 2, 3)
    out = CategoricalOut(torch.zeros(2, 2), p.log().requires_grad_(), torch.tensor([0.0, 1, 2]))
    taken, following = torch.tensor([0, 0]), torch.tensor([1, 1])
    reward, discount = torch.tensor([0.5, 7.0]), torch.tensor([0.5, 0.0])
    td = categorical_td(out, taken, reward, discount, out, following)
    # returns 0.5, 1, 1.5 of mass 0.2, 0.3, 0.5: the target is 0.1, 0.65, 0.25; then 7: the last
    first, last = 0.1 * math.log(2) + 0.9 * math.log(4), math.log(4)
    assert td.loss.tolist() == pytest.approx([first, last])
    entropy = -sum(m * math.log(m) for m in (0.1, 0.65, 0.25))
    assert td.priority.tolist() == pytest.approx([first - entropy, last], rel=1e-5)
    (slope,) = torch.autograd.grad(td.loss.sum(), out.log_p)
    expected = torch.tensor([[-0.1, -0.65, -0.25], [0.0, 0.0, -1.0]])
    torch.testing.assert_close(slope[:, 0], expected)


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


def test_a_policy_mixes_the_next_distributions():
    atoms, p = torch.tensor([0.0, 1.0]), torch.tensor([[[0.1, 0.9], [0.7, 0.3]]])
    out = CategoricalOut(torch.zeros(1, 2), p.log(), atoms)
    zero, policy = torch.zeros(1, dtype=torch.int64), torch.tensor([[0.25, 0.75]])
    td = categorical_td(out, zero, torch.zeros(1), torch.ones(1), out, policy)
    # 0.25 * 0.1 + 0.75 * 0.7 = 0.55 on the first atom
    assert float(td.loss) == pytest.approx(-0.55 * math.log(0.1) - 0.45 * math.log(0.9))


def _quantile_out(n, actions, count, seed):
    quantiles = _normal(n, actions, count, seed=seed).requires_grad_()
    taus = (torch.arange(count) + 0.5) / count
    return QuantileOut(quantiles.mean(-1), quantiles, taus)


@pytest.mark.parametrize(("count", "following"), [(7, 7), (7, 3), (1, 4)])
@pytest.mark.parametrize("own_taus", [False, True])  # the same for all, or of each element (IQN)
def test_equal_to_the_quantile_loss_of_sb3_contrib(count, following, own_taus):
    out, next_out = _quantile_out(16, 3, count, 1), _quantile_out(16, 3, following, 9)
    theirs_taus = None
    if own_taus:
        out = out._replace(taus=torch.rand(16, count))
        theirs_taus = out.taus.unsqueeze(-1)  # [N, K, 1]: they broadcast it as it is
    action, reward, discount, next_action = _transitions(16, 3, 1)
    ours = quantile_td(out, action, reward, discount, next_out, next_action)
    rows = torch.arange(16)
    target = reward[:, None] + discount[:, None] * next_out.quantiles[rows, next_action]
    current = out.quantiles[rows, action]
    theirs = pytest.importorskip("sb3_contrib.common.utils").quantile_huber_loss(
        current, target.detach(), theirs_taus, sum_over_quantiles=True
    )
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


@pytest.mark.parametrize("kind", ["qr", "iqn"])
def test_the_slope_of_the_quantile_loss_is_that_of_finite_differences(kind):
    arguments, _, _ = _case(kind)
    out, *batch, following, choice = arguments
    doubles = [type(o)(*(x.detach().double() for x in o)) for o in (out, following)]
    reward, discount = batch[1].double(), batch[2].double()

    def loss(quantiles):
        out = doubles[0]._replace(quantiles=quantiles)
        return quantile_td(out, batch[0], reward, discount, doubles[1], choice).loss

    assert torch.autograd.gradcheck(loss, doubles[0].quantiles.requires_grad_())


def test_squash_and_its_inverse_keep_their_digits():
    x = torch.logspace(-30, 12, 400)
    x = torch.cat([x, -x, torch.zeros(1)])
    wide = x.double()  # sign(x) (sqrt(|x| + 1) - 1), in a form that float64 does not round away
    h = wide / ((wide.abs() + 1).sqrt() + 1) + 1e-3 * wide
    torch.testing.assert_close(squash(x), h.float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(unsquash(squash(x)), x, rtol=1e-6, atol=0)
    torch.testing.assert_close(squash(unsquash(x)), x, rtol=1e-6, atol=0)


def test_squash_by_hand():
    # h(3) = 2 - 1 + 0.003, h(-8) = -(3 - 1) - 0.008
    x, h = torch.tensor([3.0, -8.0, 0.0, 99.0]), torch.tensor([1.003, -2.008, 0.0, 9.099])
    torch.testing.assert_close(squash(x), h)
    torch.testing.assert_close(unsquash(h), x)


def test_a_target_by_hand():
    got = bellman(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), torch.tensor([3.0, 9.0]))
    assert got.tolist() == [2.5, 2.0]


def test_a_rescaled_target_by_hand():
    # the value 1.003 stands for 3; 2 + 0.5 * 3 = 3.5; h(3.5) = sqrt(4.5) - 1 + 0.0035
    value = torch.tensor([1.003])
    got = rescaled(torch.tensor([2.0]), torch.tensor([0.5]), value)
    assert float(got) == pytest.approx(4.5**0.5 - 1 + 0.0035, rel=1e-5)
    out, following = QOut(torch.tensor([[1.0]])), QOut(value[:, None])
    batch = torch.zeros(1, dtype=torch.int64), torch.tensor([2.0]), torch.tensor([0.5])
    td = mse_td(out, *batch, following, batch[0], backup=rescaled)
    assert float(td.loss) == pytest.approx((float(got) - 1) ** 2, rel=1e-4)


@pytest.mark.parametrize("kind", ["c51", "qr", "iqn"])
def test_a_rescaled_distribution_has_each_of_its_returns_rescaled(kind):
    arguments, _, _ = _case(kind)
    loss = KINDS[kind](*arguments, backup=rescaled).loss.detach()
    out, action, reward, discount, following, choice = arguments
    for i in range(8):
        a, b = int(action[i]), int(choice[i])
        returns = following.atoms if kind == "c51" else following.quantiles[i, b]
        stands_for = (((1 + 4e-3 * (returns.double().abs() + 1.001)).sqrt() - 1) / 2e-3) ** 2 - 1
        full = reward[i] + discount[i] * returns.sign() * stands_for
        h = (full.sign() * ((full.abs() + 1).sqrt() - 1) + 1e-3 * full).tolist()
        if kind == "c51":
            p = following.log_p[i, b].exp().tolist()
            m = torch.tensor(_project_by_loop(h, p, out.atoms.tolist()))
            expected = float(-(m * out.log_p[i, a].detach()).sum())
        else:
            taus = out.taus[i] if kind == "iqn" else out.taus
            expected = sum(
                abs(float(tau) - (y < v)) * (d**2 / 2 if abs(d := y - v) <= 1 else abs(d) - 0.5)
                for tau, v in zip(taus, out.quantiles[i, a].tolist(), strict=True)
                for y in h
            ) / len(h)
        assert float(loss[i]) == pytest.approx(expected, rel=1e-4)


def _equation_3(q, next_q, action, reward, discount, scale, temperature, floor):
    """Munchausen's target for one transition in float64, and whether its bonus was clipped."""
    q, next_q = np.float64(q), np.float64(next_q)

    def log_softmax(x):
        x = (x - x.max()) / temperature
        return x - np.log(np.exp(x).sum())

    log = temperature * log_softmax(q)[action]
    pi, log_pi = np.exp(log_softmax(next_q)), log_softmax(next_q)
    soft = (pi * (next_q - temperature * log_pi)).sum()
    return reward + scale * min(max(log, floor), 0.0) + discount * soft, log < floor


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("scale", "temperature", "floor"), [(0.9, 0.03, -1.0), (0.5, 1.0, -2.0), (0.2, 10.0, -20.0)]
)
def test_munchausen_equals_equation_3_written_out(seed, scale, temperature, floor):
    n, actions = 30, 4
    q = _normal(n, actions, seed=seed, scale=temperature * 2 - floor / 3)
    next_q = _normal(n, actions, seed=seed + 5, scale=temperature + 0.5)
    action, reward, discount, _ = _transitions(n, actions, seed)
    options = {"scale": scale, "temperature": temperature, "floor": floor}
    got = munchausen(q, next_q, action, reward, discount, **options)
    td = mse_td(QOut(q), action, got.reward, discount, QOut(next_q), got.policy)
    assert torch.allclose(got.policy, F.softmax(next_q / temperature, -1), atol=1e-6)
    clipped = 0
    for i in range(n):
        row = (x[i].tolist() for x in (q, next_q, action, reward, discount))
        target, was_clipped = _equation_3(*row, scale, temperature, floor)
        clipped += was_clipped
        error = target - float(q[i, action[i]])
        assert float(td.priority[i]) == pytest.approx(abs(error), rel=1e-4, abs=1e-4)
        assert float(td.loss[i]) == pytest.approx(error**2, rel=1e-3, abs=1e-4)
    assert 0 < clipped < n


def test_munchausen_by_hand():
    # pi = (3/4, 1/4) here and (1/2, 1/2) there, of which the entropy is ln 2
    q, next_q = torch.tensor([[math.log(3), 0.0]]).expand(4, 2), torch.zeros(4, 2)
    action, reward = torch.tensor([0, 1, 1, 0]), torch.tensor([2.0, 2.0, 2.0, 5.0])
    discount = torch.tensor([0.5, 0.5, 0.5, 0.0])
    for floor, least in ((-9.0, math.log(0.25)), (-1.0, -1.0)):
        got = munchausen(
            q, next_q, action, reward, discount, scale=0.5, temperature=1.0, floor=floor
        )
        likely, rare = 0.5 * math.log(0.75), 0.5 * least
        soft = 0.5 * math.log(2)
        expected = [2 + likely + soft, 2 + rare + soft, 2 + rare + soft, 5 + likely]
        assert got.reward.tolist() == pytest.approx(expected)
        assert got.policy.tolist() == [[0.5, 0.5]] * 4


def test_munchausen_stays_finite_where_one_action_is_certain():
    q = torch.tensor([[1e4, 0.0, -1e4]])
    one, zero = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    for action, bonus in ((zero, 0.0), (zero + 2, -0.9)):
        got = munchausen(q, q, action, one, one, scale=0.9, temperature=0.03, floor=-1.0)
        assert float(got.reward) == pytest.approx(1 + bonus)
        assert got.policy.tolist() == [[1.0, 0.0, 0.0]]


def test_the_conservative_penalty_by_hand():
    q = torch.tensor([[1.0, 2.0, -1.0]])
    expected = math.log(math.e + math.e**2 + math.e**-1) - 2
    assert float(conservative(q, torch.tensor([1]))) == pytest.approx(expected)


@pytest.mark.parametrize("leading", [(6,), (2, 3)])
def test_the_conservative_penalty_and_its_slope_equal_a_loop(leading):
    q, action = _normal(*leading, 4).requires_grad_(), torch.randint(4, leading)
    penalty = conservative(q, action)
    assert penalty.shape == leading
    (slope,) = torch.autograd.grad(penalty.sum(), q)
    flat = zip(*(x.reshape(6, -1).tolist() for x in (q, action, penalty, slope)), strict=True)
    for values, (a,), (got,), slopes in flat:
        total = sum(math.exp(v) for v in values)
        assert got == pytest.approx(math.log(total) - values[a], rel=1e-5)
        share = [math.exp(v) / total - (i == a) for i, v in enumerate(values)]
        assert slopes == pytest.approx(share, abs=1e-6)


def test_the_conservative_penalty_of_large_values_is_finite():
    assert float(conservative(torch.tensor([[1e4, 0.0]]), torch.tensor([1]))) == 1e4
