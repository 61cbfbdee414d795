"""The training loop: act, send, learn while the env works, receive, observe."""

from collections.abc import Callable

import numpy as np

from ludus.agents.agent import Agent
from ludus.agents.memory.step import Step
from ludus.envs.vector import Row, VectorEnv
from ludus.evaluation.rivals import Rivals
from ludus.networks.cores import State


def train_loop(
    agent: Agent,
    env: VectorEnv,
    row: Row,
    state: State,
    steps: int,
    on_step: Callable[[Row, State], bool],
    rivals: Rivals | None = None,
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
    """
    while agent.env_steps < steps:
        action, state, extras = agent.act(row.obs, state, row.first)
        chosen_by_agent: np.ndarray | bool = True
        if rivals is not None:
            action, chosen_by_agent = rivals.replace_actions(row, action)
        env.send(action)
        agent.learn()  # from the rows up to this one, while the env works
        next_row = env.recv()
        agent.observe(
            Step(
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
        )
        row = next_row
        if rivals is not None:
            rivals.update_pool(agent)
        if not on_step(row, state):
            return
