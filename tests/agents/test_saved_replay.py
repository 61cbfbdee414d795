"""States of a saved replay, against the stream that was stored."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.memory.replay import Replay
from ludus.training.checkpoint import newest_checkpoint, save_checkpoint
from ludus.training.saved_replay import replayed_states

ENVS = 2


def _frame(generator, t, b):
    return np.array([[[t + 1, b + 1]]], np.float32)  # nothing is 0, as before the episode


def _saved(random_stream, folder, stack, rows, length, *, nested=False):
    """A checkpoint of a replay of `rows` rows after `length` of a stream; the stream and space."""
    stream = random_stream(ENVS, stack, 0, _frame)
    shape = stream.obs[0].shape[1:]
    memory = Replay(
        rows * ENVS,
        ENVS,
        shape,
        np.dtype(np.float32),
        stack=stack,
        n_step=1,
        gamma=0.9,
        device=torch.device("cpu"),
        seed=0,
    )
    for _ in range(length):
        memory.add(stream.step())
    state = memory.state_dict()
    save_checkpoint(folder, length, {"agent": {"memory": {"ring": state} if nested else state}}, 1)
    return stream, spaces.Box(0, 1000, shape, np.float32)


@pytest.mark.parametrize(("stack", "length"), [(1, 9), (1, 100), (3, 9), (3, 100)])
def test_all_states_of_a_replay_are_those_that_were_stored(random_stream, tmp_path, stack, length):
    rows = 20
    stream, space = _saved(random_stream, tmp_path, stack, rows, length, nested=stack == 3)
    found = replayed_states(tmp_path, space, stack, 1_000)
    oldest = max(0, length - rows) + stack - 1
    kept = [
        (t, b) for t in range(oldest, length) for b in range(ENVS) if not stream.over[t][b]
    ]  # whose whole stack is in the ring
    assert np.array_equal(found.obs, np.stack([stream.obs[t][b] for t, b in kept]))
    assert found.age.tolist() == list(range(len(kept)))[::-1]  # rows of resets are no env steps


def test_few_states_are_spaced_over_the_time_of_the_replay(random_stream, tmp_path):
    _, space = _saved(random_stream, tmp_path, 1, 200, 300)
    found, every = (replayed_states(tmp_path, space, 1, count) for count in (5, 1_000))
    last = len(every.age) - 1
    expected = [every.age[round(last * k / 4)] for k in range(5)]
    assert found.age.tolist() == expected


def test_none_are_found_where_there_is_no_such_replay(random_stream, tmp_path):
    _, space = _saved(random_stream, tmp_path / "saved", 1, 20, 30)
    assert replayed_states(tmp_path / "absent", space, 1, 9) is None
    for other in (
        spaces.Box(0, 1, (3,), np.float32),
        spaces.Box(0, 1, space.shape, np.int32),
        spaces.Box(0, 1, (2 * space.shape[0], *space.shape[1:]), np.float32),
    ):
        assert replayed_states(tmp_path / "saved", other, 1, 9) is None
    for number, memory in enumerate(({}, {"frames": [], "first": [], "valid": []}, None)):
        folder = tmp_path / str(number)
        save_checkpoint(folder, 1, {"agent": {"memory": memory}}, 1)
        assert replayed_states(folder, space, 1, 9) is None
    save_checkpoint(tmp_path / "rollout", 1, {"agent": {}}, 1)
    assert replayed_states(tmp_path / "rollout", space, 1, 9) is None


def test_a_checksum_is_not_needed_but_a_size_is(random_stream, tmp_path):
    _, space = _saved(random_stream, tmp_path, 1, 20, 30)
    (file,) = tmp_path.rglob("*frames.0.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert replayed_states(tmp_path, space, 1, 9) is not None
    file.write_bytes(content[:-1])
    assert replayed_states(tmp_path, space, 1, 9) is None


def test_rows_that_a_damaged_replay_lacks_are_no_error(random_stream, tmp_path):
    _, space = _saved(random_stream, tmp_path, 1, 20, 30)
    tree = newest_checkpoint(tmp_path).tree
    memory = tree["agent"]["memory"]
    memory["frames"] = memory["frames"]._replace(written=5, read=lambda a, b: np.zeros((0, 2)))
    save_checkpoint(tmp_path / "damaged", 1, tree, 1)
    assert replayed_states(tmp_path / "damaged", space, 1, 9) is None
