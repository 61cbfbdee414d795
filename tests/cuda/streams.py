"""The order of the work on a simulated device's streams, by vector clocks.

Each piece of work has its stream and its number there. A clock says, for each stream, up to which
number work is known to be done before whatever comes next; waiting for an event or for a stream
raises a stream's clock, and waiting on the host raises the host's.
"""

import contextlib
import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

Clock = Counter[int]  # by the stream's number


class RaceError(RuntimeError):
    """Two streams use the same memory in no certain order."""


class Stream:
    """A stream: its work is done at once, in the order in which the host asks for it."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        self.number, self.clock = next(self._numbers), Clock()


class _Use(NamedTuple):
    """A use of some memory."""

    stream: int
    number: int  # of the stream's work
    line: str

    def before(self, clock: Clock) -> bool:
        """Return whether it comes before what has that clock."""
        return clock[self.stream] >= self.number


class _Memory:
    """The uses of some memory since it was last written."""

    def __init__(self, stream: Stream) -> None:
        self.allocated_by = stream
        self.written: _Use | None = None
        self.read: dict[int, _Use] = {}  # the last of each stream
        self.recorded: set[int] = set()  # streams that `record_stream` named
        self.holders = 0  # tensors and graphs

    def uses(self) -> list[_Use]:
        """Return everything that a write must follow."""
        return [*self.read.values(), *((self.written,) if self.written else ())]


class Streams:
    """All streams of a device, and the memory that they use, by address; 0 is no memory.

    Args:
        make: makes the default stream.
    """

    def __init__(self, make: Callable[[], Stream]) -> None:
        self._make, self.current = make, make()
        self.watched = False
        self._issued, self._known = Clock(), Clock()  # all work, and what the host knows to be done
        self._memory: dict[int, _Memory] = {}
        self._freed_early: list[str] = []

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Check the order of all that is done within.

        Raises:
            RaceError: memory was freed that another stream may still have used.
        """
        self._memory.clear()
        self._freed_early.clear()
        self._issued, self._known = Clock(), Clock()
        self.watched, self.current = True, self._make()
        try:
            yield
        finally:
            self.watched = False
        if self._freed_early:
            raise RaceError(self._freed_early[0])

    def host_waits(self, clock: Clock | None = None) -> None:
        """Note that the host has waited, for all work if there is no clock."""
        self._known |= self._issued if clock is None else clock

    def hold(self, holder: object, address: int) -> None:
        """Count an object as one that holds memory, until it ends."""
        if self.watched and address:
            memory = self._at(address)
            memory.holders += 1
            weakref.finalize(holder, self._release, address, memory)

    def keep(self, address: int) -> None:
        """Count one more holder of memory, for good."""
        self._at(address).holders += 1

    def let_go(self, address: int) -> None:
        """Count one holder of memory less."""
        if address in self._memory:
            self._release(address, self._memory[address])

    def record(self, address: int, stream: Stream) -> None:
        """Keep memory, once it is free, until a stream has used it."""
        self._at(address).recorded.add(stream.number)

    def use(self, reads: Iterable[int], writes: Iterable[int], line: Callable[[], str]) -> None:
        """Note one piece of work of the current stream.

        Raises:
            RaceError: it is in no certain order with work of another stream.
        """
        if not self.watched:
            return
        clock, number = self.current.clock, self.current.number
        clock |= self._known  # the host asks for it after what it knows
        self._issued[number] += 1
        clock[number] = self._issued[number]
        now = _Use(number, clock[number], line())
        for address in filter(None, reads):
            memory = self._at(address)
            self._require_order(now, clock, [memory.written] if memory.written else [])
            memory.read[number] = now
        for address in filter(None, writes):
            memory = self._at(address)
            self._require_order(now, clock, memory.uses())
            memory.written, memory.read = now, {}

    @staticmethod
    def _require_order(now: _Use, clock: Clock, earlier: Iterable[_Use]) -> None:
        for use in earlier:
            if not use.before(clock):
                raise RaceError(f"{now.line} may come before or after {use.line}")

    def _at(self, address: int) -> _Memory:
        if address not in self._memory:
            self._memory[address] = _Memory(self.current)
        return self._memory[address]

    def _release(self, address: int, memory: _Memory) -> None:
        """Forget memory that nothing holds; the stream that allocated it may use it again."""
        memory.holders -= 1
        if memory.holders or self._memory.get(address) is not memory:
            return
        del self._memory[address]
        owner = memory.allocated_by
        for use in memory.uses():
            kept = use.stream in memory.recorded | {owner.number}
            if not kept and not use.before(owner.clock | self._known):
                self._freed_early.append(f"freed while another stream may use it, {use.line}")
