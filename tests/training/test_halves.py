"""Training in halves: in a fixed order, by weights of one row before, as with one env of B."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ludus.agents import registry
from ludus.agents.agent import LearnsFromMemory
from ludus.agents.ahead import ActingAhead, joined
from ludus.agents.capture import capture
from ludus.agents.memory.step import Step
from ludus.envs.errors import ConfigError, EnvError, RunError
from ludus.envs.halves import Halves, make_halves
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import Row, VectorEnv
from ludus.training.loop import Turn, train_in_halves
from ludus.training.run import TrainOptions
from ludus.training.train import start_session

ENV, ENVS, STEPS = "FrozenLake-v1", 4, 160
REPLAY = {"learning_starts": 24, "batch_size": 8, "replay_size": 2_000, "target_interval": 7}
CASES = {
    "dqn": REPLAY,
    "rainbow": REPLAY,  # noise of its own for each env
    "r2d2": REPLAY | {"sequence_length": 6, "burn_in": 2, "replay_ratio": 0.25},
    "ppo": {"rollout_length": 8, "epochs": 2, "minibatches": 2},
    "impala": {"rollout_length": 5},  # learns in another thread
    "recurrent_ppo": {"rollout_length": 8, "epochs": 2, "minibatches": 2},
    "pqn": {"rollout_length": 8, "epochs": 2, "minibatches": 2},
}


class _Part:
    """Half of a vector env, which steps once both halves have been sent their actions."""

    def __init__(self, env: VectorEnv, index: int, shared: dict[str, Any]) -> None:
        self._env, self._index, self._shared = env, index, shared
        self.num_envs = env.num_envs // 2
        for name in ("env_id", "protocol", "stack", "observation_space", "action_space"):
            setattr(self, name, getattr(env, name))
        self.adaptation = env.adaptation

    def _own(self, row: Row) -> Row:
        start = self._index * self.num_envs
        return Row(*(x[start : start + self.num_envs].copy() for x in row))

    def reset(self) -> Row:
        if self._index == 0:
            self._shared["row"] = self._env.reset()
        return self._own(self._shared["row"])

    def send(self, actions: np.ndarray) -> None:
        self._shared.setdefault("sent", []).append(actions)
        assert len(self._shared["sent"]) == self._index + 1, "the first half is sent first"
        if self._index == 1:
            self._env.send(np.concatenate(self._shared.pop("sent")))
            self._shared["late"] = self._env.recv()

    def recv(self) -> Row:
        if self._index == 0:
            self._shared["row"] = self._shared.pop("late")
        return self._own(self._shared["row"])


def _agent(name: str, env: Any, seed: int = 3) -> Any:
    config = replace(registry.preset(name, env).config, **CASES[name])
    return registry.build(config, env, device=torch.device("cpu"), seed=seed, steps=STEPS)


def _trained(name: str, env: Any, on_turn: Any = lambda turn, waits: False) -> Any:
    agent = _agent(name, env)
    ahead = ActingAhead(agent)
    capture(agent)
    train_in_halves(ahead, env, None, STEPS, on_turn)
    assert agent.updates > 4
    return agent


@pytest.mark.parametrize("name", CASES)
def test_halves_train_as_one_env_of_both_does(name: str) -> None:
    """Whether the envs are one or two changes nothing: one that steps after both were sent."""
    halves, one = make_halves(ENV, ENVS, 1, EnvOptions()), make(ENV, ENVS, 1)
    shared: dict[str, Any] = {}
    parts = Halves(_Part(one, 0, shared), _Part(one, 1, shared))  # type: ignore[arg-type]
    try:
        ours, theirs = _trained(name, halves), _trained(name, parts)
    finally:
        halves.close()
        one.close()
    for key, value in ours.weights().items():
        assert torch.equal(value, theirs.weights()[key]), key


@pytest.mark.parametrize("name", CASES)
def test_a_naive_loop_ends_with_the_same_weights(name: str) -> None:
    """Act for the next row by the weights from before the updates, then store this one, in order.

    With a memory, these are two agents: one that learns, and one that acts by weights given to it.
    """
    halves = make_halves(ENV, ENVS, 1, EnvOptions())
    try:
        ours = _trained(name, halves)
    finally:
        halves.close()
    env = make(ENV, ENVS, 1)
    learner = _agent(name, env)
    actor = _agent(name, env) if isinstance(learner, LearnsFromMemory) else learner
    parts = slice(0, ENVS // 2), slice(ENVS // 2, None)

    def act(row: Row, state: Any) -> Turn:
        actor.env_steps = learner.env_steps  # for its epsilon
        turns = []
        for envs in parts:
            own = tuple(s[envs] for s in state)
            action, after, extras = actor.act(row.obs[envs], own, row.first[envs], envs)
            turns.append(Turn(Row(*(x[envs] for x in row)), after, action, joined([extras])))
        turn: Turn = joined(turns)
        return turn

    try:
        turn = act(env.reset(), learner.initial_state(ENVS))
        while learner.env_steps < STEPS:
            env.send(turn.action)
            if actor is not learner:
                actor.load_weights({k: v.clone() for k, v in learner.weights().items()})
            learner.learn()
            following = act(env.recv(), turn.state)
            learner.observe(
                Step(
                    obs=turn.row.obs,
                    first=turn.row.first,
                    valid=~turn.row.game_over,
                    action=turn.action,
                    reward=following.row.reward,
                    terminated=following.row.terminated,
                    extras=turn.extras,
                )
            )
            turn = following
    finally:
        env.close()
    assert learner.updates == ours.updates
    for key, value in ours.weights().items():
        torch.testing.assert_close(value, learner.weights()[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dqn", "recurrent_ppo"])
def test_envs_that_wait_for_a_checkpoint_change_nothing(name: str) -> None:
    waited: list[bool] = []

    def every_third(turn: Turn, waits: bool) -> bool:
        waited.append(waits)
        return len(waited) % 3 == 0

    results = []
    for on_turn in (lambda turn, waits: False, every_third):
        halves = make_halves(ENV, ENVS, 1, EnvOptions())
        try:
            results.append(_trained(name, halves, on_turn).weights())
        finally:
            halves.close()
    assert all(waited[i] == (i % 3 == 0) for i in range(1, len(waited) - 3))
    assert waited[-1], "the last row's envs wait, for the last checkpoint"
    for key, value in results[0].items():
        assert torch.equal(value, results[1][key]), key


def test_an_agent_acts_by_the_weights_from_before_a_rows_updates() -> None:
    halves = make_halves(ENV, ENVS, 1, EnvOptions())
    agent = _agent("dqn", halves)
    ahead, seen, weights = ActingAhead(agent), list[torch.Tensor](), list[torch.Tensor]()
    agent.start_from(_agent("dqn", halves, seed=9).weights())
    act, learn = agent.act, agent.learn

    def spy_act(*given: Any) -> Any:
        seen.append(next(agent.learner.actor.acting_network.parameters()).clone())
        return act(*given)

    def spy_learn() -> int:
        weights.append(next(agent.network.parameters()).detach().clone())
        done: int = learn()
        return done

    agent.act, agent.learn = spy_act, spy_learn
    try:
        train_in_halves(ahead, halves, None, STEPS, lambda turn, waits: False)
    finally:
        halves.close()
    assert torch.equal(seen[0], weights[0]), "loaded after the copy was made"
    by_row = seen[2:]  # after the first row, for each of which both halves were acted for
    assert len(by_row) == 2 * len(weights)
    for i, before in enumerate(weights):
        assert torch.equal(by_row[2 * i], before)
        assert torch.equal(by_row[2 * i + 1], before)
    assert not torch.equal(weights[-1], weights[-2])


@pytest.mark.parametrize(
    ("agent", "env", "options", "sentence"),
    [
        ("random", ENV, TrainOptions(halves=True), "acts for all its envs at once"),
        ("sb3:ppo", ENV, TrainOptions(halves=True), "halves are not for sb3:ppo"),
        ("dqn", "CartPole-v1", TrainOptions(halves=True), "halves are for Atari"),
        ("dqn", ENV, TrainOptions(halves=True, num_envs=3), "an even number"),
        ("dqn", "", TrainOptions(halves=True, dataset="x"), "leave them out with a data set"),
    ],
)
def test_what_cannot_play_in_halves_is_refused(
    tmp_path: Any, agent: str, env: str, options: TrainOptions, sentence: str
) -> None:
    with pytest.raises((ConfigError, EnvError, RunError), match=sentence):
        start_session(agent, env, options, EnvOptions(), None, tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())
