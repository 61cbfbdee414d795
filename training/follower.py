"""A rank other than the first: it trains as the others do, and writes its part of checkpoints."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ludus.agents.agent import Agent
from ludus.envs.errors import CheckpointError, TrainingStopped
from ludus.envs.vector import Row
from ludus.evaluation.evaluate import torch_settings
from ludus.training.checkpoint import newest_checkpoint
from ludus.training.checkpoint_writer import CheckpointWriter
from ludus.training.decisions import Decisions
from ludus.training.device import arithmetic
from ludus.training.gang import Gang
from ludus.training.online import OnlineTraining, TrainingInHalves
from ludus.training.progress import Show
from ludus.training.run import Run, RunConfig
from ludus.training.signals import Signals


class Follower:
    """Does what `Session` does on the first rank, but for what one process does for all.

    That is the lock, the log, evaluations, videos, callbacks, the status and the weights.

    Args:
        run: its folder.
        config: of the run.
        mode: agent and data of this rank.
        resumed: continue from the newest checkpoint.
        gang: the ranks of the training.
    """

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        mode: OnlineTraining | TrainingInHalves,
        *,
        resumed: bool,
        gang: Gang,
    ) -> None:
        self.run, self.config, self.mode, self.gang = run, config, mode, gang
        self.agent: Agent = mode.agent
        self._resumed, self._metrics_at = resumed, 0  # env steps
        self._signals = Signals(ignores_others=True)
        self.decisions = Decisions(lambda: self._signals.received or 0, gang.rows)
        keep = config.train.keep_checkpoints
        self._writer = CheckpointWriter(run.checkpoints, keep, gang.checkpoints)

    def run_to_end(self) -> Agent:
        """Train and return the agent.

        Raises:
            TrainingStopped: the ranks agreed to stop, after a last checkpoint.
            PeerError: another rank ended before; nothing is saved.
            LudusError: as a `Session` does.
        """
        t = self.config.train
        with self._signals:
            try:
                settings = torch_settings(self.mode.source, self.agent)
                with settings, arithmetic(t.device, t.precision, deterministic=t.deterministic):
                    self.mode.train(self, self._begin())
                self._writer.finish()
            finally:
                self.mode.close()
        return self.agent

    def _begin(self) -> dict[str, Any] | None:
        if not self._resumed:
            return None
        tree, _, path = newest_checkpoint(self.run.checkpoints, self.gang.rows)
        self._writer.continue_from(path, tree)
        if not isinstance(tree, dict):
            raise CheckpointError(f"the newest checkpoint of {self.run.path} holds no training")
        self.decisions.complete = int(tree["agent"]["env_steps"]) >= self.config.train.end
        return tree

    @property
    def ended(self) -> bool:
        """Whether the training has reached its end."""
        return self.decisions.ended

    def after_row(self, row: Row, *, may_evaluate: bool = True) -> bool:
        """Return whether a checkpoint is due, which the ranks have agreed on."""
        steps, t = self.agent.env_steps, self.config.train
        if steps >= self._metrics_at:  # which begins their sums anew, as a log does
            self.agent.metrics()
            self._metrics_at = steps + t.log_every
        self.decisions.complete |= steps >= t.end
        return self.decisions.save

    def save(self, tree: dict[str, Any]) -> None:
        """Write this rank's part of a checkpoint."""
        self._writer.save(self.agent.env_steps, tree, wait=self.decisions.last)

    def raise_if_stopping(self) -> None:
        """Raise `TrainingStopped` if the ranks agreed to stop."""
        if self.decisions.signal:
            self._writer.finish()
            raise TrainingStopped("the ranks stopped together", 128 + self.decisions.signal)

    def record_changes(self) -> None:
        """Do nothing: the first rank records them."""

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """Do nothing: the first rank explains what goes wrong."""
        yield

    @contextlib.contextmanager
    def task(self, name: str, total: int, unit: str) -> Iterator[Show]:
        """Show nothing."""
        yield lambda done, detail: None
