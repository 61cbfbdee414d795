"""The training loop: act, send, learn while the env works, receive, observe."""

from collections.abc import Callable

import numpy as np

from ludus.agents.agent import Agent, Step
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
        agent: acts, observes and learns at its own cadence.
        env: the stream.
        row: where the stream stands, from `env.reset` or a checkpoint.
        state: the agent's state there.
        steps: env steps, those already taken included.
        on_step: called after each step with where the stream stands; False ends the loop.
        rivals: of a board game, who make some of the moves; None for none.
    """
    while agent.env_steps < steps:
        action, state, extras = agent.act(row.obs, state, row.first, explore=True)
        chosen_by_agent: np.ndarray | bool = True
        if rivals is not None:
            action, chosen_by_agent = rivals.replace_actions(row, action)
        env.send(action)
        agent.learn()  # on what was observed up to this row, while the env works
        following = env.recv()
        agent.observe(
            Step(
                obs=row.obs,
                first=row.first,
                valid=~row.game_over,
                action=action,
                reward=following.reward,
                terminated=following.terminated,
                extras=extras,
                discount_sign=following.discount_sign,
                chosen_by_agent=chosen_by_agent,
            )
        )
        row = following
        if rivals is not None:
            rivals.update_pool(agent)
        if not on_step(row, state):
            return
