"""Training of an agent in an env."""

from typing import Any

import numpy as np

from ludus.agents.agent import Agent
from ludus.envs.vector import Row, VectorEnv
from ludus.evaluation.rivals import Rivals
from ludus.networks.cores import State, state_on_device
from ludus.training.loop import train_loop
from ludus.training.session import Session


def object_sentences(env: VectorEnv) -> list[str]:
    """Return what the user should know about an env that was passed as an object."""
    if not env.from_object:
        return []
    several = ", with several envs often at the end only" if env.num_envs > 1 else ""
    return [
        f"the env is an object, so num_envs is {env.num_envs}: it runs in this process without a "
        f"timeout, it is evaluated on itself when none of its games is running{several}, and a "
        "resume needs it again: ludus.resume(RUN, env)"
    ]


class OnlineTraining:
    """An agent that learns from an env, see `session.Mode`.

    Args:
        agent: the agent.
        env: the env.
        rivals: play the other side of a board game; None elsewhere.
    """

    resumable = True

    def __init__(self, agent: Agent, env: VectorEnv, rivals: Rivals | None) -> None:
        self.agent, self.source, self._rivals = agent, env, rivals

    def sentences(self) -> list[str]:
        """Return what the user should know about the env."""
        adaptation, sentences = self.source.adaptation, []
        if adaptation is not None and adaptation.dropped:
            keys = ", ".join(adaptation.dropped)
            sentences.append(f"the agent does not see {keys}: no network reads it")
        return [*sentences, *object_sentences(self.source)]

    def close(self) -> None:
        """Close the env."""
        self.source.close()

    def train(self, session: Session, tree: dict[str, Any] | None) -> None:
        """Train until the session's end, from a checkpoint's tree if there is one."""
        env, agent = self.source, self.agent
        if tree is None:
            row, state = env.reset(), agent.initial_state(env.num_envs)
        else:
            with session.restoring():
                row, state = self._restore(session, tree)

        def on_step(row: Row, state: State) -> bool:
            session.log.add_row(row, agent.env_steps)
            if session.log.due(agent.env_steps):
                session.write_metrics(agent.metrics())
            # an evaluation would end the running games of an env object, which it shares
            idle = not env.from_object or bool(row.game_over.all())
            if session.after_step(may_evaluate=idle):
                session.save(self._tree(row, state))
            session.raise_if_stopping()
            return True

        train_loop(agent, env, row, state, session.config.train.steps, on_step, self._rivals)

    def _tree(self, row: Row, state: State) -> dict[str, Any]:
        tree = {
            "agent": self.agent.state_dict(),
            "env": self.source.state_dict(),
            "row": row._asdict(),
            "state": list(state),
        }
        if self._rivals is not None:
            tree["rivals"] = self._rivals.state_dict()
        return tree

    def _restore(self, session: Session, tree: dict[str, Any]) -> tuple[Row, State]:
        """Load a checkpoint's tree; return the current row and the agent's state."""
        row = Row(**{name: np.array(value) for name, value in tree["row"].items()})
        self.agent.load_state_dict(tree["agent"])
        longest = int(tree["env"]["length"].max())
        with session.task("replay of the running episodes", longest, "steps") as show:

            def on_step(done: int) -> None:
                show(done, "")
                session.raise_if_stopping()

            self.source.load_state_dict(tree["env"], row, on_step)
        if self._rivals is not None:
            self._rivals.load_state_dict(tree["rivals"])
        fresh = self.agent.initial_state(self.source.num_envs)
        return row, state_on_device(tree["state"], fresh)
