"""When a training saves, stops or ends: decided by one process, or by all ranks at the same row."""

from collections.abc import Callable

from ludus.agents.ranks import ALONE, Ranks


class Decisions:
    """What this process wants, and what is to be done.

    Ranks exchange their wishes with the number of env steps of each row. What one of them wants is
    therefore done by all, one row later; a process that trains alone does it at once.

    Args:
        signal: returns the number of the signal that asks this process to stop, or 0.
        ranks: exchange wishes in the thread of the loop.
    """

    def __init__(self, signal: Callable[[], int], ranks: Ranks = ALONE) -> None:
        self._signal, self._ranks = signal, ranks
        self._alone = ranks.size == 1
        self._agreed = (0, 0, 0)  # signal, end and save, as the ranks exchanged them last
        self.wants_end = False  # its minutes are over, or a callback ends it
        self.wants_save = False
        self.complete = False  # its steps are done, which all ranks see by themselves

    def decide_alone(self) -> None:
        """Ask no other rank from now on: the training is over."""
        self._alone = True

    def count(self, env_steps: int) -> int:
        """Return the env steps of a row of all ranks, and exchange the wishes."""
        if self._alone:
            return env_steps
        rows = self._ranks.gather(env_steps, self._signal(), self.wants_end, self.wants_save)
        signal, end, save = rows[:, 1:].amax(0).tolist()
        self._agreed = signal, end, save
        return int(rows[:, 0].sum())

    @property
    def signal(self) -> int:
        """Number of the signal that stops the training; 0 for none."""
        return self._signal() if self._alone else self._agreed[0]

    @property
    def ended(self) -> bool:
        """Whether the training has reached its end."""
        return self.complete or (self.wants_end if self._alone else bool(self._agreed[1]))

    @property
    def save(self) -> bool:
        """Whether to write a checkpoint now."""
        return self.last or (self.wants_save if self._alone else bool(self._agreed[2]))

    @property
    def last(self) -> bool:
        """Whether that checkpoint is the last one."""
        return self.ended or self.signal > 0
