"""Schedules: pure functions of how far a training has come."""


def linear(start: float, end: float, duration: float, step: float) -> float:
    """From start at step 0 to end at step `duration`, then constant."""
    if step >= duration:
        return end
    return start + (end - start) * step / duration
