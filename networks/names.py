"""Names that a configuration chooses encoders, activations and cores by; imports no torch."""

from typing import Literal

EncoderName = Literal["mlp", "dqn2013", "nature", "impala", "minatar"]
Activation = Literal["relu", "tanh"]
RecurrentName = Literal["none", "lstm", "gru"]
CoreName = Literal["none", "lstm", "gru", "gtrxl"]
