"""Schedules over a training: values that change linearly, and when updates are due."""

from fractions import Fraction


def linear(start: float, end: float, duration: float, step: float) -> float:
    """Interpolate from `start` at step 0 to `end` at step `duration`; constant afterwards."""
    if step >= duration:
        return end
    return start + (end - start) * step / duration


class UpdateSchedule:
    """Updates in proportion to env steps: floor(replay_ratio * steps since learning_starts).

    Args:
        replay_ratio: updates per env step; kept exactly, whatever the number of envs.
        learning_starts: env steps before the first update.
    """

    def __init__(self, replay_ratio: float, learning_starts: int) -> None:
        self._ratio, self._starts = Fraction(str(replay_ratio)), learning_starts

    def due(self, env_steps: int, updates: int) -> int:
        """Return how many updates are due after `env_steps`, of which `updates` were done."""
        return max(0, int(self._ratio * max(0, env_steps - self._starts)) - updates)
