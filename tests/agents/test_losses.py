import pytest
import torch
from torch.nn import functional as F

from ludus.agents.losses import huber_td, mse_td
from ludus.networks.heads import QOut

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
    torch.testing.assert_close(loss(*_data(next_action)), torch.tensor(expected))


@pytest.mark.parametrize(
    ("loss", "slope"),  # of the errors 0.5, 3, -2.5 to q
    [(huber_td, [-0.5, -1.0, 1.0]), (mse_td, [-1.0, -6.0, 5.0])],
)
def test_the_gradient_reaches_the_chosen_values_alone(loss, slope):
    data = _data(PLAIN)
    loss(*data).sum().backward()
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
    ours = huber_td(QOut(q), action, reward, 0.99 * (1 - done), QOut(next_q), following).mean()
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(value, q)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients)
