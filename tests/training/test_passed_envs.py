"""Trainings in envs that are passed as objects."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import ludus
from ludus.agents.ppo_config import PPOConfig
from ludus.envs.errors import EnvError, RunError, TrainingStopped
from ludus.envs.make import EnvOptions
from ludus.evaluation.evaluate import evaluate
from ludus.training.run import Run, TrainOptions
from ludus.training.train import start_session

BRIEF = TrainOptions(video_every=0, eval_episodes=2)


def _cartpole() -> Any:
    return gymnasium.make("CartPole-v1", render_mode="rgb_array")


def _two() -> SyncVectorEnv:
    return SyncVectorEnv([_cartpole] * 2, autoreset_mode=AutoresetMode.DISABLED)


def _only_run(root: Path) -> Run:
    (config,) = root.glob("*/*/*/config.json")
    return Run.open(config.parent)


def _assert_same_weights(agent: Any, like: Any) -> None:
    for name, value in like.weights().items():
        assert torch.equal(agent.weights()[name], value), name


def test_evaluations_share_the_object_without_changing_the_training(tmp_path, capsys):
    """The same weights as from its id, although it was evaluated on itself in between."""
    often = replace(BRIEF, eval_every=100, video_every=200)
    env = _cartpole()
    agent = ludus.train("dqn", env, steps=600, train_options=often, root=tmp_path / "object")
    alone = replace(BRIEF, eval_episodes=0, num_envs=1)
    like = ludus.train(
        "dqn", "CartPole-v1", steps=600, train_options=alone, root=tmp_path / "id", quiet=True
    )
    _assert_same_weights(agent.algorithm, like.algorithm)
    said = capsys.readouterr().err
    assert said.count("the env is an object") == 1
    assert "no video" not in said
    run = _only_run(tmp_path / "object")
    assert (run.config().env, run.config().train.num_envs) == ("passed/CartPole-v1", 1)
    evaluations = run.evaluations()
    assert len(evaluations) > 3
    # those of an agent with these weights, in copies of the env
    found = evaluate(agent, "CartPole-v1", EnvOptions(), episodes=2, num_envs=1)
    assert evaluations[-1]["returns"] == found.returns
    env.reset()  # it is not closed
    assert env.render() is not None


@pytest.mark.parametrize("agent", ["dqn", "ppo"])
@pytest.mark.parametrize("make_env", [_cartpole, _two])
def test_a_training_goes_on_exactly_where_its_object_is_passed_again(tmp_path, agent, make_env):
    whole = ludus.train(
        agent, make_env(), steps=500, train_options=BRIEF, root=tmp_path / "whole", quiet=True
    )
    options = replace(BRIEF, steps=500)
    env_id = ludus.make(make_env()).env_id
    cut = start_session(agent, env_id, options, EnvOptions(), None, tmp_path / "cut", quiet=True)
    after = cut.after_step

    def stop(**when):
        if cut.agent.env_steps >= 300:
            cut._signals.received = 15
        return after(**when)

    cut.after_step = stop
    with pytest.raises(TrainingStopped, match=r'go on with: ludus.resume\(".*", env\)'):
        cut.run_to_end()
    gymnasium.registry.pop(env_id)  # as in another process
    for use in (ludus.resume, ludus.load):
        with pytest.raises(EnvError, match="passed to Ludus by a Python program; pass it again"):
            use(cut.run.path)
    resumed = ludus.resume(cut.run.path, make_env(), quiet=True)
    _assert_same_weights(resumed.algorithm, whole.algorithm)
    gymnasium.registry.pop(env_id)
    loaded = ludus.load(cut.run.path, make_env())
    _assert_same_weights(loaded.algorithm, whole.algorithm)


def test_what_an_object_leads_to_must_be_what_it_led_to(tmp_path):
    """Gymnasium's default autoreset mode does not seed single episodes."""
    env = SyncVectorEnv([_cartpole] * 2)
    ludus.train("dqn", env, steps=300, train_options=BRIEF, root=tmp_path, quiet=True)
    run = _only_run(tmp_path)
    assert run.status().score is not None
    with pytest.raises(
        EnvError, match=r"cannot reset one env alone.*NEXT_STEP.*; make it with .*DISABLED"
    ):
        ludus.resume(run.path, SyncVectorEnv([_cartpole] * 2), quiet=True, steps=400)
    with pytest.raises(RunError, match=r"trains in 2 envs; what was passed as .* has 1"):
        ludus.resume(run.path, _cartpole(), quiet=True, steps=400)


def test_what_needs_to_reset_one_env_alone_is_refused_before_it_trains(tmp_path):
    limited = replace(BRIEF, eval_max_episode_steps=9)
    for agent, options in [("sb3:ppo", BRIEF), ("dqn", limited)]:
        with pytest.raises(RunError, match=r"NEXT_STEP.* needs it; make it with .*DISABLED"):
            ludus.train(agent, SyncVectorEnv([_cartpole] * 2), train_options=options, root=tmp_path)
    assert not list(tmp_path.iterdir())
    ludus.train("dqn", _two(), steps=40, train_options=limited, root=tmp_path, quiet=True)
    assert max(_only_run(tmp_path).evaluations()[0]["lengths"]) <= 9


def test_agents_of_sb3_and_of_ours_take_objects(tmp_path):
    config = PPOConfig(rollout_length=32)
    for agent, env in [("sb3:dqn", _cartpole()), ("random", _two()), ("ppo", _cartpole())]:
        trained = ludus.train(
            agent,
            env,
            steps=200,
            config=config if agent == "ppo" else None,
            train_options=BRIEF,
            root=tmp_path / agent.replace(":", "-"),
            quiet=True,
        )
        assert trained.env_steps >= 200
        assert _only_run(tmp_path / agent.replace(":", "-")).status().score is not None
    with pytest.raises(RunError):
        ludus.resume(tmp_path)
