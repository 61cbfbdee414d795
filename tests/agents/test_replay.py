import copy
import re
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ludus.agents.memory.replay import Horizon, Replay
from ludus.envs.errors import ConfigError

CPU = torch.device("cpu")
GAMMA = 0.9
DEVICES = [CPU] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
FRAME = (2,)


def _frame(generator, t, b):
    """Every frame says which it is; nothing is 0, which stands for 'before the episode'."""
    return np.array([t + 1, b + 1], np.float32)


def _replay(rows, envs, stack, n_step, *, spare=0, seed=0, device=CPU, alpha=None):
    shape = (stack, *FRAME) if stack > 1 else FRAME
    return Replay(
        rows * envs + spare,
        envs,
        shape,
        np.dtype(np.float32),
        stack=stack,
        n_step=n_step,
        gamma=GAMMA,
        device=device,
        seed=seed,
        alpha=alpha,
    )


def _all(memory):
    """Every transition that can be sampled, by asking for the middle of each share of chance."""
    size = len(memory)
    chance = (torch.arange(size, dtype=torch.float64) + 0.5) / max(size, 1)
    return memory.sample(chance.to(memory.device)).batch


def _places(batch, stack):
    """(t, b) of each transition, read off its newest frame."""
    newest = batch.obs[:, -1] if stack > 1 else batch.obs
    return [(int(t) - 1, int(b) - 1) for t, b in newest.tolist()]


def _expected_places(stream, rows, n_step):
    """Valid rows of the last `rows` with `stack` rows of history and n successors among them."""
    written = len(stream.action)
    wrapped = written > rows
    oldest = written - rows + stream.stack - 1 if wrapped else 0
    return {
        (t, b)
        for t in range(oldest, written - n_step)
        for b in range(stream.envs)
        if not stream.over[t][b]
    }


def _expected(stream, t, b, n_step, gamma=GAMMA):
    """(n-step reward, discount, rows to the bootstrap observation), one step after another."""
    total, power = 0.0, 1.0
    for k in range(1, n_step + 1):
        total += power * float(stream.reward[t + k][b])
        power *= gamma
        if stream.terminated[t + k][b]:
            return total, 0.0, k
        if stream.over[t + k][b]:
            return total, power, k
    return total, power, n_step


def _check(memory, stream, n_step):
    """What can be sampled is what the list that keeps everything says, and nothing else."""
    expected = _expected_places(stream, memory.rows, n_step)
    assert len(memory) == len(expected)
    if not expected:
        return
    batch = _all(memory)
    places = _places(batch, stream.stack)
    assert len(set(places)) == len(places)
    assert set(places) == expected
    want = [_expected(stream, t, b, n_step) for t, b in places]
    rewards, discounts, steps = zip(*want, strict=True)
    ahead = [(t + k, b) for (t, b), k in zip(places, steps, strict=True)]

    def gathered(rows, at):
        return np.stack([rows[t][b] for t, b in at])

    assert np.array_equal(batch.obs.cpu(), gathered(stream.obs, places))
    assert np.array_equal(batch.next_obs.cpu(), gathered(stream.obs, ahead))
    assert batch.action.tolist() == gathered(stream.action, places).tolist()
    np.testing.assert_allclose(batch.reward.cpu(), rewards, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(batch.discount.cpu(), discounts, rtol=1e-5, atol=1e-6)


ends = st.sampled_from(
    [
        (0.0, 0.0, 0.0, 0.0),  # one endless episode
        (0.15, 0.1, 0.03, 0.1),
        (0.0, 0.3, 0.0, 0.0),  # truncations alone
        (0.0, 0.0, 0.0, 0.6),  # lives are lost and games never end
        (0.4, 0.3, 0.2, 0.1),  # every row ends something: episodes of one step
        (1.0, 0.0, 0.0, 0.0),
    ]
)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@settings(max_examples=120, deadline=None)
@given(
    envs=st.integers(1, 4),
    stack=st.integers(1, 4),
    n_step=st.integers(1, 5),
    extra=st.integers(1, 9),
    spare=st.integers(0, 3),
    length=st.integers(1, 45),
    ends=ends,
    seed=st.integers(0, 2**31),
)
def test_what_is_sampled_equals_a_list_that_keeps_everything(
    random_stream, device, envs, stack, n_step, extra, spare, length, ends, seed
):
    rows = n_step + stack + extra  # wraps up to 15 times
    memory = _replay(rows, envs, stack, n_step, spare=spare % envs, device=device)
    stream = random_stream(envs, stack, seed, _frame, ends)
    for _ in range(length):
        memory.add(stream.step())
        _check(memory, stream, n_step)


@settings(max_examples=50, deadline=None)
@given(
    envs=st.integers(1, 3),
    longest=st.integers(1, 5),
    shorter=st.integers(0, 4),
    gamma=st.floats(0.1, 1.0),
    ends=ends,
    seed=st.integers(0, 2**31),
)
def test_a_horizon_makes_returns_shorter_and_discounts_them_otherwise(
    random_stream, envs, longest, shorter, gamma, ends, seed
):
    memory, n_step = _replay(20, envs, 1, longest), max(1, longest - shorter)
    stream = random_stream(envs, 1, seed, _frame, ends)
    for _ in range(30):
        memory.add(stream.step())
    places = _places(_all(memory), 1) if len(memory) else []
    assert set(places) == _expected_places(stream, memory.rows, longest)
    if not places:
        return
    memory.horizon = Horizon(torch.tensor(n_step), torch.tensor(gamma / GAMMA))
    batch = _all(memory)
    want = [_expected(stream, t, b, n_step, gamma) for t, b in places]
    rewards, discounts, steps = zip(*want, strict=True)
    ahead = [stream.obs[t + k][b] for (t, b), k in zip(places, steps, strict=True)]
    assert np.array_equal(batch.next_obs, np.stack(ahead))
    np.testing.assert_allclose(batch.reward, rewards, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(batch.discount, discounts, rtol=1e-5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    envs=st.integers(1, 3),
    stack=st.integers(1, 4),
    n_step=st.integers(1, 4),
    extra=st.integers(1, 6),
    before=st.none() | st.integers(0, 40),
    after=st.integers(0, 15),
    ends=ends,
    seed=st.integers(0, 2**31),
)
def test_a_loaded_memory_goes_on_bit_for_bit(
    random_stream, envs, stack, n_step, extra, before, after, ends, seed
):
    rows = n_step + stack + extra
    memory = _replay(rows, envs, stack, n_step, seed=1)
    stream = random_stream(envs, stack, seed, _frame, ends)
    for _ in range(rows if before is None else before):  # just full, or anything
        memory.add(stream.step())
        memory.uniforms(2)
    loaded = _replay(rows, envs, stack, n_step, seed=2)
    loaded.load_state_dict(copy.deepcopy(memory.state_dict()))
    for last in range(after + 1):
        assert len(loaded) == len(memory)
        chance = memory.uniforms(16)
        assert torch.equal(loaded.uniforms(16), chance)
        if len(memory):
            for ours, theirs in zip(
                memory.sample(chance).batch, loaded.sample(chance).batch, strict=True
            ):
                assert torch.equal(ours, theirs)
        if last < after:
            step = stream.step()
            memory.add(step)
            loaded.add(step)
    _check(loaded, stream, n_step)


def _leaves(memory):
    return memory.priorities.tensors()["leaves"].view(-1)


def _at(memory, places):
    """Where in the ring the rows (t, b) lie."""
    return {(t % memory.rows) * memory.num_envs + b for t, b in places}


@pytest.mark.parametrize("device", DEVICES, ids=str)
@settings(max_examples=50, deadline=None)
@given(
    envs=st.integers(1, 4),
    stack=st.integers(1, 4),
    n_step=st.integers(1, 4),
    extra=st.integers(1, 9),
    alpha=st.sampled_from([0.0, 0.5, 1.0]),
    length=st.integers(1, 45),
    ends=ends,
    seed=st.integers(0, 2**31),
)
def test_what_can_be_sampled_has_a_priority_and_nothing_else(
    random_stream, device, envs, stack, n_step, extra, alpha, length, ends, seed
):
    rows = n_step + stack + extra
    memory = _replay(rows, envs, stack, n_step, alpha=alpha, device=device)
    stream = random_stream(envs, stack, seed, _frame, ends)
    generator, before, given_last = torch.Generator().manual_seed(seed), set(), {}
    for _ in range(length):
        memory.add(stream.step())
        places = _expected_places(stream, rows, n_step)
        leaves = _leaves(memory).cpu()
        assert set(leaves.nonzero().flatten().tolist()) == _at(memory, places)
        assert len(memory) == len(places)
        if not places:
            continue
        fresh = leaves[sorted(_at(memory, places - before))]
        largest = memory.priorities.tensors()["largest"].cpu() ** alpha
        torch.testing.assert_close(fresh, largest.expand_as(fresh))
        for place, value in given_last.items():  # nobody else's priority moved
            assert place not in _at(memory, places & before) or leaves[place] == value
        before = places
        sample = memory.sample(memory.uniforms(9))
        assert set(sample.indices.tolist()) <= _at(memory, places)
        assert set(_places(sample.batch, stack)) <= places
        assert _at(memory, _places(sample.batch, stack)) == set(sample.indices.tolist())
        share = leaves.double()[sample.indices.cpu()] / leaves.double().sum()
        torch.testing.assert_close(sample.probability.cpu(), share)
        priority = torch.rand(9, generator=generator) * 3
        memory.priorities.update(sample.indices, priority.to(device))
        leaves = _leaves(memory).cpu()
        given_last = {place: leaves[place] for place in sample.indices.tolist()}


def test_without_priorities_no_likelihood_is_given(random_stream):
    for alpha, expected in ((None, False), (0.0, True)):
        memory, stream = _replay(20, 2, 1, 1, alpha=alpha), random_stream(2, 1, 0, _frame)
        for _ in range(30):
            memory.add(stream.step())
        probability = memory.sample(memory.uniforms(8)).probability
        assert (probability is not None) == expected
    alike = torch.full((8,), 1 / len(memory), dtype=torch.float64)
    torch.testing.assert_close(probability, alike)


@pytest.mark.parametrize("rows_before", [3, 12, 50])
def test_a_loaded_memory_has_the_same_priorities_and_samples(random_stream, rows_before):
    memory = _replay(12, 3, 2, 2, seed=1, alpha=0.7)
    loaded = _replay(12, 3, 2, 2, seed=2, alpha=0.7)
    stream, generator = random_stream(3, 2, 0, _frame), torch.Generator().manual_seed(0)

    def learn(*memories):
        samples = [m.sample(m.uniforms(6)) for m in memories]
        priority = 5 * torch.rand(6, generator=generator)
        for m, sample in zip(memories, samples, strict=True):
            m.priorities.update(sample.indices, priority)
        return samples

    for _ in range(rows_before):
        memory.add(stream.step())
        if len(memory):
            learn(memory)
    loaded.load_state_dict(copy.deepcopy(memory.state_dict()))
    for _ in range(30):
        for name, tensor in memory.priorities.tensors().items():
            assert torch.equal(loaded.priorities.tensors()[name], tensor), name
        if len(memory):
            ours, theirs = learn(memory, loaded)
            assert torch.equal(ours.indices, theirs.indices)
            assert torch.equal(ours.probability, theirs.probability)
            for a, b in zip(ours.batch, theirs.batch, strict=True):
                assert torch.equal(a, b)
        step = stream.step()
        memory.add(step)
        loaded.add(step)


def test_rows_saved_without_priorities_are_all_new(random_stream):
    plain, stream = _replay(12, 3, 2, 2), random_stream(3, 2, 0, _frame)
    for _ in range(30):
        plain.add(stream.step())
    loaded = _replay(12, 3, 2, 2, alpha=0.5)
    loaded.load_state_dict(copy.deepcopy(plain.state_dict()))
    leaves, places = _leaves(loaded), _expected_places(stream, 12, 2)
    assert set(leaves.nonzero().flatten().tolist()) == _at(loaded, places)
    assert set(leaves.tolist()) == {0.0, 1.0}
    _check(loaded, stream, 2)


def test_sampling_is_uniform_over_the_places(random_stream):
    memory, stream = _replay(30, 4, 2, 2), random_stream(4, 2, 5, _frame)
    for _ in range(70):
        memory.add(stream.step())
    draws = 200 * len(memory)
    places = _places(memory.sample(memory.uniforms(draws)).batch, 2)
    counts = np.unique(np.array(places) @ [10, 1], return_counts=True)[1]
    assert len(counts) == len(memory)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_ends_of_chance_stay_inside(random_stream):
    memory, stream = _replay(40, 3, 1, 1), random_stream(3, 1, 5, _frame)
    for _ in range(90):
        memory.add(stream.step())
        if not len(memory):
            continue
        whole = _places(_all(memory), 1)
        chance = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)  # the least and the most
        assert _places(memory.sample(chance).batch, 1) == [whole[0], whole[-1]]
    chance = memory.uniforms(1000)
    assert chance.dtype == torch.float64  # float32 could not tell a million places apart
    assert 0 <= chance.min() < 0.02 < 0.98 < chance.max() < 1


@pytest.mark.parametrize(("stack", "shape"), [(1, (3, 5, 4)), (4, (4, 5, 4))])
def test_pictures_keep_their_shape_and_type(random_stream, stack, shape):
    def picture(generator, t, b):
        size = shape[1:] if stack > 1 else shape
        return generator.integers(0, 256, size, np.uint8)

    kind = np.dtype(np.uint8)
    options = {"stack": stack, "n_step": 1, "gamma": GAMMA, "device": CPU, "seed": 0}
    memory, stream = Replay(20, 2, shape, kind, **options), random_stream(2, stack, 0, picture)
    for _ in range(6):
        memory.add(stream.step())
    batch = _all(memory)
    assert batch.obs.shape == batch.next_obs.shape == (len(memory), *shape)
    assert batch.obs.dtype == batch.next_obs.dtype == torch.uint8
    assert batch.action.dtype == torch.int64
    assert batch.obs[0].tolist() == stream.obs[0][0].tolist()


def test_the_memory_keeps_copies(random_stream):
    memory, stream = _replay(9, 2, 2, 1), random_stream(2, 2, 0, _frame, (0, 0, 0, 0))
    for _ in range(5):
        memory.add(stream.step())
    before = _all(memory)
    for rows in (stream.obs, stream.reward, stream.first, stream.terminated, stream.action):
        for row in rows:
            row[:] = 1
    for kept, now in zip(before, _all(memory), strict=True):
        assert torch.equal(kept, now)


@pytest.mark.parametrize(("envs", "stack", "n_step"), [(1, 1, 1), (3, 4, 5)])
def test_too_small_a_ring_is_refused_with_the_least_that_works(envs, stack, n_step):
    with pytest.raises(ConfigError, match="replay_size") as refused:
        _replay(n_step + stack, envs, stack, n_step, spare=envs - 1)
    least = int(re.findall(r"at least (\d+)", str(refused.value))[0])
    assert least == envs * (n_step + stack + 1)
    assert _replay(least // envs, envs, stack, n_step).capacity == least


def _atari(capacity):
    return Replay(
        capacity,
        8,
        (4, 84, 84),
        np.dtype(np.uint8),
        stack=4,
        n_step=1,
        gamma=GAMMA,
        device=CPU,
        seed=0,
    )


def _bytes(memory):
    values = list(vars(memory).values())
    tensors = sum(v.untyped_storage().nbytes() for v in values if isinstance(v, torch.Tensor))
    return tensors + sum(v.nbytes for v in values if isinstance(v, np.ndarray))


def test_a_million_atari_transitions_take_no_more_than_is_promised():
    each = (_bytes(_atari(1600)) - _bytes(_atari(800))) / 800
    assert each * 1_000_000 <= 7.5e9


def test_memory_that_does_not_fit_is_refused_with_need_and_free(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2_000_000_000))
    with pytest.raises(ConfigError) as refused:
        _atari(1_000_000)
    text = str(refused.value)
    assert "1,000,000 transitions needs 7.1 GB" in text
    assert "only 2.0 GB are free" in text
    fits = int(re.findall(r"replay_size of ([\d,]+)", text)[0].replace(",", ""))
    assert 200_000 < fits < 2e9 / 7056
    assert _atari(fits).capacity > 0.99 * fits
