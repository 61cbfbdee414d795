import copy
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.agent import EnvSpec
from ludus.agents.auxiliary_config import AuxiliaryFields
from ludus.agents.capture import capture
from ludus.agents.ppo import PPO, build
from ludus.agents.ppo_config import PPOConfig
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import ConfigError, TrainingError
from ludus.networks.policies import PolicyHead
from ludus.training.checkpoint import newest_checkpoint, save_checkpoint

CPU = torch.device("cpu")
OBS = spaces.Box(-9, 9, (3,), np.float32)
CORES = ("none", "lstm", "gru", "gtrxl")
CONFIG = PPOConfig(
    hidden=(8,),
    core_units=8,
    window=4,
    learning_rate=1e-2,
    rollout_length=6,
    epochs=2,
    minibatches=2,
    gamma=0.9,
    lam=0.8,
    anneal_learning_rate=False,
)
ACTIONS = {
    "discrete": spaces.Discrete(4),
    "several": spaces.MultiDiscrete([2, 3], start=[1, 0]),
    "continuous": spaces.Box(-0.5, 0.5, (2,), np.float32),
}


def _agent(envs=4, seed=0, steps=400, config=CONFIG, actions="discrete", obs=OBS, **changes) -> PPO:
    config = replace(config, **changes)
    return build(config, EnvSpec(obs, ACTIONS[actions], envs), device=CPU, seed=seed, steps=steps)


def _frame(generator, t, b):
    return generator.normal(0, 1, 3).astype(np.float32)


def _train(agent, stream, rows, state=None):
    state = agent.initial_state(stream.envs) if state is None else state
    actions = []
    for _ in range(rows):
        action, state, extras = agent.act(stream.obs[-1], state, stream.first[-1])
        agent.learn()
        agent.observe(stream.step(action)._replace(extras=extras))
        actions.append(action)
    return np.array(actions), state


def _fill(agent, stream):
    """One rollout, its targets set, nothing learned."""
    agent.learn = lambda: 0
    _train(agent, stream, agent.rollout.length + 1)
    agent._set_targets()


def _gradients(agent, index):
    agent._weigh(index.unsqueeze(0))
    return agent.gradients(index)


def _parameters(agent):
    return torch.cat([p.detach().flatten() for p in agent.network.parameters()])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("core", CORES)
def test_the_ratio_is_1_in_the_first_update_also_across_resets(
    random_stream, core, actions, shared
):
    agent = _agent(core=core, actions=actions, shared=shared, rollout_length=20, minibatches=1)
    stream = random_stream(4, 1, 2, _frame)
    _fill(agent, stream)
    assert agent.rollout.first[1:20].any()
    index = agent.rollout.example()[0]
    agent._weigh(index.unsqueeze(0))
    batch = agent.rollout.minibatch(index)
    with torch.no_grad():
        out, _ = agent.network(batch.obs, batch.state, batch.first)
        log_prob = agent.kind.distribution(out).log_prob(batch.action)
    ratio = (log_prob - batch.extras["log_prob"]).exp()
    assert (ratio - 1).abs().max() < 1e-6
    torch.testing.assert_close(out.value, batch.extras["value"], rtol=1e-5, atol=1e-6)
    assert log_prob.std() > 0


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
def test_advantages_equal_a_loop_over_the_stream(random_stream, lam):
    agent, stream = _agent(lam=lam), random_stream(4, 1, 2, _frame)
    _fill(agent, stream)
    value, ends = agent.rollout.extras["value"].numpy(), 0
    for b in range(4):
        following = 0.0
        for t in reversed(range(6)):
            gone_on = t < 5 and not stream.over[t + 1][b]
            discount = 0.0 if stream.terminated[t + 1][b] else 0.9
            delta = stream.reward[t + 1][b] + discount * value[t + 1, b] - value[t, b]
            following = delta + (discount * lam * following if gone_on else 0.0)
            ends += stream.over[t + 1][b]
            if not stream.over[t][b]:  # else the row is no decision
                assert float(agent._advantage[t, b]) == pytest.approx(following, rel=1e-4, abs=1e-5)
                target = following + value[t, b]
                assert float(agent._target[t, b]) == pytest.approx(target, rel=1e-4, abs=1e-5)
    assert ends > 0


@pytest.mark.parametrize("core", ["none", "lstm", "gtrxl"])
def test_vtrace_judges_by_the_policy_that_learns(random_stream, core):
    agent, stream = _agent(core=core, vtrace=True), random_stream(4, 1, 2, _frame)
    agent.learn = lambda: 0
    _train(agent, stream, 7)
    with torch.no_grad():
        agent.learner.flat.add_(0.5 * torch.randn(agent.learner.flat.shape))
    r = agent.rollout
    before = r.extras["log_prob"].clone()
    r.chosen_by_agent[3, 1] = False
    agent._set_targets()
    with torch.no_grad():
        out, _ = agent.network(r.obs, r.state, r.first)
        log_prob = agent.kind.distribution(out).log_prob(r.action)
    torch.testing.assert_close(r.extras["value"], out.value)
    torch.testing.assert_close(r.extras["log_prob"], log_prob)
    ratio = (log_prob - before).exp()
    assert ratio.min() < 0.8
    assert ratio.max() > 1.2
    ratio[3, 1] = 1.0
    for b in range(4):
        following = 0.0
        for t in reversed(range(6)):
            gone_on = t < 5 and not stream.over[t + 1][b]
            discount = 0.0 if stream.terminated[t + 1][b] else 0.9
            delta = float(
                stream.reward[t + 1][b] + discount * out.value[t + 1, b] - out.value[t, b]
            )
            ahead = discount * 0.8 * following if gone_on else 0.0
            following = min(1.0, float(ratio[t, b])) * (delta + ahead)
            if not stream.over[t][b]:  # else the row is no decision
                assert float(agent._advantage[t, b]) == pytest.approx(following, rel=1e-4, abs=1e-5)
                target = following + float(out.value[t, b])
                assert float(agent._target[t, b]) == pytest.approx(target, rel=1e-4, abs=1e-5)


def _by_rows(agent, stream, index):
    """Loss, parts of it and gradient, a row at a time in plain numbers."""
    c, rows = agent.config, []
    for i in index.tolist():
        t, b = divmod(i, 4)
        if stream.over[t][b]:
            continue
        obs = torch.from_numpy(stream.obs[t][b]).view(1, 1, 3)
        out, _ = agent.network(obs, (), torch.zeros(1, 1, dtype=torch.bool))
        p = out.logits[0, 0].softmax(-1)
        rows.append((p, out.value[0, 0], int(agent.rollout.action[t, b]), t, b))
    advantages = np.array([float(agent._advantage[t, b]) for *_, t, b in rows])
    advantages = (advantages - advantages.mean()) / advantages.std()
    policy, value, entropy, kl, clipped = 0.0, 0.0, 0.0, 0.0, 0
    newer = np.mean([t >= 2 for t in range(6) for b in range(4) if not stream.over[t][b]])
    for (p, v, action, t, b), advantage in zip(rows, advantages, strict=True):
        ratio = p[action] / math.exp(float(agent.rollout.extras["log_prob"][t, b]))
        within = ratio.clamp(1 - c.clip_range, 1 + c.clip_range)
        policy = policy - torch.minimum(ratio * advantage, within * advantage) / len(rows)
        value = value + 0.5 * (v - agent._target[t, b]) ** 2 / len(rows)
        entropy = entropy - (p * p.log()).sum() / len(rows)
        if t >= 2:  # the rows before were played by the policy before the last updates
            kl += float((ratio - 1 - ratio.log()).detach()) / len(rows) / newer
            clipped += float(abs(ratio - 1) > c.clip_range) / len(rows) / newer
    loss = policy + 0.7 * value - 0.03 * entropy
    parts = torch.autograd.grad(loss, list(agent.network.parameters()))
    gradient = torch.cat([part.flatten() for part in parts])
    values = [float(x.detach()) for x in (loss, policy, value, -entropy)]
    valid = [(t, b) for t in range(6) for b in range(4) if not stream.over[t][b]]
    fitted = [float(agent._target[at]) for at in valid]
    missed = [float(agent._advantage[at]) for at in valid]
    explained = 1 - np.var(missed) / np.var(fitted)
    return [*values, kl, clipped, explained], gradient


def test_the_loss_and_gradient_of_a_minibatch_by_hand(random_stream):
    agent = _agent(value_coef=0.7, entropy_coef=0.03, max_grad_norm=0.0)
    stream = random_stream(4, 1, 2, _frame)
    _fill(agent, stream)
    with torch.no_grad():
        agent.learner.flat.add_(
            0.3 * torch.randn(agent.learner.flat.shape)
        )  # so that ratios leave 1
    index = torch.arange(4, 22)
    metrics, gradient = _gradients(agent, index)
    want, want_gradient = _by_rows(agent, stream, index)
    assert metrics.tolist() == pytest.approx(want, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(gradient, want_gradient, rtol=1e-3, atol=1e-5)
    assert want[5] > 0, "some ratio must be clipped"


def test_without_limits_the_first_update_is_the_policy_gradient(random_stream):
    """A2C is PPO's first update: https://arxiv.org/abs/2205.09123."""
    agent = _agent(
        clip_range=math.inf, normalize_advantage=False, value_coef=0.0, max_grad_norm=0.0
    )
    _fill(agent, random_stream(4, 1, 2, _frame))
    _, gradient = _gradients(agent, torch.arange(24))
    batch = agent.rollout.minibatch(torch.arange(24))
    out, _ = agent.network(batch.obs, (), batch.first)
    loss = -batch.mean(
        batch.extras["advantage"] * agent.kind.distribution(out).log_prob(batch.action)
    )
    grads = torch.autograd.grad(loss, list(agent.network.parameters()), allow_unused=True)
    pairs = zip(grads, list(agent.network.parameters()), strict=True)
    want = [torch.zeros_like(p) if g is None else g for g, p in pairs]
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in want]))
    assert gradient.abs().max() > 1e-3


def test_what_a_row_without_a_decision_holds_changes_nothing(random_stream):
    agent = _agent(entropy_coef=0.1)
    _fill(agent, random_stream(4, 1, 2, _frame))
    before = _gradients(agent, torch.arange(24))
    idle = ~agent.rollout.valid[:6]
    assert idle.any()
    agent._target[idle] = 1e3
    agent._advantage[idle] = -1e3
    agent.rollout.action[:6][idle] = 0
    after = _gradients(agent, torch.arange(24))
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True]


def _masked_frames(space):
    def frame(generator, t, b):
        legal = generator.random(4) < 0.5
        legal[generator.integers(4)] = True
        return space.pack({"seen": generator.normal(0, 1, 3), MASK: legal})

    return frame


def test_illegal_actions_are_never_taken_and_get_no_gradient(random_stream):
    mask = spaces.Box(0, 1, (4,), np.uint8)
    space = PackedDict({"seen": spaces.Box(-9, 9, (3,), np.float32), MASK: mask})
    agent = _agent(obs=space, entropy_coef=0.1, normalize_observation=True)
    capture(agent)
    stream = random_stream(4, 1, 2, _masked_frames(space), actions=4)
    _train(agent, stream, 30)
    assert agent.updates == 12  # of four rollouts the first only gives statistics
    for t, action in enumerate(stream.action):
        legal = space.legal_actions(torch.from_numpy(stream.obs[t]))
        assert legal[torch.arange(4), torch.from_numpy(action)].all()
    obs = torch.from_numpy(stream.obs[3])
    out, _ = agent.network(obs.unsqueeze(0), (), torch.zeros(1, 4, dtype=torch.bool))
    out.logits.retain_grad()
    policy = agent.kind.distribution(out, space.legal_actions(obs.unsqueeze(0)))
    (
        policy.log_prob(torch.from_numpy(stream.action[3]).unsqueeze(0)) + policy.entropy()
    ).sum().backward()
    illegal = ~space.legal_actions(obs)
    assert illegal.any()
    assert (out.logits.grad[0][illegal] == 0).all()
    assert (policy.log_p.exp()[0][illegal] == 0).all()
    assert (out.logits.grad[0][~illegal] != 0).any()
    chosen, _ = agent.predict({"seen": np.zeros(3), MASK: np.array([0, 0, 1, 0])})
    assert chosen == 2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shared": True, "features": 5, "value_clip": 0.2, "entropy_coef": 0.1},
        {"actions": "several"},
        {"actions": "continuous", "normalize_value": True, "normalize_observation": True},
        pytest.param({"core": "gtrxl", "anneal_clip_range": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_captured_update_equals_the_eager_one(random_stream, changes):
    eager, captured = _agent(**changes), _agent(**changes)
    capture(captured)
    assert captured.learner.clipped_gradients != captured.learner._clipped_gradients
    stream = random_stream(4, 1, 2, _frame)
    twin = copy.deepcopy(stream)
    _train(eager, stream, 30)
    _train(captured, twin, 30)
    torch.testing.assert_close(_parameters(captured), _parameters(eager), rtol=1e-4, atol=1e-5)
    assert (_parameters(eager) - _parameters(_agent(**changes))).abs().max() > 1e-3


STATISTICS = {"normalize_observation": True, "normalize_reward": True, "normalize_value": True}


@pytest.mark.parametrize("rows", [pytest.param(3, marks=pytest.mark.slow), 16])
@pytest.mark.parametrize("core", CORES)
def test_a_checkpoint_holds_all_that_the_next_update_depends_on(
    random_stream, tmp_path, core, rows
):
    changes = {"core": core, "anneal_learning_rate": False, "desired_kl": 0.01, **STATISTICS}
    agent, fresh = _agent(seed=1, **changes), _agent(seed=2, **changes)
    capture(agent)
    capture(fresh)
    stream = random_stream(4, 1, 0, _frame)
    _, state = _train(agent, stream, rows)
    save_checkpoint(tmp_path, 0, agent.state_dict(), keep=1)
    fresh.load_state_dict(newest_checkpoint(tmp_path)[0])
    twin = copy.deepcopy(stream)
    ours, theirs = _train(agent, stream, 30, state), _train(fresh, twin, 30, state)
    assert np.array_equal(ours[0], theirs[0])
    assert torch.equal(_parameters(agent), _parameters(fresh))
    assert agent.updates == fresh.updates > 0


def test_statistics_are_those_of_the_rows_learned_from_and_still_in_an_evaluation(random_stream):
    agent = _agent(**STATISTICS)
    stream = random_stream(4, 1, 2, _frame)
    _train(agent, stream, 20)  # 3 rollouts of 6 rows
    seen = np.stack(stream.obs[:18]).reshape(-1, 3)
    normalise = agent.network.encoder.first.normalise
    assert normalise.mean.numpy() == pytest.approx(seen.mean(0), rel=1e-4, abs=1e-6)
    assert normalise.variance.numpy() == pytest.approx(seen.var(0), rel=1e-4)
    before = copy.deepcopy(agent.weights())
    agent.predict(np.ones((5, 3), np.float32) * 100)
    assert all(torch.equal(before[name], value) for name, value in agent.weights().items())
    assert {"encoder.first.normalise.mean", "head.value_std"} <= set(before)


def test_rewards_are_divided_by_the_deviation_of_their_discounted_return(random_stream):
    agent, stream = _agent(normalize_reward=True), random_stream(4, 1, 2, _frame)
    agent.learn = lambda: 0
    returns, running = [], np.zeros(4)
    for t in range(7):
        _train(agent, stream, 1)
        running = 0.9 * running + stream.reward[t + 1]
        returns += running[~stream.over[t]].tolist()
        running[stream.over[t] | stream.terminated[t + 1]] = 0
        want = np.clip(stream.reward[t + 1] / np.sqrt(np.var(returns) + 1e-8), -10, 10)
        assert agent.rollout.reward[t].numpy() == pytest.approx(want, rel=1e-4)


def test_values_keep_their_units_when_they_are_normalised(random_stream):
    agent = _agent(normalize_value=True, learning_rate=1e-12)
    stream = random_stream(4, 1, 2, _frame)
    probe = torch.randn(1, 5, 3), (), torch.zeros(1, 5, dtype=torch.bool)
    before = agent.network(*probe)[0].value.detach()
    _train(agent, stream, 14)
    head = agent.network.head
    assert isinstance(head, PolicyHead)
    assert head.value_std > 1.2  # rewards deviate by 2
    torch.testing.assert_close(agent.network(*probe)[0].value, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("core", ["none", "lstm"])
def test_the_rows_of_the_policy_before_are_learned_from_but_not_measured(random_stream, core):
    """In the first update every newer row has the ratio 1; rows 0 and 1 need not."""
    agent = _agent(core=core, learning_rate=0.1)
    stream = random_stream(4, 1, 0, _frame)
    _train(agent, stream, 8)  # updates once, after the action of row 1 of the 2nd rollout
    agent.learn = lambda: 0
    _, _ = _train(agent, stream, 5)
    agent._set_targets()
    index = torch.arange(4 if core == "lstm" else 24)
    before = _gradients(agent, index)
    kl, clipped = before[0][4:6].tolist()
    if core == "none":  # else the stored states of newer rows come from older weights
        assert kl == pytest.approx(0, abs=1e-6)
        assert clipped == 0
    agent.rollout.extras["log_prob"][:2] -= 1.0
    after = _gradients(agent, index)
    assert after[0][4:6].tolist() == [kl, clipped]
    assert not torch.equal(before[1], after[1])


def test_the_mean_over_an_epoch_is_that_over_all_newer_rows(random_stream):
    """Also where a minibatch has none of them."""
    agent = _agent(rollout_length=4, minibatches=8, learning_rate=0.1)
    stream = random_stream(4, 1, 0, _frame, (0, 0, 0, 0))
    _train(agent, stream, 6)
    agent.learn = lambda: 0
    _train(agent, stream, 3)
    agent._set_targets()
    with torch.no_grad():
        agent.learner.flat.add_(0.3 * torch.randn(agent.learner.flat.shape))
    epoch = torch.arange(16).view(8, 2)
    agent._weigh(epoch)
    parts = [agent.gradients(index)[0][4:6] for index in epoch]
    whole = _gradients(agent, torch.arange(8, 16))[0][4:6] * agent._newer_share
    torch.testing.assert_close(torch.stack(parts).mean(0), whole)
    assert parts[0].tolist() == [0, 0]
    assert whole[0] > 0


def test_the_explained_variance_leaves_out_rows_without_a_decision(random_stream):
    agent = _agent()
    _fill(agent, random_stream(4, 1, 2, _frame))
    valid = agent.rollout.valid[:-1]
    assert not valid.all()
    unexplained = agent._advantage[valid].var(correction=0) / agent._target[valid].var(correction=0)
    torch.testing.assert_close(agent._explained, 1 - unexplained)


def test_a_kl_divergence_needs_a_row_of_the_current_policy():
    assert PPOConfig(rollout_length=3, desired_kl=0.01, anneal_learning_rate=False)
    for field in ("desired_kl", "target_kl"):
        with pytest.raises(ConfigError, match=r"rollout_length is 2; .* need 3 or more"):
            replace(CONFIG, rollout_length=2, **{field: 0.01})


def test_a_kl_divergence_with_overlap_needs_vtrace():
    for field in ("desired_kl", "target_kl"):
        with pytest.raises(ConfigError, match="add vtrace or set both to 0"):
            replace(CONFIG, overlap=True, **{field: 0.01})
        assert replace(CONFIG, overlap=True, vtrace=True, **{field: 0.01})


def test_a_round_ends_after_an_epoch_beyond_the_target_kl(random_stream):
    far, near = (_agent(epochs=8, target_kl=kl, learning_rate=0.05) for kl in (1e-4, 1e9))
    for agent in (far, near):
        _train(agent, random_stream(4, 1, 2, _frame), 8)
    assert far.updates < near.updates == 16


@pytest.mark.parametrize(("desired", "factor"), [(1e-9, 1 / 1.5), (1e3, 1.5)])
def test_the_learning_rate_follows_the_desired_kl(random_stream, desired, factor):
    agent = _agent(desired_kl=desired, learning_rate=1e-3)
    _train(agent, random_stream(4, 1, 2, _frame), 8)
    assert agent.metrics()["learning_rate"] == pytest.approx(1e-3 * factor)


def test_schedules_fall_to_0_over_the_training(random_stream):
    agent = _agent(steps=400, anneal_learning_rate=True, anneal_clip_range=True)
    _train(agent, random_stream(4, 1, 2, _frame), 7)
    agent.env_steps = 100
    agent.rollout.filled = 7
    agent.learn()
    values = agent.metrics()
    assert values["learning_rate"] == pytest.approx(0.0075)
    assert values["clip_range"] == pytest.approx(0.15)
    assert float(agent._clip) == pytest.approx(0.15)


def test_a_loss_that_is_not_finite_ends_the_training_with_its_name(random_stream):
    agent, stream = _agent(), random_stream(4, 1, 2, _frame)
    _train(agent, stream, 6)
    agent.rollout.reward[2] = np.inf
    with pytest.raises(TrainingError, match=r"became (nan|inf) within .* learning_rate"):
        _train(agent, stream, 2)


def test_continuous_actions_are_cut_to_the_bounds_and_learned_as_drawn(random_stream):
    agent = _agent(actions="continuous", log_std=1.0)
    stream = random_stream(4, 1, 2, _frame)
    agent.learn = lambda: 0
    actions, _ = _train(agent, stream, 6)
    kept = agent.rollout.action[:6].numpy()
    assert np.abs(kept).max() > 0.5
    assert np.array_equal(actions, np.clip(kept, -0.5, 0.5))


def test_choices_are_given_to_the_env_from_its_first_action(random_stream):
    agent = _agent(actions="several")
    actions, _ = _train(agent, random_stream(4, 1, 2, _frame), 6)
    assert set(actions[..., 0].flatten()) == {1, 2}
    assert np.array_equal(agent.rollout.action[:6].numpy(), actions - [1, 0])


def test_predict_takes_the_mode_or_draws_from_the_policy():
    agent = _agent()
    with torch.no_grad():
        agent.network.head.policy.bias.copy_(torch.tensor([0.5, 0.1, 0.2, 0.7]).log())
        agent.network.head.policy.weight.zero_()
    obs = np.zeros((2_000, 3), np.float32)
    assert (agent.predict(obs, deterministic=True)[0] == 3).all()
    drawn = np.bincount(agent.predict(obs, deterministic=False)[0], minlength=4) / 2_000
    assert drawn == pytest.approx(np.array([0.5, 0.1, 0.2, 0.7]) / 1.5, abs=0.04)
    assert agent.predict(obs[0], deterministic=True)[0] == 3


PICTURES = spaces.Box(0, 255, (2, 20, 20), np.uint8)
CHANGES = {
    "activation": "relu",
    "shared": True,
    "core": "lstm",
    "orthogonal": False,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "anneal_learning_rate": True,
    "optimizer_eps": 0.1,
    "max_grad_norm": 0.01,
    "rollout_length": 4,
    "epochs": 1,
    "minibatches": 1,
    "gamma": 0.5,
    "lam": 0.1,
    "clip_range": 0.01,
    "anneal_clip_range": True,
    "value_clip": 0.01,
    "value_coef": 0.1,
    "entropy_coef": 0.5,
    "normalize_advantage": False,
    "normalize_observation": True,
    "normalize_reward": True,
    "normalize_value": True,
    "target_kl": 1e-6,
    "desired_kl": 1e-6,
    "overlap": True,
    "vtrace": True,
    "clip_reward": True,
}
TRUNK = (3 + 1) * 8
SHAPES = [  # what is changed, the space, and how many parameters there are then
    ({"hidden": (5,)}, OBS, 2 * (3 + 1) * 5 + (5 + 1) * 5),
    ({"features": 6, "shared": True}, OBS, TRUNK + (8 + 1) * 6 + (6 + 1) * 5),
    ({"core": "gru", "core_units": 2, "shared": True}, OBS, TRUNK + 6 * (8 + 2 + 2) + 3 * 5),
    ({"encoder": "dqn2013", "shared": True}, PICTURES, 129 * 16 + 257 * 32 + 33 * 5),
    (
        {"encoder": "impala", "width": 2, "shared": True},
        PICTURES,
        (19 + 4 * 289) * 32 + (289 + 4 * 577) * 64 + (577 + 4 * 577) * 64 + (64 * 9 + 1) * 5,
    ),
]


@pytest.mark.parametrize(("changes", "space", "parameters"), SHAPES, ids=lambda x: str(x)[:40])
def test_the_fields_of_the_network_make_it_as_they_say(changes, space, parameters):
    assert _agent(obs=space, **changes).learner.flat.numel() == parameters


def test_the_fields_of_the_transformer_make_it_as_they_say():
    few = _agent(core="gtrxl", shared=True)
    state = few.initial_state(4)
    assert [tuple(part.shape) for part in state] == [(4, 4, 1, 8), (4,)]
    more = _agent(core="gtrxl", shared=True, layers=2, heads=2, window=7)
    assert tuple(more.initial_state(4)[0].shape) == (4, 7, 2, 8)
    blocks = more.network.core.blocks
    assert blocks[0].position.shape == (8, 2, 4)
    each = sum(p.numel() for p in blocks[0].parameters())
    assert more.learner.flat.numel() == few.learner.flat.numel() + 2 * each - sum(
        p.numel() for p in few.network.core.blocks[0].parameters()
    )


def test_the_deviation_of_continuous_actions_starts_where_the_field_says():
    agent = _agent(actions="continuous", log_std=-1.5)
    assert agent.network.head.log_std.tolist() == [-1.5, -1.5]


def _learned(random_stream, config):
    agent = _agent(config=config, steps=200)
    _train(agent, random_stream(4, 1, 3, _frame), 40)
    return agent.learner.flat.clone()


@pytest.mark.parametrize("name", CHANGES)
def test_a_field_changes_what_is_learned(random_stream, name):
    assert getattr(CONFIG, name) != CHANGES[name]
    ours = _learned(random_stream, CONFIG)
    other = _learned(random_stream, replace(CONFIG, **{name: CHANGES[name]}))
    assert ours.shape != other.shape or bool((ours - other).abs().max() > 1e-6)


def test_no_field_is_without_a_test():
    of_shapes = {name for changes, *_ in SHAPES for name in changes}
    apart = {"layers", "heads", "window", "log_std"}
    shared = {f.name for f in fields(AuxiliaryFields)}  # test_auxiliary.py
    assert {f.name for f in fields(PPOConfig)} == {*CHANGES, *of_shapes, *apart} | shared


POSITIVE = (
    "width core_units layers heads window learning_rate optimizer_eps rollout_length epochs "
    "minibatches clip_range"
)
NOT_NEGATIVE = "features max_grad_norm value_clip value_coef entropy_coef target_kl desired_kl"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in POSITIVE.split()),
        *((name, -1) for name in NOT_NEGATIVE.split()),
        *((name, 1.5) for name in ("gamma", "lam")),
        ("hidden", (0,)),
        ("learning_rate", math.nan),
        ("clip_range", math.nan),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        replace(CONFIG, **{name: value})


def test_combinations_and_spaces_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="both change the learning rate"):
        replace(CONFIG, desired_kl=0.1, anneal_learning_rate=True)
    with pytest.raises(ConfigError, match="heads is 3, which does not divide core_units, 8"):
        replace(CONFIG, core="gtrxl", heads=3)
    with pytest.raises(
        ConfigError, match="minibatches is 5, which does not divide 4 envs x 6 rows"
    ):
        _agent(minibatches=5)
    with pytest.raises(ConfigError, match="minibatches is 3, which does not divide 4 envs;"):
        _agent(minibatches=3, core="gtrxl")
    none = spaces.Dict({"a": spaces.Discrete(2)})
    with pytest.raises(ConfigError, match="the action space is Dict"):
        build(CONFIG, EnvSpec(OBS, none, 4), device=CPU, seed=0, steps=1)
    with pytest.raises(ConfigError, match="the nature encoder takes pictures"):
        _agent(encoder="nature")


@pytest.mark.parametrize(("actions", "needed"), [("discrete", "4"), ("continuous", "none")])
def test_a_mask_of_another_size_than_the_actions_is_refused(actions, needed):
    mask = spaces.Box(0, 1, (3,), np.uint8)
    space = PackedDict({"seen": spaces.Box(-9, 9, (3,), np.float32), MASK: mask})
    with pytest.raises(
        ConfigError, match=f"action_mask has 3 numbers; these actions need {needed}"
    ):
        _agent(obs=space, actions=actions)
