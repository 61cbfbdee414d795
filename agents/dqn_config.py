"""Configuration of DQN and its variants. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from ludus.agents.auxiliary_config import AuxiliaryFields
from ludus.agents.preset import WITH_EPS, AnyOptimizerName
from ludus.envs.bounds import (
    AT_LEAST_ONE,
    FINITE,
    FRACTION,
    NON_NEGATIVE,
    NON_NEGATIVE_OR_INFINITE,
    POSITIVE,
    Bounds,
    check_bounds,
)
from ludus.envs.errors import ConfigError
from ludus.envs.from_json import former_bool
from ludus.envs.only_with import OnlyWith
from ludus.networks.names import EncoderName, LayerNormName, check_encoder

_C51, _QR, _IQN = (OnlyWith(("head",), (head,)) for head in ("c51", "qr", "iqn"))
_QUANTILES = OnlyWith(("head",), ("qr", "iqn"))
_DUELING, _NOISY = OnlyWith(("dueling",)), OnlyWith(("noisy",))
_MUNCHAUSEN = OnlyWith(("munchausen",))
_MOMENTUM = OnlyWith(("optimizer",), ("sgd", "rmsprop"))
_HORIZON = OnlyWith(("n_step_end", "gamma_end"))
_EPS = OnlyWith(("optimizer",), (*WITH_EPS, "adamw"))
_PRIORITISED = OnlyWith(("prioritised",))
_RESETS = OnlyWith(("reset_interval",))


@dataclass(frozen=True)
class DQNConfig(AuxiliaryFields):
    """Every choice of a DQN and of its variants."""

    module: ClassVar[str] = "ludus.agents.dqn"

    encoder: EncoderName = "mlp"
    """network from observation to features: mlp, dqn2013, nature, impala, minatar, der, or your own
    as module:Class"""
    hidden: Annotated[tuple[int, ...], AT_LEAST_ONE] = (64, 64)
    """units of the MLP encoder's layers"""
    width: Annotated[float, POSITIVE] = 1.0
    """multiple of the paper's channels (all but mlp)"""
    pool: Annotated[int, NON_NEGATIVE] = 0
    """IMPALA encoder: side of the adaptive max-pooling at its end; 0 for none"""
    spectral_norm: bool = False
    """IMPALA encoder: spectral normalisation of the residual convolutions"""
    layer_norm: LayerNormName = field(default="none", metadata=former_bool("none", "all"))
    """layer normalisation before each ReLU: over the channels of each pixel, or over all"""
    normalize_observation: bool = False
    """normalise pictures and floats by the mean and deviation of the transitions before the first
    update, or of the source of `init_from`"""
    renormalize: bool = False
    """scale the encoder's features to [0, 1] by the least and the largest of each observation"""
    xavier: bool = False
    """initialise with Xavier's uniform weights and biases of 0; else as torch does"""
    features: Annotated[int, NON_NEGATIVE] = 0
    """units of a ReLU layer after the encoder; 0 for none"""
    freeze: Literal["none", "encoder"] = "none"
    """part of the network that is not trained"""
    reward_free: bool = False
    """play at random and learn from the auxiliary loss alone: pretraining of the encoder"""
    head: Literal["q", "c51", "qr", "iqn"] = "q"
    """action values, or a return distribution: categorical, quantiles, implicit quantiles"""
    head_hidden: Annotated[int, NON_NEGATIVE] = 0
    """units of the head's hidden layer; 0 for none"""
    dueling: bool = False
    """split the head into value and advantage"""
    rescale_dueling: Annotated[bool, _DUELING] = False
    """dueling: multiply the gradient that enters the encoder by 1/sqrt(2)"""
    noisy: bool = False
    """explore with learned noise in the head's layers"""
    noisy_sigma: Annotated[float, POSITIVE, _NOISY] = 0.5
    """initial scale of that noise"""
    atoms: Annotated[int, Bounds(2, float("inf")), _C51] = 51
    """c51: number of atoms of the distribution"""
    v_min: Annotated[float, FINITE, _C51] = -10.0
    """c51: return of the lowest atom"""
    v_max: Annotated[float, FINITE, _C51] = 10.0
    """c51: return of the highest atom"""
    quantiles: Annotated[int, AT_LEAST_ONE, _QR] = 200
    """qr: number of quantiles"""
    samples: Annotated[int, AT_LEAST_ONE, _IQN] = 64
    """iqn: quantiles sampled for each transition"""
    target_samples: Annotated[int, AT_LEAST_ONE, _IQN] = 64
    """iqn: quantiles sampled for each target"""
    policy_samples: Annotated[int, AT_LEAST_ONE, _IQN] = 32
    """iqn: evenly spaced quantiles whose mean the actor uses"""
    double: bool = False
    """select the next action with the online network, evaluate it with the target network"""
    munchausen: bool = False
    """add the scaled log-policy to the reward, and bootstrap from the softmax policy"""
    munchausen_online: Annotated[bool, _MUNCHAUSEN] = False
    """take the added log-policy from the online network instead of the target network"""
    munchausen_scale: Annotated[float, FRACTION, _MUNCHAUSEN] = 0.9
    """alpha: scale of the added log-policy"""
    munchausen_temperature: Annotated[float, POSITIVE, _MUNCHAUSEN] = 0.03
    """tau: temperature of the softmax policy"""
    munchausen_floor: Annotated[
        float, Bounds(-float("inf"), 0, below_high=True), _MUNCHAUSEN
    ] = -1.0
    """l0: lower bound of the temperature times the log-policy"""
    value_rescaling: bool = False
    """learn values on the scale h(x) = sign(x) (sqrt(|x| + 1) - 1) + x / 1000"""
    conservative: Annotated[float, NON_NEGATIVE] = 0.0
    """weight of CQL's penalty on actions outside the data; 0 for none"""
    loss: Literal["huber", "mse"] = "huber"
    """loss of the temporal-difference error; distributions have their own"""
    optimizer: AnyOptimizerName = "adam"
    """rmsprop is centred as the 2015 DQN's, with eps outside the root; adamw is adam with
    weight_decay"""
    learning_rate: Annotated[float, POSITIVE] = 1e-4
    """step size of the optimizer"""
    optimizer_eps: Annotated[float, POSITIVE, _EPS] = 1e-8
    """added to the denominator (adam, adamw, radam, rmsprop, adagrad)"""
    momentum: Annotated[float, NON_NEGATIVE, _MOMENTUM] = 0.0
    """momentum of sgd and rmsprop"""
    weight_decay: Annotated[float, FRACTION] = 0.0
    """adamw: each update removes this share of a weight, times learning_rate; biases stay"""
    max_grad_norm: Annotated[float, NON_NEGATIVE_OR_INFINITE] = 10.0
    """gradients are scaled down to this L2 norm; 0 for no limit"""
    batch_size: Annotated[int, AT_LEAST_ONE] = 32
    """transitions in one update"""
    gamma: Annotated[float, FRACTION] = 0.99
    """discount per step"""
    n_step: Annotated[int, AT_LEAST_ONE] = 1
    """steps of the return before bootstrapping"""
    n_step_end: Annotated[int, NON_NEGATIVE] = 0
    """n_step at the end of horizon_updates; 0 for no change"""
    gamma_end: Annotated[float, FRACTION] = 0.0
    """gamma at the end of horizon_updates; 0 for no change"""
    horizon_updates: Annotated[int, AT_LEAST_ONE, _HORIZON] = 10_000
    """updates from the start and from each reset, over which n_step and gamma change"""
    clip_reward: bool = False
    """learn from rewards clipped to [-1, 1]; scores are never clipped"""
    replay_size: Annotated[int, AT_LEAST_ONE] = 100_000
    """transitions in the replay memory"""
    prioritised: bool = False
    """sample in proportion to priority^alpha, with importance weights"""
    quantile_priority: Annotated[Literal["loss", "error"], _PRIORITISED, _QUANTILES] = "loss"
    """qr, iqn: priority of a transition: its quantile loss, or its absolute error"""
    priority_alpha: Annotated[float, FRACTION, _PRIORITISED] = 0.5
    """exponent of the priorities; 0 is uniform"""
    priority_beta_start: Annotated[float, FRACTION, _PRIORITISED] = 0.4
    """initial exponent of the importance weights"""
    priority_beta_end: Annotated[float, FRACTION, _PRIORITISED] = 1.0
    """exponent of the importance weights at the end of the training"""
    random_shift: Annotated[int, NON_NEGATIVE] = 0
    """images of an update are shifted by up to this many pixels, with repeated edges; 0 for none"""
    intensity_noise: Annotated[float, NON_NEGATIVE] = 0.0
    """images of an update are multiplied by 1 plus this times a normal number between -2 and 2"""
    learning_starts: Annotated[int, NON_NEGATIVE] = 1_000
    """env steps before the first update"""
    replay_ratio: Annotated[float, POSITIVE] = 0.25
    """updates per env step"""
    target_interval: Annotated[int, AT_LEAST_ONE] = 2_500
    """updates between two updates of the target network"""
    polyak: Annotated[float, Bounds(0, 1, above_low=True)] = 1.0
    """fraction by which the target moves to the online network; 1 copies it"""
    reset_interval: Annotated[int, NON_NEGATIVE] = 0
    """updates between two resets of the head to fresh weights, with the encoder mixed with some; 0
    for none"""
    reset_keep: Annotated[float, FRACTION, _RESETS] = 0.5
    """resets: share of the encoder's weights that stays"""
    reset_until: Annotated[float, FRACTION, _RESETS] = 1.0
    """share of the training after which there is no further reset"""
    act_by_target: bool = False
    """act by the target network, in evaluations too; its weights are those that a run saves"""
    epsilon_start: Annotated[float, FRACTION] = 1.0
    """initial probability of a random action, drawn for each env"""
    epsilon_end: Annotated[float, FRACTION] = 0.05
    """final probability of a random action"""
    epsilon_steps: Annotated[int, NON_NEGATIVE] = 100_000
    """env steps from the initial to the final probability"""
    epsilon_decay: Literal["linear", "exponential"] = "linear"
    """exponential: the distance to the final probability falls to 1/e in epsilon_steps"""
    epsilon_off: Annotated[int, NON_NEGATIVE] = 0
    """env steps after which the probability is 0; 0 for never"""
    evaluation_epsilon: Annotated[float, FRACTION] = 0.05
    """probability of a random action in `predict(deterministic=False)`"""

    @property
    def longest_n_step(self) -> int:
        """Steps of the longest return in the training."""
        return max(self.n_step, self.n_step_end)

    @property
    def successors(self) -> int:
        """Rows after a row that an update with it needs: of the return or the auxiliary loss."""
        return max(self.longest_n_step, self.rows_ahead)

    def __post_init__(self) -> None:
        """Check the bounds, and refuse combinations that cannot work."""
        check_bounds(self, ConfigError)
        check_encoder(self.encoder)
        if not self.v_min < self.v_max:
            raise ConfigError(f"v_min is {self.v_min}; it must be below v_max, {self.v_max}")
        if self.replay_size < self.batch_size:
            raise ConfigError(
                f"replay_size is {self.replay_size}, below batch_size {self.batch_size}; use more"
            )
        if self.reward_free and self.auxiliary == "none":
            raise ConfigError(
                "reward_free learns from an auxiliary loss alone, and auxiliary is none; choose one"
            )
        impala = self.encoder == "impala"
        for invalid, name, reason in (
            (self.munchausen and self.double, "munchausen", "double: a softmax has no argmax"),
            (
                self.munchausen and self.value_rescaling,
                "munchausen",
                "value_rescaling: its temperature is in units of the reward",
            ),
            (
                self.loss == "mse" and self.head != "q",
                "loss mse",
                f"head {self.head}, which has its own loss",
            ),
            (self.reward_free and self.prioritised, "reward_free", "prioritised"),
            (self.reward_free and self.conservative > 0, "reward_free", "conservative"),
            (self.reward_free and self.freeze == "encoder", "reward_free", "freeze encoder"),
            (self.spectral_norm and not impala, "spectral_norm", f"encoder {self.encoder}"),
            (
                self.weight_decay and self.optimizer != "adamw",
                "weight_decay",
                f"optimizer {self.optimizer}",
            ),
            (
                self.gamma_end and not (0 < self.gamma < 1 and self.gamma_end < 1),
                "gamma_end",
                f"gamma {self.gamma} or with 1: a distance to 1 changes by a factor",
            ),
            (self.pool and not impala, "pool", f"encoder {self.encoder}"),
            (self.layer_norm != "none" and impala, "layer_norm", "encoder impala"),
        ):
            if invalid:
                raise ConfigError(f"{name} does not go with {reason}; turn one of them off")
