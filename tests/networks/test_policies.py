import copy
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import chisquare
from torch import distributions

from ludus.networks.policies import ActionKind, PolicyHead, PolicyOut

SPACES = {
    "discrete": spaces.Discrete(4, start=2),
    "several": spaces.MultiDiscrete([2, 3], start=[1, 0]),
    "continuous": spaces.Box(-0.5, 0.5, (3,), np.float32),
}


def _out(kind, *lead) -> PolicyOut:
    log_std = torch.randn(kind.outputs) if kind.continuous else None
    return PolicyOut(torch.randn(*lead, kind.outputs), log_std, torch.zeros(lead))


def _torchs(name, out):
    """The same by torch.distributions."""
    if name == "continuous":
        return distributions.Independent(distributions.Normal(out.logits, out.log_std.exp()), 1)
    if name == "discrete":
        return distributions.Categorical(logits=out.logits)
    return None


@pytest.mark.parametrize("name", SPACES)
def test_log_probabilities_and_entropies_are_torchs(name):
    kind = ActionKind(SPACES[name])
    out, generator = _out(kind, 5, 7), torch.Generator().manual_seed(0)
    policy = kind.distribution(out)
    action = policy.sample(kind.noise((5, 7), generator))
    if name == "several":
        halves = [distributions.Categorical(logits=x) for x in out.logits.split([2, 3], -1)]
        log_prob = sum(d.log_prob(action[..., i]) for i, d in enumerate(halves))
        entropy = sum(d.entropy() for d in halves)
    else:
        theirs = _torchs(name, out)
        log_prob, entropy = theirs.log_prob(action), theirs.entropy()
    torch.testing.assert_close(policy.log_prob(action), log_prob, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(policy.entropy(), entropy, rtol=1e-5, atol=1e-5)
    assert policy.log_prob(action).shape == policy.entropy().shape == (5, 7)
    best = policy.log_prob(policy.mode())
    assert (best >= policy.log_prob(action)).all()


def test_a_log_density_by_hand():
    """Two numbers at 1 and 2 deviations of 0.5 and 2 from their means."""
    kind = ActionKind(spaces.Box(-9, 9, (2,), np.float32))
    log_std = torch.tensor([0.5, 2.0]).log()
    policy = kind.distribution(PolicyOut(torch.tensor([1.0, -1.0]), log_std, torch.zeros(())))
    want = -0.5 * (1 + 4) - math.log(0.5) - math.log(2.0) - math.log(2 * math.pi)
    assert float(policy.log_prob(torch.tensor([1.5, 3.0]))) == pytest.approx(want)


def test_samples_come_as_often_as_their_probabilities_say():
    kind = ActionKind(spaces.MultiDiscrete([2, 3]))
    p = torch.tensor([0.3, 0.7, 0.5, 0.1, 0.4])
    out = PolicyOut(p.log().expand(20_000, 5), None, torch.zeros(20_000))
    generator = torch.Generator().manual_seed(0)
    drawn = kind.distribution(out).sample(kind.noise((20_000,), generator))
    counts = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=6)
    expected = 20_000 * torch.outer(p[:2], p[2:]).flatten()
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_a_gaussian_sample_has_its_mean_and_deviation():
    kind = ActionKind(SPACES["continuous"])
    log_std = torch.tensor([0.5, 1.0, 3.0]).log()
    out = PolicyOut(torch.tensor([1.0, 0.0, -4.0]).expand(40_000, 3), log_std, torch.zeros(40_000))
    drawn = kind.distribution(out).sample(kind.noise((40_000,), torch.Generator().manual_seed(0)))
    torch.testing.assert_close(drawn.mean(0), out.logits[0], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), log_std.exp(), atol=0, rtol=0.02)


@pytest.mark.parametrize("name", ["discrete", "several"])
def test_what_is_illegal_has_probability_and_gradient_zero(name):
    kind = ActionKind(SPACES[name])
    logits = torch.randn(50, kind.outputs, requires_grad=True)
    legal = torch.rand(50, kind.outputs) < 0.5
    legal[:, 0] = legal[:, 2] = True  # something of each choice
    policy = kind.distribution(PolicyOut(logits, None, torch.zeros(50)), legal)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        action = policy.sample(kind.noise((50,), generator))
        chosen = action.unsqueeze(-1) if name == "discrete" else action + torch.tensor([0, 2])
        assert legal.gather(1, chosen).all()
    parts = [policy] if name == "discrete" else policy.parts
    assert (torch.cat([part.log_p for part in parts], -1).exp()[~legal] == 0).all()
    (slope,) = torch.autograd.grad(policy.log_prob(action).sum() + policy.entropy().sum(), logits)
    assert slope.isfinite().all()
    assert (slope[~legal] == 0).all()
    assert (slope[legal] != 0).any()


def test_a_mask_without_a_legal_action_allows_all():
    kind = ActionKind(SPACES["discrete"])
    out = _out(kind, 2)
    legal = torch.tensor([[False] * 4, [True, False, False, True]])
    log_p = kind.distribution(out, legal).log_p
    torch.testing.assert_close(log_p[0], out.logits[0].log_softmax(-1))
    assert log_p[1].exp().tolist()[1:3] == [0, 0]


def test_so_does_one_of_several_choices_and_the_others_keep_their_rules():
    kind = ActionKind(SPACES["several"])
    out = _out(kind)
    legal = torch.tensor([False, False, True, False, True])
    first, second = kind.distribution(out, legal).parts
    torch.testing.assert_close(first.log_p, out.logits[:2].log_softmax(-1))
    assert second.log_p.exp()[1] == 0


def test_the_env_gets_actions_from_its_first_and_within_its_bounds():
    assert ActionKind(SPACES["discrete"]).env_action(np.array([0, 3])).tolist() == [2, 5]
    assert ActionKind(SPACES["several"]).env_action(np.array([[0, 2]])).tolist() == [[1, 2]]
    kind = ActionKind(SPACES["continuous"])
    assert kind.env_action(np.array([[-3.0, 0.25, 3.0]])).tolist() == [[-0.5, 0.25, 0.5]]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.MultiBinary(3),
        spaces.Box(-1, 1, (2, 2), np.float32),
        spaces.Box(0, 9, (2,), np.int64),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
    ],
    ids=str,
)
def test_other_action_spaces_are_refused_by_name(space):
    with pytest.raises(ValueError, match=r"(?s)the action space is (Dict|Multi|Box).*; this agent"):
        ActionKind(space)


@pytest.mark.parametrize("separate", [False, True])
def test_policy_and_value_see_their_own_half_or_all(separate):
    head = PolicyHead(8, ActionKind(SPACES["discrete"]), separate)
    x = torch.randn(3, 8, requires_grad=True)
    out = head(x)
    (of_policy,) = torch.autograd.grad(out.logits.sum(), x, retain_graph=True)
    (of_value,) = torch.autograd.grad(out.value.sum(), x)
    assert ((of_policy[:, 4:] == 0).all(), (of_value[:, :4] == 0).all()) == (separate, separate)
    assert (of_policy[:, :4] != 0).all()
    assert (of_value[:, 4:] != 0).all()


def test_another_mean_and_deviation_change_no_value():
    head = PolicyHead(8, ActionKind(SPACES["discrete"]), separate=False)
    x = torch.randn(50, 8)
    before, weight = head(x).value.detach(), copy.deepcopy(head.value.weight)
    for mean, std in ((3.0, 5.0), (-100.0, 0.1)):
        head.rescale_value(torch.tensor(mean), torch.tensor(std))
        torch.testing.assert_close(head(x).value, before, rtol=1e-4, atol=1e-4)
        assert (float(head.value_mean), float(head.value_std)) == (mean, pytest.approx(std))
        torch.testing.assert_close(head.value.weight * std, weight)
