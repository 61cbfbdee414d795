import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents import registry, sb3
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.preset import family
from ludus.agents.sb3_config import algorithms, match_dqn
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import ConfigError
from ludus.envs.make import make

SHAPES = {"classic": (4,), "minatar": (4, 10, 10), "atari": (4, 84, 84)}


def _env(kind):
    """What presets look at of an env."""
    kinds = {"classic": np.float32}
    return SimpleNamespace(
        env_id=kind,
        num_envs=2,
        stack=4 if kind == "atari" else 1,
        observation_space=spaces.Box(0, 255, SHAPES[kind], kinds.get(kind, np.uint8)),
        action_space=spaces.Discrete(3),
    )


@pytest.mark.parametrize("kind", SHAPES)
def test_the_family_follows_from_the_observations(kind):
    assert family(_env(kind)) == kind


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", registry.names())
def test_every_name_is_a_preset_that_can_be_built(name, kind):
    env = _env(kind)
    if name == "alphazero":
        with pytest.raises(ConfigError, match="board games"):
            registry.preset(name, env)
        return
    if name.endswith(("dqn2013", "ppo_small")) and kind != "atari":
        with pytest.raises(ConfigError, match="36 pixels"):
            registry.preset(name, env)
        return
    if name in ("sb3:sac", "sb3:td3"):
        with pytest.raises(ConfigError, match="continuous actions"):
            registry.preset(name, env)
        env.action_space = spaces.Box(-1, 1, (2,))
        if kind != "classic":
            with pytest.raises(ConfigError, match="takes vectors; choose ppo"):
                registry.preset(name, env)
            return
    config = registry.preset(name, env).config
    agent = registry.build(config, env, device=torch.device("cpu"), seed=0, steps=9, training=False)
    assert type(agent).__module__ == config.module


OWN_VALUES = ("rainbow", "btr", "der", "spr", "bbf")  # on small envs, too
MARKS = {
    "ddqn": {"double": True},
    "dueling": {"double": True, "dueling": True, "rescale_dueling": True},
    "c51": {"head": "c51", "atoms": 51},
    "qrdqn": {"head": "qr"},
    "iqn": {"head": "iqn"},
    "munchausen": {"munchausen": True, "munchausen_scale": 0.9, "munchausen_temperature": 0.03},
    "rainbow": {
        **{"head": "c51", "double": True, "dueling": True, "noisy": True, "prioritised": True},
        **{"n_step": 3, "priority_alpha": 0.5, "priority_beta_start": 0.4, "epsilon_end": 0.0},
    },
    "der": {
        **{"head": "c51", "double": True, "dueling": True, "noisy": True, "prioritised": True},
        **{"n_step": 20, "replay_ratio": 1.0, "noisy_sigma": 0.1},
    },
    "spr": {
        **{"head": "c51", "double": True, "dueling": True, "noisy": True, "prioritised": True},
        **{"n_step": 10, "replay_ratio": 2.0, "renormalize": True},
        **{"auxiliary": "spr", "spr_weight": 2.0, "spr_steps": 5},
    },
    "bbf": {
        **{"head": "c51", "double": True, "dueling": True, "prioritised": True},
        **{"n_step": 10, "n_step_end": 3, "gamma": 0.97, "replay_ratio": 2.0, "renormalize": True},
        **{"optimizer": "adamw", "weight_decay": 0.1, "polyak": 0.005, "act_by_target": True},
        **{"auxiliary": "spr", "spr_weight": 2.0, "spr_steps": 5, "spr_momentum": 0.995},
    },
    "btr": {
        **{"head": "iqn", "samples": 8, "target_samples": 8, "munchausen": True, "noisy": True},
        **{"dueling": True, "prioritised": True, "priority_alpha": 0.2, "n_step": 3},
        **{"munchausen_online": True, "quantile_priority": "error"},
        **{"priority_beta_start": 0.2, "priority_beta_end": 0.2},
    },
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", MARKS)
def test_variants_are_what_their_names_say(name, kind):
    config, base = (
        registry.preset(name, _env(kind)).config,
        registry.preset("dqn", _env(kind)).config,
    )
    assert {field: getattr(config, field) for field in MARKS[name]} == MARKS[name]
    marked = {"head", "double", "dueling", "noisy", "prioritised", "munchausen"}
    for field in marked - set(MARKS[name]):
        assert getattr(config, field) == getattr(base, field) == getattr(DQNConfig(), field)
    if kind != "atari" and name not in OWN_VALUES:  # the same values otherwise
        changed = {
            f.name for f in fields(config) if getattr(config, f.name) != getattr(base, f.name)
        }
        assert changed <= {*MARKS[name], "quantiles", "samples", "target_samples", "policy_samples"}


PRINTED = {  # as the papers print them, in updates and env steps
    "dqn": {"replay_size": 1_000_000, "learning_starts": 50_000, "learning_rate": 2.5e-4},
    "dueling": {"learning_rate": 6.25e-5, "max_grad_norm": 10.0, "target_interval": 2_500},
    "c51": {
        "max_grad_norm": 10.0,
        "learning_rate": 2.5e-4,
        "optimizer_eps": 0.01 / 32,
        "v_min": -10,
        "v_max": 10,
    },
    "qrdqn": {
        "max_grad_norm": 10.0,
        "learning_rate": 5e-5,
        "optimizer_eps": 0.01 / 32,
        "quantiles": 200,
    },
    "iqn": {
        "max_grad_norm": 0.0,
        "learning_rate": 5e-5,
        "samples": 64,
        "target_samples": 64,
        "policy_samples": 32,
    },
    "rainbow": {"learning_rate": 6.25e-5, "optimizer_eps": 1.5e-4, "learning_starts": 20_000},
    "der": {
        **{"replay_ratio": 1.0, "learning_starts": 1_600, "learning_rate": 1e-4, "n_step": 20},
        **{"head_hidden": 256, "target_interval": 2_000, "optimizer_eps": 1.5e-4, "encoder": "der"},
    },
    "spr": {
        **{"replay_ratio": 2.0, "learning_starts": 2_000, "learning_rate": 1e-4, "n_step": 10},
        **{"head_hidden": 256, "target_interval": 1, "polyak": 1.0, "random_shift": 4},
        **{"rescale_dueling": True},
    },
    "bbf": {
        **{"width": 4, "features": 2_048, "head_hidden": 0, "reset_interval": 40_000},
        **{"n_step": 10, "n_step_end": 3, "gamma": 0.97, "gamma_end": 0.997, "reset_keep": 0.5},
        **{"weight_decay": 0.1, "optimizer_eps": 1.5e-4, "polyak": 0.005, "batch_size": 32},
        **{"random_shift": 4, "intensity_noise": 0.05, "max_grad_norm": 0.0},
        **{"xavier": True},
    },
    "btr": {
        **{"encoder": "impala", "width": 2, "pool": 6, "spectral_norm": True, "batch_size": 256},
        **{"replay_ratio": 1 / 64, "learning_rate": 1e-4, "optimizer_eps": 0.005 / 256},
        **{"gamma": 0.997, "target_interval": 500, "polyak": 1.0, "munchausen_floor": -1.0},
        **{"learning_starts": 200_000, "epsilon_steps": 2_000_000, "epsilon_off": 25_000_000},
        **{"epsilon_decay": "exponential", "epsilon_start": 1.0, "epsilon_end": 0.01},
    },
    "ppo": {
        **{"rollout_length": 128, "epochs": 4, "minibatches": 4, "clip_range": 0.1, "lam": 0.95},
        **{"learning_rate": 2.5e-4, "entropy_coef": 0.01, "value_coef": 0.5, "gamma": 0.99},
    },
    "a2c": {
        **{"rollout_length": 5, "epochs": 1, "minibatches": 1, "optimizer": "plain_rmsprop"},
        **{"learning_rate": 7e-4, "lam": 1.0, "normalize_advantage": False},
    },
    "pqn": {
        **{"rollout_length": 32, "epochs": 2, "minibatches": 32, "optimizer": "radam"},
        **{"learning_rate": 2.5e-4, "lam": 0.65, "epsilon_end": 0.001, "epsilon_fraction": 0.1},
        **{"layer_norm": "channels", "max_grad_norm": 10.0},
    },
    "r2d2": {
        "optimizer_eps": 1e-3 / 40,
        "burn_in": 40,
        "sequence_length": 80,
        "n_step": 5,
        "gamma": 0.997,
        "batch_size": 64,
    },
}


@pytest.mark.parametrize("name", PRINTED)
def test_values_on_atari_are_the_papers(name):
    config = registry.preset(name, _env("atari")).config
    assert {field: getattr(config, field) for field in PRINTED[name]} == PRINTED[name]


def _decisions():
    """Agent, kind of env, field and our value of each row of docs/agents.md that has a value."""
    page = Path(__file__).parents[2] / "docs" / "agents.md"
    row = re.compile(r"\| `(\w+)`( on MinAtar)? \| `(\w+)` \| .* \| .* \| `([^`]+)`.* \| .* \|")
    rows = (row.fullmatch(line) for line in page.read_text().splitlines())
    return [(m[1], "minatar" if m[2] else "atari", m[3], m[4]) for m in rows if m]


@pytest.mark.parametrize(("agent", "kind", "field", "ours"), _decisions())
def test_the_page_on_presets_says_what_they_are(agent, kind, field, ours):
    env = make("connect_four", 1) if agent == "alphazero" else _env(kind)
    preset = registry.preset(agent, env)
    value = preset.num_envs if field == "num_envs" else getattr(preset.config, field)
    assert value == eval(ours, {"__builtins__": {}})


def test_the_page_on_presets_has_its_rows():
    assert len(_decisions()) >= 25


def test_the_small_dqn_is_small():
    policy = registry.preset("ppo_small", _env("atari")).config
    assert (policy.encoder, policy.features, policy.normalize_observation) == ("dqn2013", 256, True)
    assert (policy.desired_kl, policy.anneal_learning_rate) == (0.01, False)
    small = registry.preset("dqn2013", _env("atari")).config
    assert (small.encoder, small.head_hidden, small.normalize_observation) == ("dqn2013", 256, True)
    assert registry.preset("dqn", _env("atari")).config.clip_reward
    assert not registry.preset("dqn", _env("classic")).config.clip_reward


@pytest.mark.parametrize("name", ["ppo", "a2c", "recurrent_ppo"])
def test_a_policy_on_a_board_discounts_nothing_and_stays_open(name):
    config = registry.preset(name, make("connect_four", 1)).config
    assert (config.gamma, config.entropy_coef) == (1.0, 0.02)
    assert registry.preset(name, make("MinAtar/Breakout-v1", 1)).config.gamma == 0.99


def test_who_is_played_against_by_default():
    env = make("tic_tac_toe", 1)
    assert registry.preset("alphazero", env).rivals == ("self",)
    assert set(registry.preset("ppo", env).rivals) == {"self", "past", "random"}


def test_the_recurrent_dqn_is_r2d2_without_its_additions():
    config = registry.preset("drqn", _env("classic")).config
    kept = [config.prioritised, config.stored_state, config.double, config.dueling]
    assert not any(kept)
    assert (config.burn_in, config.n_step, config.value_rescaling) == (0, 1, False)


@pytest.mark.parametrize(
    ("asked", "meant"), [("dqm", "dqn"), ("duelling", "dueling"), ("sb3:dqnn", "sb3:dqn")]
)
def test_a_misspelt_name_is_answered_with_the_right_one(asked, meant):
    with pytest.raises(ConfigError, match=rf"no agent {asked}; did you mean {meant}\?"):
        registry.preset(asked, _env("classic"))


def test_a_name_like_no_other_is_answered_with_where_to_look():
    text = re.escape("`ludus list agents`")
    with pytest.raises(ConfigError, match=text):
        registry.preset("xyzzy", _env("classic"))


def test_names_hold_ours_and_what_is_installed_of_sb3():
    theirs = {f"sb3:{name}" for name in (*algorithms(), "dqn2013", "ppo_small")}
    assert set(registry.names()) == set(registry.AGENTS) | theirs


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "classic",
            {"train_freq": 2, "gradient_steps": 1, "target_update_interval": 2, "tau": 0.01},
        ),
        ("classic", {"learning_rate": 1e-3, "batch_size": 64, "exploration_steps": 8_000}),
        ("classic", {"exploration_final_eps": 0.04, "gamma": 0.99, "max_grad_norm": 10.0}),
        ("atari", {"train_freq": 4, "gradient_steps": 1, "target_update_interval": 1_000}),
        ("atari", {"learning_rate": 1e-4, "batch_size": 32, "exploration_steps": 100_000}),
        ("atari", {"exploration_final_eps": 0.01, "learning_starts": 10_000, "tau": 1.0}),
        ("atari", {"buffer_size": 100_000, "exploration_initial_eps": 1.0}),
    ],
)
def test_sb3s_arguments_for_the_same_values(kind, expected):
    arguments = registry.preset("sb3:dqn", _env(kind)).config.arguments
    assert {name: arguments[name] for name in expected} == expected


@pytest.mark.parametrize("kind", SHAPES)
def test_the_sb3_preset_has_our_network_and_our_clipping(kind):
    ours, theirs = (registry.preset(name, _env(kind)).config for name in ("dqn", "sb3:dqn"))
    for name in ("encoder", "hidden", "head_hidden", "clip_reward"):
        assert getattr(theirs, name) == getattr(ours, name)


@pytest.mark.parametrize("ratio", [0.125, 0.25, 0.5, 1.0, 2.0])
def test_sb3_updates_as_often_as_we_do(ratio):
    arguments = match_dqn(DQNConfig(replay_ratio=ratio, target_interval=100))
    assert arguments["gradient_steps"] / arguments["train_freq"] == ratio
    assert arguments["target_update_interval"] * ratio == 100


def test_no_limit_of_the_gradient_is_no_limit_there_either():
    assert match_dqn(DQNConfig(max_grad_norm=0.0))["max_grad_norm"] == float("inf")


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("dqn", "classic", 16),
        ("dqn", "atari", 8),
        ("btr", "atari", 64),
        ("pqn", "atari", 128),
        ("sb3:dqn", "atari", 1),
        ("sb3:ppo", "atari", 8),
        ("sb3:ppo", "classic", 16),
        ("ppo", "minatar", 32),
        ("ppo_small", "atari", 16),
        ("ppo", "atari", 8),
        ("a2c", "atari", 16),
    ],
)
def test_envs_by_default(name, kind, expected):
    assert registry.preset(name, _env(kind)).num_envs == expected


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_sb3s_policy_agents_have_our_network_and_our_values(name, kind):
    env = _env(kind)
    ours, theirs = (registry.preset(agent, env).config for agent in (name, f"sb3:{name}"))
    built = registry.build(ours, env, device=torch.device("cpu"), seed=0, steps=9, training=False)
    model = registry.build(theirs, env, device=torch.device("cpu"), seed=0, steps=9)._make(
        sb3._SpacesOnly(env.observation_space, env.action_space), 9
    )
    assert sum(p.numel() for p in model.policy.parameters()) == built.learner.flat.numel()
    values = {"gamma": ours.gamma, "gae_lambda": ours.lam, "ent_coef": ours.entropy_coef}
    values |= {"n_steps": ours.rollout_length, "vf_coef": ours.value_coef / 2}
    assert {field: getattr(model, field) for field in values} == values
    rates = [model.lr_schedule(left) for left in (1.0, 0.5, 0.0)]
    assert rates == pytest.approx([ours.learning_rate * left for left in (1.0, 0.5, 0.0)])
    if name == "ppo":
        rows = ours.rollout_length  # of one env
        assert (model.n_epochs, model.batch_size) == (ours.epochs, rows // ours.minibatches)
        halved = ours.clip_range / (1 + ours.anneal_clip_range)
        assert model.clip_range(0.5) == pytest.approx(halved)


@pytest.mark.parametrize("name", ["sb3:dqn", "sb3:ppo"])
def test_who_does_not_obey_a_mask_is_not_built_for_one(name):
    env = _env("classic")
    parts = {"seen": spaces.Box(-9, 9, (3,), np.float32), MASK: spaces.Box(0, 1, (3,), np.uint8)}
    env.observation_space = PackedDict(parts)
    with pytest.raises(ConfigError, match="classic has an action_mask, which SB3's agents ignore"):
        registry.build(
            registry.preset(name, env).config, env, device=torch.device("cpu"), seed=0, steps=9
        )
