import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.agent import EnvSpec
from ludus.agents.memory import rollout as module
from ludus.agents.memory.rollout import Rollout
from ludus.envs.errors import ConfigError

CPU = torch.device("cpu")
PIXELS = spaces.Box(0, 255, (2, 3), np.uint8)
ENVS, LENGTH = 3, 5


def _frame(generator, t, b):
    return generator.integers(0, 256, (2, 3), np.uint8)


def _rollout(state=(), space=None, **more) -> Rollout:
    more = {"minibatches": 3, "gamma": 0.9, "state": state, "device": CPU, "seed": 0, **more}
    return Rollout(LENGTH, EnvSpec(PIXELS, space or spaces.Discrete(3), ENVS), **more)


def _state(t):
    """A state that says of which row and env it is."""
    return (torch.arange(ENVS).float().unsqueeze(1) + 10 * t,)


def _feed(rollout, stream, rows):
    """Rows with a value from `act`, each after the state of its number; full ones restart."""
    for _ in range(rows):
        if rollout.full:
            rollout.restart()
        t = len(stream.obs) - 1
        step = stream.step()
        rollout.add(step._replace(extras={"value": 100 * t + np.arange(ENVS)}), _state(t))


def _row(stream, t):
    """Row t of all envs as the list of the stream has it."""
    discount = np.where(stream.terminated[t + 1], 0, np.float32(0.9))
    return {
        "obs": stream.obs[t],
        "first": stream.first[t],
        "valid": ~stream.over[t],
        "action": stream.action[t],
        "reward": stream.reward[t + 1],
        "discount": discount,
    }


def test_every_row_is_there_once_and_the_last_opens_the_next_rollout(random_stream):
    stream = random_stream(ENVS, 1, 0, _frame)
    rollout = _rollout(state=_state(0), extras=["value"])
    begins, learned = 0, []
    for rows in range(1, 40):
        _feed(rollout, stream, 1)
        assert rollout.filled == rows - begins
        assert rollout.full == (rollout.filled == LENGTH + 1)
        if not rollout.full:
            continue
        for row in range(LENGTH + 1):
            t = begins + row
            for name, want in _row(stream, t).items():
                got = getattr(rollout, name)[row].numpy()
                np.testing.assert_array_equal(got, want, err_msg=f"{name} of row {t}")
            assert rollout.extras["value"][row].tolist() == [100 * t + b for b in range(ENVS)]
        assert torch.equal(rollout.state[0], _state(begins)[0])
        learned += range(begins, begins + LENGTH)
        begins += LENGTH
    assert learned == list(range(35))
    assert rollout.obs.dtype == torch.uint8
    kinds = np.array([stream.terminated, stream.over])[:, 1:35]
    for terminated, over in ((1, 1), (0, 1), (1, 0)):  # an end, a cut, a lost life
        assert ((kinds[0] == terminated) & (kinds[1] == over)).any()


@pytest.mark.parametrize("state", [(), _state(0)], ids=["rows", "envs"])
def test_a_minibatch_is_what_its_index_says(random_stream, state):
    stream = random_stream(ENVS, 1, 1, _frame)
    rollout = _rollout(state=state, extras=["value"])
    if not state:
        rollout.add = lambda step, _, add=rollout.add: add(step, ())
    _feed(rollout, stream, LENGTH + 1)
    target = torch.arange(LENGTH * ENVS).view(LENGTH, ENVS)
    epoch = rollout.epoch()
    rollout.weigh(epoch)
    for index in epoch:
        batch = rollout.minibatch(index)
        if state:
            at = [[(t, b) for b in index.tolist()] for t in range(LENGTH)]
            assert torch.equal(batch.state[0], _state(0)[0][index])
        else:
            at = [[divmod(i, ENVS) for i in index.tolist()]]
            assert batch.state == ()
        for name in ("obs", "first", "action"):
            want = [[_row(stream, t)[name][b] for t, b in row] for row in at]
            np.testing.assert_array_equal(getattr(batch, name).numpy(), want, err_msg=name)
        valid = np.array([[_row(stream, t)["valid"][b] for t, b in row] for row in at], float)
        np.testing.assert_allclose(batch.weight.numpy(), valid / max(1, valid.sum()), rtol=1e-6)
        assert batch.extras["value"].tolist() == [[100 * t + b for t, b in row] for row in at]
        assert rollout.select(target, index).tolist() == [
            [ENVS * t + b for t, b in row] for row in at
        ]
    assert rollout.example()[0].shape == index.shape


@pytest.mark.parametrize("state", [(), _state(0)], ids=["rows", "envs"])
def test_an_epoch_draws_everything_once_in_an_order_of_its_own(state):
    rollout = _rollout(state=state)
    epochs = [rollout.epoch() for _ in range(20)]
    size = ENVS if state else ENVS * LENGTH
    for epoch in epochs:
        assert [len(index) for index in epoch] == [size // 3] * 3
        assert sorted(torch.cat(list(epoch)).tolist()) == list(range(size))
    orders = {tuple(torch.cat(list(epoch)).tolist()) for epoch in epochs}
    assert len(orders) > 4
    twin = _rollout(state=state)
    assert torch.equal(torch.cat(list(twin.epoch())), torch.cat(list(epochs[0])))


def test_the_mean_is_over_the_rows_whose_action_was_used(random_stream):
    stream, rollout = random_stream(ENVS, 1, 2, _frame), _rollout()
    rollout.add = lambda step, _, add=rollout.add: add(step, ())
    _feed(rollout, stream, LENGTH + 1)
    x = torch.arange(LENGTH * ENVS).float().view(1, -1)
    rollout.weigh(torch.arange(LENGTH * ENVS).unsqueeze(0))
    batch = rollout.minibatch(torch.arange(LENGTH * ENVS))
    valid = ~np.array(stream.over[:LENGTH]).flatten()
    assert not valid.all()
    assert float(batch.mean(x)) == pytest.approx(np.flatnonzero(valid).mean())
    nothing = batch._replace(weight=torch.zeros_like(batch.weight))
    assert float(nothing.mean(x)) == 0
    with pytest.raises(AssertionError):
        batch.mean(x.squeeze(0))


def test_actions_may_be_numbers(random_stream):
    space = spaces.Box(-1, 1, (2,), np.float32)
    stream, rollout = random_stream(ENVS, 1, 3, _frame), _rollout(space=space)
    action = np.random.default_rng(0).uniform(-1, 1, (LENGTH + 1, ENVS, 2)).astype(np.float32)
    for row in action:
        rollout.add(stream.step(row), ())
    assert np.array_equal(rollout.action.numpy(), action)
    index = rollout.epoch()[0]
    assert np.array_equal(
        rollout.minibatch(index).action[0].numpy(), action.reshape(-1, 2)[index.numpy()]
    )


@pytest.mark.parametrize("rows", range(1, 14))
def test_a_loaded_rollout_goes_on_like_the_saved_one(random_stream, rows):
    stream = random_stream(ENVS, 1, 4, _frame)
    ours = _rollout(state=_state(0), extras=["value"])
    _feed(ours, stream, rows)
    theirs = _rollout(state=_state(0), extras=["value"], seed=1)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    twin = copy.deepcopy(stream)
    for _ in range(12):
        _feed(ours, stream, 1)
        _feed(theirs, twin, 1)
        assert theirs.filled == ours.filled
        if ours.full:
            epoch = ours.epoch()
            assert torch.equal(epoch, theirs.epoch())
            ours.weigh(epoch)
            theirs.weigh(epoch)
            for index in epoch:
                mine, other = ours.minibatch(index), theirs.minibatch(index)
                for field in ("obs", "first", "weight", "action"):
                    assert torch.equal(getattr(mine, field), getattr(other, field))
                assert torch.equal(mine.extras["value"], other.extras["value"])
                assert torch.equal(mine.state[0], other.state[0])
            for name in ("reward", "discount"):
                assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_a_row_after_a_full_rollout_is_refused(random_stream):
    stream, rollout = random_stream(ENVS, 1, 5, _frame), _rollout()
    for _ in range(LENGTH + 1):
        rollout.add(stream.step(), ())
    with pytest.raises(AssertionError, match="must be restarted"):
        rollout.add(stream.step(), ())


def test_what_does_not_fit_is_refused_with_the_figure(monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda device: 2 * 10**9)
    picture = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    more = {"minibatches": 1, "gamma": 0.9, "state": (), "device": CPU, "seed": 0}
    with pytest.raises(ConfigError, match=r"131,072 rows needs 3\.7 GB, and only 2\.0 GB are free"):
        Rollout(1023, EnvSpec(picture, spaces.Discrete(3), 128), **more)
    Rollout(31, EnvSpec(picture, spaces.Discrete(3), 128), **more)


def test_minibatches_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="4, which does not divide 3 envs x 5 rows"):
        _rollout(minibatches=4)
    with pytest.raises(ConfigError, match="5, which does not divide 3 envs;"):
        _rollout(minibatches=5, state=_state(0))
