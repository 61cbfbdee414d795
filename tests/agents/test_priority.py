import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ludus.agents.memory.priority import Priorities

CPU = torch.device("cpu")


def _places(*numbers):
    return torch.tensor(numbers, dtype=torch.int64)


def _frequencies(priorities, size, batches, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = np.zeros(size)
    for _ in range(batches):
        chance = torch.rand(batch, generator=generator, dtype=torch.float64)
        place, _ = priorities.sample(chance)
        counts += np.bincount(place.numpy(), minlength=size)
    return counts


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_places_are_drawn_as_often_as_their_probabilities_say(alpha):
    size = 200
    generator = np.random.default_rng(1)
    raw = generator.exponential(1.0, size).astype(np.float32) + 0.01
    priorities = Priorities(size, alpha, CPU)
    priorities.admit(torch.arange(size))
    priorities.update(torch.arange(size), torch.from_numpy(raw))
    gone = torch.arange(0, size, 7)
    priorities.forget(gone)
    p = (raw.astype(np.float64) + 1e-6) ** alpha
    p[gone.numpy()] = 0
    counts = _frequencies(priorities, size, 8_000, 1)  # batches of one are not stratified
    there = p > 0
    assert counts[~there].sum() == 0
    expected = p[there] / p.sum() * counts.sum()
    assert stats.chisquare(counts[there], expected).pvalue > 1e-3
    # one from each 32nd of the sum: never further from the expectation than chance allows
    counts = _frequencies(priorities, size, 500, 32)
    expected = p[there] / p.sum() * counts.sum()
    assert counts[~there].sum() == 0
    statistic, pvalue = stats.chisquare(counts[there], expected)
    assert pvalue > 1e-3
    # but still by chance: a place that fills a share of its 32nd is hit or missed
    assert statistic > 0.5 * (there.sum() - 1)


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(1, 60),
    batch=st.integers(1, 40),
    alpha=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_a_pick_equals_a_search_in_one_running_sum(size, batch, alpha, seed):
    generator = np.random.default_rng(seed)
    there = np.unique(generator.integers(size, size=generator.integers(1, size + 1)))
    raw = torch.from_numpy(10 ** generator.uniform(-4, 4, len(there))).float()
    priorities = Priorities(size, alpha, CPU)
    priorities.admit(torch.from_numpy(there))
    priorities.update(torch.from_numpy(there), raw)
    p = np.zeros(size)
    p[there] = ((raw + 1e-6) ** alpha).numpy()
    chance = generator.random(batch)
    wanted = (np.arange(batch) + chance) / batch * p.sum()
    place, probability = priorities.sample(torch.from_numpy(chance))
    assert place.tolist() == np.searchsorted(p.cumsum(), wanted, side="right").tolist()
    np.testing.assert_allclose(probability.numpy(), p[place.numpy()] / p.sum(), rtol=1e-6)
    assert probability.dtype == torch.float64
    if alpha == 0:
        assert (probability == 1 / len(there)).all()


def test_the_probability_that_is_given_is_the_share_of_the_sum():
    priorities = Priorities(10, 0.5, CPU)
    priorities.admit(_places(2, 3, 7))
    priorities.update(_places(2, 3, 7), torch.tensor([4.0, 9.0, 25.0]))
    place, probability = priorities.sample(torch.tensor([0.0, 0.5, 0.999], dtype=torch.float64))
    shares = {2: 0.2, 3: 0.3, 7: 0.5}
    assert place.tolist() == [2, 3, 7]  # 0 of 10, 5 of 10, just below 10 of 10
    expected = torch.tensor([shares[p] for p in place.tolist()], dtype=torch.float64)
    torch.testing.assert_close(probability, expected, rtol=1e-5, atol=0)


def test_new_places_get_the_largest_priority_there_has_been():
    priorities = Priorities(5, 1.0, CPU)
    priorities.admit(_places(0))
    assert priorities.tensors()["leaves"].view(-1)[0] == 1.0
    priorities.update(_places(0), torch.tensor([8.0]))
    priorities.update(_places(0), torch.tensor([0.5]))
    priorities.admit(_places(1))
    torch.testing.assert_close(priorities.tensors()["leaves"].view(-1)[1], torch.tensor(8.0))


def test_of_a_place_that_is_there_twice_the_larger_priority_holds():
    for order in ((0.2, 3.0), (3.0, 0.2)):
        priorities = Priorities(9, 1.0, CPU)
        priorities.admit(_places(4))
        priorities.update(_places(4, 4), torch.tensor(order))
        assert priorities.tensors()["leaves"].view(-1)[4] == pytest.approx(3.0, rel=1e-5)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "update", "forget"]),
        st.lists(st.integers(0, 36), min_size=1, max_size=6),
        st.floats(0, 1e4, width=32),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(OPERATIONS, st.sampled_from([0.0, 0.6, 1.0]))
def test_leaves_and_sums_equal_a_plain_list(operations, alpha):
    priorities, plain, largest = Priorities(37, alpha, CPU), np.zeros(37), 1.0
    for name, places, value in operations:
        at = _places(*places)
        if name == "update":
            raw = np.float32(value) + np.float32(1e-6)
            largest = max(largest, raw)
            plain[places] = raw**alpha
            priorities.update(at, torch.full((len(places),), value))
        else:
            plain[places] = largest**alpha if name == "admit" else 0
            getattr(priorities, name)(at)
    kept = priorities.tensors()
    leaves = kept["leaves"].view(-1)
    np.testing.assert_allclose(leaves[:37].numpy(), plain, rtol=1e-5)
    assert (leaves[37:] == 0).all()
    expected = kept["leaves"].to(torch.float64).sum(1)
    torch.testing.assert_close(kept["sums"], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("size", "alpha"), [(1, 1.0), (37, 0.6), (100, 1.0), (101, 0.0)])
def test_thousands_of_changes_leave_what_a_plain_list_has(size, alpha):
    generator, plain, largest = np.random.default_rng(size), np.zeros(size), 1.0
    priorities = Priorities(size, alpha, CPU)
    kept = priorities.tensors()
    for turn in range(2_000):
        # one place or more than there are, so often one twice
        places = generator.integers(size, size=generator.integers(1, 2 * size + 1))
        match generator.choice(["admit", "update", "forget"], p=[0.2, 0.6, 0.2]):
            case "update":
                raw = (10 ** generator.uniform(-6, 6, len(places))).astype(np.float32)
                priorities.update(torch.from_numpy(places), torch.from_numpy(raw))
                raw += np.float32(1e-6)
                largest = max(largest, raw.max())
                plain[places] = 0
                np.maximum.at(plain, places, raw.astype(np.float64) ** alpha)
            case "admit":
                priorities.admit(torch.from_numpy(places))
                plain[places] = largest**alpha
            case "forget":
                priorities.forget(torch.from_numpy(places))
                plain[places] = 0
        if turn % 20 and turn < 1_990:
            continue
        leaves = kept["leaves"].view(-1).double()
        np.testing.assert_allclose(leaves[:size].numpy(), plain, rtol=1e-5)
        sums = kept["leaves"].double().sum(1)
        torch.testing.assert_close(kept["sums"], sums, rtol=1e-12, atol=0)
        assert float(kept["largest"]) == pytest.approx(largest, rel=1e-6)


def test_every_place_among_a_million_can_be_reached_beside_a_giant():
    size = 1_000_000
    priorities, everyone = Priorities(size, 1.0, CPU), torch.arange(size)
    priorities.admit(everyone)
    raw = torch.full((size,), 1e-4)
    raw[size // 3] = 1e6  # a float32 sum beyond it would swallow all others
    priorities.update(everyone, raw)
    leaves = priorities.tensors()["leaves"].view(-1)[:size].double()
    upto = leaves.cumsum(0)
    places = torch.randint(size, (500,), generator=torch.Generator().manual_seed(0))
    for place in torch.cat([places, _places(0, size // 3 - 1, size // 3 + 1, size - 1)]):
        middle = (upto[place] - leaves[place] / 2) / upto[-1]
        assert priorities.sample(middle.view(1))[0] == place


def test_small_and_large_priorities_live_together_among_a_million():
    size = 1_000_000
    priorities = Priorities(size, 1.0, CPU)
    everyone = torch.arange(size)
    priorities.admit(everyone)
    raw = torch.full((size,), 1e-3)
    raw[::1000] = 1e3  # 1,000 places hold 1,000,000 of 1,001,000
    priorities.update(everyone, raw)
    generator = torch.Generator().manual_seed(0)
    chances = torch.rand(2_000, 1, generator=generator, dtype=torch.float64)
    picked = [priorities.sample(chance) for chance in chances]
    place, probability = (torch.cat(parts) for parts in zip(*picked, strict=True))
    small = int((place % 1000 != 0).sum())
    share = 0.999 / (1000 + 0.999)
    assert stats.binomtest(small, len(place), share).pvalue > 1e-3
    large = probability[place % 1000 == 0]
    torch.testing.assert_close(large, torch.full_like(large, 1e-3 / 1.000999), rtol=1e-4, atol=0)


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-53])
def test_the_ends_of_chance_are_places_that_may_be_sampled(chance):
    priorities = Priorities(50, 0.7, CPU)
    inside = torch.arange(3, 41, 4)
    priorities.admit(inside)
    priorities.update(inside, torch.rand(len(inside)) * 1e-3)
    place, probability = priorities.sample(torch.full((64,), chance, dtype=torch.float64))
    assert set(place.tolist()) <= set(inside.tolist())
    assert (probability > 0).all()
