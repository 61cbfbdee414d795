import copy
import math
from dataclasses import replace
from fractions import Fraction

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import ludus
from ludus.agents.agent import EnvSpec
from ludus.agents.capture import capture
from ludus.agents.dqn import DQN, build
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.memory.ring_rows import RingRows
from ludus.envs.errors import ConfigError
from ludus.networks.heads import HeadNoise

DEVICE = torch.device("cpu")
OBS = spaces.Box(-9, 9, (3,), np.float32)
ACTIONS = spaces.Discrete(4)
CONFIG = DQNConfig(
    hidden=(8,),
    learning_rate=1e-2,
    batch_size=8,
    gamma=0.9,
    replay_size=400,
    learning_starts=10,
    replay_ratio=1.0,
    target_interval=3,
)


def _frame(generator, t, b):
    return generator.normal(0, 1, 3).astype(np.float32)


def _agent(envs=2, seed=0, space=ACTIONS, **changes) -> DQN:
    config = replace(CONFIG, **changes)
    return build(config, EnvSpec(OBS, space, envs), device=DEVICE, seed=seed, steps=1_000)


def _fill(agent, stream, rows):
    for _ in range(rows):
        agent.observe(stream.step())


def _filled(random_stream, rows=40, envs=2, **changes) -> DQN:
    """An agent with experience and a target that is not the online network; no update made."""
    agent = _agent(envs, **changes)
    _fill(agent, random_stream(envs, 1, 3, _frame, actions=4), rows)
    with torch.no_grad():
        for parameter in agent.target.network.parameters():
            parameter.add_(torch.randn_like(parameter))
    return agent


def _learn(agent, updates):
    """Exactly so many updates, whatever is due."""
    wanted = agent.updates + updates
    agent.env_steps = agent.config.learning_starts + int(wanted / agent.config.replay_ratio)
    assert agent.learn() == updates


def _parameters(agent):
    return torch.cat([p.detach().flatten() for p in agent.network.parameters()])


def _targets(agent):
    return torch.cat([p.detach().flatten() for p in agent.target.network.parameters()])


def _always(agent, action):
    """Make `action` the greedy one, whatever is seen."""
    with torch.no_grad():
        for parameter in agent.network.parameters():
            parameter.zero_()
        list(agent.network.parameters())[-1][action] = 1.0


def _q(network, obs):
    out, _ = network(obs.unsqueeze(0), (), torch.zeros(1, len(obs), dtype=torch.bool))
    return out.q[0]


def _loss_by_hand(agent, chance):
    """The loss of the batch that `chance` picks, written in the formulas of the papers."""
    config, batch = agent.config, agent.memory.sample(chance).batch
    q, target_q = _q(agent.network, batch.obs), _q(agent.target.network, batch.next_obs)
    chosen = q[torch.arange(len(q)), batch.action]
    chooser = _q(agent.network, batch.next_obs) if config.double else target_q
    following = target_q[torch.arange(len(q)), chooser.argmax(1)]
    delta = (batch.reward + batch.discount * following).detach() - chosen
    if config.loss == "mse":
        return (delta**2).mean()
    return torch.where(delta.abs() <= 1, delta**2 / 2, delta.abs() - 0.5).mean()


def _obs(rows, seed=1):
    return np.random.default_rng(seed).normal(0, 1, (rows, 3)).astype(np.float32)


def _act(agent, obs):
    return agent.act(obs, agent.initial_state(len(obs)), np.zeros(len(obs), bool))


def test_each_env_throws_its_own_coin():
    agent = _agent(50, epsilon_start=0.4, epsilon_end=0.4, learning_starts=0)
    _always(agent, 2)
    random = np.stack([_act(agent, _obs(50))[0] != 2 for _ in range(200)])
    share = 0.4 * 3 / 4
    assert stats.binomtest(int(random.sum()), random.size, share).pvalue > 1e-3
    # One coin for all would make each call all or nothing; these vary as 50 coins do.
    expected = 50 * share * (1 - share)
    assert 0.7 * expected < random.sum(1).var() < 1.4 * expected


def test_with_epsilon_1_every_action_is_as_likely_and_envs_differ():
    agent = _agent(64, epsilon_start=1.0, epsilon_end=1.0)
    actions = np.stack([_act(agent, _obs(64))[0] for _ in range(50)])
    assert stats.chisquare(np.bincount(actions.ravel(), minlength=4)).pvalue > 1e-3
    assert all(len(np.unique(row)) > 1 for row in actions)


def test_without_exploring_or_with_epsilon_0_the_best_action_is_taken():
    agent = _agent(32, epsilon_start=0.0, epsilon_end=0.0, learning_starts=0)
    obs = _obs(32)
    best = _q(agent.network, torch.from_numpy(obs)).argmax(1).numpy()
    assert len(np.unique(best)) > 1
    actions, state, _ = _act(agent, obs)
    assert np.array_equal(actions, best)
    assert state == ()
    always = _agent(32, epsilon_start=1.0, epsilon_end=1.0)
    always.load_weights(agent.weights())
    assert np.array_equal(always.predict(obs, deterministic=True)[0], best)


def test_every_action_is_random_before_learning_starts():
    agent = _agent(1, epsilon_start=0.0, epsilon_end=0.0, learning_starts=7)
    seen = []
    for _ in range(9):
        seen.append(agent.epsilon)
        agent.env_steps += 1
    assert seen == [1.0] * 7 + [0.0] * 2


def test_an_exponential_epsilon_nears_its_end_and_is_turned_off():
    """As the code of BTR: eps -= (eps - end) / steps at each env step, and 0 from some step on."""
    agent = _agent(
        epsilon_start=0.9,
        epsilon_end=0.1,
        epsilon_steps=1_000,
        epsilon_decay="exponential",
        epsilon_off=2_500,
        learning_starts=0,
    )
    epsilon = 0.9
    for step in range(2_500):
        agent.env_steps = step
        assert agent.epsilon == pytest.approx(epsilon, abs=1e-3)
        epsilon -= (epsilon - 0.1) / 1_000
    assert agent.epsilon == pytest.approx(0.1 + 0.8 * math.exp(-2.499))
    agent.env_steps = 2_500
    assert agent.epsilon == 0.0


def test_epsilon_falls_with_env_steps_not_with_rows(random_stream):
    agent = _agent(4, epsilon_start=0.8, epsilon_end=0.2, epsilon_steps=40, learning_starts=0)
    stream = random_stream(4, 1, 0, _frame, (0, 0, 0, 0))
    seen = [agent.epsilon]
    for _ in range(11):
        agent.observe(stream.step())
        seen.append(agent.epsilon)
    assert seen == pytest.approx([0.8 - 0.06 * row for row in range(10)] + [0.2, 0.2])


def test_actions_count_from_the_first_of_the_space(random_stream):
    agent = _agent(4, space=spaces.Discrete(4, start=5), epsilon_start=1.0, epsilon_end=1.0)
    stream = random_stream(4, 1, 0, _frame, (0, 0, 0, 0))
    seen = set()
    for _ in range(30):
        actions, _, _ = _act(agent, _obs(4))
        seen |= set(actions.tolist())
        agent.observe(stream.step(actions))
    assert seen == {5, 6, 7, 8}
    assert set(agent.memory.sample(agent.memory.uniforms(500)).batch.action.tolist()) == {
        0,
        1,
        2,
        3,
    }
    assert agent.predict(_obs(1)[0], deterministic=True)[0] in seen
    assert set(agent.predict(_obs(9))[0]) <= seen


def test_predict_takes_one_observation_or_a_batch():
    agent = _agent()
    obs = _obs(6)
    best = _q(agent.network, torch.from_numpy(obs)).argmax(1).tolist()
    actions, state = agent.predict(obs, deterministic=True)
    assert (actions.tolist(), actions.shape) == (best, (6,))
    assert state == ()
    assert [int(agent.predict(o, deterministic=True)[0]) for o in obs] == best
    assert agent.predict(obs[0], deterministic=True)[0].shape == ()
    assert agent.predict(obs.astype(np.float64), deterministic=True)[0].tolist() == best
    again = agent.predict(obs[:, ::-1][:, ::-1], state, np.ones(6, bool), deterministic=True)
    assert again[0].tolist() == best


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 2, 3), ()])
def test_predict_refuses_another_shape(shape):
    with pytest.raises(ValueError, match=r"trained on \[3\]"):
        _agent().predict(np.zeros(shape, np.float32))


def test_evaluation_epsilon_is_used_by_predict_without_deterministic_alone():
    agent = _agent(epsilon_start=0.0, epsilon_end=0.0, evaluation_epsilon=0.4, learning_starts=0)
    _always(agent, 1)
    obs = _obs(500)
    random = sum(int((agent.predict(obs)[0] != 1).sum()) for _ in range(20))
    assert stats.binomtest(random, 10_000, 0.3).pvalue > 1e-3
    assert (agent.predict(obs, deterministic=True)[0] == 1).all()
    assert (_act(agent, obs)[0] == 1).all()
    greedy = _agent(epsilon_start=1.0, evaluation_epsilon=0.0)
    _always(greedy, 1)
    assert (greedy.predict(obs)[0] == 1).all()


def _generators(agent):
    state = agent.state_dict()
    return copy.deepcopy((state["exploration"], state["memory"]["generator"].tolist()))


def test_looking_on_moves_no_generator_of_the_training(random_stream):
    agent = _filled(random_stream)
    before, everyone = _generators(agent), torch.get_rng_state()
    evaluation = copy.deepcopy(agent.state_dict()["evaluation"])
    agent.predict(_obs(5), deterministic=True)
    assert agent.state_dict()["evaluation"] == evaluation
    agent.predict(_obs(5))
    assert agent.state_dict()["evaluation"] != evaluation
    assert _generators(agent) == before
    _act(agent, _obs(5))
    agent.memory.uniforms(1)
    assert all(a != b for a, b in zip(_generators(agent), before, strict=True))
    assert torch.equal(torch.get_rng_state(), everyone)


def test_building_leaves_the_global_generator_alone_and_follows_its_seed():
    before = torch.get_rng_state()
    one, same, other = _agent(seed=3), _agent(seed=3), _agent(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(_parameters(one), _parameters(same))
    assert torch.equal(_parameters(one), _targets(one))
    assert not torch.equal(_parameters(one), _parameters(other))
    chances = [agent.memory.uniforms(4) for agent in (one, same, other)]
    assert torch.equal(chances[0], chances[1])
    assert not torch.equal(chances[0], chances[2])


@settings(max_examples=40, deadline=None)
@given(
    envs=st.integers(1, 9),
    ratio=st.sampled_from(["0.25", "0.5", "1", "2.5", "0.1", "0.3", "0.7"]),
    starts=st.integers(0, 40),
    ends=st.sampled_from([(0, 0, 0, 0), (0.3, 0.2, 0.0, 0.1)]),
)
def test_the_replay_ratio_holds_exactly_for_any_num_envs(random_stream, envs, ratio, starts, ends):
    agent = _agent(envs, replay_ratio=float(ratio), learning_starts=starts, batch_size=1)
    agent.learner.step = lambda *draw: None
    stream, total, done = random_stream(envs, 1, 0, _frame, ends), 0, 0
    for _ in range(60):
        step = stream.step()
        agent.observe(step)
        total += int(step.valid.sum())
        done += agent.learn()
        due = int(max(0, total - starts) * Fraction(ratio))
        assert (agent.env_steps, agent.updates) == (total, done)
        assert done == (due if len(agent.memory) else 0)


def test_updates_wait_for_a_batch_and_are_made_up_for(random_stream):
    agent = _agent(1, learning_starts=2, batch_size=20, replay_ratio=0.5)
    agent.learner.step = lambda *draw: None
    stream, made = random_stream(1, 1, 0, _frame, (0, 0, 0, 0)), []
    for _ in range(24):
        agent.observe(stream.step())
        made.append(agent.learn())
    assert made[:20] == [0] * 20  # a transition can be sampled once its successor is there
    assert made[20] == 9  # (21 - 2) / 2
    assert sum(made) == 11


@pytest.mark.parametrize(("size", "batch", "envs"), [(32, 32, 1), (100, 100, 16), (64, 60, 8)])
def test_a_replay_that_cannot_hold_a_batch_is_refused_or_learned_from(
    random_stream, size, batch, envs
):
    try:
        agent = _agent(envs, replay_size=size, batch_size=batch)
    except ConfigError as error:
        assert "replay_size" in str(error)  # noqa: PT017  either outcome is right
        return
    agent.learner.step = lambda *draw: None
    stream = random_stream(envs, 1, 0, _frame, (0, 0, 0, 0))
    assert sum(agent.observe(stream.step()) or agent.learn() for _ in range(3 * size)) > 0


def test_clipped_rewards_reach_the_learner_alone(random_stream):
    for clip in (True, False):
        agent, stream = _agent(clip_reward=clip), random_stream(2, 1, 0, _frame)
        for _ in range(30):
            step = stream.step()
            before = step.reward.copy()
            agent.observe(step)
            assert np.array_equal(step.reward, before)
        learned = agent.memory.sample(agent.memory.uniforms(400)).batch.reward
        raw = {float(r) for row in stream.reward for r in row}
        expected = {min(1.0, max(-1.0, r)) for r in raw} if clip else raw
        assert set(learned.tolist()) <= expected
        assert (learned.abs().max() > 1) == (not clip)


def _bright(generator, t, b):
    """Observations whose second number hardly varies, and whose third does not."""
    return (generator.normal(0, 1, 3) * [1, 0.01, 0] + [0, 8, -2]).astype(np.float32)


def test_observations_are_normalised_once_by_the_transitions_there_are(random_stream):
    agent = _agent(envs=2, normalize_observation=True)
    stream = random_stream(2, 1, 3, _bright, actions=4)
    _fill(agent, stream, 100)
    chance = torch.arange(256, dtype=torch.float64) / 256
    seen = agent.memory.sample(chance).batch.obs.to(torch.float64)
    assert len(seen.unique(dim=0)) > 100
    _learn(agent, 1)
    for network in (agent.network, agent.target.network):
        statistics = network.encoder.normalise
        assert torch.allclose(statistics.mean.to(torch.float64), seen.mean(0), atol=1e-5)
        variance = seen.var(0, correction=0)
        variance[2] = 1.0  # a number that has been constant is not scaled
        assert torch.allclose(statistics.variance.to(torch.float64), variance)
    before = {name: value.clone() for name, value in agent.network.named_buffers()}
    _fill(agent, stream, 50)
    _learn(agent, 7)  # the target is copied in between
    for network in (agent.network, agent.target.network):
        assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    resumed = _agent(envs=2, normalize_observation=True)
    resumed.load_state_dict(agent.state_dict())
    _learn(resumed, 1)
    assert all(torch.equal(value, before[n]) for n, value in resumed.network.named_buffers())


class _Faint(gymnasium.Env):
    """A bright picture in which two levels of four pixels say which action is rewarded."""

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = spaces.Discrete(2)

    def _picture(self):
        self._answer = int(self.np_random.integers(2))
        picture = np.full((1, 36, 36), 120, np.uint8)
        picture[:, 10:12, 10:12] += 3 * self._answer
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = 10
        return self._picture(), {}

    def step(self, action):
        self._left -= 1
        reward = float(action == self._answer)
        return self._picture(), reward, self._left == 0, False, {}


@pytest.mark.parametrize(("normalised", "lowest", "highest"), [(True, 9.5, 10), (False, 0, 7.5)])
def test_faint_differences_are_learned_from_normalised_pictures(
    tmp_path, normalised, lowest, highest
):
    agent = ludus.train(
        "dqn",
        _Faint,
        steps=2_000,
        num_envs=4,
        encoder="dqn2013",
        head_hidden=64,
        learning_starts=200,
        epsilon_steps=400,
        replay_ratio=0.25,
        learning_rate=3e-4,
        gamma=0.5,
        normalize_observation=normalised,
        eval_episodes=0,
        root=tmp_path,
        quiet=True,
    )
    assert lowest <= ludus.evaluate(agent, episodes=20).mean <= highest


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_the_loss_is_the_papers(random_stream, loss, dueling, double, n_step):
    agent = _filled(random_stream, loss=loss, dueling=dueling, double=double, n_step=n_step)
    chance = agent.memory.uniforms(8)
    expected = _loss_by_hand(agent, chance).item()
    other = copy.copy(agent)
    other.config = replace(agent.config, double=not double)
    assert (
        abs(_loss_by_hand(other, chance).item() - expected) > 1e-3
    )  # so that double makes a difference
    agent.memory.uniforms = lambda size: chance
    _learn(agent, 1)
    assert agent.metrics()["loss"] == pytest.approx(expected, rel=1e-5)


def test_gamma_and_n_step_reach_the_memory(random_stream):
    agent = _filled(random_stream, n_step=3, gamma=0.5)
    discounts = set(agent.memory.sample(agent.memory.uniforms(500)).batch.discount.tolist())
    assert discounts == {0.0, 0.125, 0.25, 0.5}


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2, eps=1e-3, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(
        p, 1e-2, alpha=0.95, eps=1e-3, momentum=0.5, centered=True, foreach=False
    ),
    "sgd": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.5, foreach=False),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2, eps=1e-3, foreach=False),
    "radam": lambda p: torch.optim.RAdam(p, 1e-2, eps=1e-3, foreach=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_equal_the_plain_optimizer(random_stream, name):
    momentum = 0.5 if name in ("rmsprop", "sgd") else 0.0
    agent = _filled(
        random_stream, optimizer=name, optimizer_eps=1e-3, momentum=momentum, max_grad_norm=0.2
    )
    plain = copy.deepcopy(agent)
    optimizer = OPTIMIZERS[name](plain.network.parameters())
    # the first shows the starting moments, the later ones their decay, the sixth radam's change
    for _ in range(7 if name == "radam" else 3):
        chance = agent.memory.uniforms(8)
        agent.learner.step(*[chance] * 5)
        optimizer.zero_grad()
        _loss_by_hand(plain, chance).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.network.parameters(), 0.2)
        assert norm > 0.2  # so that the limit is part of what is compared
        optimizer.step()
        torch.testing.assert_close(_parameters(agent), _parameters(plain), rtol=1e-5, atol=1e-6)
    assert (_parameters(agent) - _parameters(_agent())).abs().max() > 1e-3


def test_the_first_step_of_adam_by_hand(random_stream):
    agent = _filled(random_stream, max_grad_norm=0.0, optimizer_eps=1e-3)
    chance, before = agent.memory.uniforms(8), _parameters(agent)
    slopes = torch.autograd.grad(_loss_by_hand(agent, chance), list(agent.network.parameters()))
    slope = torch.cat([g.flatten() for g in slopes])
    agent.learner.step(*[chance] * 5)
    # m = 0.1 g and v = 0.001 g^2, both corrected for their start at 0
    expected = before - 1e-2 * slope / (slope.abs() + 1e-3)
    torch.testing.assert_close(_parameters(agent), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("limit", "applied"), [(0.25, 0.25), (1e9, None), (0.0, None)])
def test_max_grad_norm_limits_what_is_applied(random_stream, limit, applied):
    agent = _filled(random_stream, optimizer="sgd", learning_rate=1.0, max_grad_norm=limit)
    before = _parameters(agent)
    _learn(agent, 1)
    norm = agent.metrics()["grad_norm"]  # as it was before the limit
    assert norm > 0.5
    moved = float((_parameters(agent) - before).norm())
    assert moved == pytest.approx(norm if applied is None else applied, rel=1e-4)


def test_metrics_are_means_since_the_last_call(random_stream):
    agent = _filled(random_stream, optimizer="sgd", learning_rate=1e-12, replay_ratio=1.0)
    chances = [agent.memory.uniforms(8) for _ in range(3)]
    losses = [_loss_by_hand(agent, chance).item() for chance in chances]
    queue = iter(chances)
    agent.memory.uniforms = lambda size: next(queue)
    _learn(agent, 2)
    assert agent.metrics()["loss"] == pytest.approx(sum(losses[:2]) / 2, rel=1e-5)
    assert "loss" not in agent.metrics()
    _learn(agent, 1)
    assert agent.metrics()["loss"] == pytest.approx(losses[2], rel=1e-5)


def _says(network, obs, noise, taus=None):
    """What the head says of a batch [N, *obs], without the time."""
    first = torch.zeros(1, len(obs), dtype=torch.bool)
    out, _ = network(obs.unsqueeze(0), (), first, HeadNoise(noise, taus))
    return type(out)(*(x[0] if x.shape[:2] == (1, len(obs)) else x for x in out))


def _squash(x):
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + 1e-3 * x


def _unsquash(x):
    return math.copysign(((math.sqrt(1 + 4e-3 * (abs(x) + 1.001)) - 1) / 2e-3) ** 2 - 1, x)


def _element_by_hand(config, out, action, reward, backup, next_out, policy):
    """Loss and priority of one transition, in plain Python; `policy` of the next actions."""
    pairs = [(a, p) for a, p in enumerate(policy) if p]
    if config.head == "q":
        following = sum(p * float(next_out.q[a]) for a, p in pairs)
        delta = backup(following) - float(out.q[action])
        return (delta**2 / 2 if abs(delta) <= 1 else abs(delta) - 0.5), abs(delta)
    if config.head == "c51":
        atoms, target = out.atoms.tolist(), [0.0] * config.atoms
        gap = atoms[1] - atoms[0]
        for k, atom in enumerate(atoms):
            mass = sum(p * math.exp(float(next_out.log_p[a, k])) for a, p in pairs)
            place = (min(max(backup(atom), atoms[0]), atoms[-1]) - atoms[0]) / gap
            below = min(int(place), config.atoms - 2)
            target[below] += mass * (below + 1 - place)
            target[below + 1] += mass * (place - below)
        cross = -sum(m * float(v) for m, v in zip(target, out.log_p[action], strict=True))
        return cross, cross + sum(m * math.log(m) for m in target if m > 0)
    values, loss, error = out.quantiles[action].tolist(), 0.0, 0.0
    targets = [
        backup(sum(p * float(next_out.quantiles[a, k]) for a, p in pairs))
        for k in range(next_out.quantiles.shape[-1])
    ]
    for tau, value in zip(out.taus.tolist(), values, strict=True):
        for target in targets:
            delta = target - value
            huber = delta**2 / 2 if abs(delta) <= 1 else abs(delta) - 0.5
            loss += abs(tau - (delta < 0)) * huber / len(targets)
            error += abs(delta) / len(targets)
    return loss, loss if config.quantile_priority == "loss" else error


@torch.no_grad()
def _family_by_hand(agent, draw):
    """Loss, and priorities [N], of the update that a `UpdateRandomness` makes, in plain Python."""
    c, sample = agent.config, agent.memory.sample(draw.uniforms)
    batch, target = sample.batch, agent.target.network
    one, two, three = draw.noise if c.noisy else (None, None, None)
    taus, next_taus = (draw.taus, draw.next_taus) if c.head == "iqn" else (None, None)
    out = _says(agent.network, batch.obs, one, taus)
    next_out = _says(target, batch.next_obs, two, next_taus)
    here = _says(target, batch.obs, two, next_taus)
    chooser = _says(agent.network, batch.next_obs, three).q if c.double else next_out.q
    losses, priorities = [], []
    for i in range(c.batch_size):
        action, reward, discount = (float(x[i]) for x in batch[1:4])
        action = int(action)
        policy = [float(a == chooser[i].argmax()) for a in range(4)]
        if c.munchausen:
            t = c.munchausen_temperature
            source = out if c.munchausen_online else here
            log = t * torch.log_softmax(source.q[i].double() / t, 0)[action].item()
            reward += c.munchausen_scale * min(max(log, c.munchausen_floor), 0)
            policy = torch.softmax(next_out.q[i].double() / t, 0).tolist()
            reward -= discount * t * sum(p * math.log(p) for p in policy if p)

        def backup(value, reward=reward, discount=discount):
            if c.value_rescaling:
                return _squash(reward + discount * _unsquash(value))
            return reward + discount * value

        ours, theirs = (
            type(o)(*(x[i] if len(x) == c.batch_size else x for x in o)) for o in (out, next_out)
        )
        loss, priority = _element_by_hand(c, ours, action, reward, backup, theirs, policy)
        total = math.log(sum(math.exp(q) for q in out.q[i].tolist()))
        losses.append(loss + c.conservative * (total - float(out.q[i, action])))
        priorities.append(priority)
    weights = np.ones(c.batch_size)
    if c.prioritised:
        weights = sample.probability.numpy() ** -float(agent._beta)
    return float(np.mean(losses * weights / weights.max())), priorities


FAMILY = [
    {"noisy": True},
    {"noisy": True, "double": True, "dueling": True, "conservative": 0.5},
    {"munchausen": True, "munchausen_temperature": 0.3, "noisy": True},
    {"value_rescaling": True, "double": True},
    {"head": "c51", "double": True, "noisy": True, "dueling": True, "prioritised": True},
    {"head": "c51", "munchausen": True, "munchausen_temperature": 0.3, "n_step": 3},
    {"head": "c51", "value_rescaling": True, "conservative": 0.5},
    {"head": "qr", "noisy": True, "prioritised": True},
    {"head": "qr", "value_rescaling": True, "double": True, "dueling": True},
    {"head": "iqn", "noisy": True, "conservative": 0.5},
    {"head": "iqn", "double": True, "noisy": True, "n_step": 3},
    {"head": "iqn", "munchausen": True, "munchausen_temperature": 0.3, "prioritised": True},
    {
        **{"head": "iqn", "munchausen": True, "munchausen_temperature": 0.3, "noisy": True},
        **{"munchausen_online": True, "prioritised": True, "quantile_priority": "error"},
    },
    {"head": "qr", "prioritised": True, "quantile_priority": "error", "value_rescaling": True},
]


@pytest.mark.parametrize("changes", FAMILY, ids=str)
def test_an_update_of_any_member_of_the_family_by_hand(random_stream, changes):
    small = {"atoms": 7, "v_min": -5.0, "v_max": 5.0, "quantiles": 5, "samples": 4}
    small |= {"target_samples": 3, "policy_samples": 6, "noisy_sigma": 3.0}
    agent = _filled(random_stream, **small, **changes)
    if agent.config.prioritised:
        there = torch.nonzero(agent.memory.priorities.tensors()["leaves"].view(-1)).flatten()
        agent.memory.priorities.update(there, 0.1 + torch.rand(len(there)))
    for _ in range(3):
        draw = agent.randomness()
        loss, priorities = _family_by_hand(agent, draw)
        metrics, _, _, priority, *_ = agent.gradients(*draw)
        assert float(metrics[0]) == pytest.approx(loss, rel=1e-4)
        assert priority.tolist() == pytest.approx(priorities, rel=1e-3, abs=1e-4)
        others = [draw._replace(noise=draw.noise.roll(1, 0))] if agent.config.noisy else []
        if agent.config.head == "iqn":
            others.append(draw._replace(next_taus=draw.taus[:3], taus=1 - draw.taus))
        for other in others:  # so that each random input makes a difference
            assert abs(_family_by_hand(agent, other)[0] - loss) > 1e-3 * loss


@pytest.mark.parametrize("head", ["q", "iqn"])
def test_every_draw_is_new_and_of_the_shapes_of_the_example(head):
    agent = _agent(noisy=True, head=head, samples=4, target_samples=3)
    one, two, example = agent.randomness(), agent.randomness(), agent.example()
    for name, a, b, shape in zip(one._fields, one, two, example, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype) == (shape.shape, shape.dtype)
        assert not torch.equal(a, b) or not a.numel(), name
    assert len(one.noise.flatten().unique()) == one.noise.numel()  # no network shares another's
    if head == "iqn":
        taus = torch.cat([one.taus.flatten(), one.next_taus.flatten()])
        assert len(taus.unique()) == 7 * 8
        assert 0 <= taus.min() < taus.max() < 1


@torch.no_grad()
def test_the_td_error_has_no_noise(random_stream):
    agent = _filled(random_stream, noisy=True, double=True)
    before = copy.deepcopy(agent.state_dict())
    chance, rows = torch.linspace(0, 0.99, 30, dtype=torch.float64), torch.arange(30)
    batch = agent.memory.sample(chance).batch  # not of batch_size
    choice = _q(agent.network, batch.next_obs).argmax(1)
    following = _q(agent.target.network, batch.next_obs)[rows, choice]
    q = _q(agent.network, batch.obs)[rows, batch.action]
    delta = batch.reward + batch.discount * following - q
    assert float(agent.td_error(batch)) == pytest.approx(float(delta.abs().mean()), rel=1e-5)
    assert _equal(agent.state_dict(), before)


def test_the_prioritised_loss_is_weighted_as_the_paper_says(random_stream):
    agent = _filled(random_stream, prioritised=True, priority_alpha=0.7, loss="mse")
    leaves = agent.memory.priorities.tensors()["leaves"].view(-1)
    there = torch.nonzero(leaves).flatten()
    agent.memory.priorities.update(there, torch.rand(len(there)) + 0.1)
    agent._beta.fill_(0.6)
    draw = agent.randomness()
    sample = agent.memory.sample(draw.uniforms)
    p = leaves[sample.indices].double() / leaves.double().sum()
    weight = (len(agent.memory) * p) ** -0.6
    weight = (weight / weight.max()).float()
    q = _q(agent.network, sample.batch.obs)[torch.arange(8), sample.batch.action].detach()
    following = _q(agent.target.network, sample.batch.next_obs).max(1).values
    delta = sample.batch.reward + sample.batch.discount * following - q
    metrics, _, place, priority, largest = agent.gradients(*draw)
    assert weight.min() < 0.95
    assert float(largest) == pytest.approx(float((p**-0.6).max()), rel=1e-5)
    assert float(metrics[0]) == pytest.approx(float((weight * delta**2).mean()), rel=1e-4)
    assert torch.equal(place, sample.indices)
    torch.testing.assert_close(priority, delta.abs().detach(), rtol=1e-4, atol=1e-5)
    agent.learner.step(*draw)
    expected = {}
    for at, error in zip(place.tolist(), priority.tolist(), strict=True):
        expected[at] = max(expected.get(at, 0), (error + 1e-6) ** 0.7)
    got = {at: float(leaves[at]) for at in expected}
    assert got == pytest.approx(expected, rel=1e-4)


def test_beta_goes_from_its_start_to_its_end_over_the_training(random_stream):
    agent = _filled(random_stream, prioritised=True, priority_beta_start=0.2, priority_beta_end=0.8)
    for progress, beta in ((0.0, 0.2), (0.5, 0.5), (1.0, 0.8), (1.5, 0.8)):
        agent.study(1, progress)
        assert agent.metrics()["priority_beta"] == pytest.approx(beta)


def test_beta_follows_the_env_steps_of_the_training(random_stream):
    more = {"priority_beta_start": 0.2, "priority_beta_end": 0.8, "learning_starts": 0}
    agent = _agent(1, prioritised=True, replay_ratio=0.5, **more)  # of 1,000 steps
    stream = random_stream(1, 1, 0, _frame, (0, 0, 0, 0), actions=4)
    for step in range(1, 101):
        agent.observe(stream.step())
        if agent.learn():
            beta = agent.metrics()["priority_beta"]
            assert beta == pytest.approx(0.2 + 0.6 * step / 1_000)
    assert agent.updates == 50
    assert "priority_beta" not in _agent().metrics()


@pytest.mark.parametrize("captured", [False, True])
def test_the_rainbow_goes_on_bit_for_bit(random_stream, captured):
    changes = {"head": "c51", "noisy": True, "prioritised": True, "double": True, "dueling": True}
    changes |= {"n_step": 3, "replay_size": 120, "replay_ratio": 0.7}
    agent, fresh = _agent(3, seed=1, **changes), _agent(3, seed=2, **changes)
    if captured:
        capture(agent)
        capture(fresh)
    stream = random_stream(3, 1, 0, _frame, actions=4)
    _train(agent, stream, 60)
    fresh.load_state_dict(copy.deepcopy(agent.state_dict()))
    twin = copy.deepcopy(stream)
    assert np.array_equal(_train(agent, stream, 40), _train(fresh, twin, 40))
    assert _equal(fresh.state_dict(), agent.state_dict())


def test_the_target_is_copied_every_interval(random_stream):
    agent = _filled(random_stream, target_interval=3)
    start = _targets(agent)
    for update in range(1, 8):
        _learn(agent, 1)
        if update in (3, 6):
            assert torch.equal(_targets(agent), _parameters(agent))
            start = _targets(agent)
        else:
            assert torch.equal(_targets(agent), start)
            assert not torch.equal(_targets(agent), _parameters(agent))


def test_a_target_moved_by_polyak_by_hand(random_stream):
    agent = _filled(random_stream, target_interval=2, polyak=0.25)
    start = _targets(agent)
    _learn(agent, 2)
    expected = 0.75 * start + 0.25 * _parameters(agent)
    torch.testing.assert_close(_targets(agent), expected, rtol=1e-5, atol=1e-6)


def test_no_gradient_ever_reaches_the_target(random_stream):
    agent = _filled(random_stream)
    agent.learner.step(*agent.randomness())
    assert all(p.grad is None and not p.requires_grad for p in agent.target.network.parameters())


def _train(agent, stream, rows):
    """What the loop does, on a stream of its own; returns the actions."""
    actions = []
    for _ in range(rows):
        action, _, _ = agent.act(stream.obs[-1], (), stream.first[-1])
        agent.learn()
        agent.observe(stream.step(action))
        actions.append(action)
    return np.array(actions)


def _equal(one, other):
    """Two trees of tensors, arrays and numbers are the same, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, RingRows):
        rows = [each.read(each.first, each.written) for each in (one, other)]
        return one[:-1] == other[:-1] and np.array_equal(*rows)
    return np.array_equal(one, other)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        name if name in ("adam", "rmsprop") else pytest.param(name, marks=pytest.mark.slow)
        for name in OPTIMIZERS
    ],
)
def test_a_loaded_agent_goes_on_bit_for_bit(random_stream, optimizer, captured):
    changes = {"optimizer": optimizer, "n_step": 2, "replay_ratio": 0.7, "epsilon_steps": 500}
    changes |= {"momentum": 0.5, "polyak": 0.5, "double": True, "replay_size": 120}
    agent = _agent(3, seed=1, **changes)
    fresh = _agent(3, seed=2, **changes)
    if captured:
        capture(agent)
        capture(fresh)
    stream = random_stream(3, 1, 0, _frame, actions=4)
    _train(agent, stream, 60)  # the ring of 40 rows has wrapped
    agent.predict(_obs(5))
    fresh.load_state_dict(copy.deepcopy(agent.state_dict()))
    assert _equal(fresh.state_dict(), agent.state_dict())
    twin = copy.deepcopy(stream)
    assert np.array_equal(_train(agent, stream, 40), _train(fresh, twin, 40))
    assert agent.updates > 90
    assert _equal(fresh.state_dict(), agent.state_dict())


def test_weights_are_all_that_acting_needs():
    agent, other = _agent(seed=1), _agent(seed=2)
    obs = _obs(200)
    want = agent.predict(obs, deterministic=True)[0]
    assert not np.array_equal(other.predict(obs, deterministic=True)[0], want)
    other.load_weights(agent.weights())
    assert np.array_equal(other.predict(obs, deterministic=True)[0], want)


def test_starting_from_weights_starts_the_target_from_them_too(random_stream):
    agent, other = _filled(random_stream, seed=1), _agent(seed=2)
    assert not torch.equal(_targets(agent), _parameters(agent))
    other.start_from(agent.weights())
    assert torch.equal(_parameters(other), _parameters(agent))
    assert torch.equal(_targets(other), _parameters(agent))
