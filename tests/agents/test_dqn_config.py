"""Each field of DQNConfig changes what its docstring says, and refuses what cannot work."""

import functools
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from ludus.agents.agent import EnvSpec
from ludus.agents.auxiliary_config import AuxiliaryFields
from ludus.agents.capture import capture
from ludus.agents.dqn import build
from ludus.agents.dqn_config import DQNConfig
from ludus.envs.errors import ConfigError
from ludus.networks.convolutional import ImpalaResNet
from ludus.networks.encoders import MLP
from ludus.networks.heads import CategoricalHead, ImplicitQuantileHead, QHead, QuantileHead
from ludus.networks.layers import NoisyLinear, SpectralConv2d

VECTOR = spaces.Box(-9, 9, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (1, 12, 12), np.uint8)
CONFIG = DQNConfig(
    hidden=(8,),
    learning_rate=1e-2,
    batch_size=8,
    gamma=0.9,
    replay_size=60,
    learning_starts=10,
    replay_ratio=0.5,
    target_interval=3,
    epsilon_steps=50,
)


def _agent(config=CONFIG, space=VECTOR, actions=None, **more):
    actions = actions or spaces.Discrete(4)
    options = {"device": torch.device("cpu"), "seed": 0, "steps": 999}
    spec = EnvSpec(space, actions, more.pop("num_envs", 2), more.pop("stack", 1))
    return build(config, spec, **(options | more))


def _linears(module):
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def _frame(generator, t, b):
    return generator.normal(0, 1, 3).astype(np.float32)


def _train(config, stream, rows=80):
    """The weights, target and actions after the same rows."""
    agent, actions = _agent(config), []
    for _ in range(rows):
        actions.append(agent.act(stream.obs[-1], (), stream.first[-1])[0])
        agent.observe(stream.step())
        agent.learn()
    both = (*agent.network.parameters(), *agent.target.network.parameters())
    return torch.cat([p.detach().flatten() for p in both]), np.array(actions)


@pytest.fixture(scope="module")
def trained(random_stream):
    """`_train` on a stream that is always the same, once for each config."""
    return functools.cache(lambda config: _train(config, random_stream(2, 1, 0, _frame)))


TRAINING = {
    "normalize_observation": True,
    "freeze": "encoder",
    "double": True,
    "munchausen": True,
    "value_rescaling": True,
    "conservative": 0.5,
    "loss": "mse",
    "optimizer": "sgd",
    "learning_rate": 2e-2,
    "optimizer_eps": 1e-2,
    "max_grad_norm": 0.1,
    "batch_size": 7,
    "gamma": 0.5,
    "n_step": 2,
    "clip_reward": True,
    "replay_size": 40,
    "prioritised": True,
    "learning_starts": 30,
    "replay_ratio": 0.25,
    "target_interval": 4,
    "polyak": 0.5,
    "reset_interval": 20,
    "n_step_end": 3,
    "gamma_end": 0.99,
}
# what a field needs around it to have a meaning, and its value
WITHIN = {
    "atoms": ({"head": "c51"}, 11),
    "v_min": ({"head": "c51"}, -3.0),
    "v_max": ({"head": "c51"}, 3.0),
    "quantiles": ({"head": "qr"}, 5),
    "samples": ({"head": "iqn"}, 3),
    "target_samples": ({"head": "iqn"}, 3),
    "noisy_sigma": ({"noisy": True}, 0.1),
    "rescale_dueling": ({"dueling": True, "optimizer": "sgd"}, True),
    "munchausen_online": ({"munchausen": True}, True),
    "munchausen_scale": ({"munchausen": True}, 0.2),
    "munchausen_temperature": ({"munchausen": True}, 0.5),
    "munchausen_floor": ({"munchausen": True}, -0.1),
    "quantile_priority": ({"head": "qr", "prioritised": True, "priority_alpha": 1.0}, "error"),
    "priority_alpha": ({"prioritised": True}, 1.0),
    "priority_beta_start": ({"prioritised": True, "priority_alpha": 1.0}, 0.0),
    "priority_beta_end": ({"prioritised": True, "priority_alpha": 1.0}, 0.4),
    "reset_keep": ({"reset_interval": 20}, 0.9),
    "horizon_updates": ({"gamma_end": 0.99}, 20),
    "reset_until": ({"reset_interval": 20}, 0.01),
}
PRETRAINING = {"reward_free": True, "auxiliary": "spr"}
EXPLORATION = {"epsilon_start": 0.5, "epsilon_end": 0.9, "epsilon_steps": 500}
EXPLORATION |= {"epsilon_decay": "exponential", "epsilon_off": 40}
ELSEWHERE = {"encoder", "hidden", "width", "head_hidden", "dueling", "momentum"}
ELSEWHERE |= {"head", "noisy", "layer_norm"}  # another network: below
ELSEWHERE |= {"evaluation_epsilon"}  # test_dqn.py
ELSEWHERE |= {"pool", "spectral_norm"}  # of the impala encoder, below
ELSEWHERE |= {f.name for f in fields(AuxiliaryFields)}  # test_auxiliary.py
ELSEWHERE |= {"features", "renormalize"}  # another network: test_resets.py and below
ELSEWHERE |= {"xavier"}  # other weights: below
ELSEWHERE |= {"random_shift", "intensity_noise"}  # of images: test_augmentation.py
ELSEWHERE |= {"act_by_target"}  # test_acting_by_target.py
ELSEWHERE |= {"reward_free"}  # test_auxiliary.py
ELSEWHERE |= {"weight_decay"}  # of adamw, below
ELSEWHERE |= {"policy_samples"}  # changes what is seen, not what is learned: below


def test_the_same_config_learns_and_does_the_same(random_stream, trained):
    for ours, theirs in zip(
        trained(CONFIG), _train(CONFIG, random_stream(2, 1, 0, _frame)), strict=True
    ):
        assert (ours == theirs).all()


@pytest.mark.parametrize(("name", "value"), TRAINING.items(), ids=str)
def test_a_field_of_the_training_changes_what_is_learned(trained, name, value):
    assert getattr(CONFIG, name) != value
    (weights, _), (changed, _) = trained(CONFIG), trained(replace(CONFIG, **{name: value}))
    assert (changed - weights).abs().max() > 1e-5


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_momentum_changes_what_is_learned(trained, optimizer):
    config = replace(CONFIG, optimizer=optimizer)
    still, moving = (trained(replace(config, momentum=m))[0] for m in (0.0, 0.9))
    assert (still - moving).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "value"), EXPLORATION.items(), ids=str)
def test_a_field_of_the_exploration_changes_the_actions_alone(trained, name, value):
    assert getattr(CONFIG, name) != value
    weights, actions = trained(CONFIG)
    same_weights, other_actions = trained(replace(CONFIG, **{name: value}))
    assert not np.array_equal(actions, other_actions)
    assert torch.equal(weights, same_weights)  # the stream here does not listen to the actions


def test_no_field_is_without_a_test():
    assert {f.name for f in fields(DQNConfig)} == {*TRAINING, *WITHIN, *EXPLORATION} | ELSEWHERE


@pytest.mark.parametrize("name", WITHIN)
def test_a_field_of_a_part_changes_what_is_learned_with_that_part_alone(trained, name):
    around, value = WITHIN[name]
    for config, changes in ((replace(CONFIG, **around), True), (CONFIG, False)):
        assert getattr(config, name) != value
        (weights, _), (other, _) = trained(config), trained(replace(config, **{name: value}))
        same = weights.shape == other.shape and bool((weights - other).abs().max() < 1e-5)
        assert same != changes


def test_weight_decay_makes_the_weights_of_adamw_smaller(trained):
    adamw = replace(CONFIG, optimizer="adamw")
    none, little, much = (trained(replace(adamw, weight_decay=w))[0] for w in (0.0, 0.1, 1.0))
    assert torch.equal(none, trained(CONFIG)[0])  # it is adam then
    assert none.norm() > little.norm() > much.norm()


def test_policy_samples_are_the_quantiles_without_chance():
    for samples in (2, 32):
        network = _agent(replace(CONFIG, head="iqn", policy_samples=samples)).network
        out, _ = network(torch.zeros(1, 5, 3), (), torch.zeros(1, 5, dtype=torch.bool))
        assert out.quantiles.shape == (1, 5, 4, samples)
        assert out.q.shape == (1, 5, 4)


@pytest.mark.parametrize("double", [False, True])
def test_policy_samples_teach_only_where_the_online_network_chooses(trained, double):
    config = replace(CONFIG, head="iqn", samples=4, target_samples=4, double=double)
    config = replace(config, replay_ratio=1.5)
    few, many = (trained(replace(config, policy_samples=n))[0] for n in (1, 32))
    assert torch.equal(few, many) != double


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_frozen_encoder_keeps_its_weights_bit_for_bit(random_stream, optimizer, captured):
    more = {"optimizer": optimizer, "momentum": 0.9, "layer_norm": "all", "noisy": True}
    agent = _agent(replace(CONFIG, freeze="encoder", polyak=0.5, **more))
    if captured:
        capture(agent)
    encoder = [p.detach().clone() for p in agent.network.encoder.parameters()]
    head = [p.detach().clone() for p in agent.network.head.parameters()]
    stream = random_stream(2, 1, 0, _frame)
    for _ in range(80):
        agent.observe(stream.step())
        agent.learn()
    for network in (agent.network, agent.target.network):
        for now, then in zip(network.encoder.parameters(), encoder, strict=True):
            assert torch.equal(now, then)
        for now, then in zip(network.head.parameters(), head, strict=True):
            assert not torch.equal(now, then)
    agent.target.update(1.0)
    both = zip(agent.network.parameters(), agent.target.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)


def test_without_freezing_every_weight_moves(random_stream):
    for more in ({}, {"noisy": True, "dueling": True}, {"head": "iqn"}, {"layer_norm": "channels"}):
        agent = _agent(replace(CONFIG, head_hidden=6, **more))
        before = {name: p.detach().clone() for name, p in agent.network.named_parameters()}
        stream = random_stream(2, 1, 0, _frame)
        for _ in range(30):
            agent.observe(stream.step())
            agent.learn()
        for name, p in agent.network.named_parameters():  # the scales of the noise among them
            assert not torch.equal(p, before[name]), name


@pytest.mark.parametrize("captured", [False, True])
def test_spectral_norm_follows_the_weights_and_the_target_has_its_vectors(random_stream, captured):
    config = replace(CONFIG, encoder="impala", spectral_norm=True, pool=2, learning_rate=1e-3)
    agent = _agent(config, PICTURE)
    if captured:
        capture(agent)
    layers = [m for m in agent.network.modules() if isinstance(m, SpectralConv2d)]
    assert len(layers) == 12
    assert agent.network.encoder.dim == 32 * 4
    before = [layer.u.clone() for layer in layers]

    def picture(generator, t, b):
        return generator.integers(0, 256, (1, 12, 12), np.uint8)

    stream = random_stream(2, 1, 0, picture)
    for _ in range(40):
        agent.observe(stream.step())
        agent.learn()
    assert all(not torch.equal(layer.u, u) for layer, u in zip(layers, before, strict=True))
    for layer in layers:
        sigma = torch.dot(layer.u, layer.weight.flatten(1) @ layer.v)
        largest = torch.linalg.svdvals(layer.weight.flatten(1))[0]
        torch.testing.assert_close(sigma, largest, rtol=0.02, atol=0)
    agent.target.update(1.0)
    both = zip(agent.network.buffers(), agent.target.network.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)


def test_noisy_actors_differ_and_an_evaluation_has_no_noise():
    agent = _agent(replace(CONFIG, noisy=True, noisy_sigma=5.0, epsilon_start=0, epsilon_end=0))
    agent.env_steps = CONFIG.learning_starts
    obs, first = np.ones((50, 3), np.float32), np.zeros(50, bool)
    noisy = [agent.act(obs, (), first)[0] for _ in range(2)]
    assert len(set(noisy[0])) > 1  # each env its own noise
    assert not np.array_equal(*noisy)  # each step too
    still = [agent.predict(obs, deterministic=True)[0] for _ in range(2)]
    assert len(set(still[0])) == 1
    assert np.array_equal(*still)


def test_the_network_is_what_the_config_says():
    plain = _agent(replace(CONFIG, hidden=(9, 7), head_hidden=0)).network
    assert isinstance(plain.encoder, MLP)
    assert isinstance(plain.head, QHead)
    assert _linears(plain.encoder) == [(3, 9), (9, 7)]
    assert _linears(plain.head) == [(7, 4)]
    assert _linears(_agent(replace(CONFIG, head_hidden=6)).network.head) == [(8, 6), (6, 4)]
    dueling = _agent(replace(CONFIG, dueling=True, head_hidden=6)).network.head
    assert isinstance(dueling, QHead)
    assert sorted(_linears(dueling)) == [(6, 1), (6, 4), (8, 6), (8, 6)]
    wide = _agent(replace(CONFIG, encoder="impala", width=3), PICTURE).network.encoder
    assert isinstance(wide, ImpalaResNet)
    assert wide.layers[0].out_channels == 48


def test_features_and_renormalize_stand_between_encoder_and_head():
    network = _agent(replace(CONFIG, features=5, renormalize=True, head_hidden=6)).network
    assert _linears(network.encoder) == [(3, 8), (8, 5)]
    assert _linears(network.head) == [(5, 6), (6, 4)]
    hidden = network.encoder.encoder(torch.randn(9, 3))
    assert hidden.amin(1).tolist() == [0.0] * 9
    torch.testing.assert_close(hidden.amax(1), torch.ones(9), atol=1e-3, rtol=0)
    plain = _agent(replace(CONFIG, features=5)).network.encoder.encoder(torch.randn(9, 3))
    assert (plain.amax(1) - 1).abs().max() > 1e-3


def test_xavier_is_where_every_weight_and_every_reset_begins():
    """Within sqrt(6 / (in + out)) and up to it, where torch's bound is sqrt(1 / in)."""
    config = replace(CONFIG, xavier=True, hidden=(40, 50), features=30, auxiliary="spr")
    agent = _agent(replace(config, reset_interval=7))
    for network in (agent.network, agent.target.network, agent._resets._fresh(3)):
        layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
        assert len(layers) == 7  # two, features, head, and the model of transitions with predictor
        for layer in layers:
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert (layer.bias == 0).all()
    assert (_agent(CONFIG).network.head.streams.advantage.layers[0].bias != 0).all()


@pytest.mark.parametrize(
    ("changes", "kind", "count"),
    [
        ({"head": "c51", "atoms": 11}, CategoricalHead, 1),
        ({"head": "qr", "quantiles": 11}, QuantileHead, 1),
        ({"head": "iqn"}, ImplicitQuantileHead, 1),
        ({"noisy": True}, NoisyLinear, 2),
        ({"noisy": True, "dueling": True}, NoisyLinear, 4),
        ({"layer_norm": "channels"}, nn.LayerNorm, 2),  # one in the encoder, one in the head
        ({}, (CategoricalHead, QuantileHead, ImplicitQuantileHead, NoisyLinear, nn.LayerNorm), 0),
    ],
)
def test_a_field_of_the_network_puts_its_modules_there(changes, kind, count):
    network = _agent(replace(CONFIG, head_hidden=6, **changes)).network
    assert sum(isinstance(m, kind) for m in network.modules()) == count
    out, _ = network(torch.zeros(1, 5, 3), (), torch.zeros(1, 5, dtype=torch.bool))
    assert out.q.shape == (1, 5, 4)


def test_replay_size_is_what_the_memory_holds():
    assert _agent().memory.capacity == 60
    assert _agent(training=False).memory.capacity == 2 * (1 + 1 + 1)


BAD = [
    *((name, 0) for name in ("learning_rate", "optimizer_eps", "batch_size", "n_step", "width")),
    *((name, 0) for name in ("replay_size", "replay_ratio", "target_interval", "polyak")),
    *(
        (name, -1)
        for name in ("learning_starts", "epsilon_steps", "epsilon_off", "momentum", "max_grad_norm")
    ),
    *((name, -1) for name in ("head_hidden", "learning_rate", "n_step")),
    *((name, -0.1) for name in ("gamma", "epsilon_start", "epsilon_end", "evaluation_epsilon")),
    *((name, 1.1) for name in ("gamma", "polyak", "epsilon_start", "epsilon_end")),
    *((name, float("nan")) for name in ("learning_rate", "gamma", "epsilon_end", "max_grad_norm")),
    *((name, float("inf")) for name in ("learning_rate", "optimizer_eps", "replay_ratio")),
    ("evaluation_epsilon", 1.1),
    *((name, 0) for name in ("noisy_sigma", "quantiles", "samples", "target_samples")),
    *((name, 0) for name in ("policy_samples", "munchausen_temperature", "munchausen_floor")),
    *((name, -1) for name in ("pool", "conservative", "priority_alpha", "priority_beta_start")),
    ("priority_beta_end", 1.1),
    *((name, 0) for name in ("code_units", "spr_steps", "spr_units")),
    *((name, -1) for name in ("reconstruction_weight", "kl_weight", "spr_weight")),
    *((name, -1) for name in ("inverse_weight", "spr_momentum")),
    ("weight_decay", -0.1),
    *((name, -1) for name in ("reset_interval", "n_step_end", "horizon_updates")),
    ("gamma_end", 1.1),
    *((name, -1) for name in ("features", "random_shift", "intensity_noise")),
    *((name, 1.1) for name in ("reset_keep", "reset_until")),
    ("munchausen_scale", 1.1),
    ("atoms", 1),
    ("v_min", 10.0),
    ("v_min", float("nan")),
    ("hidden", (8, 0)),
    ("replay_size", 7),  # below the batch of 8
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_a_value_that_cannot_work_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} is "):
        replace(CONFIG, **{name: value})


def _numbers(*kinds):
    """Fields that hold a number of these types."""
    return [f.name for f in fields(DQNConfig) if type(f.default) in kinds]


def test_every_number_has_a_value_that_is_refused():
    assert {name for name, _ in BAD} == {*_numbers(int, float), "hidden"} - {"v_max"}


@pytest.mark.parametrize("name", _numbers(float))
def test_what_is_not_a_number_is_refused_by_name(name):
    with pytest.raises(ConfigError, match="v_max" if name == "v_max" else rf"^{name} is nan"):
        replace(CONFIG, **{name: float("nan")})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v_min", -float("inf")),
        ("v_max", float("inf")),
        ("conservative", float("inf")),
        ("momentum", float("inf")),
    ],
    ids=str,
)
def test_an_infinity_that_makes_every_weight_nan_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        replace(CONFIG, **{name: value})


@pytest.mark.parametrize(
    ("changes", "field", "other"),
    [
        ({"munchausen": True, "double": True}, "munchausen", "double"),
        ({**PRETRAINING, "prioritised": True}, "reward_free", "prioritised"),
        ({**PRETRAINING, "conservative": 1.0}, "reward_free", "conservative"),
        ({**PRETRAINING, "freeze": "encoder"}, "reward_free", "freeze encoder"),
        ({"munchausen": True, "value_rescaling": True}, "munchausen", "value_rescaling"),
        *(({"head": h, "loss": "mse"}, "loss mse", f"head {h}") for h in ("c51", "qr", "iqn")),
        *(
            ({"encoder": encoder, **changes}, field, f"encoder {encoder}")
            for encoder in ("mlp", "nature", "dqn2013", "minatar")
            for field, changes in (
                ("spectral_norm", {"spectral_norm": True}),
                ("pool", {"pool": 6}),
            )
        ),
        ({"encoder": "impala", "layer_norm": "all"}, "layer_norm", "encoder impala"),
        ({"gamma_end": 0.9, "gamma": 1.0}, "gamma_end", "gamma 1.0"),
        ({"gamma_end": 1.0}, "gamma_end", "with 1"),
        ({"weight_decay": 0.1}, "weight_decay", "optimizer adam"),
    ],
    ids=str,
)
def test_a_combination_that_makes_no_sense_is_refused_when_it_is_written(changes, field, other):
    with pytest.raises(ConfigError) as refused:
        replace(CONFIG, **changes)
    text = str(refused.value)
    assert text.startswith(f"{field} does not go with ")
    assert other in text
    assert text.endswith("; turn one of them off")


@pytest.mark.parametrize("head", ["q", "c51", "qr", "iqn"])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("target", ["plain", "double", "munchausen", "value_rescaling"])
def test_every_combination_that_makes_sense_trains(random_stream, head, noisy, target):
    more = {} if target == "plain" else {target: True}
    config = replace(
        CONFIG,
        head=head,
        noisy=noisy,
        dueling=not noisy,
        head_hidden=6,
        quantiles=5,
        atoms=11,
        samples=3,
        target_samples=2,
        prioritised=True,
        n_step=3,
        conservative=0.1 if noisy else 0.0,
        **more,
    )
    weights, _ = _train(config, random_stream(2, 1, 0, _frame), rows=40)
    assert weights.isfinite().all()
    fresh = torch.cat([p.detach().flatten() for p in _agent(config).network.parameters()])
    assert (weights[: len(fresh)] - fresh).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_starts", 0),
        ("epsilon_steps", 0),
        ("max_grad_norm", 0.0),
        ("gamma", 0.0),
        ("gamma", 1.0),
        ("hidden", ()),
        ("replay_ratio", 3.0),
    ],
)
def test_a_value_at_the_edge_trains(random_stream, name, value):
    config = replace(CONFIG, **{name: value})
    weights, _ = _train(config, random_stream(2, 1, 0, _frame), rows=40)
    assert weights.isfinite().all()


def test_what_does_not_suit_the_env_is_refused():
    with pytest.raises(ConfigError, match="Discrete action space"):
        _agent(actions=spaces.Box(-1, 1, (2,), np.float32))
    with pytest.raises(ConfigError, match=r"nature encoder .* shape \[3\]"):
        _agent(replace(CONFIG, encoder="nature"))
    with pytest.raises(ConfigError, match="replay_size is 60"):
        _agent(num_envs=40)
