"""Training of a Stable-Baselines3 agent, which runs its own loop."""

from typing import Any

from ludus.agents.agent import SelfTraining
from ludus.envs.vector import Row, VectorEnv
from ludus.training.online import object_sentences
from ludus.training.session import Session


class BaselineTraining:
    """An agent that trains itself in an env, see `Mode`; it cannot be resumed.

    Args:
        agent: the agent.
        env: the env.
    """

    resumable = False

    def __init__(self, agent: SelfTraining, env: VectorEnv) -> None:
        self.agent, self.source = agent, env

    def sentences(self) -> list[str]:
        """Return what the user should know about the env."""
        return object_sentences(self.source)

    def close(self) -> None:
        """Close the env."""
        self.source.close()

    def train(self, session: Session, tree: dict[str, Any] | None) -> None:
        """Train until the session's end."""
        steps = 0

        def on_row(row: Row) -> None:
            nonlocal steps
            steps += self.source.num_envs
            session.log.add_row(row, steps)

        def on_step(done: int) -> bool:
            if session.log.due(done):
                session.log.write({}, done, self.agent.updates)
            session.after_step(may_evaluate=not self.source.from_object)
            return not (session.stopping or session.ended)

        self.agent.fit(
            self.source,
            session.config.train.steps,
            on_row=on_row,
            on_step=on_step,
            write=session.log.scalars,
        )
        if session.stopping:
            session.save_weights()
            session.raise_if_stopping()
