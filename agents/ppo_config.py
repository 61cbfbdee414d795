"""Configuration and presets of PPO, A2C and IMPALA. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from ludus.agents.auxiliary_config import AuxiliaryFields
from ludus.agents.preset import WITH_EPS, Family, OptimizerName, Preset, board_space, family
from ludus.envs.bounds import (
    AT_LEAST_ONE,
    FRACTION,
    NON_NEGATIVE,
    NON_NEGATIVE_OR_INFINITE,
    POSITIVE,
    Bounds,
    check_bounds,
)
from ludus.envs.errors import ConfigError
from ludus.envs.only_with import OnlyWith
from ludus.networks.names import Activation, CoreName, EncoderName, check_encoder

if TYPE_CHECKING:
    from ludus.agents.agent import EnvLike


_CORE = OnlyWith(("core",), ("lstm", "gru", "gtrxl"))
_EPS = OnlyWith(("optimizer",), WITH_EPS)
_GTRXL = OnlyWith(("core",), ("gtrxl",))


@dataclass(frozen=True)
class PPOConfig(AuxiliaryFields):
    """Every choice of a PPO."""

    module: ClassVar[str] = "ludus.agents.ppo"

    encoder: EncoderName = "mlp"
    """network from observation to features: mlp, dqn2013, nature, impala, minatar, der, or your own
    as module:Class"""
    hidden: Annotated[tuple[int, ...], AT_LEAST_ONE] = (64, 64)
    """units of the MLP encoder's layers"""
    activation: Activation = "tanh"
    """activation of the MLP encoder"""
    width: Annotated[float, POSITIVE] = 1.0
    """multiple of the paper's channels (dqn2013, nature, minatar, impala)"""
    features: Annotated[int, NON_NEGATIVE] = 0
    """units of a ReLU layer after the encoder; 0 for none"""
    shared: bool = False
    """share encoder and core between policy and value"""
    core: CoreName = "none"
    """memory between encoder and head"""
    core_units: Annotated[int, AT_LEAST_ONE, _CORE] = 128
    """units of the core"""
    layers: Annotated[int, AT_LEAST_ONE, _GTRXL] = 1
    """gtrxl: blocks"""
    heads: Annotated[int, AT_LEAST_ONE, _GTRXL] = 4
    """gtrxl: heads of the attention; they divide core_units"""
    window: Annotated[int, AT_LEAST_ONE, _GTRXL] = 32
    """gtrxl: rows that each block looks back"""
    orthogonal: bool = True
    """initialise orthogonally, with gain 0.01 for the policy's layer; else as torch does"""
    log_std: float = 0.0
    """continuous actions: initial log standard deviation"""
    optimizer: OptimizerName = "adam"
    """plain_rmsprop is A2C's"""
    learning_rate: Annotated[float, POSITIVE] = 3e-4
    """step size of the optimizer"""
    anneal_learning_rate: bool = True
    """decrease it linearly to 0 over the training"""
    optimizer_eps: Annotated[float, POSITIVE, _EPS] = 1e-5
    """added to the denominator (all but sgd)"""
    max_grad_norm: Annotated[float, NON_NEGATIVE_OR_INFINITE] = 0.5
    """gradients are scaled down to this L2 norm; 0 for no limit"""
    rollout_length: Annotated[int, AT_LEAST_ONE] = 128
    """rows of each env between two rounds of updates"""
    epochs: Annotated[int, AT_LEAST_ONE] = 4
    """passes over a rollout"""
    minibatches: Annotated[int, AT_LEAST_ONE] = 4
    """updates in one pass"""
    gamma: Annotated[float, FRACTION] = 0.99
    """discount per step"""
    lam: Annotated[float, FRACTION] = 0.95
    """GAE lambda: 0 bootstraps after one step, 1 at the end of the rollout"""
    clip_range: Annotated[float, Bounds(0, float("inf"), above_low=True)] = 0.2
    """distance by which the probability ratio of an action may leave 1; inf for no limit"""
    anneal_clip_range: bool = False
    """decrease it linearly to 0 over the training"""
    value_clip: Annotated[float, NON_NEGATIVE] = 0.0
    """distance by which a value may leave its old value, in units of its loss; 0 for no limit"""
    value_coef: Annotated[float, NON_NEGATIVE] = 0.5
    """weight of the value loss"""
    entropy_coef: Annotated[float, NON_NEGATIVE] = 0.0
    """weight of the entropy bonus"""
    normalize_advantage: bool = True
    """scale the advantages of a minibatch to mean 0 and standard deviation 1"""
    normalize_observation: bool = False
    """normalise observations by their running mean and deviation, updated after each rollout"""
    normalize_reward: bool = False
    """divide rewards by the running deviation of the discounted return"""
    normalize_value: bool = False
    """normalise value targets to mean 0 and deviation 1 (PopArt)"""
    target_kl: Annotated[float, NON_NEGATIVE] = 0.0
    """skip the remaining epochs once the KL divergence exceeds this; 0 for no limit"""
    desired_kl: Annotated[float, NON_NEGATIVE] = 0.0
    """adapt the learning rate after each rollout to this KL divergence; 0 to follow the schedule"""
    overlap: bool = False
    """learn from a rollout while the next is played, by the policy of one round before"""
    vtrace: bool = False
    """V-trace in place of GAE, with the values and probabilities of the policy that learns"""
    clip_reward: bool = False
    """learn from rewards clipped to [-1, 1]; scores are never clipped"""

    def __post_init__(self) -> None:
        """Check the bounds, and refuse combinations that cannot work."""
        check_bounds(self, ConfigError)
        check_encoder(self.encoder)
        if self.desired_kl and self.anneal_learning_rate:
            raise ConfigError(
                "desired_kl and anneal_learning_rate both change the learning rate; turn one of "
                "them off"
            )
        if (self.desired_kl or self.target_kl) and self.rollout_length < 3:
            raise ConfigError(
                f"rollout_length is {self.rollout_length}; desired_kl and target_kl need 3 or "
                "more, because the first two rows say nothing about the newest updates"
            )
        if (self.desired_kl or self.target_kl) and self.overlap and not self.vtrace:
            raise ConfigError(
                "with overlap, the stored probabilities are those of one round before, and "
                "desired_kl and target_kl would include its updates; add vtrace or set both to 0"
            )
        if self.core == "gtrxl" and self.core_units % self.heads:
            raise ConfigError(
                f"heads is {self.heads}, which does not divide core_units, {self.core_units}"
            )


# Values of the authors' code for Atari (https://arxiv.org/abs/1707.06347, table 5, has 3 epochs),
# without its value clipping, which hurts according to https://arxiv.org/abs/2006.05990.
_PPO_ATARI = PPOConfig(
    encoder="nature",
    features=512,
    shared=True,
    learning_rate=2.5e-4,
    rollout_length=128,
    epochs=4,
    minibatches=4,
    clip_range=0.1,
    anneal_clip_range=True,
    entropy_coef=0.01,
    clip_reward=True,
)
# For two cores: the 2013 DQN's network, and a learning rate adapted to the KL divergence. Pong's
# pixels vary by 0.014 around a mean of 0.42: without normalisation 2,500,000 steps reached -17 in
# training, with it 325,000 steps reached 18.
_PPO_SMALL = replace(
    _PPO_ATARI,
    encoder="dqn2013",
    features=256,
    learning_rate=5e-4,
    anneal_learning_rate=False,
    desired_kl=0.01,
    minibatches=8,
    clip_range=0.2,
    anneal_clip_range=False,
    normalize_observation=True,
)
_PPO: dict[Family, PPOConfig] = {
    "atari": _PPO_ATARI,
    "minatar": PPOConfig(
        encoder="minatar",
        features=128,
        shared=True,
        learning_rate=1e-3,
        rollout_length=32,
        epochs=4,
        minibatches=8,
        entropy_coef=0.01,
    ),
    "classic": PPOConfig(
        learning_rate=1e-3,
        rollout_length=32,
        epochs=10,
        minibatches=4,
        anneal_clip_range=True,
    ),
}
# Pendulum needs a short horizon; normalisation as in "The 37 implementation details of PPO".
_PPO_CONTINUOUS = PPOConfig(
    learning_rate=1e-3,
    rollout_length=64,
    epochs=10,
    minibatches=16,
    gamma=0.95,
    normalize_observation=True,
    normalize_reward=True,
)

# CartPole with hidden velocities, 60,000 steps: 500 with normalised observations and rollouts of
# 128 rows; 350 at best with 32 or 64 rows, or without normalisation.
_RECURRENT_PPO: dict[Family, PPOConfig] = {
    "atari": replace(_PPO_ATARI, core="lstm", core_units=128),
    "minatar": replace(_PPO["minatar"], core="lstm", rollout_length=64),
    "classic": replace(
        _PPO["classic"],
        core="lstm",
        core_units=64,
        rollout_length=128,
        gamma=0.98,
        normalize_observation=True,
    ),
}


def _a2c(config: PPOConfig) -> PPOConfig:
    """Return A2C: a single update on all of a short rollout.

    Mnih et al. 2016, https://arxiv.org/abs/1602.01783, with the values of baselines and SB3.
    """
    return replace(
        config,
        rollout_length=5,
        epochs=1,
        minibatches=1,
        lam=1.0,
        clip_range=float("inf"),
        anneal_clip_range=False,
        normalize_advantage=False,
        value_coef=1.0,
        optimizer="plain_rmsprop",
        learning_rate=7e-4,
    )


def _impala(config: PPOConfig, kind: Family) -> PPOConfig:
    """Return IMPALA: V-trace corrects for the policy that played, of one round before.

    Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, table G.1. The paper's loss is a sum
    over 32 x 20 rows, with epsilon inside RMSProp's root; here it is a mean, with epsilon outside.
    """
    config = replace(
        _a2c(config),
        rollout_length=20,
        learning_rate=6e-4,
        anneal_learning_rate=True,
        value_coef=0.5,
        overlap=True,
        vtrace=True,
    )
    if kind != "atari":
        return config
    rows = 32 * 20
    return replace(
        config,
        encoder="impala",
        features=256,
        optimizer_eps=0.01**0.5 / rows,
        max_grad_norm=40 / rows,
    )


def preset(name: str, env: EnvLike) -> Preset:
    """Return the preset of that name.

    Raises:
        ConfigError: the preset does not suit the env.
    """
    from gymnasium import spaces

    kind = family(env)
    if name == "ppo_small":
        if kind != "atari":
            raise ConfigError(f"{name} needs images of 36 pixels or more; {env.env_id} has none")
        return Preset(_PPO_SMALL, num_envs=16)
    if name == "recurrent_ppo":
        config = _RECURRENT_PPO[kind]
    elif kind == "classic" and isinstance(env.action_space, spaces.Box):
        config = _PPO_CONTINUOUS
    else:
        config = _PPO[kind]
    if board_space(env) is not None:  # no discount, and more exploration of untried moves
        config = replace(config, gamma=1.0, entropy_coef=0.02)
    if name == "a2c":
        config = _a2c(config)
    if name == "impala":
        config = _impala(config, kind)
    # MinAtar: on one seed 32 envs scored as well as 8, at twice the speed.
    atari = {"a2c": 16, "impala": 32}.get(name, 8)  # as rl-baselines3-zoo's; A3C's 16 actors
    num_envs = {"classic": 16, "minatar": 32, "atari": atari}[kind]
    return Preset(config, num_envs)
