"""A network is encoder, core and head; observations are always [T, B, *obs], acting is T = 1."""

from typing import Any, Generic, TypeVar

from gymnasium import spaces
from torch import Tensor, nn

from ludus.envs.dict_observation import legal_actions
from ludus.networks.cores import Core, State
from ludus.networks.heads import NO_NOISE, HeadNoise, without_illegal
from ludus.networks.layers import SpectralConv2d

Out = TypeVar("Out")


class Network(nn.Module, Generic[Out]):
    """Encoder, core and head, each chosen on its own.

    Args:
        encoder: [N, *obs] to [N, dim].
        core: [T, B, dim] to [T, B, units], with a state.
        head: [T, B, units] to what the agent asks for.
        mask_space: the observations' space, for a head of values: those of actions that an
            `action_mask` there forbids are far below all others.
    """

    def __init__(
        self, encoder: nn.Module, core: Core, head: nn.Module, mask_space: spaces.Box | None = None
    ) -> None:
        super().__init__()
        self.mask_space = mask_space
        self.encoder, self.core, self.head = encoder, core, head
        self._spectral = [m for m in encoder.modules() if isinstance(m, SpectralConv2d)]

    def initial_state(self, batch: int) -> State:
        """The core's state before an episode."""
        return self.core.initial_state(batch)

    def power_iteration(self) -> None:
        """Follow the weights of the layers under spectral normalisation, if there are any."""
        for layer in self._spectral:
            layer.power_iteration()

    def forward(
        self, obs: Tensor, state: State, first: Tensor, noise: HeadNoise = NO_NOISE
    ) -> tuple[Out, State]:
        """What the head says of obs [T, B, *obs], and the state after it.

        Args:
            obs: observations, uint8 or float32.
            state: of the core before row 0.
            first: [T, B] bool, the row opens an episode.
            chance: what is random in the head.
        """
        steps, batch = obs.shape[:2]
        x = self.encoder(obs.flatten(0, 1)).unflatten(0, (steps, batch))  # [T, B, dim]
        x, state = self.core(x, state, first)  # [T, B, units]
        out: Any = self.head(x, noise)
        if self.mask_space is not None:
            allowed = legal_actions(self.mask_space, obs)
            out = out if allowed is None else out._replace(q=without_illegal(out.q, allowed))
        return out, state
