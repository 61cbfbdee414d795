"""Learn on one rollout while the next is played, as Cleanba does (https://arxiv.org/abs/2310.00036).

A copy of the network plays. When a rollout is full, the copy takes over the weights learned from
the rollouts before, and another thread begins to learn from this one. So the policy that plays is
exactly one round of updates behind, however fast either side is, and results depend on no clock.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic

import torch
from torch import Tensor

from ludus.networks.network import Network, Out, TargetNetwork


class Overlap(Generic[Out]):
    """A network that plays while another thread changes the original.

    Args:
        network: the original.
        flat: its parameters [size], see `flatten_parameters`.
    """

    def __init__(self, network: Network[Out], flat: Tensor) -> None:
        self._copy = TargetNetwork(network, flat)
        self._thread = ThreadPoolExecutor(1, "ludus-learner")
        self._round: Future[None] | None = None

    @property
    def network(self) -> Network[Out]:
        """The copy, for acting."""
        return self._copy.network

    def take_over(self) -> None:
        """Play by the weights learned so far."""
        self._copy.update(1.0)

    def start(self, updates: Callable[[], None]) -> None:
        """Play by the weights learned so far, and run `updates` in the other thread."""
        assert self._round is None, "the round before must be finished"
        self.take_over()
        # Both settings belong to a thread.
        threads, flushes = torch.get_num_threads(), float(torch.tensor([1e-40]) * 1.0) == 0.0

        def learn() -> None:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(flushes)
            updates()

        self._round = self._thread.submit(learn)

    def finish(self) -> None:
        """Wait for the updates that are running, and raise what they raised."""
        running, self._round = self._round, None
        if running is not None:
            running.result()

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that play."""
        return dict(self.network.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.network.load_state_dict(state)
