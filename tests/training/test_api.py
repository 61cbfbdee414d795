"""What a user of Stable-Baselines3 does daily, in SB3's words and in those of Ludus."""

import json

import gymnasium
import numpy as np
import pytest
import torch

import ludus
from ludus.envs.errors import ConfigError, EnvError, LudusError, RunError
from ludus.training.run import Run

BRIEF = {"steps": 600, "eval_episodes": 2, "quiet": True}


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """An agent of `PPO("MlpPolicy", "CartPole-v1", seed=3).learn(600)`."""
    root = tmp_path_factory.mktemp("agent")
    return ludus.train("ppo", "CartPole-v1", seed=3, root=root, num_envs=4, **BRIEF)


class Corridor(gymnasium.Env):
    """Three cells; the step to the right of the last ends the game with a reward of 1."""

    def __init__(self, length=3):
        self.length, self._at = length, 0
        self.observation_space = gymnasium.spaces.Box(0, length, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._at = 0
        return np.float32([0]), {}

    def step(self, action):
        self._at = max(0, self._at + 2 * int(action) - 1)
        over = self._at >= self.length
        return np.float32([self._at]), float(over), over, False, {}


class Doubled(gymnasium.RewardWrapper):
    """Doubles rewards."""

    def reward(self, reward):
        return 2 * reward


def test_dqn_with_learning_rate_and_n_envs(tmp_path):
    """DQN("MlpPolicy", env, learning_rate=1e-2, policy_kwargs={"net_arch": [32]})."""
    trained = ludus.train(
        "dqn", "CartPole-v1", root=tmp_path, learning_rate=1e-2, hidden=[32], num_envs=2, **BRIEF
    )
    config, t = trained.algorithm.config, trained.config.train
    assert (config.learning_rate, config.hidden, t.num_envs) == (1e-2, (32,), 2)
    assert (
        config.batch_size
        == ludus.train("dqn", "CartPole-v1", root=tmp_path, **BRIEF).algorithm.config.batch_size
    )


def test_numbers_as_numpy_and_1e5_give_them(tmp_path):
    trained = ludus.train(
        "dqn", "CartPole-v1", steps=6e2, replay_size=1e5, learning_rate=np.float64(1e-2),
        eval_episodes=0, quiet=True, root=tmp_path,
    )  # fmt: skip
    assert trained.config.train.steps == 600
    assert trained.algorithm.config.replay_size == 100_000


@pytest.mark.parametrize(
    ("agent", "name", "ours"),
    [
        ("dqn", "total_timesteps", "steps"),
        ("dqn", "n_envs", "num_envs"),
        ("dqn", "lr", "learning_rate"),
        ("dqn", "buffer_size", "replay_size"),
        ("ppo", "policy_kwargs", "hidden"),
        ("ppo", "ent_coef", "entropy_coef"),
        ("ppo", "n_steps", "rollout_length"),
        ("dqn", "learnin_rate", "did you mean learning_rate?"),
        ("dqn", "stiky", "did you mean sticky?"),
    ],
)
def test_other_names_are_answered_with_ours(tmp_path, agent, name, ours):
    with pytest.raises(ConfigError, match=rf"{name}.*{ours}"):
        ludus.train(agent, "CartPole-v1", root=tmp_path, **{name: 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("agent", "hint"),
    [("PPO", "did you mean ppo"), ("A2C", "did you mean a2c"), ("SAC", "ppo takes continuous")],
)
def test_agents_in_capitals_are_answered_with_ours(agent, hint):
    with pytest.raises(ConfigError, match=hint):
        ludus.train(agent, "CartPole-v1")


@pytest.mark.parametrize(
    "values", [{"learning_rate": "fast"}, {"learning_rate": -1.0}, {"num_envs": 1.5}]
)
def test_a_wrong_value_is_one_sentence_and_no_run(tmp_path, values):
    with pytest.raises(LudusError, match=next(iter(values))):
        ludus.train("dqn", "CartPole-v1", root=tmp_path, **values)
    assert not list(tmp_path.iterdir())


def test_make_vec_env_with_env_kwargs_and_wrapper_class(tmp_path):
    """make_vec_env(Corridor, env_kwargs={"length": 2}, wrapper_class=Doubled)."""
    trained = ludus.train(
        "dqn", Corridor(length=2), root=tmp_path, steps=60, quiet=True, eval_episodes=0
    )
    assert ludus.episodes(trained).returns.max() == 1
    with pytest.raises(EnvError, match="cannot be imported by other processes"):
        ludus.train("dqn", "CartPole-v1", root=tmp_path, wrapper=lambda env: env)
    named = ludus.train(
        "dqn", "FrozenLake-v1", root=tmp_path, steps=60, quiet=True, eval_episodes=0,
        env_kwargs={"is_slippery": False}, wrapper=[gymnasium.wrappers.FlattenObservation],
    )  # fmt: skip
    assert json.loads(named.config.options.env_kwargs[0]) == {"is_slippery": False}
    assert named.config.options.wrapper[0].endswith(":FlattenObservation")


def test_a_wrapper_class_is_applied(tmp_path):
    env = Doubled(Corridor())
    trained = ludus.train("dqn", env, root=tmp_path, steps=80, quiet=True, eval_episodes=0)
    assert ludus.episodes(trained).returns.max() == 2


def test_save_and_load(agent, tmp_path):
    """model.save("agent"), PPO.load("agent")."""
    agent.save(tmp_path / "agent.ludus")
    loaded = ludus.load(tmp_path / "agent.ludus")
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    ours, _ = agent.predict(observations, deterministic=True)
    assert np.array_equal(loaded.predict(observations, deterministic=True)[0], ours)
    assert loaded.advise(observations)[0].value == pytest.approx(
        agent.advise(observations)[0].value
    )
    assert (loaded.run, loaded.env_steps) == (None, agent.env_steps)
    assert loaded.config.protocol == agent.config.protocol
    assert [path.name for path in tmp_path.iterdir()] == ["agent.ludus"]


def test_a_file_that_is_no_agent_is_one_sentence(agent, tmp_path):
    agent.save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "whole")
    (tmp_path / "short").write_bytes(content[: len(content) // 2])
    (tmp_path / "other").write_bytes(b"PK" + content)
    (tmp_path / "newer").write_bytes(content.replace(b'format\\": 2', b'format\\": 9'))
    for name in ("link", "short", "other", "newer", "missing"):
        with pytest.raises(RunError, match=name):
            ludus.load(tmp_path / name)
    with pytest.raises(RunError, match="cannot be written"):
        agent.save(tmp_path / "no folder" / "agent")


def test_evaluate_policy(agent, tmp_path):
    """evaluate_policy(model, env, n_eval_episodes=3)."""
    result = ludus.evaluate(agent, episodes=3)
    assert (len(result.returns), result.mean) == (3, np.mean(result.returns))
    assert ludus.evaluate(agent.run.path, episodes=3) == result
    agent.save(tmp_path / "agent")
    assert ludus.evaluate(str(tmp_path / "agent"), "CartPole-v1", episodes=3) == result
    longer = ludus.evaluate(agent, episodes=3, max_episode_steps=5)
    assert max(longer.lengths) == 5
    with pytest.raises(ConfigError, match="did you mean max_episode_steps"):
        ludus.evaluate(agent, max_episode_step=5)


def test_record_video(agent, tmp_path):
    """VecVideoRecorder."""
    recording = ludus.record(agent, tmp_path / "game.gif", max_steps=5)
    assert (recording.score, recording.length) == (5, 5)
    assert (tmp_path / "game.gif").read_bytes()[:4] == b"GIF8"
    with pytest.raises(RunError, match=r"game.avi does not end in"):
        ludus.record(agent, tmp_path / "game.avi")


def test_the_numbers_of_a_run(agent):
    """results_plotter.load_results and the TensorBoard log."""
    games = ludus.episodes(agent)
    assert len(games.returns) == len(games.lengths) > 5
    assert np.array_equal(games.returns, games.lengths)  # CartPole's reward is 1
    assert games.env_steps.tolist() == sorted(games.env_steps)
    curve = ludus.scalars(agent.run.path)["eval/mean_reward"]
    assert (curve.env_steps[-1], len(curve.values)) == (agent.env_steps, 1)
    with pytest.raises(RunError, match="is not a run"):
        ludus.scalars("nowhere")


class Recorder(ludus.Callback):
    """Keeps what it is called with."""

    def __init__(self, stop_at=1 << 60):
        self.stop_at, self.steps, self.evaluations, self.ends = stop_at, [], [], []

    def on_step(self, training):
        self.steps.append(training.env_steps)
        training.log("mine/number", 2 * training.env_steps)
        assert training.seconds >= 0
        return training.env_steps < self.stop_at

    def on_evaluation(self, training, returns):
        self.evaluations.append((training.env_steps, returns.shape))

    def on_end(self, training):
        self.ends.append((training.env_steps, training.mean_return))


@pytest.mark.parametrize("name", ["dqn", "ppo", "sb3:ppo"])
def test_callbacks(tmp_path, name):
    """model.learn(600, callback=[...])."""
    seen = Recorder()
    options = {"num_envs": 4, "eval_every": 300} if name != "sb3:ppo" else {}
    trained = ludus.train(name, "CartPole-v1", root=tmp_path, callbacks=[seen], **BRIEF, **options)
    assert seen.steps == sorted(seen.steps)
    assert seen.steps[-1] == trained.env_steps >= 600
    assert seen.evaluations[-1] == (trained.env_steps, (2,))
    assert len(seen.evaluations) == (2 if options else 1)
    assert seen.ends == [(trained.env_steps, pytest.approx(ludus.episodes(trained).returns.mean()))]
    curve = ludus.scalars(trained)["mine/number"]
    assert np.array_equal(curve.values, 2 * curve.env_steps)


@pytest.mark.parametrize("name", ["dqn", "sb3:dqn"])
def test_a_callback_ends_a_training(tmp_path, name):
    """A BaseCallback whose _on_step returns False."""
    seen = Recorder(stop_at=200)
    trained = ludus.train(name, "CartPole-v1", root=tmp_path, callbacks=[seen], **BRIEF)
    assert 200 <= trained.env_steps < 300
    assert trained.run.status().state == "finished"
    assert seen.ends[0][0] == trained.env_steps
    assert len(ludus.evaluate(trained, episodes=1).returns) == 1


def test_stop_training_on_reward_threshold_and_save_the_best(tmp_path):
    """EvalCallback(callback_on_new_best=StopTrainingOnRewardThreshold(20))."""
    best = ludus.SaveBest(tmp_path / "best")
    trained = ludus.train(
        "ppo", "CartPole-v1", steps=50_000, eval_every=1_000, eval_episodes=5, quiet=True,
        root=tmp_path, callbacks=[ludus.StopAtScore(20.0), best],
    )  # fmt: skip
    means = [np.mean(each["returns"]) for each in trained.run.evaluations()]
    assert means[-1] >= 20
    assert all(mean < 20 for mean in means[:-1])
    assert trained.env_steps < 50_000
    assert best.best == max(means)
    assert ludus.load(tmp_path / "best").env_steps == trained.env_steps


def test_an_error_of_a_callback_reaches_the_caller(tmp_path):
    """An optuna.TrialPruned, for example."""

    class Pruned(Exception):
        pass

    class Prune(ludus.Callback):
        def on_evaluation(self, training, returns):
            raise Pruned

    with pytest.raises(Pruned):
        ludus.train(
            "dqn", "CartPole-v1", root=tmp_path, callbacks=[Prune()], eval_every=200, **BRIEF
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dqn", {}),
        ("rainbow", {}),
        ("ppo", {"anneal_learning_rate": False, "anneal_clip_range": False, "num_envs": 4}),
    ],
)
def test_learning_more_is_learning_at_once(tmp_path, name, options):
    """model.learn(600); model.learn(600, reset_num_timesteps=False)."""
    first = ludus.train(name, "CartPole-v1", root=tmp_path, **BRIEF, **options)
    more = ludus.resume(first.run.path, steps=1_200, quiet=True)
    whole = ludus.train(name, "CartPole-v1", root=tmp_path, **BRIEF | options | {"steps": 1_200})
    weights = whole.algorithm.weights()
    assert all(torch.equal(w, weights[k]) for k, w in more.algorithm.weights().items())
    assert more.env_steps == whole.env_steps > first.env_steps
    (entry,) = json.loads((more.run.path / "config.json").read_text())["history"]
    assert entry["changed"] == {"steps": [600, 1_200]}
    assert entry["env_steps"] == pytest.approx(600, abs=40)
    assert Run(more.run.path).config().train.steps == 1_200


def test_the_memory_of_a_board_game_grows(tmp_path):
    first = ludus.train("alphazero", "tic_tac_toe", root=tmp_path, **BRIEF)
    more = ludus.resume(first.run.path, steps=900, quiet=True)
    assert more.env_steps >= 900


def test_a_finished_run_without_more_to_do_says_so(agent, capsys):
    again = ludus.resume(agent.run.path)
    assert "has finished" in capsys.readouterr().err
    assert again.env_steps == agent.env_steps


@pytest.mark.parametrize("name", ["ppo", "dqn", "a2c"])
def test_other_settings_change_with_more_steps(tmp_path, name):
    """custom_objects={"learning_rate": 1e-12}."""
    options = {"anneal_learning_rate": False} if name == "ppo" else {}
    options["num_envs"] = 4
    if name == "dqn":
        options["learning_starts"] = 100
    first = ludus.train(name, "CartPole-v1", root=tmp_path, **BRIEF, **options)
    before = {k: w.clone() for k, w in first.algorithm.weights().items()}
    more = ludus.resume(first.run.path, steps=1_200, learning_rate=1e-12, quiet=True)
    assert more.algorithm.updates > first.algorithm.updates
    assert all(torch.allclose(w, before[k]) for k, w in more.algorithm.weights().items())
    assert more.algorithm.config.learning_rate == 1e-12


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"seed": 4}, "seed cannot change"),
        ({"num_envs": 2}, "num_envs cannot change"),
        ({"stack": 2}, "stack cannot change"),
        ({"steps": 900, "hidden": [3]}, "without new values of steps, hidden"),
        ({"steps": 900, "lr": 1.0}, "Ludus has learning_rate"),
    ],
)
def test_what_cannot_change_leaves_the_run_as_it_was(agent, settings, sentence):
    before = (agent.run.path / "config.json").read_text()
    with pytest.raises(LudusError, match=sentence):
        ludus.resume(agent.run.path, quiet=True, **settings)
    assert (agent.run.path / "config.json").read_text() == before
    assert agent.run.status().state == "finished"


@pytest.mark.parametrize("answer", [False, np.False_, np.float64(3) < 2])
def test_a_comparison_of_numpy_ends_a_training_as_false_does(tmp_path, answer):
    class Stop(ludus.Callback):
        def on_evaluation(self, training, returns):
            return answer

    trained = ludus.train(
        "dqn", "CartPole-v1", root=tmp_path, callbacks=[Stop()], eval_every=200, **BRIEF
    )
    assert trained.env_steps < 300


@pytest.mark.parametrize("callbacks", [ludus.StopAtScore(3), [ludus.StopAtScore], [print]])
def test_what_is_no_list_of_callbacks_is_refused_before_a_run_is_made(tmp_path, callbacks):
    with pytest.raises(ConfigError, match=r"it must be a list of ludus.Callback"):
        ludus.train("dqn", "CartPole-v1", root=tmp_path, callbacks=callbacks)
    assert not list(tmp_path.iterdir())


def test_an_error_of_a_callbacks_connection_is_its_own(tmp_path):
    class Send(ludus.Callback):
        def on_step(self, training):
            raise ConnectionRefusedError("the logger is away")

    with pytest.raises(ConnectionRefusedError):
        ludus.train("dqn", "CartPole-v1", root=tmp_path, callbacks=[Send()], **BRIEF)


def test_agents_of_sb3_are_evaluated_while_they_train(tmp_path):
    best = ludus.SaveBest(tmp_path / "best")
    trained = ludus.train(
        "sb3:dqn", "CartPole-v1", root=tmp_path, eval_every=200, callbacks=[best], **BRIEF
    )
    assert [each["env_steps"] for each in trained.run.evaluations()] == [200, 400, 600]
    assert best.best == max(np.mean(each["returns"]) for each in trained.run.evaluations())


def test_training_further_keeps_the_evaluation_at_the_end(tmp_path):
    first = ludus.train("dqn", "CartPole-v1", root=tmp_path, **BRIEF)
    ended = first.run.evaluations()
    more = ludus.resume(first.run.path, steps=900, quiet=True)
    assert more.run.evaluations()[0] == ended[0]
    assert len(more.run.evaluations()) == 2


def test_a_resume_that_fails_later_has_recorded_its_settings(tmp_path):
    first = ludus.train("dqn", "CartPole-v1", root=tmp_path, learning_starts=100, **BRIEF)
    with pytest.raises(LudusError):
        ludus.resume(
            first.run.path, steps=3_000, learning_rate=1e30, max_grad_norm=1e30, quiet=True
        )
    assert first.run.status().state == "failed"
    assert first.run.config().train.steps == 3_000


def test_the_run_of_an_agent_is_known_however_it_was_named(agent, monkeypatch):
    monkeypatch.chdir(agent.run.path.parents[3])
    root = agent.run.path.parents[2].name
    loaded = ludus.load(f"{root}/CartPole-v1/ppo/*")
    assert len(ludus.episodes(loaded).returns) == len(ludus.episodes(agent).returns)
    at = agent.env_steps
    assert ludus.load(f"{agent.run.path}@{at}").env_steps == at


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"episodes": 0}, "episodes is 0; it must be a whole number from 1"),
        ({"episodes": 1.5}, "episodes is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"epsilon": 2.0}, "epsilon is 2.0; it must be from 0 to 1"),
    ],
)
def test_games_that_cannot_be_played_are_refused(agent, arguments, sentence):
    with pytest.raises(RunError, match=sentence):
        ludus.evaluate(agent, **arguments)


def test_a_class_keeps_the_protocol_of_its_training(tmp_path):
    from gymnasium.envs.classic_control import CartPoleEnv

    trained = ludus.train("ppo", CartPoleEnv, root=tmp_path, max_episode_steps=7, **BRIEF)
    assert max(ludus.evaluate(trained, CartPoleEnv, episodes=3).lengths) <= 7


def test_a_configuration_may_have_a_name_of_its_own(tmp_path):
    from ludus.agents.ppo_config import PPOConfig

    config = PPOConfig(rollout_length=32)
    trained = ludus.train("mine", "CartPole-v1", config=config, root=tmp_path, **BRIEF)
    assert (trained.config.agent, ludus.load(trained.run.path).config.config) == ("mine", config)
