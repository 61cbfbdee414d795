"""Auxiliary losses: numbers computed by hand, the rows they look at, and the agents with them."""

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional as F

from ludus.agents import dqn, ppo, pqn, r2d2
from ludus.agents.agent import EnvSpec
from ludus.agents.auxiliary import Auxiliary, auxiliary_network
from ludus.agents.auxiliary_config import AuxiliaryFields
from ludus.agents.capture import capture
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.memory.following import Following, following_rows
from ludus.agents.memory.replay import Replay
from ludus.agents.memory.rollout import Rollout
from ludus.agents.ppo_config import PPOConfig
from ludus.agents.pqn_config import PQNConfig
from ludus.agents.r2d2_config import R2D2Config
from ludus.envs.dict_observation import PackedDict
from ludus.envs.errors import ConfigError
from ludus.networks.auxiliary import Decoder, NewestFrame, encoded
from ludus.networks.convolutional import DQN2013, ImpalaResNet, NatureCNN
from ludus.networks.cores import make_core
from ludus.networks.encoders import (
    ProjectedEncoder,
    RenormalisedEncoder,
    latent_shape,
    make_encoder,
)
from ludus.networks.heads import QHead, Streams
from ludus.networks.network import Network, flatten_parameters
from ludus.networks.policies import ActionKind
from ludus.networks.running_stats import Normalise

CPU = torch.device("cpu")
VECTOR = spaces.Box(-9, 9, (3,), np.float32)
PLANES = spaces.Box(0, 1, (2, 5, 5), np.float32)
KINDS = ("reconstruction", "variational", "spr", "inverse")


def _counted(generator, t, b):
    return np.array([t, b, 0], np.float32)


def _random(generator, t, b):
    return generator.normal(0, 1, 3).astype(np.float32)


def _rows_after(stream, row, env, steps):
    """What `Following` says of a row, one row at a time: observation, action, reached."""
    reached, found = True, []
    for k in range(1, steps + 1):
        if row + k >= len(stream.obs):
            break
        reached = reached and not stream.over[row + k - 1][env]
        found.append((stream.obs[row + k][env], stream.action[row + k - 1][env], reached))
    return found


def _compare(following, column, expected):
    for k, (obs, action, reached) in enumerate(expected):
        assert bool(following.reached[k, column]) == reached
        if reached:  # elsewhere the loss is 0, whatever is there
            place = following.place[k, column]
            assert (following.obs[place].numpy() == obs).all()
            assert following.action[k, column] == action


@pytest.mark.parametrize("stack", [1, 3])
def test_the_rows_after_a_sampled_transition_are_those_of_a_loop(random_stream, stack):
    stream = random_stream(2, stack, 3, _counted)
    shape = (stack, 3) if stack > 1 else (3,)
    memory = Replay(
        40, 2, shape, np.dtype(np.float32), stack=stack, n_step=2, gamma=0.9, device=CPU, seed=0,
        rows_ahead=4,
    )  # fmt: skip
    for row in range(70):
        memory.add(stream.step())
        if row < 50:  # the ring has been written over by then
            continue
        sample = memory.sample(torch.linspace(0, 0.999, 60, dtype=torch.float64))
        following = memory.following(sample.indices, 4)
        for column, obs in enumerate(sample.batch.obs.reshape(60, -1, 3)[:, -1].int().tolist()):
            expected = _rows_after(stream, obs[0], obs[1], 4)
            assert len(expected) == 4
            _compare(following, column, expected)
        assert not following.reached.all(), "some episode must end within these rows"


@pytest.mark.parametrize("core", ["none", "gru"])
def test_the_rows_after_a_row_of_a_rollout_are_those_of_a_loop(random_stream, core):
    stream = random_stream(3, 1, 5, _counted)
    state = make_core(core, 4, 2).initial_state(3)
    env = EnvSpec(VECTOR, spaces.Discrete(3), 3)
    rollout = Rollout(6, env, gamma=0.9, device=CPU, seed=0, state=state)
    for _ in range(7):
        rollout.add(stream.step(), state)
    index = torch.arange(3 if state else 18)
    following = rollout.following(index, 4)
    for column in range(18):
        row, b = divmod(column, 3)
        expected = _rows_after(stream, row, b, 4)
        _compare(following, column, expected[: 6 - row])
        assert not following.reached[6 - row :, column].any(), "outside the rollout"


def test_rows_after_the_end_of_a_sequence_are_not_reached():
    obs = torch.arange(8.0).view(4, 2, 1)
    action, valid = torch.arange(8).view(4, 2), torch.ones(4, 2, dtype=torch.bool)
    following = following_rows(obs, action, valid, 3, 2)
    assert following.reached.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert following.obs[following.place[0], 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert following.obs[following.place[1], 0].tolist()[:4] == [4, 5, 6, 7]
    assert following.action[0].tolist() == [0, 1, 2, 3, 4, 5]


def _auxiliary(kind, *, space=VECTOR, actions=None, encoder=None, rows=4, stack=1, **changes):
    """An auxiliary loss of a network with an MLP of 6 units, or with another encoder."""
    config = replace(AuxiliaryFields(), auxiliary=kind, **changes)
    env = EnvSpec(space, actions or spaces.Discrete(3), 2, stack)
    encoder = make_encoder("mlp", space, (6,)) if encoder is None else encoder
    part = auxiliary_network(config, encoder, env)
    head = QHead(Streams(encoder.dim, 3))
    network = Network(encoder, make_core("none", encoder.dim), head, space, part)
    auxiliary = Auxiliary(config, network, env, rows=rows, device=CPU, seed=0)
    auxiliary.attach(flatten_parameters(network))
    return auxiliary, network


def test_reconstruction_is_the_mean_squared_error_of_the_newest_frame():
    space = spaces.Box(0, 255, (4, 1, 1), np.uint8)
    auxiliary, network = _auxiliary("reconstruction", space=space, stack=2, reconstruction_weight=3)
    layers = network.auxiliary.decoder.layers
    with torch.no_grad():
        for p in layers.parameters():
            p.zero_()
        layers[-1].bias.copy_(torch.tensor([0.5, 0.25]))  # of two channels of the newest frame
    obs = torch.tensor([[255, 0, 51, 102], [0, 0, 0, 0]], dtype=torch.uint8).view(2, 4, 1, 1)
    loss = auxiliary.loss(network.latents(obs), obs, None)
    expected = [3 * (0.3**2 + 0.15**2) / 2, 3 * (0.5**2 + 0.25**2) / 2]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("picture", [False, True])
def test_a_frame_is_seen_as_the_encoder_sees_it_and_shown_as_it_was(picture):
    space = spaces.Box(0, 255, (2, 3, 3), np.uint8) if picture else VECTOR
    normalise = Normalise(space.shape, shared_variance=picture)
    obs = torch.rand(9, *space.shape) * (255 if picture else 1)
    normalise.update_statistics(obs / 255 if picture else obs)
    stack = 2 if picture else 1
    newest = slice(-1, None) if picture else slice(None)
    frame = NewestFrame(torch.nn.Sequential(normalise), space, stack)
    for seen in (obs, 300 * obs):  # these are beyond the bounds of what is normalised
        whole = normalise(seen / 255 if picture else seen)
        assert torch.allclose(frame.seen(seen), whole[:, newest], atol=1e-4)
    assert whole.max() == 10
    assert torch.allclose(frame.shown(frame.seen(obs)), obs[:, newest], atol=1e-3)


def test_the_variational_loss_is_the_negative_evidence_lower_bound():
    weights = {"code_units": 2, "reconstruction_weight": 2.0, "kl_weight": 0.5}
    auxiliary, network = _auxiliary("variational", rows=2, **weights)
    part = network.auxiliary
    with torch.no_grad():
        for p in part.parameters():
            p.zero_()
        part.mean.bias.copy_(torch.tensor([1.0, -2.0]))
        part.log_variance.bias.copy_(torch.tensor([0.0, 1.0]))
    obs = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    (noise,) = auxiliary.randomness()
    loss = auxiliary.loss(network.latents(obs), obs, None, noise)
    prior = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    posterior = torch.distributions.Normal(
        torch.tensor([1.0, -2.0]), torch.tensor([1.0, np.exp(0.5)], dtype=torch.float32)
    )
    divergence = torch.distributions.kl_divergence(posterior, prior).sum()
    likelihood = torch.distributions.Normal(obs, 1.0).log_prob(torch.zeros(2, 3)).sum(1)
    constant = -1.5 * np.log(2 * np.pi)
    expected = 2 * 2 / 3 * (0.5 * divergence - (likelihood - constant))
    assert torch.allclose(loss, expected, rtol=1e-5)


def test_codes_are_their_mean_and_their_deviation_times_the_noise():
    auxiliary, network = _auxiliary("variational", rows=2, code_units=2, kl_weight=0)
    seen, part = [], network.auxiliary
    part.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    obs, noise = torch.rand(2, 3), torch.randn(2, 2)
    latents = network.latents(obs)
    auxiliary.loss(latents, obs, None, noise)
    deviation = part.log_variance(latents).exp().sqrt()
    assert torch.allclose(seen[0], part.mean(latents) + deviation * noise)


def _following(steps, rows, space, actions, generator):
    obs = torch.stack([torch.from_numpy(space.sample()) for _ in range(steps * rows)])
    taken = torch.tensor(np.array([actions.sample() for _ in range(steps * rows)]))
    reached = torch.rand(steps, rows, generator=generator) < 0.7
    return Following(
        obs,
        torch.randperm(steps * rows, generator=generator).view(steps, rows),
        taken.unflatten(0, (steps, rows)),
        reached.cumprod(0).to(torch.bool),
    )


@pytest.mark.parametrize("picture", [False, True])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_spr_is_that_of_a_loop_over_rows_and_steps(picture, projected, scaled):
    space = PLANES if picture else VECTOR
    space.seed(0)
    encoder = make_encoder("minatar" if picture else "mlp", space, (6,))
    encoder = RenormalisedEncoder(encoder) if scaled else encoder
    encoder = ProjectedEncoder(encoder, 7) if projected else encoder
    changes = {"spr_units": 5, "spr_steps": 3, "spr_weight": 2.5}
    auxiliary, network = _auxiliary("spr", space=space, encoder=encoder, rows=4, **changes)
    part, momentum = network.auxiliary, copy.deepcopy(network)
    assert (part.projection is None) == projected
    with torch.no_grad():  # the targets stay those of the network before
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    following = _following(3, 4, space, spaces.Discrete(3), torch.Generator().manual_seed(0))
    obs = torch.stack([torch.from_numpy(space.sample()) for _ in range(4)])
    loss = auxiliary.loss(network.latents(obs), obs, following)

    def project(which, z):
        return (which.encoder.layer if projected else which.auxiliary.projection)(z)

    for m in range(4):
        z, expected = network.latents(obs[m : m + 1]), 0.0
        for k in range(3):
            one_hot = F.one_hot(following.action[k, m : m + 1], 3).float()
            if picture:
                maps = z.view(1, 16, 3, 3)
                planes = one_hot[:, :, None, None] * torch.ones(1, 3, 3, 3)
                z = part.transition(torch.cat([maps, planes], 1)).flatten(1)
            else:
                z = part.transition(torch.cat([z, one_hot], 1))
            if scaled:
                z = (z - z.min()) / (z.max() - z.min() + 1e-5)
            guess = part.predictor(project(network, z))
            after = following.obs[following.place[k, m]].unsqueeze(0)
            true = project(momentum, momentum.latents(after))
            if following.reached[k, m]:
                expected += 2.5 * (1 - F.cosine_similarity(guess, true))
        assert torch.allclose(loss[m], torch.as_tensor(expected), atol=1e-5)


def test_spr_has_no_gradient_to_its_targets_and_its_momentum_follows():
    auxiliary, network = _auxiliary("spr", spr_momentum=0.9, spr_units=5, spr_steps=2)
    before = [p.clone() for p in network.parameters()]
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    auxiliary.follow()
    target = auxiliary.state_dict()["momentum"]
    for (name, p), old in zip(network.named_parameters(), before, strict=True):
        assert torch.allclose(target[name], 0.9 * old + 0.1 * p, atol=1e-6)
    obs = torch.rand(4, 3)
    following = _following(2, 4, VECTOR, spaces.Discrete(3), torch.Generator().manual_seed(1))
    auxiliary.loss(network.latents(obs), obs, following).sum().backward()
    assert all(p.grad is not None for p in network.auxiliary.parameters())
    assert all(p.grad is not None for p in network.encoder.parameters())
    assert not any(t.requires_grad for t in target.values())


def test_a_perfect_prediction_costs_nothing():
    auxiliary, network = _auxiliary("spr", spr_units=6, spr_steps=1)
    part = network.auxiliary
    with torch.no_grad():  # features stay, and the predictor is the identity
        part.predictor.weight.copy_(torch.eye(6))
        part.predictor.bias.zero_()
    part.next = lambda latents, action: latents
    obs = torch.rand(4, 3)
    reached = torch.ones(1, 4, dtype=torch.bool)
    same = Following(obs, torch.arange(4).view(1, 4), torch.zeros(1, 4, dtype=torch.int64), reached)
    assert auxiliary.loss(network.latents(obs), obs, same).abs().max() < 1e-5


@pytest.mark.parametrize(
    "actions",
    [
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.Box(-1, 1, (2,), np.float32),
    ],
    ids=str,
)
def test_inverse_is_the_cross_entropy_or_half_the_squared_error(actions):
    actions.seed(0)
    auxiliary, network = _auxiliary("inverse", actions=actions, inverse_weight=0.5)
    following = _following(1, 4, VECTOR, actions, torch.Generator().manual_seed(0))
    following.reached[0, 1] = False
    obs = torch.rand(4, 3)
    loss = auxiliary.loss(network.latents(obs), obs, following)
    for m in range(4):
        after = following.obs[following.place[0, m]].unsqueeze(0)
        features = torch.cat([network.latents(obs[m : m + 1]), network.latents(after)], 1)
        out = network.auxiliary.layers(features)[0].detach().numpy()
        action = following.action[0, m].numpy()
        if isinstance(actions, spaces.Box):
            expected = 0.5 * ((out - action) ** 2).sum()
        else:
            sizes = [3] if isinstance(actions, spaces.Discrete) else [2, 3]
            expected, start = 0.0, 0
            for size, a in zip(sizes, np.atleast_1d(action), strict=True):
                logits = out[start : start + size]
                expected += np.log(np.exp(logits).sum()) - logits[a]
                start += size
        assert float(loss[m].detach()) == pytest.approx(0.0 if m == 1 else 0.5 * expected, abs=1e-5)


def test_actions_are_encoded_one_hot_or_as_they_are():
    several = ActionKind(spaces.MultiDiscrete([2, 3]))
    assert encoded(several, torch.tensor([[1, 0], [0, 2]])).tolist() == [
        [0, 1, 1, 0, 0],
        [1, 0, 0, 0, 1],
    ]
    assert encoded(ActionKind(spaces.Discrete(3)), torch.tensor([2])).tolist() == [[0, 0, 1]]
    box = torch.rand(2, 2)
    assert encoded(ActionKind(spaces.Box(-1, 1, (2,), np.float32)), box) is box


@pytest.mark.parametrize("encoder", [DQN2013, NatureCNN, ImpalaResNet])
@pytest.mark.parametrize("size", [(36, 36), (84, 84), (61, 50)])
def test_a_decoder_gives_frames_of_the_right_size(encoder, size):
    space = spaces.Box(0, 255, (4, *size), np.uint8)
    made = encoder(space)
    decoder = Decoder(latent_shape(made), (1, *size))
    assert decoder(made(torch.zeros(2, *space.shape, dtype=torch.uint8))).shape == (2, 1, *size)
    assert Decoder((10,), (3, *size))(torch.zeros(2, 10)).shape == (2, 3, *size)


BUILD = {
    "dqn": (dqn.build, DQNConfig(hidden=(8,), batch_size=8, replay_size=100, learning_starts=20)),
    "pqn": (pqn.build, PQNConfig(hidden=(8,), rollout_length=8, minibatches=2)),
    "recurrent pqn": (
        pqn.build,
        PQNConfig(hidden=(8,), rollout_length=8, minibatches=2, core="gru", core_units=6),
    ),
    "r2d2": (
        r2d2.build,
        R2D2Config(
            hidden=(8,), core_units=6, batch_size=4, sequence_length=6, burn_in=2, n_step=2,
            replay_size=120, learning_starts=20, replay_ratio=0.2, optimizer_eps=1e-8,
        ),
    ),
    "ppo": (ppo.build, PPOConfig(hidden=(8,), rollout_length=8, minibatches=2)),
    "shared ppo": (
        ppo.build,
        PPOConfig(hidden=(8,), rollout_length=8, minibatches=2, shared=True, features=8),
    ),
}  # fmt: skip


def _agent(name, **changes):
    build, config = BUILD[name]
    config = replace(config, learning_rate=1e-2, spr_units=8, **changes)
    env = EnvSpec(VECTOR, spaces.Discrete(3), 2)
    return build(config, env, device=CPU, seed=0, steps=1_000)


def _train(agent, stream, rows, state=None):
    state = agent.initial_state(2) if state is None else state
    for _ in range(rows):
        action, state, extras = agent.act(stream.obs[-1], state, stream.first[-1])
        agent.learn()
        agent.observe(stream.step(action)._replace(extras=extras))
    return state


def _weights(agent, part="encoder"):
    agent.learner.finish()
    return torch.cat([p.detach().flatten() for p in getattr(agent.network, part).parameters()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BUILD)
def test_every_agent_learns_from_every_loss_and_resumes_exactly(random_stream, name, kind):
    agents = [_agent(name, auxiliary=each) for each in ("none", kind)]
    start = [_weights(agent) for agent in agents]
    assert torch.equal(*start), "the same seed gives the same encoder"
    streams = [random_stream(2, 1, 0, _random) for _ in agents]
    states = [_train(a, s, 60) for a, s in zip(agents, streams, strict=True)]
    assert "auxiliary_loss" in agents[1].metrics()
    assert "auxiliary_loss" not in agents[0].metrics()
    assert (_weights(agents[0]) - _weights(agents[1])).abs().max() > 1e-5
    assert (_weights(agents[1], "auxiliary") != _weights(_agent(name, auxiliary=kind), "auxiliary")
            ).any()  # fmt: skip
    saved, stream = copy.deepcopy(agents[1].state_dict()), copy.deepcopy(streams[1])
    again = _agent(name, auxiliary=kind)
    again.load_state_dict(saved)
    _train(agents[1], streams[1], 40, states[1])
    _train(again, stream, 40, states[1])
    assert agents[1].updates == again.updates > 0
    for part in ("encoder", "head", "auxiliary"):
        assert torch.equal(_weights(agents[1], part), _weights(again, part))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("dqn", "pqn", "shared ppo") for kind in KINDS),
        *((name, kind) for name in ("ppo", "r2d2", "recurrent pqn") for kind in ("spr", "inverse")),
    ],
)
def test_a_captured_update_is_the_same(random_stream, name, kind):
    agents = [_agent(name, auxiliary=kind) for _ in range(2)]
    capture(agents[1])
    for agent in agents:
        _train(agent, random_stream(2, 1, 0, _random), 60)
    assert agents[0].updates > 0
    assert torch.allclose(_weights(agents[0]), _weights(agents[1]), atol=1e-5)


FIELDS = {
    "reconstruction_weight": ("reconstruction", 0.1),
    "kl_weight": ("variational", 0.1),
    "code_units": ("variational", 5),
    "spr_weight": ("spr", 0.1),
    "spr_steps": ("spr", 2),
    "spr_momentum": ("spr", 0.0),
    "spr_units": ("spr", 4),
    "inverse_weight": ("inverse", 0.1),
}


def test_no_field_is_without_a_test():
    assert {f.name for f in fields(AuxiliaryFields)} == {"auxiliary", *FIELDS}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changes_what_is_learned_with_its_loss_alone(random_stream, field):
    kind, value = FIELDS[field]
    for chosen, changes in ((kind, True), ("none", False)):
        agents = [_agent("dqn", auxiliary=chosen)]
        config = replace(agents[0].config, **{field: value})
        env = EnvSpec(VECTOR, spaces.Discrete(3), 2)
        agents.append(dqn.build(config, env, device=CPU, seed=0, steps=1_000))
        for agent in agents:
            _train(agent, random_stream(2, 1, 0, _random), 60)
        difference = (_weights(agents[0]) - _weights(agents[1])).abs().max()
        assert (difference > 1e-6) == changes


@pytest.mark.parametrize("kind", ["reconstruction", "spr", "inverse"])
def test_the_loss_of_a_sequence_is_the_mean_over_its_trained_rows(random_stream, kind):
    agent = _agent("r2d2", auxiliary=kind, spr_steps=3, learning_starts=1_000)
    _train(agent, random_stream(2, 1, 5, _random), 55)
    c, auxiliary, network = agent.config, agent._auxiliary, agent.network
    batch = agent.memory.sample(agent.memory.uniforms(4))
    found = agent._auxiliary_loss(batch, agent.loss(batch)[3])
    rows, cut, ended = len(batch.obs), 0, 0
    for n in range(4):
        costs = []
        for t in range(c.burn_in, c.burn_in + c.sequence_length):
            if not batch.valid[t, n]:
                ended += 1
                continue
            after = [min(t + k, rows - 1) for k in range(1, auxiliary.steps + 1)]
            reached = [
                t + k < rows and all(batch.valid[t : t + k, n].tolist())
                for k in range(1, auxiliary.steps + 1)
            ]
            cut += not all(reached)
            following = None
            if after:
                following = Following(
                    batch.obs[after, n],
                    torch.arange(len(after)).unsqueeze(1),
                    torch.stack([batch.action[row - 1, n : n + 1] for row in after]),
                    torch.tensor(reached).unsqueeze(1),
                )
            obs = batch.obs[t, n : n + 1]
            costs.append(float(auxiliary.loss(network.latents(obs), obs, following).detach()))
        assert float(found[n].detach()) == pytest.approx(np.mean(costs), rel=1e-4)
    assert ended > 0
    assert cut > 0 or auxiliary.steps < 2


def test_transfer_takes_over_the_targets_encoder():
    source, agent = (_agent("dqn", auxiliary="spr") for _ in range(2))
    with torch.no_grad():
        source.learner.flat.add_(0.5)
    agent.start_from(source.weights())
    momentum = agent.state_dict()["auxiliary"]["momentum"]
    assert all(torch.equal(momentum[name], p) for name, p in source.network.named_parameters())


@pytest.mark.parametrize("kind", ["reconstruction", "inverse"])
def test_the_loss_falls_where_there_is_something_to_learn(random_stream, kind):
    """Frames of which two numbers are alike; the third says the last action."""

    class Env:
        last = np.zeros(2)

    def frame(generator, t, b):
        x = generator.normal()
        return np.array([x, x, Env.last[b]], np.float32)

    agent = _agent("dqn", auxiliary=kind, replay_ratio=2.0, learning_starts=100, n_step=1)
    stream, losses = random_stream(2, 1, 0, frame, ends=(0, 0, 0, 0)), []
    for row in range(400):
        action = stream.generator.integers(3, size=2)
        Env.last = action - 1.0
        agent.observe(stream.step(action))
        agent.learn()
        if row % 100 == 99:
            losses.append(agent.metrics().get("auxiliary_loss"))
    assert losses[-1] < (0.1 if kind == "inverse" else 0.05), losses


def test_dictionaries_are_not_reconstructed():
    space = PackedDict({"a": VECTOR, "b": VECTOR})
    env = EnvSpec(space, spaces.Discrete(3), 2)
    for kind in ("reconstruction", "variational"):
        config = replace(AuxiliaryFields(), auxiliary=kind)
        with pytest.raises(ConfigError, match="dictionaries; choose spr or inverse"):
            auxiliary_network(config, make_encoder("mlp", space, (6,)), env)
    config = replace(AuxiliaryFields(), auxiliary="spr")
    assert auxiliary_network(config, make_encoder("mlp", space, (6,)), env) is not None


def test_without_rewards_only_the_auxiliary_loss_is_learned_and_play_is_random(random_stream):
    agent = _agent("dqn", auxiliary="reconstruction", reward_free=True, epsilon_end=0.0)
    before = {part: _weights(agent, part) for part in ("encoder", "head", "auxiliary")}
    assert agent.epsilon == 1.0
    _train(agent, random_stream(2, 1, 0, _random), 60)
    assert agent.epsilon == 1.0
    assert agent.updates > 0
    assert torch.equal(_weights(agent, "head"), before["head"])
    for part in ("encoder", "auxiliary"):
        assert not torch.equal(_weights(agent, part), before[part])
    metrics = agent.metrics()
    assert metrics["loss"] == pytest.approx(metrics["auxiliary_loss"])


def test_without_rewards_there_must_be_another_loss():
    with pytest.raises(ConfigError, match="auxiliary is none; choose one"):
        _agent("dqn", reward_free=True)
