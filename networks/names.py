"""Names that a configuration chooses parts of a network by; imports no torch."""

from typing import Literal, get_args

from ludus.envs.errors import ConfigError
from ludus.envs.suggest import closest

BuiltInEncoder = Literal["mlp", "dqn2013", "nature", "impala", "minatar", "der"]
EncoderName = str  # one of these, module:Class, or PASSED with a name
Activation = Literal["relu", "tanh"]
LayerNormName = Literal["none", "channels", "all"]
RecurrentName = Literal["none", "lstm", "gru"]
CoreName = Literal["none", "lstm", "gru", "gtrxl"]

PASSED = "passed/"  # of networks that no other process can import


def is_own(encoder: EncoderName) -> bool:
    """Return whether an encoder is a user's own."""
    return ":" in encoder or encoder.startswith(PASSED)


def check_encoder(encoder: EncoderName) -> None:
    """Refuse the name of an encoder that does not exist.

    Raises:
        ConfigError: it is neither one of ours nor module:Class.
    """
    if encoder not in get_args(BuiltInEncoder) and not is_own(encoder):
        raise ConfigError(closest(encoder, get_args(BuiltInEncoder), "encoder"))
