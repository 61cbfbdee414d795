"""Schedules: pure functions of the number of env steps."""


def linear(start: float, end: float, duration: int, step: int) -> float:
    """From start at step 0 to end at step `duration`, then constant."""
    if step >= duration:
        return end
    return start + (end - start) * step / duration
