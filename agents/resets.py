"""Periodic resets of a network, against the loss of plasticity at a high replay ratio.

The head begins anew (Nikishin et al. 2022, https://arxiv.org/abs/2205.07802). The encoder is shrunk
and perturbed, w = keep * w + (1 - keep) * fresh (Ash and Adams 2020,
https://arxiv.org/abs/1910.08475), as in https://arxiv.org/abs/2305.19452, section 3.
"""

from typing import Any

import torch

from ludus.networks.encoders import ProjectedEncoder
from ludus.networks.network import Network


@torch.no_grad()
def reset_weights(
    network: Network[Any], fresh: Network[Any], keep: float, *, frozen_encoder: bool
) -> None:
    """Mix the weights of a network with fresh ones, in place; buffers stay as they are.

    Args:
        network: its encoder is mixed; its features layer and its head become fresh.
        fresh: of the same shapes.
        keep: share of the encoder's present weights, 0 to 1.
        frozen_encoder: leave the encoder and its features layer as they are.
    """
    projected = isinstance(network.encoder, ProjectedEncoder)
    pairs = zip(network.named_parameters(), fresh.parameters(), strict=True)
    for (name, weight), other in pairs:
        if name.startswith("encoder."):
            if frozen_encoder:
                continue
            mixed = not (projected and name.startswith("encoder.layer."))
        else:
            mixed = False
        weight.lerp_(other, 1.0 - keep if mixed else 1.0)
