"""`predict` takes observations as the env returns them; SB3's `evaluate_policy` relies on that."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from ludus.agents import registry
from ludus.envs.make import make

NUMBER = spaces.Box(-1, 1, (2,), np.float64)
SPACES: dict[str, Any] = {
    "picture": spaces.Box(0, 255, (40, 40, 3), np.uint8),
    "small": spaces.Box(0, 1, (12, 10, 4), np.float32),
    "discrete": spaces.Discrete(5, start=2),
    "several": spaces.MultiDiscrete([3, 4]),
    "bits": spaces.MultiBinary(3),
    "tuple": spaces.Tuple([spaces.Discrete(3), NUMBER]),
    "dict": spaces.Dict({"seen": spaces.Box(0, 255, (12, 12, 3), np.uint8), "felt": NUMBER}),
    "scalar": spaces.Box(-1, 1, (), np.float32),
}


class Any4(gymnasium.Env[Any, Any]):
    """Shows samples of a space for four steps."""

    def __init__(self, kind: str, actions: Any = None, info_mask: bool = False) -> None:
        self.observation_space = SPACES[kind]
        self.action_space = actions or spaces.Discrete(3)
        self.info = {"action_mask": np.ones(3, np.int8)} if info_mask else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), self.info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        assert self.action_space.contains(action)
        self.time += 1
        return self.observation_space.sample(), 1.0, self.time == 4, False, self.info


@pytest.fixture
def agent_of() -> Any:
    def build(name: str, kind: str, **kwargs: Any) -> tuple[Any, Any]:
        gymnasium.register(
            "test/Any-v0", entry_point=Any4, kwargs={"kind": kind, **kwargs}, max_episode_steps=9
        )
        env = make("test/Any-v0", 2)
        preset = registry.preset(name, env)
        cpu = torch.device("cpu")
        agent = registry.build(preset.config, env, device=cpu, seed=0, steps=10, training=False)
        row = env.reset()
        env.close()
        return agent, row.obs

    yield build
    gymnasium.registry.pop("test/Any-v0", None)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("name", ["dqn", "ppo", "random"])
def test_sb3_evaluates_our_agents_on_the_env_itself(agent_of: Any, name: str, kind: str) -> None:
    agent, adapted = agent_of(name, kind)
    for env in (Any4(kind), DummyVecEnv([lambda: Any4(kind)] * 2)):
        if kind in ("tuple", "scalar") and isinstance(env, Any4):
            continue  # SB3's Monitor and DummyVecEnv have no such spaces for one env
        mean, _ = evaluate_policy(agent, env, n_eval_episodes=3, warn=False)
        assert mean == 4
    actions, _ = agent.predict(adapted, deterministic=True)
    assert actions.shape == (2,)


@pytest.mark.parametrize("kind", SPACES)
def test_raw_and_adapted_observations_give_the_same_actions(agent_of: Any, kind: str) -> None:
    agent, adapted = agent_of("ppo", kind)
    env = Any4(kind)
    raw, _ = env.reset(seed=make_seed())
    single, _ = agent.predict(raw, deterministic=True)
    assert np.shape(single) == ()
    wanted, _ = agent.predict(adapted, deterministic=True)
    assert single == wanted[0]


def make_seed() -> int:
    from ludus.envs.vector import episode_seed

    return episode_seed(0, 0, 0)


def test_several_choices_and_masks_in_info(agent_of: Any) -> None:
    several = spaces.MultiDiscrete([2, 3])
    agent, _ = agent_of("ppo", "discrete", actions=several)
    mean, _ = evaluate_policy(agent, Any4("discrete", several), n_eval_episodes=2, warn=False)
    assert mean == 4
    agent, _ = agent_of("dqn", "discrete", info_mask=True)
    mean, _ = evaluate_policy(agent, Any4("discrete"), n_eval_episodes=2, warn=False)
    assert mean == 4
