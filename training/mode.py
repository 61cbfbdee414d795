"""How an agent gets its data: the part of a training that `Session` leaves open."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from ludus.agents.agent import AnyAgent, EnvLike
from ludus.envs.vector import Row
from ludus.training.decisions import Decisions
from ludus.training.gang import Gang
from ludus.training.progress import Show
from ludus.training.run import RunConfig

if TYPE_CHECKING:
    from ludus.training.session import Session


class TrainingSession(Protocol):
    """What a mode needs of a `Session`, or of a `Follower` in its place."""

    config: RunConfig
    gang: Gang
    decisions: Decisions

    @property
    def ended(self) -> bool:
        """Whether the training has reached its end."""

    def after_row(self, row: Row, *, may_evaluate: bool = True) -> bool:
        """Log a row, evaluate and record when due; return whether a checkpoint is due."""

    def save(self, tree: dict[str, Any]) -> None:
        """Write a checkpoint."""

    def raise_if_stopping(self) -> None:
        """Raise `TrainingStopped` if a signal asks the training to stop."""

    def record_changes(self) -> None:
        """Record what has changed, such as the device, once the state fits it."""

    def restoring(self) -> AbstractContextManager[None]:
        """Convert what loading a checkpoint of another content raises into one sentence."""

    def task(self, name: str, total: int, unit: str) -> AbstractContextManager[Show]:
        """Show the progress of something other than training."""


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
