"""Augmented images for updates: random shifts and intensities, for each image its own.

Shifts are those of DrQ (https://arxiv.org/abs/2004.13649, section 4.1); SPR added the intensity
(https://arxiv.org/abs/2007.05929, appendix C).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ludus.envs.errors import ConfigError


class Augmentation(NamedTuple):
    """Shifts images, as if their edges were repeated outwards, and scales their brightness."""

    random_shift: int  # largest distance in pixels, in each direction
    intensity_noise: float  # standard deviation of the factor, which is at most two of them from 1

    def check_fits(self, shape: tuple[int, ...]) -> None:
        """Check that observations of a shape can be augmented.

        Raises:
            ConfigError: they are no images, and there is an augmentation.
        """
        name = "random_shift" if self.random_shift else "intensity_noise"
        if any(self) and len(shape) != 3:
            raise ConfigError(
                f"{name} is for images; the observations have shape {list(shape)}; leave it out"
            )

    def sample(
        self, batches: int, size: int, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """Return random numbers [batches, size, 3]; zeros without a generator."""
        if generator is None:
            return torch.zeros(batches, size, 3, device=device)
        shifts = torch.rand(batches, size, 2, generator=generator, device=device)
        intensity = torch.randn(batches, size, 1, generator=generator, device=device)
        return torch.cat([shifts, intensity], dim=-1)

    def __call__(self, obs: Tensor, numbers: Tensor) -> Tensor:
        """Return augmented images, channels last: float32 with an intensity, else of obs' type.

        Args:
            obs: images [N, C, H, W]; all frames of a stack move together.
            numbers: [N, 3]: two in [0, 1), for the rows and the columns, and a normal number.
        """
        size, _, height, width = obs.shape
        shift, device = self.random_shift, obs.device
        moves = (numbers[:, :2] * (2 * shift + 1)).to(torch.int64)  # [N, 2]
        rows = torch.arange(-shift, height - shift, device=device) + moves[:, :1]
        columns = torch.arange(-shift, width - shift, device=device) + moves[:, 1:]
        # An index beyond the edge is the edge's: the papers' padding, without its memory.
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)  # [N, H], [N, W]
        rows += torch.arange(0, size * height, height, device=device).unsqueeze(1)
        places = columns.unsqueeze(1).add(rows.unsqueeze(2), alpha=width)  # [N, H, W]
        packed = obs.contiguous(memory_format=torch.channels_last).movedim(1, -1)  # [N, H, W, C]
        # One index for each place is three times as fast on a CPU as one for each dimension.
        moved = packed.flatten(0, 2).index_select(0, places.flatten()).view_as(packed)
        moved = moved.movedim(-1, 1)
        if not self.intensity_noise:
            return moved
        factor = 1 + self.intensity_noise * numbers[:, 2].clamp(-2, 2)  # [N]
        # In place: fresh memory of this size costs more than the product.
        return moved.to(torch.float32).mul_(factor[:, None, None, None])
