import pytest
import torch

from ludus.networks.cores import TwoCores, make_core


@pytest.mark.parametrize("kind", ["none", "lstm", "gru", "gtrxl"])
def test_each_core_has_its_half_and_its_own_state(kind):
    one, two = (make_core(kind, 3, 4, heads=2, window=3) for _ in "ab")
    both = TwoCores(one, two)
    x, first = torch.randn(6, 2, 6), torch.rand(6, 2) < 0.3
    early, state = both(x[:4], both.initial_state(2), first[:4])
    late, state = both(x[4:], state, first[4:])
    out_one, end_one = one(x[..., :3], one.initial_state(2), first)
    out_two, end_two = two(x[..., 3:], two.initial_state(2), first)
    assert both.dim == 2 * one.dim
    assert len(state) == len(end_one) + len(end_two)
    torch.testing.assert_close(torch.cat([early, late]), torch.cat([out_one, out_two], -1))
    if kind in ("lstm", "gru"):
        torch.testing.assert_close(state, (*end_one, *end_two))
