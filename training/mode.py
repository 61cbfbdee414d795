"""How an agent gets its data: the part of a training that `Session` leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ludus.agents.agent import AnyAgent, EnvLike

if TYPE_CHECKING:
    from ludus.training.session import Session


class Mode(Protocol):
    """How an agent gets its data."""

    resumable: bool

    @property
    def agent(self) -> AnyAgent:
        """The agent."""

    @property
    def source(self) -> EnvLike:
        """The env or the data set."""

    def sentences(self) -> list[str]:
        """Return sentences for the user about the data."""

    def train(self, session: Session, tree: dict[str, Any] | None) -> None:
        """Train until the session's end, from a checkpoint's tree if there is one."""

    def close(self) -> None:
        """Free the env."""
