import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.distributions import Normal

from ludus.networks.policies import ActionKind, PolicyHead, PolicyOut


def _out(logits, log_std=None) -> PolicyOut:
    return PolicyOut(logits, log_std, torch.zeros(logits.shape[:-1]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 2**31))
def test_a_mask_leaves_a_policy_over_the_legal_joint_actions_alone(sizes, seed):
    """Every joint action written out: the product of each choice's share of what is legal."""
    torch.manual_seed(seed)
    logits = (3 * torch.randn(sum(sizes))).requires_grad_()
    legal = torch.rand(sum(sizes)) < 0.5
    for part in legal.split(sizes):
        part[torch.randint(len(part), ())] = True
    joint = torch.tensor(list(itertools.product(*map(range, sizes))))  # [J, K]
    kind = ActionKind(spaces.MultiDiscrete(sizes))
    policy = kind.distribution(_out(logits.expand(len(joint), -1)), legal)
    shares = [w / w.sum() for w in (logits.exp() * legal).split(sizes)]
    want = torch.stack([p[a] for p, a in zip(shares, joint.unbind(-1), strict=True)]).prod(0)
    possible = want > 0
    got = policy.log_prob(joint)
    torch.testing.assert_close(got.exp(), want, rtol=1e-4, atol=1e-6)
    assert (got.exp()[~possible] == 0).all()
    entropy = -(want[possible] * want[possible].log()).sum()
    torch.testing.assert_close(policy.entropy()[0], entropy, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(got[possible].sum() + policy.entropy()[0], logits)
    theirs = torch.autograd.grad(want[possible].log().sum() + entropy, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_legal_actions_come_as_often_as_their_shares_say():
    p, legal = torch.tensor([0.2, 0.4, 0.1, 0.3]), torch.tensor([True, False, True, True])
    kind = ActionKind(spaces.Discrete(4))
    chance = kind.noise((20_000,), torch.Generator().manual_seed(0))
    drawn = kind.distribution(_out(p.log().expand(20_000, 4)), legal).sample(chance)
    counts = torch.bincount(drawn, minlength=4)
    assert counts[1] == 0
    expected = 20_000 * p[legal] / 0.6
    assert chisquare(counts[legal].numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("chance", itertools.product([0.0, 1 - 2**-24], repeat=3), ids=str)
def test_the_rarest_numbers_draw_no_illegal_action(chance):
    policy = ActionKind(spaces.Discrete(3)).distribution(
        _out(torch.tensor([50.0, 0.0, -5.0])), torch.tensor([False, True, True])
    )
    action = policy.sample(torch.tensor(chance))
    assert action != 0
    assert policy.log_prob(action).isfinite()


def test_without_a_legal_action_the_gradient_is_that_without_a_mask():
    kind, logits = ActionKind(spaces.Discrete(4)), torch.randn(5, 4, requires_grad=True)
    none, action = torch.zeros(5, 4, dtype=torch.bool), torch.tensor([0, 1, 2, 3, 0])
    slopes = []
    for legal in (None, none):
        policy = kind.distribution(_out(logits), legal)
        slopes += torch.autograd.grad((policy.log_prob(action) + policy.entropy()).sum(), logits)
    torch.testing.assert_close(slopes[1], slopes[0])
    assert (slopes[0] != 0).any()


def test_what_the_env_gets_is_clipped_and_what_is_learned_from_is_not():
    kind = ActionKind(spaces.Box(np.float32([-0.5, 0, -np.inf]), np.float32([0.5, np.inf, 9])))
    out = _out(torch.zeros(200, 3), torch.ones(3))
    policy = kind.distribution(out)
    action = policy.sample(kind.noise((200,), torch.Generator().manual_seed(0)))
    drawn = action.clone()
    sent = torch.from_numpy(kind.env_action(action.numpy()))
    assert torch.equal(action, drawn)
    torch.testing.assert_close(sent[:, 0], drawn[:, 0].clamp(-0.5, 0.5))
    torch.testing.assert_close(sent[:, 1], drawn[:, 1].clamp(min=0))
    torch.testing.assert_close(sent[:, 2], drawn[:, 2].clamp(max=9))
    found = policy.log_prob(action)
    torch.testing.assert_close(found, Normal(0.0, torch.e).log_prob(drawn).sum(-1))
    assert (found - policy.log_prob(sent)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("space", "numbers"),
    [
        (spaces.Discrete(4), 4),
        (spaces.MultiDiscrete([2, 3]), 5),
        (spaces.Box(-1, 1, (3,), np.float32), 3),
    ],
    ids=str,
)
def test_a_sample_is_of_its_generator_alone(space, numbers):
    kind, drawn = ActionKind(space), []
    for seed in (0, 0, 1):
        torch.rand(7)  # moves the global generator
        drawn.append(kind.noise((5, 2), torch.Generator().manual_seed(seed)))
    assert drawn[0].shape == (5, 2, numbers)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert (drawn[0] < 0).any() == isinstance(space, spaces.Box)


def test_only_continuous_actions_have_a_deviation_and_it_starts_where_asked():
    continuous = PolicyHead(4, ActionKind(spaces.Box(-1, 1, (3,), np.float32)), False, -0.7)
    assert continuous(torch.zeros(1, 4)).log_std.tolist() == [pytest.approx(-0.7)] * 3
    discrete = PolicyHead(4, ActionKind(spaces.Discrete(3)), False, -0.7)
    assert discrete(torch.zeros(1, 4)).log_std is None


def test_the_units_of_the_value_travel_with_the_weights():
    head, other = (PolicyHead(4, ActionKind(spaces.Discrete(3)), False) for _ in "ab")
    head.rescale_value(torch.tensor(30.0), torch.tensor(7.0))
    with torch.no_grad():
        head.value.bias.add_(1.0)  # one deviation of the return
    x = torch.randn(5, 4)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(x).value, head(x).value)
    with torch.no_grad():
        head.value.bias.add_(1.0)
    torch.testing.assert_close(head(x).value - other(x).value, torch.full((5,), 7.0))
