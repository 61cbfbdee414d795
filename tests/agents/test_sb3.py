import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv

import ludus
from ludus.agents import registry
from ludus.agents.dqn import build
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.memory.replay import Sample
from ludus.agents.sb3 import SB3Agent, StreamVecEnv
from ludus.agents.sb3_config import CONTINUOUS, SB3Config, algorithms
from ludus.envs.errors import ConfigError
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import BackendStep, VectorEnv

CPU = torch.device("cpu")
CARTPOLE = "CartPole-v1"


class Script:
    """Envs that play a script: row t of env b shows [b, game, t], pays 3, and ends as written."""

    action_names = ()

    def __init__(self, *scripts):
        self.scripts, self.num_envs = scripts, len(scripts)
        self.observation_space = spaces.Box(0, 99, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._game, self._time = np.full(len(scripts), -1), np.zeros(len(scripts), int)

    def _show(self):
        at = [np.arange(self.num_envs), self._game, self._time]
        return np.stack(at, axis=1).astype(np.float32)

    def reset(self, mask, seeds):
        self._game[mask] += 1
        self._time[mask] = 0
        return self._show()

    def send(self, actions):
        pass

    def recv(self):
        self._time += 1
        events = [
            script[time] if time < len(script) else "."
            for script, time in zip(self.scripts, self._time, strict=True)
        ]
        ended, cut, lost = ([e in kinds for e in events] for kinds in ("TB", "CB", "L"))
        reward = np.full(self.num_envs, 3, np.float32)
        return BackendStep(self._show(), reward, np.array(ended), np.array(cut), np.array(lost))

    def close(self):
        pass


def _script(*scripts, life_loss=False):
    return VectorEnv(
        Script(*scripts), env_id="script", protocol={}, seed=0, life_loss=life_loss, trusted=True
    )


def _steps(env, count):
    for _ in range(count):
        env.step_async(np.zeros(env.num_envs, int))
        yield env.step_wait()


def test_a_game_that_ends_is_reset_in_the_same_step():
    # Two envs: one ends at its second row, one is cut off at its third.
    env = StreamVecEnv(_script("..T", "...C"), clip_reward=True)
    assert env.reset().tolist() == [[0, 0, 0], [1, 0, 0]]
    seen = list(_steps(env, 4))
    obs = [row[0].tolist() for row in seen]
    assert obs == [
        [[0, 0, 1], [1, 0, 1]],
        [[0, 1, 0], [1, 0, 2]],  # env 0 shows its second game
        [[0, 1, 1], [1, 1, 0]],
        [[0, 2, 0], [1, 1, 1]],
    ]
    assert [row[2].tolist() for row in seen] == [[0, 0], [1, 0], [0, 1], [1, 0]]
    assert all(row[1].tolist() == [1.0, 1.0] for row in seen)  # clipped
    ended, cut = seen[1][3][0], seen[2][3][1]
    assert ended["terminal_observation"].tolist() == [0, 0, 2]
    assert cut["terminal_observation"].tolist() == [1, 0, 3]
    assert (ended["TimeLimit.truncated"], cut["TimeLimit.truncated"]) == (False, True)
    assert (ended["episode"], cut["episode"]) == ({"r": 6.0, "l": 2}, {"r": 9.0, "l": 3})
    assert seen[3][3][0]["episode"] == {"r": 6.0, "l": 2}  # counted afresh
    assert [row[3][i] for row, i in zip(seen, (0, 1, 0, 1), strict=True)] == [{}] * 4


def test_an_end_that_is_also_a_cut_is_an_end():
    env = StreamVecEnv(_script(".B"))
    env.reset()
    _, reward, done, infos = next(_steps(env, 1))
    assert (reward.tolist(), done.tolist()) == ([3.0], [True])
    assert infos[0]["TimeLimit.truncated"] is False


def test_a_lost_life_is_an_end_without_a_reset_or_an_episode():
    env = StreamVecEnv(_script(".LT", life_loss=True))
    env.reset()
    (obs, _, done, lost), (_, _, _, over) = _steps(env, 2)
    assert (done.tolist(), obs.tolist()) == ([True], [[0, 0, 1]])
    assert lost[0]["terminal_observation"].tolist() == [0, 0, 1]
    assert lost[0]["TimeLimit.truncated"] is False
    assert "episode" not in lost[0]
    assert over[0]["episode"] == {"r": 6.0, "l": 2}  # of the whole game


@pytest.mark.parametrize("env_id", [CARTPOLE, "MinAtar/Breakout-v1", "ludus/Recall-v0"])
def test_real_envs_keep_their_terminal_observation(env_id):
    """It is neither overwritten by the reset nor equal to it; the return is that of the rewards."""
    rows = []
    inner = make(env_id, 3, seed=5)
    env = StreamVecEnv(inner, on_row=rows.append)
    env.reset()
    env.action_space.seed(0)
    total, ends = np.zeros(3), 0
    for _ in range(120):
        env.step_async(np.array([env.action_space.sample() for _ in range(3)]))
        obs, reward, done, infos = env.step_wait()
        total += reward
        for i in np.flatnonzero(done):
            ends += 1
            assert np.array_equal(infos[i]["terminal_observation"], rows[-1].obs[i])
            assert not np.array_equal(infos[i]["terminal_observation"], obs[i])
            assert infos[i]["episode"]["r"] == pytest.approx(total[i])
            total[i] = 0
    assert ends > 3
    assert len(rows) == 120
    inner.close()


def test_what_sb3_remembers_of_the_stream():
    """Its replay buffer holds the terminal observations, and bootstraps from the cut off one."""
    env = StreamVecEnv(_script("..T", "...C"))
    model = DQN("MlpPolicy", env, learning_starts=100, buffer_size=100, seed=0, device="cpu")
    model.learn(12)
    buffer, size = model.replay_buffer, 6
    following = buffer.next_observations[:size].astype(int).tolist()
    assert [row[0] for row in following[:3]] == [[0, 0, 1], [0, 0, 2], [0, 1, 1]]
    assert [row[1] for row in following[:3]] == [[1, 0, 1], [1, 0, 2], [1, 0, 3]]
    assert buffer.observations[2].astype(int).tolist() == [[0, 1, 0], [1, 0, 2]]
    ended = buffer.dones[:size] * (1 - buffer.timeouts[:size])
    assert ended.tolist() == [[0, 0], [1, 0], [0, 0], [1, 0], [0, 0], [1, 0]]
    assert buffer.timeouts[2].tolist() == [0, 1]


def test_the_rest_of_a_vecenv():
    env = StreamVecEnv(_script("..", ".."))
    assert env.get_attr("render_mode") == [None, None]
    assert env.get_attr("env_id", 1) == ["script"]
    assert env.env_is_wrapped(type("Monitor", (), {})) == [True, True]
    assert env.env_is_wrapped(gymnasium.Wrapper, [0]) == [False]
    with pytest.raises(AttributeError, match="render_fps"):
        env.set_attr("render_fps", 1)
    with pytest.raises(AttributeError, match="step_back"):
        env.env_method("step_back")


DISCRETE = [name for name in algorithms() if name not in CONTINUOUS]
ARGUMENTS = {
    "dqn": {"learning_starts": 50, "exploration_steps": 100, "buffer_size": 500},
    "qrdqn": {"learning_starts": 50, "buffer_size": 500},
    "ppo": {"n_steps": 32, "batch_size": 32, "n_epochs": 2},
    "a2c": {},
    "recurrent_ppo": {"n_steps": 32, "batch_size": 32, "n_epochs": 2},
}


def _sb3_agent(algorithm, seed=0, **changes):
    arguments = ARGUMENTS[algorithm] | changes.pop("arguments", {})
    config = SB3Config(algorithm, hidden=(16,), arguments=arguments, **changes)
    observations = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    return SB3Agent(config, observations, spaces.Discrete(2), CPU, seed)


def _fit(agent, steps=200, num_envs=1, on_row=None, on_step=None, write=None):
    env = make(CARTPOLE, num_envs, seed=1)
    try:
        agent.fit(
            env,
            steps,
            on_row=on_row or (lambda row: None),
            on_step=on_step or (lambda done: True),
            write=write or (lambda values, step: None),
        )
    finally:
        env.close()
    return agent


@pytest.mark.parametrize("algorithm", DISCRETE)
def test_trained_weights_make_a_fresh_agent_the_same(algorithm):
    agent = _fit(_sb3_agent(algorithm))
    assert agent.env_steps >= 200
    obs = np.random.default_rng(0).normal(0, 1, (300, 4)).astype(np.float32)
    weights = {k: v.clone() for k, v in agent.weights().items()}
    fresh = _sb3_agent(algorithm, seed=9)
    fresh.load_weights(weights)
    want, state = agent.predict(obs, deterministic=True)
    got, _ = fresh.predict(obs, deterministic=True)
    assert np.array_equal(got, want)
    assert len(weights) == len(fresh.weights())
    assert all(torch.equal(fresh.weights()[k], v) for k, v in weights.items())
    if algorithm != "recurrent_ppo":
        return
    # The state is passed on, and `episode_start` empties it.
    assert [part.shape[1] for part in state] == [300, 300]
    assert max(np.abs(part).max() for part in state) > 0
    whole = np.ones(300, bool)
    went_on = fresh.predict(obs, state, ~whole, deterministic=True)[1]
    begun = fresh.predict(obs, state, whole, deterministic=True)[1]
    assert not np.allclose(went_on[0], state[0], atol=1e-4)
    np.testing.assert_allclose(begun[0], state[0], atol=1e-6)


@pytest.mark.parametrize(
    "algorithm",
    [
        name if name in ("dqn", "ppo") else pytest.param(name, marks=pytest.mark.slow)
        for name in DISCRETE
    ],
)
def test_every_preset_plays_atari(algorithm):
    env = make("ALE/Pong-v5", 2, options=EnvOptions(threads=1))
    config = registry.preset(f"sb3:{algorithm}", env).config
    agent, fresh = (
        SB3Agent(config, env.observation_space, env.action_space, CPU, seed) for seed in (0, 1)
    )
    nothing = {"on_row": lambda row: None, "write": lambda values, step: None}
    agent.fit(env, 1000, on_step=lambda done: False, **nothing)
    obs = np.random.default_rng(0).integers(0, 256, (4, 4, 84, 84), np.uint8)
    fresh.load_weights(agent.weights())
    for one, other in zip(agent.weights().values(), fresh.weights().values(), strict=True):
        assert torch.equal(one, other)
    want, got = (a.predict(obs, deterministic=True)[0] for a in (agent, fresh))
    assert np.array_equal(got, want)
    env.close()


def test_fit_reports_rows_steps_and_metrics():
    rows, steps, written = [], [], []
    agent = _fit(
        _sb3_agent("dqn"),
        on_row=rows.append,
        on_step=lambda done: steps.append(done) or True,
        write=lambda values, step: written.append((values, step)),
    )
    assert len(rows) == 200
    assert steps == list(range(1, 201))
    assert (agent.env_steps, agent.updates) == (200, 38)  # after each 4th step, from step 52
    assert any("train/loss" in values for values, _ in written)
    names = {name for values, _ in written for name in values}
    assert "rollout/exploration_rate" in names
    assert all(name.startswith("train/") for name in names - {"rollout/exploration_rate"})


def test_fit_ends_when_it_is_asked_to():
    agent = _fit(_sb3_agent("dqn"), on_step=lambda done: done < 60)
    assert agent.env_steps == 60


def test_exploration_steps_are_env_steps_whatever_the_training_lasts():
    seen = []

    def look(agent):
        def on_step(done):
            seen.append(agent._model.exploration_rate)
            return True

        return on_step

    for steps in (200, 400):
        agent = _sb3_agent("dqn", arguments={"exploration_final_eps": 0.0})
        seen.clear()
        _fit(agent, steps, on_step=look(agent))
        assert seen[49] == pytest.approx(0.5, abs=0.02)
        assert seen[98] > 0
        assert seen[101] == 0


def test_a_refused_argument_is_a_config_error():
    agent = _sb3_agent("ppo", arguments={"n_step": 3})
    with pytest.raises(ConfigError, match=r"sb3:ppo rejects its configuration: .*n_step"):
        _fit(agent)


def test_the_networks_are_ours():
    agent = _fit(_sb3_agent("dqn", head_hidden=24), 10)
    shapes = [tuple(p.shape) for p in agent._model.q_net.parameters()]
    assert shapes == [(16, 4), (16,), (24, 16), (24,), (2, 24), (2,)]


def test_one_update_of_ours_equals_one_of_sb3s():
    """The same weights, batch and optimizer: losses, gradients, clipping and Adam agree."""
    config = DQNConfig(hidden=(16,), learning_rate=1e-2, batch_size=32, max_grad_norm=0.5)
    env = make(CARTPOLE, 1)
    theirs = SB3Agent(
        SB3Config(
            "dqn",
            hidden=(16,),
            arguments={"learning_rate": 1e-2, "gamma": 0.99, "max_grad_norm": 0.5},
        ),
        env.observation_space,
        env.action_space,
        CPU,
        seed=0,
    )
    _fit(theirs, 10)
    model = theirs._model
    ours = build(
        config,
        env,
        device=CPU,
        seed=0,
        steps=9,
    )
    for module, other in ((ours.network, model.q_net), (ours.target.network, model.q_net_target)):
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), other.parameters(), strict=True):
                parameter.copy_(value)
    generator = torch.Generator().manual_seed(0)
    obs, following = (torch.randn(2, 32, 4, generator=generator) * 2).unbind()
    action = torch.randint(2, (32,), generator=generator)
    reward = torch.randn(32, generator=generator) * 2
    done = (torch.rand(32, generator=generator) < 0.3).float()
    batch = type(ours.memory.gather(torch.zeros(1, dtype=torch.int64)))(
        obs, action, reward, 0.99 * (1 - done), following
    )
    sample = Sample(batch, torch.zeros(32, dtype=torch.int64), None)
    ours.memory.sample = lambda chance: sample
    columns = (action[:, None], following, done[:, None], reward[:, None])
    model.replay_buffer.sample = lambda *_, **__: ReplayBufferSamples(obs, *columns)
    for _ in range(3):
        ours.learner.step(*ours.example())
        model.train(gradient_steps=1, batch_size=32)
        pairs = zip(ours.network.parameters(), model.q_net.parameters(), strict=True)
        for parameter, value in pairs:
            torch.testing.assert_close(parameter, value, rtol=1e-5, atol=1e-6)
    env.close()


def test_our_dqn_plays_in_sb3s_evaluate_policy():
    env = make(CARTPOLE, 2, seed=3)
    ours = build(
        DQNConfig(hidden=(8,)),
        env,
        device=CPU,
        seed=0,
        steps=9,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an env without SB3's Monitor
        for made in (StreamVecEnv(env), DummyVecEnv([lambda: gymnasium.make(CARTPOLE)] * 2)):
            returns, lengths = evaluate_policy(
                ours, made, n_eval_episodes=5, return_episode_rewards=True
            )
            assert len(returns) == 5
            assert returns == lengths  # CartPole pays 1 a step
            assert all(8 <= length <= 500 for length in lengths)
    env.close()


@pytest.mark.parametrize(
    ("env_id", "encoder"), [("MinAtar/Breakout-v1", "minatar"), ("ALE/Pong-v5", "dqn2013")]
)
def test_bytes_reach_our_encoder_unscaled(env_id, encoder):
    env = make(env_id, 1, options=EnvOptions(sticky=0.0))
    arguments = {"learning_starts": 10, "buffer_size": 50}
    config = SB3Config("dqn", encoder=encoder, head_hidden=8, arguments=arguments)
    agent = SB3Agent(config, env.observation_space, env.action_space, CPU, 0)
    nothing = {"on_row": lambda row: None, "write": lambda values, step: None}
    agent.fit(env, 30, on_step=lambda done: True, **nothing)
    obs = torch.from_numpy(env.reset().obs)
    assert obs.dtype == torch.uint8
    q = agent._model.q_net
    expected = q.q_net(q.features_extractor.layers(obs))
    torch.testing.assert_close(q(obs), expected)
    assert agent.predict(obs.numpy(), deterministic=True)[0] == expected.argmax(1).numpy()
    env.close()


@pytest.mark.parametrize("name", ["sb3:sac", "sb3:td3"])
def test_agents_for_continuous_actions_train_and_are_loaded(tmp_path, name):
    trained = ludus.train(
        name, "Pendulum-v1", steps=220, eval_episodes=1, quiet=True, root=tmp_path
    )
    assert trained.algorithm.updates > 100
    loaded = ludus.load(trained.run.path)
    obs = np.random.default_rng(0).normal(0, 1, (5, 3)).astype(np.float32)
    want = trained.predict(obs, deterministic=True)[0]
    assert want.shape == (5, 1)
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], want)
    advice, _ = loaded.advise(obs)
    critic = loaded.algorithm._model.policy.critic
    observed = torch.from_numpy(obs)
    values = critic(observed, torch.from_numpy(want / 2))  # Pendulum's torque is within 2
    assert advice.value == pytest.approx(torch.minimum(*values)[:, 0].detach().numpy())


def test_td3_explores_by_the_zoos_noise():
    env = make("Pendulum-v1", 1, 0)
    agent = registry.build(
        registry.preset("sb3:td3", env).config, env, device=CPU, seed=0, steps=100
    )
    model = agent.model_on(env, 100)
    assert model.action_noise._sigma.tolist() == [0.1]
    assert model.policy.net_arch == [400, 300]
    env.close()


@pytest.mark.parametrize(
    ("name", "env_id", "sentence"),
    [
        ("sb3:sac", CARTPOLE, r"sb3:sac is for continuous actions; CartPole-v1 has Discrete"),
        ("sb3:td3", "ALE/Pong-v5", "sb3:td3 is for continuous actions"),
    ],
)
def test_where_continuous_actions_are_missing_one_sentence_says_so(name, env_id, sentence):
    env = make(env_id, 1, 0)
    with pytest.raises(ConfigError, match=sentence):
        registry.preset(name, env)
    env.close()
