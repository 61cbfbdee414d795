"""What the bytes of a dictionary promise, and which dictionaries an env may show."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import EnvError
from ludus.envs.make import make
from ludus.envs.vector import Row
from ludus.networks.policies import ActionKind, PolicyOut

_PARTS = st.lists(st.tuples(st.integers(1, 7), st.sampled_from([np.uint8, np.float32])), min_size=1)
VECTOR = spaces.Box(-np.inf, np.inf, (2,), np.float64)


@settings(max_examples=60, deadline=None)
@given(_PARTS, st.randoms(use_true_random=False))
def test_parts_fill_the_bytes_in_whatever_order_a_dictionary_comes(sizes, random):
    boxes = {f"k{i}": spaces.Box(0, 255, (n,), kind) for i, (n, kind) in enumerate(sizes)}
    space = PackedDict(boxes)
    edges = sorted((part.start, part.end) for part in space.parts.values())
    used = edges[-1][1]
    assert [start for start, _ in edges] == [0, *(end for _, end in edges[:-1])]
    assert space.shape[0] - used in range(4)
    obs = {key: np.arange(1, box.shape[0] + 1).astype(box.dtype) for key, box in boxes.items()}
    packed = space.pack(obs)
    assert (packed[used:] == 0).all()
    keys = list(obs)
    random.shuffle(keys)
    np.testing.assert_array_equal(space.pack({key: obs[key] for key in keys}), packed)


def test_a_part_can_be_had_of_any_rows():
    picture = spaces.Box(0, 255, (1, 3, 5), np.uint8)
    space = PackedDict({"seen": picture, "felt": spaces.Box(-9, 9, (2,), np.float32)})
    generator = np.random.default_rng(0)
    arrays = {
        "seen": generator.integers(0, 256, (6, 4, 1, 3, 5), np.uint8),
        "felt": generator.normal(size=(6, 4, 2)).astype(np.float32),
    }
    obs = torch.from_numpy(space.pack(arrays))
    chosen = [
        lambda x: x[1:, ::2],
        lambda x: x[3, 1],
        lambda x: x[5:, 3:],
        lambda x: x.transpose(0, 1),
        lambda x: x[torch.tensor([4, 0, 4])],
        lambda x: x.flatten(0, 1)[7:8],
    ]
    for choose in chosen:
        for key, array in arrays.items():
            want = choose(torch.from_numpy(array))
            assert torch.equal(space.part(choose(obs), key), want)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_of_the_space_knows_its_parts(copied):
    space = PackedDict(
        {"x": spaces.Box(-1, 1, (2,), np.float32), MASK: spaces.Box(0, 1, (3,), np.uint8)}
    )
    obs = torch.from_numpy(space.pack({"x": [0.5, -1], MASK: [0, 1, 1]}))
    other = copied(space)
    assert other.part(obs, "x").tolist() == [0.5, -1]
    assert other.legal_actions(obs).tolist() == [False, True, True]


class Shown(gymnasium.Env[Any, Any]):
    """Shows the observations that it is given."""

    def __init__(self, parts: dict[Any, Any], show: Callable[[int], Any], actions: Any) -> None:
        self.observation_space, self.action_space = spaces.Dict(parts), actions
        self._show = show

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self._time = 0
        return self._show(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self._time += 1
        return self._show(self._time), 1.0, False, False, {}


@pytest.fixture
def played():
    """Rows of an env that shows such dictionaries, and the space that its learner sees."""

    def play(
        parts: dict[Any, Any],
        show: Callable[[int], Any],
        steps: int = 1,
        actions: Any = None,
        taken: Any = 0,
    ) -> tuple[PackedDict, list[Row]]:
        actions = actions or spaces.Discrete(3)
        gymnasium.register("test/Shown-v0", entry_point=lambda: Shown(parts, show, actions))
        env = make("test/Shown-v0", 1)
        try:
            rows = [env.reset()]
            for _ in range(steps):
                env.send(np.full((1, *actions.shape), taken))
                rows.append(env.recv())
        finally:
            env.close()
        return env.observation_space, rows

    yield play
    gymnasium.registry.pop("test/Shown-v0", None)


def test_numbers_of_every_kind_become_vectors_and_small_pictures_stay(played):
    parts = {
        "one": spaces.Discrete(3, start=1),
        "bits": spaces.MultiBinary(2),
        "whole": spaces.Box(-9, 9, (2,), np.int64),
        "several": spaces.MultiDiscrete([2, 3]),
        "board": spaces.Box(0, 1, (3, 4, 4), np.uint8),
    }
    board = np.arange(48).reshape(3, 4, 4) % 2

    def show(time):
        one, bits, whole = 1 + time, np.array([0, 1], np.int8), np.array([-4, time])
        several = np.array([1, time])
        shown = {"one": one, "bits": bits, "whole": whole, "several": several}
        return {**shown, "board": board.astype(np.uint8)}

    space, rows = played(parts, show, 2)
    got = {key: space.part(torch.from_numpy(rows[2].obs), key)[0] for key in parts}
    assert got.pop("board").tolist() == board.tolist()
    assert {key: value.tolist() for key, value in got.items()} == {
        "one": [0, 0, 1],
        "bits": [0, 1],
        "whole": [-4, 2],
        "several": [0, 1, 0, 0, 1],
    }
    assert {value.dtype for value in got.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("space", "mask"),
    [
        (spaces.Box(0, 1, (5,), np.int8), np.array([0, 1, 0, 1, 1], np.int8)),
        (spaces.Box(0, 1, (5,), np.float32), np.array([0, 0.5, 0, 1, 1], np.float32)),
        (spaces.Box(0, 300, (5,), np.int64), np.array([0, 256, 0, 1, 1])),
        (spaces.MultiBinary((1, 5)), np.array([[0, 1, 0, 1, 1]], np.int8)),
    ],
    ids=str,
)
def test_a_mask_of_any_dtype_rules_both_choices_of_a_policy(played, space, mask):
    actions = spaces.MultiDiscrete([2, 3])
    parts = {"felt": VECTOR, MASK: space}
    packed, rows = played(parts, lambda t: {"felt": np.zeros(2), MASK: mask}, 1, actions, 1)
    legal = packed.legal_actions(torch.from_numpy(rows[1].obs))
    assert legal.tolist() == [[False, True, False, True, True]]
    out = PolicyOut(torch.zeros(1, 5), None, torch.zeros(1))
    policy = ActionKind(actions).distribution(out, legal)
    assert [p.log_p.exp().tolist() for p in policy.parts] == [[[0, 1]], [[0, 0.5, 0.5]]]


def test_no_legal_action_at_a_reset_is_an_error_that_says_so(played):
    parts = {"felt": VECTOR, MASK: spaces.MultiBinary(3)}
    with pytest.raises(EnvError, match=r"env 0 \(at its reset.*shows an action_mask without a 1"):
        played(parts, lambda t: {"felt": np.zeros(2), MASK: np.zeros(3, np.int8)})


@pytest.mark.parametrize("value", [np.inf, 1e300])  # the second is too large for float32
def test_what_is_not_finite_as_a_float32_is_an_error_that_names_its_key(played, value):
    with pytest.raises(EnvError, match=r"env 0 .*step 1\) returned the observation .*\(key felt\)"):
        played({"felt": VECTOR}, lambda t: {"felt": np.array([0, value if t == 2 else 1.0])}, 2)


@pytest.mark.parametrize(
    "shown",
    [
        {"felt": np.zeros(2)},
        {"felt": np.zeros(3), "held": 1},
        {"felt": np.zeros(2), "held": 7},
        {"felt": np.zeros(2), "held": 1, "more": 0},
    ],
    ids=str,
)
def test_a_dictionary_that_is_not_in_its_space_is_refused(played, shown):
    with pytest.raises(EnvError, match=r"env 0 .*returned (an|the) observation .*(key held|felt)"):
        played({"felt": VECTOR, "held": spaces.Discrete(3)}, lambda t: shown)


@pytest.mark.parametrize("parts", [{}, {MASK: spaces.MultiBinary(3)}], ids=str)
def test_a_dictionary_must_show_something_besides_the_mask(played, parts):
    with pytest.raises(EnvError, match="needs a key with numbers besides action_mask"):
        played(parts, lambda t: {})
