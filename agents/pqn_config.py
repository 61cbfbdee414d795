"""Configuration and presets of PQN. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from ludus.agents.auxiliary_config import AuxiliaryFields
from ludus.agents.preset import WITH_EPS, Family, OptimizerName, Preset, family
from ludus.envs.bounds import (
    AT_LEAST_ONE,
    FRACTION,
    NON_NEGATIVE,
    NON_NEGATIVE_OR_INFINITE,
    POSITIVE,
    check_bounds,
)
from ludus.envs.errors import ConfigError
from ludus.envs.from_json import former_bool
from ludus.envs.only_with import OnlyWith
from ludus.networks.names import EncoderName, LayerNormName, RecurrentName, check_encoder

if TYPE_CHECKING:
    from ludus.agents.agent import EnvLike


_EPS = OnlyWith(("optimizer",), WITH_EPS)
_CORE = OnlyWith(("core",), ("lstm", "gru"))


@dataclass(frozen=True)
class PQNConfig(AuxiliaryFields):
    """Every choice of a PQN."""

    module: ClassVar[str] = "ludus.agents.pqn"

    encoder: EncoderName = "mlp"
    """network from observation to features: mlp, dqn2013, nature, impala, minatar, der, or your own
    as module:Class"""
    hidden: Annotated[tuple[int, ...], AT_LEAST_ONE] = (128, 128)
    """units of the MLP encoder's layers"""
    width: Annotated[float, POSITIVE] = 1.0
    """multiple of the paper's channels (dqn2013, nature, minatar, impala)"""
    layer_norm: LayerNormName = field(default="channels", metadata=former_bool("none", "all"))
    """layer normalisation before each ReLU: over the channels of each pixel, or over all"""
    core: RecurrentName = "none"
    """memory between encoder and head"""
    core_units: Annotated[int, AT_LEAST_ONE, _CORE] = 128
    """units of the core"""
    head_hidden: Annotated[int, NON_NEGATIVE] = 0
    """units of the head's hidden layer; 0 for none"""
    dueling: bool = False
    """split the head into value and advantage"""
    optimizer: OptimizerName = "radam"
    """rmsprop is centred as the 2015 DQN's, with eps outside the root"""
    learning_rate: Annotated[float, POSITIVE] = 2.5e-4
    """step size of the optimizer"""
    anneal_learning_rate: bool = False
    """decrease it linearly to 0 over the training"""
    optimizer_eps: Annotated[float, POSITIVE, _EPS] = 1e-8
    """added to the denominator (adam, radam, rmsprop, adagrad)"""
    max_grad_norm: Annotated[float, NON_NEGATIVE_OR_INFINITE] = 10.0
    """gradients are scaled down to this L2 norm; 0 for no limit"""
    rollout_length: Annotated[int, AT_LEAST_ONE] = 32
    """rows of each env between two rounds of updates"""
    epochs: Annotated[int, AT_LEAST_ONE] = 2
    """passes over a rollout"""
    minibatches: Annotated[int, AT_LEAST_ONE] = 32
    """updates in one pass"""
    gamma: Annotated[float, FRACTION] = 0.99
    """discount per step"""
    lam: Annotated[float, FRACTION] = 0.65
    """lambda of the returns: 0 bootstraps after one step, 1 at the end of the rollout"""
    overlap: bool = False
    """learn from a rollout while the next is played, by the network of one round before"""
    clip_reward: bool = False
    """learn from rewards clipped to [-1, 1]; scores are never clipped"""
    epsilon_start: Annotated[float, FRACTION] = 1.0
    """initial probability of a random action, drawn for each env"""
    epsilon_end: Annotated[float, FRACTION] = 0.001
    """final probability of a random action"""
    epsilon_fraction: Annotated[float, FRACTION] = 0.1
    """fraction of the training from the initial to the final probability"""
    evaluation_epsilon: Annotated[float, FRACTION] = 0.001
    """probability of a random action in `predict(deterministic=False)`"""

    def __post_init__(self) -> None:
        """Check the bounds, and refuse combinations that cannot work."""
        check_bounds(self, ConfigError)
        check_encoder(self.encoder)
        if self.layer_norm != "none" and self.encoder == "impala":
            raise ConfigError(
                "layer_norm does not go with the encoder impala; turn one of them off"
            )


# Atari: appendix of the paper. MinAtar: the authors' code. Annealing the learning rate matters
# most: CartPole scored 476 or more after 100,000 steps on 6 of 6 seeds, without it on 2 of 3.
_PQN: dict[Family, PQNConfig] = {
    "atari": PQNConfig(encoder="nature", head_hidden=512, clip_reward=True),
    "minatar": PQNConfig(
        encoder="minatar",
        head_hidden=128,
        learning_rate=5e-4,
        anneal_learning_rate=True,
        epsilon_end=0.05,
    ),
    "classic": PQNConfig(
        learning_rate=1e-3,
        anneal_learning_rate=True,
        lam=0.95,
        epochs=4,
        minibatches=8,
        epsilon_end=0.05,
        epsilon_fraction=0.2,
    ),
}


def preset(name: str, env: EnvLike) -> Preset:
    """Return the preset of that name."""
    kind = family(env)
    return Preset(_PQN[kind], num_envs=16 if kind == "classic" else 128)
