"""Fields that are declared to have no effect, because of other fields, have none."""

from dataclasses import fields, replace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch

import ludus
from ludus.agents.alphazero_config import AlphaZeroConfig
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.ppo_config import PPOConfig
from ludus.agents.pqn_config import PQNConfig
from ludus.agents.r2d2_config import R2D2Config
from ludus.envs.errors import ConfigError
from ludus.envs.markers import markers
from ludus.envs.only_with import OnlyWith, without_effect

DQN = DQNConfig(optimizer="sgd", hidden=(8,), learning_starts=100, batch_size=8, learning_rate=0.01)
R2D2 = R2D2Config(
    optimizer="sgd",
    prioritised=False,
    hidden=(8,),
    core_units=4,
    sequence_length=8,
    burn_in=2,
    learning_starts=100,
    batch_size=4,
    replay_ratio=0.1,
)
ALPHAZERO = AlphaZeroConfig(
    encoder="mlp", hidden=(8,), simulations=4, batch_size=16, learning_starts=60, play_simulations=4
)
PPO = PPOConfig(optimizer="sgd", hidden=(8,), rollout_length=16)
CASES = {
    "dqn": ("CartPole-v1", DQN),
    "dqn, adam": ("CartPole-v1", replace(DQN, optimizer="adam", head="iqn", prioritised=True)),
    "r2d2": ("CartPole-v1", R2D2),
    "pqn": ("CartPole-v1", PQNConfig(optimizer="sgd", hidden=(8,), rollout_length=16, epochs=1)),
    "ppo": ("CartPole-v1", PPO),
    "alphazero": ("tic_tac_toe", ALPHAZERO),
    "alphazero, puct": (
        "tic_tac_toe",
        replace(ALPHAZERO, search="puct", encoder="tower", tower_channels=4, blocks=1),
    ),
}
KINDS = (DQNConfig, R2D2Config, PQNConfig, PPOConfig, AlphaZeroConfig)


def _inert(config):
    """The fields that have no effect."""
    return [name for name in markers(type(config), OnlyWith) if without_effect(config, name)]


def _other(config, name):
    """Another value of a field."""
    value, hint = getattr(config, name), get_type_hints(type(config))[name]
    if get_origin(hint) is Literal:
        return next(each for each in get_args(hint) if each != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, 3)
    return value + 1 if isinstance(value, int) else value / 2 or 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_field_needs_are_values_of_another(kind):
    hints, names = get_type_hints(kind), {each.name for each in fields(kind)}
    for name, conditions in markers(kind, OnlyWith).items():
        for condition in conditions:
            assert set(condition.fields) <= names - {name}
            for value in condition.values:
                assert value in get_args(hints[condition.fields[0]])
            if condition.values:
                assert len(condition.fields) == 1


def test_every_declared_field_is_without_effect_in_a_case():
    for kind in KINDS:
        found = {n for _, config in CASES.values() if type(config) is kind for n in _inert(config)}
        assert found == set(markers(kind, OnlyWith))


@pytest.mark.parametrize("case", CASES)
def test_a_field_without_effect_changes_nothing(tmp_path, case):
    env, config = CASES[case]
    changed = replace(config, **{name: _other(config, name) for name in _inert(config)})
    assert changed != config
    trained = [
        _trained(case, env, each, tmp_path / str(i)) for i, each in enumerate((config, changed))
    ]
    assert trained[0].algorithm.updates > 0
    assert trained[0].run.evaluations() == trained[1].run.evaluations()
    weights = [agent.algorithm.network.state_dict().values() for agent in trained]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def _trained(case, env, config, root):
    brief = {"steps": 300, "num_envs": 4, "eval_episodes": 2, "quiet": True}
    return ludus.train(case.partition(",")[0], env, config=config, root=root, **brief)


def test_a_setting_without_effect_is_refused_before_a_run_is_made(tmp_path):
    sentence = "^kl_weight has no effect with auxiliary spr; choose auxiliary variational, or leave"
    with pytest.raises(ConfigError, match=sentence):
        ludus.train("pqn", "CartPole-v1", root=tmp_path, auxiliary="spr", kl_weight=1.0)
    assert not list(tmp_path.iterdir())


def test_a_resume_refuses_a_setting_without_effect(tmp_path):
    options = {"steps": 200, "eval_episodes": 0, "quiet": True}
    run = ludus.train("dqn", "CartPole-v1", root=tmp_path, **options).run
    with pytest.raises(ConfigError, match=r"^reset_keep has no effect without reset_interval"):
        ludus.resume(run.path, steps=300, reset_keep=0.3, quiet=True)
    assert run.config().train.steps == 200
