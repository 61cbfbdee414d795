"""Random actions and checks under a mask, for every kind of action space."""

from collections import Counter
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents import registry
from ludus.envs.action_mask import legal_mask, random_actions
from ludus.envs.dict_observation import MASK
from ludus.envs.errors import EnvError
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import ActionCheck
from ludus.evaluation.evaluate import evaluate
from ludus.evaluation.playback import Playback


def test_random_actions_are_uniform_over_the_legal_ones() -> None:
    generator = np.random.default_rng(0)
    cases: list[tuple[spaces.Space[Any], list[int], set[Any]]] = [
        (spaces.Discrete(4, start=2), [0, 1, 0, 1], {3, 5}),
        (spaces.MultiDiscrete([2, 3]), [1, 1, 0, 1, 1], {(0, 1), (0, 2), (1, 1), (1, 2)}),
        (spaces.MultiDiscrete([2, 3], start=[1, 5]), [0, 1, 1, 0, 0], {(2, 5)}),
    ]
    for space, row, wanted in cases:
        actions = random_actions(space, 4000, generator, np.tile(row, (4000, 1)))
        counts = Counter(map(tuple, actions) if actions.ndim > 1 else actions.tolist())
        assert set(counts) == wanted
        assert min(counts.values()) > 4000 / len(wanted) * 0.85


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([[2, 3], [4, 1]]),
        spaces.Box(-1, 3, (2,), np.float32),
        spaces.Box(np.array([-np.inf, 0, -np.inf]), np.array([0, np.inf, np.inf])),
    ],
    ids=str,
)
def test_random_actions_without_a_mask_are_valid(space: Any) -> None:
    actions = random_actions(space, 50, np.random.default_rng(0))
    check = ActionCheck(space, 50, "test")
    np.testing.assert_array_equal(check.validated(actions), actions)
    assert len(np.unique(actions, axis=0)) > 1


def test_an_illegal_choice_of_several_is_refused() -> None:
    check = ActionCheck(spaces.MultiDiscrete([2, 3], start=[0, 4]), 2, "robot")
    mask = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 1, 0]])
    everywhere = np.ones(2, bool)
    check.require_legal(np.array([[1, 6], [0, 5]]), mask, everywhere)
    with pytest.raises(EnvError, match=r"\[0 4\] for env 1, choice 1, is not legal .* legal are 5"):
        check.require_legal(np.array([[1, 6], [0, 4]]), mask, everywhere)
    check.require_legal(np.array([[1, 6], [0, 4]]), mask, np.array([True, False]))


class Doors(gymnasium.Env[Any, Any]):
    """Only one value of each choice is legal, another at each step; others end the process."""

    def __init__(self, where: str = "info", actions: Any = None, size: int = 0) -> None:
        self.action_space = actions or spaces.MultiDiscrete([3, 2])
        self.where, self.size = where, size or 5
        number = spaces.Box(0, 9, (1,), np.float32)
        self.observation_space: Any = number
        if where == "observation":
            mask = spaces.MultiBinary(self.size)
            self.observation_space = spaces.Dict({"time": number, MASK: mask})

    def _show(self) -> tuple[Any, dict[str, Any]]:
        time = np.array([self.time], np.float32)
        mask = np.zeros(self.size, np.int8)
        mask[[self.time % 3, 3 + self.time % 2] if self.size == 5 else [self.time % 3]] = 1
        if self.where == "observation":
            return {"time": time, MASK: mask}, {}
        return time, {MASK: mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.time = 0
        return self._show()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        legal = [self.time % 3, self.time % 2] if self.size == 5 else self.time % 3
        assert np.array_equal(action, legal), "an illegal action"
        self.time += 1
        obs, info = self._show()
        return obs, 1.0, self.time == 6, False, info


@pytest.fixture
def doors() -> Any:
    def register(**kwargs: Any) -> str:
        gymnasium.register("test/Doors-v0", entry_point=Doors, kwargs=kwargs)
        return "test/Doors-v0"

    yield register
    gymnasium.registry.pop("test/Doors-v0", None)


@pytest.mark.parametrize("where", ["info", "observation"])
@pytest.mark.parametrize("actions", [None, spaces.Discrete(3)], ids=["MultiDiscrete", "Discrete"])
def test_every_random_action_obeys_the_mask(doors: Any, where: str, actions: Any) -> None:
    env_id = doors(where=where, actions=actions, size=5 if actions is None else 3)
    env = make(env_id, 2)
    preset = registry.preset("random", env)
    cpu = torch.device("cpu")
    agent = registry.build(preset.config, env, device=cpu, seed=0, steps=10)
    row = env.reset()
    for _ in range(9):
        mask = legal_mask(env.observation_space, row.obs)
        assert mask is not None
        actions_taken, _, _ = agent.act(row.obs, (), row.first)
        env.send(actions_taken)
        row = env.recv()
    env.close()
    result = evaluate(agent, env_id, EnvOptions(), episodes=2, epsilon=1.0)
    assert result.returns == [6.0, 6.0]
    playback = Playback(agent, env_id, EnvOptions(), epsilon=1.0)
    for _ in range(6):
        row = playback.step()
    assert row.game_over.all()
    playback.close()


@pytest.mark.parametrize(
    ("actions", "needed"),
    [
        (spaces.Discrete(3), "need 3"),
        (spaces.MultiDiscrete([3, 3]), "need 6"),
        (spaces.Box(-1, 1, (5,), np.float32), "need none, for they are continuous"),
    ],
    ids=str,
)
def test_a_mask_of_the_wrong_length_is_refused_at_the_start(
    doors: Any, actions: Any, needed: str
) -> None:
    env_id = doors(where="observation", actions=actions, size=5)
    with pytest.raises(EnvError, match=f"action_mask has 5 numbers; its actions {needed}"):
        make(env_id, 2)


def test_taxi_s_mask_is_obeyed() -> None:
    env = make("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3", 2)
    row = env.reset()
    mask = legal_mask(env.observation_space, row.obs)
    assert mask is not None
    assert mask.shape == (2, 6)
    illegal = int(np.argmin(mask[0]))
    with pytest.raises(EnvError, match=f"action {illegal} for env 0 is not legal"):
        env.send(np.array([illegal, int(mask[1].argmax())]))
    env.close()
