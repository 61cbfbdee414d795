"""Periodic resets of a network, against the loss of plasticity at a high replay ratio.

The head begins anew (Nikishin et al. 2022, https://arxiv.org/abs/2205.07802). The encoder is shrunk
and perturbed, w = keep * w + (1 - keep) * fresh (Ash and Adams 2020,
https://arxiv.org/abs/1910.08475), as in https://arxiv.org/abs/2305.19452, section 3.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ludus.agents.dqn_config import DQNConfig
from ludus.agents.learner import Learner
from ludus.networks.encoders import ProjectedEncoder
from ludus.networks.network import Network


class Resets:
    """The schedule of resets.

    Args:
        config: its `reset_` fields.
        fresh: returns a network with the weights of a seed.
        seed: of the fresh weights.
    """

    def __init__(self, config: DQNConfig, fresh: Callable[[int], Network[Any]], seed: int) -> None:
        self._config, self._fresh = config, fresh
        self._latest = np.zeros(1, np.int64)  # updates before the latest reset
        self._seeds = np.random.default_rng([seed, 6])

    @property
    def latest(self) -> int:
        """Number of updates before the latest reset; 0 before the first."""
        return int(self._latest[0])

    def due(self, updates: int, progress: float) -> bool:
        """Return whether a reset follows so many updates, at a share `progress` of the training."""
        c = self._config
        return updates % c.reset_interval == 0 and progress <= c.reset_until

    def reset(self, learner: Learner) -> None:
        """Mix the network, and those that follow it, with fresh weights, as BBF's authors do.

        Those that follow it have fresh weights of their own.
        """
        c, followers = self._config, [follower.network for follower in learner.followers]
        for networks in ([learner.network], followers):
            fresh = self._fresh(int(self._seeds.integers(1 << 32)))
            frozen = c.freeze == "encoder"
            for network in networks:
                reset_weights(network, fresh, c.reset_keep, frozen_encoder=frozen)
        learner.restart()
        self._latest[0] = learner.agent.updates

    def parts(self) -> dict[str, Any]:
        """Return the state, as parts of an agent's."""
        return {"latest_reset": self._latest, "reset_seeds": self._seeds}


@torch.no_grad()
def reset_weights(
    network: Network[Any], fresh: Network[Any], keep: float, *, frozen_encoder: bool
) -> None:
    """Mix the weights of a network with fresh ones, in place; buffers stay as they are.

    Args:
        network: its encoder and a model of transitions are mixed; all else becomes fresh.
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
            mixed = name.startswith("auxiliary.transition.")
        weight.lerp_(other, 1.0 - keep if mixed else 1.0)
