"""Training of an agent in an env, whole or in two halves."""

from typing import Any

import numpy as np

from ludus.agents.agent import Agent
from ludus.agents.ahead import ActingAhead
from ludus.envs.errors import EnvError
from ludus.envs.halves import Halves
from ludus.envs.vector import Row, VectorEnv
from ludus.evaluation.rivals import Rivals
from ludus.networks.cores import State, state_on_device
from ludus.training.loop import Turn, train_in_halves, train_loop
from ludus.training.mode import TrainingSession


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
    """An agent that learns from an env, see `Mode`.

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
        return [*_dropped(self.source), *object_sentences(self.source)]

    def close(self) -> None:
        """Close the env."""
        self.source.close()

    def train(self, session: TrainingSession, tree: dict[str, Any] | None) -> None:
        """Train until the session's end, from a checkpoint's tree if there is one."""
        env, agent = self.source, self.agent
        if tree is None:
            row, state = env.reset(), agent.initial_state(env.num_envs)
        else:
            with session.restoring():
                row, state = self._restore(session, tree)
            session.record_changes()

        def on_step(row: Row, state: State) -> bool:
            # an evaluation would end the running games of an env object, which it shares
            idle = not env.from_object or bool(row.game_over.all())
            if session.after_row(row, may_evaluate=idle) or env.failing():
                session.save(self._tree(row, state))
            session.raise_if_stopping()
            _raise_if_failing(env)
            return not session.ended

        if not session.ended:
            steps, count = session.config.train.end, session.decisions.count
            train_loop(agent, env, row, state, steps, on_step, self._rivals, count)

    def _tree(self, row: Row, state: State) -> dict[str, Any]:
        tree = _tree(self.agent, self.source, row, state)
        if self._rivals is not None:
            tree["rivals"] = self._rivals.state_dict()
        return tree

    def _restore(self, session: TrainingSession, tree: dict[str, Any]) -> tuple[Row, State]:
        """Load a checkpoint's tree; return the current row and the agent's state."""
        row, state = _restore(session, self.agent, self.source, tree)
        if self._rivals is not None:
            self._rivals.load_state_dict(tree["rivals"])
        return row, state


class TrainingInHalves:
    """An agent that acts for one half of the envs while the other plays, see `Mode`.

    Args:
        ahead: the agent.
        env: the env.
    """

    resumable = True

    def __init__(self, ahead: ActingAhead, env: Halves) -> None:
        self.agent: Agent = ahead.agent
        self.source, self._ahead = env, ahead

    def sentences(self) -> list[str]:
        """Return what the user should know about the env."""
        return _dropped(self.source)

    def close(self) -> None:
        """Close the env."""
        self.source.close()

    def train(self, session: TrainingSession, tree: dict[str, Any] | None) -> None:
        """Train until the session's end, from a checkpoint's tree if there is one."""
        turn = None
        if tree is not None:
            with session.restoring():
                row, state = _restore(session, self.agent, self.source, tree)
                self._ahead.load_state_dict(tree["acting"])
                turn = Turn(
                    row, state, np.array(tree["action"]), self._ahead.to_device(tree["extras"])
                )
            session.record_changes()

        def on_turn(turn: Turn, waits: bool) -> bool | None:
            due = session.after_row(turn.row) or bool(self.source.failing())
            if due and waits:
                session.save(
                    _tree(self.agent, self.source, turn.row, turn.state)
                    | {
                        "action": turn.action,
                        "extras": turn.extras,
                        "acting": self._ahead.state_dict(),
                    }
                )
                session.raise_if_stopping()
                _raise_if_failing(self.source)
            return None if waits and session.ended else due

        if not session.ended:
            steps, count = session.config.train.end, session.decisions.count
            ranks = session.gang.size
            train_in_halves(self._ahead, self.source, turn, steps, on_turn, count, ranks)


def _dropped(env: VectorEnv | Halves) -> list[str]:
    """Return what the user should know about the env's own observations."""
    if env.adaptation is None or not env.adaptation.dropped:
        return []
    return [f"the agent does not see {', '.join(env.adaptation.dropped)}: no network reads it"]


def _raise_if_failing(env: VectorEnv | Halves) -> None:
    """Raise `EnvError` if the envs cannot go on, once a checkpoint has been written."""
    problem = env.failing()
    if problem is not None:
        raise EnvError(problem)


def _tree(agent: Agent, env: VectorEnv | Halves, row: Row, state: State) -> dict[str, Any]:
    """Return a checkpoint's tree for the row that comes next."""
    return {
        "agent": agent.state_dict(),
        "env": env.state_dict(),
        "row": row._asdict(),
        "state": list(state),
    }


def _restore(
    session: TrainingSession, agent: Agent, env: VectorEnv | Halves, tree: dict[str, Any]
) -> tuple[Row, State]:
    """Load a checkpoint's tree; return the row that comes next and the agent's state."""
    row = Row(**{name: np.array(value) for name, value in tree["row"].items()})
    agent.load_state_dict(tree["agent"])
    longest = int(tree["env"]["length"].max())
    with session.task("replay of the running episodes", longest, "steps") as show:

        def on_step(done: int) -> None:
            show(done, "")
            session.raise_if_stopping()

        env.load_state_dict(tree["env"], row, on_step)
    return row, state_on_device(tree["state"], agent.initial_state(env.num_envs))
