"""A return whose length and discount change from the start and from each reset.

n = n_0 (n_1 / n_0)^t and 1 - gamma = (1 - gamma_0) ((1 - gamma_1) / (1 - gamma_0))^t, where t goes
from 0 to 1 (Schwarzer et al. 2023, https://arxiv.org/abs/2305.19452, section 3).
"""

import torch

from ludus.agents.dqn_config import DQNConfig
from ludus.agents.memory.replay import Horizon


class AnnealedHorizon:
    """The schedule of `n_step` and `gamma`.

    Args:
        config: their values at the start and at the end.
        device: of the memory that reads `present`.
    """

    def __init__(self, config: DQNConfig, device: torch.device) -> None:
        self._config = config
        self.present = Horizon(
            torch.full((), config.n_step, device=device), torch.ones((), device=device)
        )

    def at(self, updates: int) -> tuple[int, float]:
        """Return the steps and the discount per step, so many updates after the latest reset."""
        c = self._config
        share = min(1.0, updates / c.horizon_updates)
        steps, gamma = c.n_step, c.gamma
        if c.n_step_end:
            steps = round(c.n_step * (c.n_step_end / c.n_step) ** share)
        if c.gamma_end:
            gamma = 1 - (1 - c.gamma) * ((1 - c.gamma_end) / (1 - c.gamma)) ** share
        return steps, gamma

    def move(self, updates: int) -> None:
        """Set `present`, see `at`."""
        steps, gamma = self.at(updates)
        self.present.steps.fill_(steps)
        self.present.gamma_ratio.fill_(gamma / self._config.gamma)


def annealed(config: DQNConfig, device: torch.device) -> AnnealedHorizon | None:
    """Return the schedule of a configuration that has one."""
    changes = config.n_step_end or config.gamma_end
    return AnnealedHorizon(config, device) if changes else None
