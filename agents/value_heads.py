"""The value heads of DQN: for each, its network outputs, its loss and its random input."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ludus.agents import losses
from ludus.agents.dqn_config import DQNConfig
from ludus.networks.heads import (
    CategoricalHead,
    ImplicitQuantileHead,
    QHead,
    QuantileHead,
    Streams,
    ValueHead,
)


class HeadKind(NamedTuple):
    """Everything that depends on a DQN's `head`."""

    outputs: int  # of the network, for each action
    make: Callable[[Streams], ValueHead]
    loss: losses.TDLoss
    taus: int = 0  # sampled quantiles of the online network, K; 0 for no sampled quantiles
    target_taus: int = 0  # sampled quantiles of the target network, K'

    def sample_taus(
        self, batch_size: int, generator: torch.Generator | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return taus [K, 1, N] and [K', 1, N] in [0, 1); zeros without a generator."""
        shape = (self.taus + self.target_taus, 1, batch_size)
        if generator is None:
            taus = torch.zeros(shape, device=device)
        else:
            taus = torch.rand(shape, generator=generator, device=device)
        online, target = taus.split([self.taus, self.target_taus])
        return online, target


def head_kind(config: DQNConfig) -> HeadKind:
    """Return the kind of head that the config describes."""
    c = config
    backup = losses.rescaled if c.value_rescaling else losses.bellman
    quantile_loss: Any = partial(losses.quantile_td, backup=backup, priority=c.quantile_priority)
    match c.head:
        case "q":
            scalar = losses.huber_td if c.loss == "huber" else losses.mse_td
            return HeadKind(1, QHead, partial(scalar, backup=backup))
        case "c51":
            make = partial(CategoricalHead, low=c.v_min, high=c.v_max)
            return HeadKind(c.atoms, make, partial(losses.categorical_td, backup=backup))
        case "qr":
            return HeadKind(c.quantiles, QuantileHead, quantile_loss)
        case "iqn":
            iqn = partial(ImplicitQuantileHead, samples=c.samples, policy_samples=c.policy_samples)
            return HeadKind(1, iqn, quantile_loss, c.samples, c.target_samples)
