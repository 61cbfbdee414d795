"""Configuration and presets of R2D2 and DRQN. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ludus.agents.auxiliary_config import AuxiliaryFields
from ludus.agents.preset import WITH_EPS, Family, OptimizerName, Preset, family
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
from ludus.networks.names import EncoderName, check_encoder

if TYPE_CHECKING:
    from ludus.agents.agent import EnvLike


_EPS = OnlyWith(("optimizer",), WITH_EPS)
_PRIORITISED = OnlyWith(("prioritised",))


@dataclass(frozen=True)
class R2D2Config(AuxiliaryFields):
    """Every choice of an R2D2."""

    module: ClassVar[str] = "ludus.agents.r2d2"

    encoder: EncoderName = "mlp"
    """network from observation to features: mlp, dqn2013, nature, impala, minatar, der, or your own
    as module:Class"""
    hidden: Annotated[tuple[int, ...], AT_LEAST_ONE] = (64,)
    """units of the MLP encoder's layers"""
    width: Annotated[float, POSITIVE] = 1.0
    """multiple of the paper's channels (dqn2013, nature, minatar, impala)"""
    core: Literal["lstm", "gru"] = "lstm"
    """recurrent core"""
    core_units: Annotated[int, AT_LEAST_ONE] = 64
    """units of the core"""
    head_hidden: Annotated[int, NON_NEGATIVE] = 0
    """units of the head's hidden layer; 0 for none"""
    dueling: bool = True
    """split the head into value and advantage"""
    double: bool = True
    """select the next action with the online network, evaluate it with the target network"""
    value_rescaling: bool = True
    """learn values on the scale h(x) = sign(x) (sqrt(|x| + 1) - 1) + x / 1000"""
    loss: Literal["huber", "mse"] = "mse"
    """loss of the temporal-difference error"""
    optimizer: OptimizerName = "adam"
    """rmsprop is centred as the 2015 DQN's, with eps outside the root"""
    learning_rate: Annotated[float, POSITIVE] = 1e-4
    """step size of the optimizer"""
    optimizer_eps: Annotated[float, POSITIVE, _EPS] = 1e-3
    """added to the denominator (adam, radam, rmsprop, adagrad)"""
    max_grad_norm: Annotated[float, NON_NEGATIVE_OR_INFINITE] = 10.0
    """gradients are scaled down to this L2 norm; 0 for no limit"""
    batch_size: Annotated[int, AT_LEAST_ONE] = 64
    """sequences in one update"""
    sequence_length: Annotated[int, AT_LEAST_ONE] = 80
    """trained rows of a sequence; neighbouring sequences overlap by half of them"""
    burn_in: Annotated[int, NON_NEGATIVE] = 40
    """rows before them that only warm up the core's state"""
    stored_state: bool = True
    """start from the state stored when the sequence was played; else from zeros"""
    gamma: Annotated[float, FRACTION] = 0.997
    """discount per step"""
    n_step: Annotated[int, AT_LEAST_ONE] = 5
    """steps of the return before bootstrapping"""
    clip_reward: bool = False
    """learn from rewards clipped to [-1, 1]; scores are never clipped"""
    replay_size: Annotated[int, AT_LEAST_ONE] = 100_000
    """transitions in the replay memory"""
    prioritised: bool = True
    """sample in proportion to priority^alpha, with importance weights"""
    priority_alpha: Annotated[float, FRACTION, _PRIORITISED] = 0.9
    """exponent of the priorities"""
    priority_beta: Annotated[float, FRACTION, _PRIORITISED] = 0.6
    """exponent of the importance weights"""
    priority_eta: Annotated[float, FRACTION, _PRIORITISED] = 0.9
    """eta of the sequence priority, eta * max error + (1 - eta) * mean error"""
    learning_starts: Annotated[int, NON_NEGATIVE] = 1_000
    """env steps before the first update"""
    replay_ratio: Annotated[float, POSITIVE] = 0.01
    """updates per env step"""
    target_interval: Annotated[int, AT_LEAST_ONE] = 2_500
    """updates between two updates of the target network"""
    polyak: Annotated[float, Bounds(0, 1, above_low=True)] = 1.0
    """fraction by which the target moves to the online network; 1 copies it"""
    epsilon_start: Annotated[float, FRACTION] = 0.4
    """initial probability of a random action"""
    epsilon_end: Annotated[float, FRACTION] = 0.4
    """final probability of a random action"""
    epsilon_steps: Annotated[int, NON_NEGATIVE] = 1
    """env steps from the initial to the final probability"""
    epsilon_alpha: Annotated[float, NON_NEGATIVE] = 7.0
    """env i of B explores with epsilon^(1 + alpha * i / (B - 1)); 0 for the same epsilon"""
    evaluation_epsilon: Annotated[float, FRACTION] = 0.01
    """probability of a random action in `predict(deterministic=False)`"""

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_bounds(self, ConfigError)
        check_encoder(self.encoder)

    @property
    def period(self) -> int:
        """Rows between the starts of neighbouring sequences."""
        return max(1, self.sequence_length // 2)

    @property
    def rows(self) -> int:
        """Rows of a stored sequence: burn-in, trained rows, and the last n-step returns."""
        return self.burn_in + self.sequence_length + self.n_step


# Kapturowski et al. 2019, table 2, for one machine: 64 envs in place of 256 actors. Adam's eps of
# 1e-3 is for half the sum of the squared errors of 80 rows, as in Acme; the loss here is their
# mean. The replay ratio is Acme's: each sequence is sampled 4 times, where the paper has 0.8.
#
# Elsewhere eps is Acme's. MinAtar's Space Invaders, 50,000 steps, 5 seeds: 25 with 1e-8, 20 with
# 1e-4, 8 with 1e-3, which exceeds the root of Adam's second moment of nearly every weight.
_R2D2: dict[Family, R2D2Config] = {
    "atari": R2D2Config(
        encoder="nature",
        core_units=512,
        head_hidden=512,
        optimizer_eps=1e-3 / 40,
        replay_size=1_000_000,
        learning_starts=50_000,
        replay_ratio=1 / 640,
    ),
    "minatar": R2D2Config(
        encoder="minatar",
        core_units=128,
        batch_size=32,
        sequence_length=20,
        burn_in=10,
        n_step=3,
        gamma=0.99,
        learning_rate=5e-4,
        optimizer_eps=1e-8,
        learning_starts=5_000,
        replay_ratio=1 / 16,
        target_interval=250,
    ),
    "classic": R2D2Config(
        batch_size=32,
        sequence_length=20,
        burn_in=10,
        n_step=3,
        gamma=0.99,
        learning_rate=1e-3,
        optimizer_eps=1e-8,
        replay_ratio=1 / 8,
        target_interval=1,
        polyak=0.02,
    ),
}


def _drqn(config: R2D2Config) -> R2D2Config:
    """Return DRQN: sequences of 10 rows from a zero state (Hausknecht and Stone 2015)."""
    return replace(
        config,
        dueling=False,
        double=False,
        value_rescaling=False,
        loss="huber",
        sequence_length=10,
        burn_in=0,
        stored_state=False,
        n_step=1,
        prioritised=False,
        epsilon_start=1.0,
        epsilon_end=0.05,
        epsilon_steps=max(10_000, config.learning_starts * 2),
        epsilon_alpha=0.0,
        clip_reward=config.encoder == "nature",
    )


def preset(name: str, env: EnvLike) -> Preset:
    """Return the preset of that name."""
    kind = family(env)
    if name == "drqn":
        return Preset(_drqn(_R2D2[kind]), num_envs=16 if kind == "classic" else 8)
    return Preset(_R2D2[kind], num_envs={"classic": 16, "minatar": 8, "atari": 64}[kind])
