"""Names that a configuration chooses parts of a network by; imports no torch."""

from typing import Literal

EncoderName = Literal["mlp", "dqn2013", "nature", "impala", "minatar"]
Activation = Literal["relu", "tanh"]
LayerNormName = Literal["none", "channels", "all"]
RecurrentName = Literal["none", "lstm", "gru"]
CoreName = Literal["none", "lstm", "gru", "gtrxl"]
