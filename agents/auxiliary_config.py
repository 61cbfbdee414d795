"""The fields of auxiliary losses, which several configurations have. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, NON_NEGATIVE
from ludus.envs.only_with import OnlyWith

AuxiliaryName = Literal["none", "reconstruction", "variational", "spr", "inverse"]


_FRAME = OnlyWith(("auxiliary",), ("reconstruction", "variational"))
_VARIATIONAL = OnlyWith(("auxiliary",), ("variational",))
_SPR = OnlyWith(("auxiliary",), ("spr",))
_INVERSE = OnlyWith(("auxiliary",), ("inverse",))


@dataclass(frozen=True)
class AuxiliaryFields:
    """Choice of an auxiliary loss, see `auxiliary.py`."""

    auxiliary: AuxiliaryName = "none"
    """also learn features that show the newest frame (by an autoencoder, or a variational one),
    predict the features that follow (spr), or tell which action was taken (inverse)"""
    reconstruction_weight: Annotated[float, NON_NEGATIVE, _FRAME] = 1.0
    """reconstruction, variational: weight of the mean squared error of the newest frame"""
    kl_weight: Annotated[float, NON_NEGATIVE, _VARIATIONAL] = 0.001
    """variational: beta, weight of the KL divergence; 1 is the evidence lower bound of pixels with
    a variance of 1"""
    code_units: Annotated[int, AT_LEAST_ONE, _VARIATIONAL] = 64
    """variational: units of the code"""
    spr_weight: Annotated[float, NON_NEGATIVE, _SPR] = 2.0
    """spr: weight of 1 minus the cosine, summed over the predicted steps"""
    spr_steps: Annotated[int, AT_LEAST_ONE, _SPR] = 5
    """spr: env steps that are predicted"""
    spr_momentum: Annotated[float, FRACTION, _SPR] = 0.99
    """spr: what the encoder of the targets keeps of itself at an update; 0 copies the online one"""
    spr_units: Annotated[int, AT_LEAST_ONE, _SPR] = 512
    """spr: units of the projection, where no layer after the encoder projects"""
    inverse_weight: Annotated[float, NON_NEGATIVE, _INVERSE] = 1.0
    """inverse: weight of the cross-entropy of the action that was taken"""

    @property
    def rows_ahead(self) -> int:
        """Rows after a row that its loss looks at."""
        return {"spr": self.spr_steps, "inverse": 1}.get(self.auxiliary, 0)
