"""The training loop: act, send, learn while the env works, receive, observe.

With envs in two halves the agent acts for one half while the other plays, and `train_in_halves`
sends, learns, receives and acts, and then observes the row before.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ludus.agents.agent import Agent
from ludus.agents.ahead import ActingAhead, joined
from ludus.agents.memory.step import Extras, Step
from ludus.envs.halves import Halves
from ludus.envs.vector import Row, VectorEnv
from ludus.evaluation.rivals import Rivals
from ludus.networks.cores import State


def _own(env_steps: int) -> int:
    return env_steps


def train_loop(
    agent: Agent,
    env: VectorEnv,
    row: Row,
    state: State,
    steps: int,
    on_step: Callable[[Row, State], bool],
    rivals: Rivals | None = None,
    count: Callable[[int], int] = _own,
) -> None:
    """Train until the agent has taken `steps` env steps.

    Args:
        agent: acts, observes and learns.
        env: the env.
        row: the current row of the stream, from `env.reset` or a checkpoint.
        state: the agent's recurrent state before that row.
        steps: env steps, including those already taken.
        on_step: called after each step with the new row and state; return False to end the loop.
        rivals: make some of the moves of a board game; None for none.
        count: takes this process's env steps of a row, returns those of all ranks.
    """
    while agent.env_steps < steps:
        action, state, extras = agent.act(row.obs, state, row.first)
        chosen_by_agent: np.ndarray | bool = True
        if rivals is not None:
            action, chosen_by_agent = rivals.replace_actions(row, action)
        env.send(action)
        agent.learn()  # from the rows up to this one, while the env works
        next_row = env.recv()
        _observe(agent, _step(row, action, extras, next_row, chosen_by_agent), count)
        row = next_row
        if rivals is not None:
            rivals.update_pool(agent)
        if not on_step(row, state):
            return


def _observe(agent: Agent, step: Step, count: Callable[[int], int]) -> None:
    """Let the agent store a row, and count the env steps of all ranks: schedules are the same."""
    before = agent.env_steps
    agent.observe(step)
    agent.env_steps = before + count(agent.env_steps - before)


def _step(
    row: Row,
    action: np.ndarray,
    extras: Extras,
    next_row: Row,
    chosen_by_agent: np.ndarray | bool = True,
) -> Step:
    return Step(
        obs=row.obs,
        first=row.first,
        valid=~row.game_over,
        action=action,
        reward=next_row.reward,
        terminated=next_row.terminated,
        extras=extras,
        discount_sign=next_row.discount_sign,
        chosen_by_agent=chosen_by_agent,
        next_obs=next_row.obs,
        next_first=next_row.first,
    )


class Turn(NamedTuple):
    """A row of the stream with what the agent does there."""

    row: Row
    state: State  # the agent's after the row
    action: np.ndarray  # [B, *action]
    extras: Extras


def train_in_halves(
    ahead: ActingAhead,
    env: Halves,
    turn: Turn | None,
    steps: int,
    on_turn: Callable[[Turn, bool], bool | None],
    count: Callable[[int], int] = _own,
    ranks: int = 1,
) -> None:
    """Train until the agent has taken `steps` env steps, acting for one half while the other plays.

    The agent's calls have a fixed order, so that results depend on no clock.

    Args:
        ahead: the agent.
        env: the env.
        turn: the current one, from a checkpoint; None to begin.
        steps: env steps, including those already taken.
        on_turn: called after each step with the new turn and whether the envs wait for its actions,
            as they must in a checkpoint; return whether they are to wait after the next step, None
            to end the loop.
        count: see `train_loop`.
        ranks: processes that train together, each with as many envs.
    """
    agent, waits = ahead.agent, turn is not None
    wait: bool | None = False
    state = agent.initial_state(env.num_envs)
    ahead.begin(None if turn is None else turn.row.obs)
    if turn is None:
        first_rows = [half.reset() for half in env.halves]
        turn = _act_in_halves(ahead, env, first_rows, state, send=True)
    while agent.env_steps < steps and wait is not None:
        if waits:
            env.send(turn.action)
        ahead.learn()
        waits = wait or agent.env_steps + ranks * env.num_envs >= steps
        # each half is received when its turn comes
        rows = (half.recv() for half in env.halves)
        following = _act_in_halves(ahead, env, rows, turn.state, send=not waits)
        _observe(agent, _step(turn.row, turn.action, turn.extras, following.row), count)
        turn = following
        wait = on_turn(turn, waits)


def _act_in_halves(
    ahead: ActingAhead, env: Halves, rows: Iterable[Row], state: State, *, send: bool
) -> Turn:
    """Act for the row of one half, then for that of the other; send the actions of each at once."""
    turns = []
    with ahead.acting():
        for row, half, envs in zip(rows, env.halves, env.parts, strict=True):
            before = tuple(s[envs] for s in state)
            action, after, extras = ahead.agent.act(row.obs, before, row.first, envs)
            if send:
                half.send(action)
            # a copy, because the next call may overwrite what it holds
            turns.append(Turn(row, after, action, joined([extras])))
        turn: Turn = joined(turns)
    ahead.hand_over(turn.extras)
    return turn
