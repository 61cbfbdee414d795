"""Envs, checkers and data sets that others made: each is trained on, evaluated and recorded.

The extra dev installs minigrid and highway-env, and dev-all gymnasium[box2d]. Others are skipped
where they are missing: gymnasium[mujoco] is large, and its pictures need MUJOCO_GL=osmesa and
libosmesa where there is no screen; flappy-bird-gymnasium needs pygame, which replaces files of
pygame-ce.
"""

import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.evaluation import evaluate_policy

from ludus.cli.main import main
from ludus.training.run import all_runs
from ludus.training.train import load

# package, env id, agents; of each package, one env runs in `make test`
ENVS = [
    ("minigrid", "minigrid:MiniGrid-Empty-5x5-v0", ("dqn", "ppo"), False),
    ("minigrid", "minigrid:BabyAI-GoToRedBall-v0", ("r2d2", "pqn"), True),
    ("highway_env", "highway_env:highway-fast-v0", ("dqn", "ppo"), True),
    ("highway_env", "highway_env:parking-v0", ("ppo", "a2c"), False),
    ("flappy_bird_gymnasium", "flappy_bird_gymnasium:FlappyBird-v0", ("dqn", "ppo"), True),
    ("Box2D", "LunarLander-v3", ("dqn", "ppo"), False),
    ("Box2D", "CarRacing-v3", ("ppo", "a2c"), True),
    ("mujoco", "HalfCheetah-v5", ("ppo", "a2c"), True),
    ("gymnasium", "Taxi-v4", ("dqn", "ppo"), False),
    ("gymnasium", "Blackjack-v1", ("dqn", "ppo"), True),
    ("gymnasium", "CliffWalking-v1", ("dqn", "ppo"), True),
    ("gymnasium", "FrozenLake-v1", ("rainbow", "sb3:dqn"), True),
]


@pytest.fixture
def ludus(tmp_path: Path, monkeypatch: Any) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "SDL_VIDEODRIVER", "dummy")

    def call(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        return int(ended.value.code or 0)

    return call


@pytest.mark.parametrize(
    ("package", "env", "agents"),
    [
        pytest.param(package, env, agents, id=env, marks=pytest.mark.slow if slow else ())
        for package, env, agents, slow in ENVS
    ],
)
def test_an_env_is_trained_on_evaluated_and_recorded(
    package: str, env: str, agents: tuple[str, ...], ludus: Any
) -> None:
    pytest.importorskip(package, exc_type=ImportError)
    for agent in agents:
        limit = ("--max-episode-steps", "100")
        words = ("--steps", "300", "--num-envs", "4", "--eval-episodes", "1", *limit, "--quiet")
        assert ludus("train", agent, env, *words) == 0
        (run,) = (run for run in all_runs(Path("runs")) if run.config().agent == agent)
        assert ludus("evaluate", str(run.path), "--episodes", "2") == 0
        film = f"{agent.replace(':', '-')}.gif"
        assert ludus("record", str(run.path), "--max-steps", "9", "--out", film) == 0
        assert Path(film).stat().st_size > 1000


def test_sb3_evaluates_an_agent_of_ours_on_a_stranger_s_env(ludus: Any) -> None:
    assert ludus("train", "ppo", "Taxi-v4", "--steps", "64", "--eval-episodes", "0", "--quiet") == 0
    (run,) = all_runs(Path("runs"))
    env = gymnasium.make("Taxi-v4", max_episode_steps=20)
    mean, _ = evaluate_policy(load(run.path), env, n_eval_episodes=2, warn=False)
    assert mean < 0


def test_our_envs_pass_the_checkers_of_others() -> None:
    for env_id in ("ludus/tic_tac_toe-v0", "ludus/connect_four-v0", "ludus/Recall-v0"):
        env = gymnasium.make(env_id).unwrapped
        gymnasium_check(env, skip_render_check=True)
        sb3_check(env, warn=False)


@pytest.mark.parametrize("game", ["tic_tac_toe", "connect_four", "breakthrough", "othello"])
def test_pettingzoo_s_test_accepts_a_board_game(game: str) -> None:
    test = pytest.importorskip("pettingzoo.test")
    from ludus.envs.board.pettingzoo_env import BoardAEC

    test.api_test(BoardAEC(game), num_cycles=50)


def test_a_board_game_shows_what_pettingzoo_s_own_shows() -> None:
    classic = pytest.importorskip("pettingzoo.classic.connect_four_v3")
    from ludus.envs.board.pettingzoo_env import BoardAEC

    theirs, ours, generator = classic.env(), BoardAEC("connect_four"), np.random.default_rng(0)
    theirs.reset()
    ours.reset()
    over = False
    while not over:
        for agent in ours.possible_agents:
            other = theirs.observe(agent)["observation"]  # [row from the top, column, plane]
            own = ours.observe(agent)["observation"]  # [plane, row, column]
            planes = np.moveaxis(np.asarray(other), 2, 0)
            same = [np.array_equal(own, turned) for turned in (planes, planes[:, ::-1])]
            assert any(same), agent
        legal = np.flatnonzero(ours.observe(ours.agent_selection)["action_mask"])
        move = int(generator.choice(legal))
        theirs.step(move)
        ours.step(move)
        over = all(ours.terminations.values())


def test_a_data_set_that_minari_made_is_learned_from(ludus: Any, monkeypatch: Any) -> None:
    minari = pytest.importorskip("minari")
    pytest.importorskip("jax")  # of minari[create]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(Path.cwd() / "data"))
    env = minari.DataCollector(gymnasium.make("CartPole-v1"))
    for seed in range(30):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over = terminated or truncated
    env.create_dataset("strangers/cartpole-v0", algorithm_name="random")
    words = ("--steps", "300", "--eval-episodes", "1", "--quiet")
    for agent in ("dqn", "qrdqn"):
        assert ludus("train", agent, "--dataset", "strangers/cartpole-v0", *words) == 0
    runs = all_runs(Path("runs"))
    assert len(runs) == 2
    for run in runs:
        assert ludus("evaluate", str(run.path), "--episodes", "2") == 0
