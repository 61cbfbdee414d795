"""What `ludus.envs.remote` needs of Ray, in this process, with hosts that are lost as scripted."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class FakeRayError(Exception):
    """Stands for `ray.exceptions.RayError`."""


class GetTimeoutError(FakeRayError):
    """Stands for `ray.exceptions.GetTimeoutError`."""


class ActorDiedError(FakeRayError):
    """Stands for `ray.exceptions.ActorDiedError`."""


class ActorUnavailableError(FakeRayError):
    """Stands for `ray.exceptions.ActorUnavailableError`."""


Fate = type[FakeRayError] | None


class FakeActor:
    """An actor that makes its calls when their answers are asked for.

    Args:
        fate: takes the actor's number and the number of a call; returns what that call raises.
    """

    def __init__(self, number: int, target: Any, fate: Callable[[int, int], Fate]) -> None:
        self._number, self._target, self._fate = number, target, fate
        self.calls, self.lost, self.killed = 0, False, False

    def __getattr__(self, name: str) -> Any:
        def start(*arguments: Any) -> Callable[[], Any]:
            self.calls += 1
            fate = GetTimeoutError if self.lost else self._fate(self._number, self.calls)
            if fate is None:
                answer = getattr(self._target, name)(*arguments)
                return lambda: answer.copy() if hasattr(answer, "copy") else answer
            self.lost = True

            def fail() -> Any:
                raise fate("as scripted")

            return fail

        return SimpleNamespace(remote=start)


class FakeRay:
    """The module `ray`.

    Args:
        fate: see `FakeActor`.
    """

    exceptions = SimpleNamespace(RayError=FakeRayError, GetTimeoutError=GetTimeoutError)

    def __init__(self, fate: Callable[[int, int], Fate]) -> None:
        self._fate = fate
        self.actors: list[FakeActor] = []
        self.running = 0

    def remote(self, **options: Any) -> Callable[[type], Any]:
        assert options["max_restarts"] == 0

        def make(*arguments: Any) -> FakeActor:
            self.running += 1
            actor = FakeActor(len(self.actors), self._kind(*arguments), self._fate)
            self.actors.append(actor)
            return actor

        def decorate(kind: type) -> Any:
            self._kind = kind
            return SimpleNamespace(remote=make)

        return decorate

    def get(self, reference: Callable[[], Any], timeout: float) -> Any:
        return reference()

    def kill(self, actor: FakeActor) -> None:
        self.running -= not actor.killed
        actor.killed = True
        actor._target.close()


class FakeCluster:
    """A `RayCluster` of a `FakeRay`."""

    def __init__(self, fate: Callable[[int, int], Fate] = lambda actor, call: None) -> None:
        self.ray = FakeRay(fate)
        self.users = 0

    def machines(self) -> int:
        return 2

    def resources(self) -> str:
        return "2 machines with 2 CPUs, 0 of them free"

    def acquire(self) -> None:
        self.users += 1

    def release(self) -> None:
        self.users -= 1
