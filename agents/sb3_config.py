"""Configuration and presets of the Stable-Baselines3 baselines. Imports neither torch nor SB3.

SB3's DQN and QR-DQN have the values of our plain DQN, and rl-baselines3-zoo's on Atari. Its PPO and
A2C have ours everywhere. SAC and TD3 have SB3's defaults, and TD3 the zoo's noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from ludus.agents import dqn_presets, ppo_config
from ludus.agents.preset import Family, Preset, family
from ludus.envs.dict_observation import PackedDict
from ludus.envs.errors import ConfigError
from ludus.envs.installed import is_installed
from ludus.networks.names import Activation, EncoderName, check_encoder

if TYPE_CHECKING:
    from ludus.agents.agent import EnvLike
    from ludus.agents.dqn_config import DQNConfig
    from ludus.agents.ppo_config import PPOConfig

Algorithm = Literal["dqn", "ppo", "a2c", "sac", "td3", "qrdqn", "recurrent_ppo"]
CONTINUOUS = ("sac", "td3")


@dataclass(frozen=True)
class SB3Config:
    """An SB3 algorithm with our encoder."""

    module: ClassVar[str] = "ludus.agents.sb3"

    algorithm: Algorithm = "dqn"
    """SB3 algorithm; qrdqn and recurrent_ppo need sb3-contrib"""
    encoder: EncoderName = "mlp"
    """network from observation to features: mlp, dqn2013, nature, impala, minatar, der, or your own
    as module:Class"""
    hidden: tuple[int, ...] = (64, 64)
    """units of the MLP encoder's layers"""
    activation: Activation = "relu"
    """activation of the MLP encoder"""
    shared: bool = True
    """ppo, a2c: share the encoder between policy and value"""
    head_hidden: int = 0
    """units of a layer between the encoder and SB3's output layer; 0 for none"""
    clip_reward: bool = False
    """learn from rewards clipped to [-1, 1]; scores are never clipped"""
    arguments: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """keyword arguments of the SB3 class; also exploration_steps in env steps, minibatches in place
    of batch_size, anneal, the names of arguments that decrease linearly to 0, and noise, the
    deviation of exploration"""

    def __post_init__(self) -> None:
        """Check the name of the encoder."""
        check_encoder(self.encoder)


def algorithms() -> list[str]:
    """Return the names of the algorithms that are installed."""
    contrib = ["qrdqn", "recurrent_ppo"] if is_installed("sb3_contrib") else []
    return ["dqn", "ppo", "a2c", *CONTINUOUS, *contrib]


def preset(name: str, env: EnvLike) -> Preset:
    """Return the preset `sb3:...` of that name.

    Raises:
        ConfigError: the preset does not suit the env.
    """
    kind, algorithm = family(env), name.removeprefix("sb3:")
    if algorithm in CONTINUOUS:
        return Preset(_continuous(name, env), num_envs=1)
    if algorithm in ("ppo", "ppo_small", "a2c"):
        ours = ppo_config.preset(algorithm, env)
        assert isinstance(ours.config, ppo_config.PPOConfig)
        config = _policy_gradient("a2c" if algorithm == "a2c" else "ppo", ours.config)
        return ours._replace(config=config)
    if algorithm == "dqn2013":
        dqn_presets.preset(algorithm, env)  # refuses an env without images
        base = dqn_presets.SMALL
    else:
        base = dqn_presets.ZOO if kind == "atari" else dqn_presets.PRESETS[kind]["dqn"]
    config = SB3Config(
        encoder=base.encoder,
        hidden=base.hidden,
        head_hidden=base.head_hidden,
        clip_reward=base.clip_reward,
        arguments=match_dqn(base),
    )
    if algorithm == "recurrent_ppo":
        config = _recurrent_ppo(config, kind)
        return Preset(config, num_envs=32 if kind == "minatar" else 8)
    if algorithm == "qrdqn":
        quantiles = dqn_presets.PRESETS[kind]["qrdqn"].quantiles
        arguments = config.arguments | {"n_quantiles": quantiles}
        config = replace(config, algorithm="qrdqn", arguments=arguments)
    return Preset(config, num_envs=1)  # SB3's value-based algorithms are written for one env


def _continuous(name: str, env: EnvLike) -> SB3Config:
    """Return SAC or TD3 with SB3's defaults, whose actor and critics have networks of their own.

    Raises:
        ConfigError: the actions are not continuous, or the observations are not vectors.
    """
    from gymnasium import spaces

    if not isinstance(env.action_space, spaces.Box):
        raise ConfigError(f"{name} is for continuous actions; {env.env_id} has {env.action_space}")
    if family(env) != "classic" or isinstance(env.observation_space, PackedDict):
        raise ConfigError(f"{name} takes vectors; choose ppo for the observations of {env.env_id}")
    common = {"buffer_size": 1_000_000, "learning_starts": 100, "batch_size": 256, "tau": 0.005}
    common |= {"gamma": 0.99, "train_freq": 1, "gradient_steps": 1}
    if name == "sb3:sac":
        return SB3Config("sac", hidden=(256, 256), arguments=common | {"learning_rate": 3e-4})
    arguments = common | {"learning_rate": 1e-3, "noise": 0.1}
    return SB3Config("td3", hidden=(400, 300), arguments=arguments)


def _policy_gradient(algorithm: Algorithm, ours: PPOConfig) -> SB3Config:
    """Return SB3's PPO or A2C with the network and the values of one of ours."""
    return SB3Config(
        algorithm,
        encoder=ours.encoder,
        hidden=ours.hidden,
        activation=ours.activation,
        shared=ours.shared,
        head_hidden=ours.features,
        clip_reward=ours.clip_reward,
        arguments=match_ppo(ours),
    )


def _recurrent_ppo(base: SB3Config, kind: Family) -> SB3Config:
    """Return sb3-contrib's recurrent PPO with SB3's defaults, or with the zoo's for images."""
    if kind == "classic":
        return replace(base, algorithm="recurrent_ppo", hidden=(64, 64), arguments={})
    zoo = {
        "n_steps": 128,
        "n_epochs": 4,
        "batch_size": 256,
        "clip_range": 0.1,
        "vf_coef": 0.5,
        "ent_coef": 0.01,
        "learning_rate": 2.5e-4,
    }
    return replace(base, algorithm="recurrent_ppo", arguments=zoo)


def match_ppo(config: PPOConfig) -> dict[str, Any]:
    """Return SB3's arguments of PPO, or of A2C, for the values of one of our configurations.

    SB3's value loss is the squared error, ours half of it. SB3 does not normalise observations.
    """
    anneal = {"learning_rate": config.anneal_learning_rate, "clip_range": config.anneal_clip_range}
    arguments = {
        "learning_rate": config.learning_rate,
        "anneal": [name for name, falls in anneal.items() if falls],
        "n_steps": config.rollout_length,
        "gamma": config.gamma,
        "gae_lambda": config.lam,
        "ent_coef": config.entropy_coef,
        "vf_coef": config.value_coef / 2,
        "max_grad_norm": config.max_grad_norm or float("inf"),
        "normalize_advantage": config.normalize_advantage,
    }
    if config.optimizer == "plain_rmsprop":
        return arguments | {"rms_prop_eps": config.optimizer_eps}
    clip = {"clip_range": config.clip_range, "n_epochs": config.epochs}
    return arguments | clip | {"minibatches": config.minibatches}


def match_dqn(config: DQNConfig) -> dict[str, Any]:
    """Return SB3's arguments of DQN for the values of one of our configurations, for one env.

    SB3 counts its target interval in env steps. `SB3Agent.fit` converts `exploration_steps` to a
    fraction of the training.
    """
    per_round = max(1, round(1 / config.replay_ratio))
    return {
        "learning_rate": config.learning_rate,
        "buffer_size": config.replay_size,
        "learning_starts": config.learning_starts,
        "batch_size": config.batch_size,
        "gamma": config.gamma,
        "n_steps": config.n_step,
        "train_freq": per_round,
        "gradient_steps": max(1, round(config.replay_ratio * per_round)),
        "target_update_interval": round(config.target_interval / config.replay_ratio),
        "tau": config.polyak,
        "exploration_initial_eps": config.epsilon_start,
        "exploration_final_eps": config.epsilon_end,
        "exploration_steps": config.epsilon_steps,
        "max_grad_norm": config.max_grad_norm or float("inf"),
    }
