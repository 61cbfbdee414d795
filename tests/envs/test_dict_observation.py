"""Dictionary observations: as bytes and back, and through a real env's stream."""

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from ludus.envs.dict_observation import MASK, PackedDict, legal_actions
from ludus.envs.errors import EnvError
from ludus.envs.make import EnvOptions, make

_SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=3)
_PARTS = st.lists(st.tuples(_SHAPES, st.sampled_from([np.uint8, np.float32])), min_size=1)


@settings(max_examples=60, deadline=None)
@given(_PARTS, st.lists(st.integers(1, 3), max_size=2), st.integers(0, 2**31))
def test_what_is_packed_comes_out_again(parts, lead, seed):
    generator = np.random.default_rng(seed)
    boxes = {f"k{i}": spaces.Box(0, 255, shape, kind) for i, (shape, kind) in enumerate(parts)}
    space = PackedDict(boxes)
    arrays = {
        key: generator.integers(0, 256, (*lead, *box.shape)).astype(box.dtype) / np.float32(1.7)
        if box.dtype == np.float32
        else generator.integers(0, 256, (*lead, *box.shape), np.uint8)
        for key, box in boxes.items()
    }
    packed = space.pack(arrays)
    assert packed.shape == (*lead, *space.shape)
    assert packed.dtype == np.uint8
    assert space.shape[0] % 4 == 0
    for key, array in arrays.items():
        got = space.part(torch.from_numpy(packed), key)
        assert got.dtype == (torch.uint8 if array.dtype == np.uint8 else torch.float32)
        np.testing.assert_array_equal(got.numpy(), array.astype(boxes[key].dtype))
        assert space.parts[key].start % boxes[key].dtype.itemsize == 0


def test_legal_says_what_the_mask_says_and_none_without_one():
    mask = spaces.Box(0, 1, (3,), np.uint8)
    space = PackedDict({"x": spaces.Box(-1, 1, (2,), np.float32), MASK: mask})
    obs = torch.from_numpy(space.pack({"x": np.ones((4, 5, 2)), MASK: np.ones((4, 5, 3))}))
    obs[1, 2] = torch.from_numpy(space.pack({"x": np.ones(2), MASK: np.array([0, 1, 0])}))
    got = legal_actions(space, obs)
    assert got.shape == (4, 5, 3)
    assert got[1, 2].tolist() == [False, True, False]
    assert int(got.sum()) == 4 * 5 * 3 - 2
    assert legal_actions(PackedDict({"x": spaces.Box(-1, 1, (2,), np.float32)}), obs) is None
    assert legal_actions(spaces.Box(-1, 1, (2,), np.float32), obs) is None


class Crossing(gymnasium.Env):
    """A picture, a vector of float64 and a mask; `fault` says what goes wrong at the third step."""

    def __init__(self, fault="") -> None:
        self._fault = fault
        self.action_space = spaces.Discrete(3)
        parts = {
            "seen": spaces.Box(0, 255, (12, 9, 3), np.uint8),
            "felt": spaces.Box(-9, 9, (2,), np.float64),
            MASK: spaces.MultiBinary(3),
        }
        if fault == "two choices":
            self.action_space = spaces.MultiDiscrete([1, 2])
        if fault == "scalar":
            parts["felt"] = spaces.Box(-9, 9, (), np.float64)
        if fault == "odd mask":
            parts[MASK] = spaces.Discrete(3)
        if fault == "nested":
            parts["more"] = spaces.Dict({"deep": spaces.Discrete(2)})
        self.observation_space = spaces.Dict(parts)

    def _show(self):
        mask = np.array([self._time % 2, 1, 0], np.int8)
        felt = np.array([self._time, -0.5])
        if self._time == 3 and self._fault in ("stuck", "over"):
            mask[:] = 0
        if self._time == 3 and self._fault == "nan":
            felt[1] = np.nan
        if self._time == 3 and self._fault == "two choices":
            mask[:] = (0, 1, 1)
        if self._fault == "two choices" and self._time != 3:
            mask[:] = (1, 0, 1)
        felt = np.array(0.5) if self._fault == "scalar" else felt
        seen = np.full((12, 9, 3), 10 * self._time, np.uint8)
        seen[2, 4, 1] = 255
        return {"seen": seen, "felt": felt, MASK: mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._time = 0
        return self._show(), {}

    def step(self, action):
        self._time += 1
        return self._show(), 1.0, self._fault == "over" and self._time == 3, self._time == 5, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for fault in ("", "nested", "stuck", "nan", "over", "two choices", "scalar", "odd mask"):
        name = f"test/Crossing{fault.replace(' ', '')}-v0"
        gymnasium.register(name, entry_point=lambda fault=fault: Crossing(fault))
    yield
    for name in [name for name in gymnasium.registry if name.startswith("test/Crossing")]:
        del gymnasium.registry[name]


def _played(name, steps):
    env = make(name, 2, 0)
    rows = [env.reset()]
    try:
        for _ in range(steps):
            one = isinstance(env.action_space, spaces.Discrete)  # 1 is legal, 0 at times
            env.send(np.full(2, 1) if one else np.tile([0, 1], (2, 1)))
            rows.append(env.recv())
    finally:
        env.close()
    return env, rows


def test_a_stream_of_dictionaries_holds_each_part():
    env, rows = _played("test/Crossing-v0", 4)
    space = env.observation_space
    assert isinstance(space, PackedDict)
    for time, row in enumerate(rows):
        obs = torch.from_numpy(row.obs)
        seen = space.part(obs, "seen")
        assert seen.shape == (2, 3, 12, 9)  # channels first
        assert (int(seen[0, 0, 0, 0]), int(seen[0, 1, 2, 4])) == (10 * time, 255)
        assert space.part(obs, "felt").tolist() == [[time, -0.5]] * 2
        assert space.legal_actions(obs).tolist() == [[bool(time % 2), True, False]] * 2


def test_no_legal_action_where_one_is_asked_for_is_an_error_that_names_the_env():
    with pytest.raises(EnvError, match=r"env 0 \(.*step 2\) shows an action_mask without a 1"):
        _played("test/Crossingstuck-v0", 3)


def test_where_the_game_is_over_no_action_needs_to_be_legal():
    env, rows = _played("test/Crossingover-v0", 4)
    assert not env.observation_space.legal_actions(torch.from_numpy(rows[3].obs)).any()
    assert [row.game_over.all() for row in rows] == [False, False, False, True, False]


def test_nan_in_a_part_is_an_error_that_names_the_env():
    with pytest.raises(EnvError, match=r"env [01] .*nan"):
        _played("test/Crossingnan-v0", 3)


def test_nested_dictionaries_and_stacks_of_them_are_refused():
    with pytest.raises(EnvError, match="one level of keys"):
        make("test/Crossingnested-v0", 2, 0)
    with pytest.raises(EnvError, match=r"stack is 2; test/Crossing-v0 shows dictionaries"):
        make("test/Crossing-v0", 2, 0, EnvOptions(stack=2))


def test_each_of_several_choices_needs_something_legal():
    with pytest.raises(EnvError, match=r"step 2\) shows an action_mask without a 1"):
        _played("test/Crossingtwochoices-v0", 3)


def test_a_single_number_is_a_part_too():
    env, rows = _played("test/Crossingscalar-v0", 1)
    assert env.observation_space.part(torch.from_numpy(rows[1].obs), "felt").tolist() == [[0.5]] * 2


def test_a_mask_that_is_no_row_of_choices_is_refused():
    with pytest.raises(EnvError, match=r"has Discrete\(3\) for action_mask; use MultiBinary"):
        make("test/Crossingoddmask-v0", 2, 0)


def test_an_array_of_another_shape_is_not_packed():
    space = PackedDict({"x": spaces.Box(-1, 1, (2, 3), np.float32)})
    with pytest.raises(ValueError, match=r"x has shape \[3, 2\]; the observation has \[2, 3\]"):
        space.pack({"x": np.zeros((3, 2))})
