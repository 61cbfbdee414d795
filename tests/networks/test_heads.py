import pytest
import torch

from ludus.networks.heads import QHead, Streams


def _head(dim, actions, hidden, dueling=False):
    return QHead(Streams(dim, actions, hidden=hidden, dueling=dueling))


def _fill(linear, weight, bias):
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight))
        linear.bias.copy_(torch.tensor(bias))


def test_dueling_by_hand():
    head = _head(2, 3, 0, dueling=True)
    _fill(head.streams.value.layers[0], [[1.0, 2.0]], [0.5])
    _fill(head.streams.advantage.layers[0], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 0.0, 3.0])
    # x = (1, 2): v = 1 + 4 + 0.5 = 5.5; a = (1, 2, 6), mean 3; q = v + a - 3
    q = head(torch.tensor([1.0, 2.0])).q
    torch.testing.assert_close(q, torch.tensor([3.5, 4.5, 8.5]))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_the_mean_over_actions_is_the_value(shape):
    head = _head(5, 4, 8, dueling=True)
    x = torch.randn(shape)
    q, v = head(x).q, head.streams.value(x, None)
    assert q.shape == (*shape[:-1], 4)
    assert v.abs().max() > 0.01
    torch.testing.assert_close((q - v).mean(-1), torch.zeros(shape[:-1]), rtol=0, atol=1e-6)


def test_advantages_are_told_apart_by_differences_only():
    head = _head(5, 4, 0, dueling=True)
    x = torch.randn(6, 5)
    before = head(x).q
    with torch.no_grad():
        head.streams.advantage.layers[0].bias += 100.0
    torch.testing.assert_close(head(x).q, before, rtol=0, atol=1e-4)


def test_a_hidden_layer_by_hand():
    head = _head(1, 2, 2)
    _fill(head.streams.advantage.layers[0], [[1.0], [-1.0]], [0.0, 0.0])
    _fill(head.streams.advantage.layers[1], [[1.0, 0.0], [0.0, 1.0]], [10.0, 20.0])
    torch.testing.assert_close(head(torch.tensor([[3.0]])).q, torch.tensor([[13.0, 20.0]]))
    torch.testing.assert_close(head(torch.tensor([[-3.0]])).q, torch.tensor([[10.0, 23.0]]))


def test_no_hidden_layer_is_linear():
    head = _head(3, 2, 0)
    x = torch.randn(4, 3)
    zero = head(torch.zeros(3)).q
    torch.testing.assert_close(head(2 * x).q - zero, 2 * (head(x).q - zero))
    assert sum(p.numel() for p in head.parameters()) == 3 * 2 + 2
