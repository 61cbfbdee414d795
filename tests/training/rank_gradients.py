"""What test_ranks.py runs as each rank: the mean gradient is that of the ranks' batches as one.

Each rank plays two envs. The first then builds the same agent for four envs, gives it the rows of
both and asks it for the gradient of both batches.
"""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ludus.agents import registry
from ludus.agents.learner import Learner
from ludus.envs.make import make
from ludus.networks.running_stats import Moments, RewardScale, RunningMeanStd
from ludus.training.gang import Gang, form_gang, join
from ludus.training.loop import train_loop

CPU = torch.device("cpu")
ENVS = 2  # of a rank
SMALL = {"batch_size": 16, "replay_size": 2_000, "learning_starts": 0}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("dqn", "CartPole-v1", SMALL),
    ("rainbow", "CartPole-v1", SMALL),
    ("iqn", "CartPole-v1", SMALL),
    ("r2d2", "CartPole-v1", {**SMALL, "replay_size": 4_000}),
    ("pqn", "CartPole-v1", {"rollout_length": 16, "minibatches": 2}),
    ("pqn", "CartPole-v1", {"rollout_length": 16, "minibatches": 1, "core": "gru"}),
    ("ppo", "CartPole-v1", {"rollout_length": 16, "minibatches": 2}),
    ("ppo", "CartPole-v1", {"rollout_length": 16, "minibatches": 1, "core": "lstm"}),
    ("ppo", "CartPole-v1", {"rollout_length": 16, "minibatches": 2, "normalize_value": True}),
    ("impala", "CartPole-v1", {"rollout_length": 16}),
    ("alphazero", "tic_tac_toe", {**SMALL, "simulations": 4, "fast_simulations": 2}),
]


def concatenated(parts: list[Any], axis: int) -> Any:
    """Return what several ranks have as one, for tensors and tuples of them."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, torch.Tensor):
        return torch.cat(parts, axis) if first.ndim > axis else first
    return type(first)(*(concatenated(list(each), axis) for each in zip(*parts, strict=True)))


def perturb(learner: Learner) -> None:
    """Move the weights away from the target's, the same on every rank."""
    source = torch.Generator().manual_seed(1)
    learner.flat.add_(0.05 * torch.randn(len(learner.flat), generator=source))


def check(gang: Gang, name: str, env_id: str, changes: dict[str, Any]) -> None:
    """Compare the gradient of the ranks with that of one agent with all their rows."""
    first = gang.first_env(ENVS * gang.size)
    env = make(env_id, ENVS, 3, first_env=first)
    config: Any = replace(registry.preset(name, env).config, **changes)
    build = {"device": CPU, "steps": 10_000}
    agent: Any = registry.build(gang.part_of_config(config), env, seed=gang.seed(3), **build)
    join(agent, name, gang)
    learner = agent.learner
    perturb(learner)
    agent.learn = lambda: 0
    full = getattr(agent, "rollout", None)
    rows = 120 if full is None else full.length + 1
    left = iter(range(rows - 1, -1, -1))
    state = agent.initial_state(ENVS)
    train_loop(agent, env, env.reset(), state, 10**9, lambda *_: next(left) > 0)
    whole: Any = None
    if gang.leads:
        every = make(env_id, ENVS * gang.size, 3)
        whole = registry.build(config, every, seed=3, **build)
        perturb(whole.learner)
        assert torch.equal(whole.learner.flat, learner.flat)
        every.close()
    if full is None:
        mine, theirs = replayed(gang, agent, whole)
    else:
        mine, theirs = rolled_out(gang, agent, whole)
    own = agent.gradients(*mine)[1].clone()
    metrics, gradient, *_ = learner.joint_gradients(*mine)
    others = gang.rows.objects(own.tolist())
    assert others[0] != others[1], "the ranks have the same batch"
    if gang.leads:
        wanted_metrics, wanted, *_ = whole.gradients(*theirs)
        error = float((gradient - wanted).norm() / wanted.norm())
        assert error < 1e-6, f"{name} {changes}: {error}"
        near = torch.isclose(metrics, wanted_metrics, rtol=1e-4, atol=1e-5)
        assert name == "impala" or near[:2].all(), f"{name}: {metrics} {wanted_metrics}"
    env.close()


def replayed(gang: Gang, agent: Any, whole: Any) -> tuple[Any, Any]:
    """Return the random inputs of this rank, and of the agent with all their batches."""
    memory = agent.memory
    if getattr(memory, "priorities", None) is not None:
        there = torch.nonzero(memory.priorities.tensors()["leaves"].view(-1)).flatten()
        source = torch.Generator().manual_seed(gang.rows.rank)
        memory.priorities.update(there, torch.rand(len(there), generator=source) + 0.1)
    if hasattr(agent, "randomness"):
        mine = agent.randomness()
    else:
        mine = (memory.uniforms(agent.config.batch_size),)
    if hasattr(mine, "noise"):  # one for all rows of a batch
        mine = mine._replace(noise=torch.tensor(gang.rows.from_first(mine.noise.tolist())))
    alphazero = hasattr(mine, "symmetry")
    batch = memory.gather(mine.indices) if alphazero else memory.sample(mine[0])
    axis = 1 if hasattr(batch, "state") else 0  # of sequences the first is time
    batches, inputs = gang.rows.objects(batch), gang.rows.objects(tuple(mine))
    if not gang.leads:
        return mine, None
    if axis:
        rows = [b._replace(state=(), indices=None, probability=None) for b in batches]
        joined = concatenated(rows, 1)._replace(
            state=tuple(torch.cat(s) for s in zip(*(b.state for b in batches), strict=True)),
            indices=torch.cat([b.indices for b in batches]),
            probability=torch.cat([b.probability for b in batches]),
        )
    else:
        joined = concatenated(batches, 0)
    place = "gather" if alphazero else "sample"
    setattr(whole.memory, place, lambda *_: joined)
    if alphazero:
        indices, symmetry = (torch.cat(each) for each in zip(*(i[:2] for i in inputs), strict=True))
        return mine, (indices, symmetry, joined.weight.sum())
    theirs = [torch.cat([i[0] for i in inputs])]
    if len(mine) > 1:  # noise of the batch; taus of each row, along their last axis
        theirs.append(mine[1])
        theirs += [torch.cat([i[k] for i in inputs], -1) for k in (2, 3)]
        theirs.append(torch.cat([i[4] for i in inputs], mine[4].ndim // 2))  # [K, N, 3], or empty
    return mine, tuple(theirs)


def rolled_out(gang: Gang, agent: Any, whole: Any) -> tuple[Any, Any]:
    """Return this rank's minibatch, and that of the agent with all rollouts."""
    rollout = agent.rollout
    if agent.playing is not rollout:
        rollout.copy_from(agent.playing)
    stored = gang.rows.objects([rollout._stored(), rollout._values])
    agent._set_targets()
    epoch = rollout.epoch()
    epochs = gang.rows.objects(epoch)
    weigh = getattr(agent, "_weigh", None)
    if weigh is None:
        rollout.weigh(epoch, agent.learner.ranks)
    else:
        weigh(epoch)
    if not gang.leads:
        return (epoch[0],), None
    for own, parts in zip(
        whole.rollout._stored(), zip(*(s[0] for s in stored), strict=True), strict=True
    ):
        own.copy_(torch.cat(parts, 1))
    whole.rollout._values.copy_(torch.cat([s[1] for s in stored], 1))
    whole._set_targets()
    every = ENVS * gang.size
    places = []
    for rank, order in enumerate(epochs):
        row = order // ENVS if not rollout.state else 0
        places.append(row * every + rank * ENVS + order % ENVS)
    joined = torch.cat(places, 1)  # [M, ranks * N]
    if weigh is None:
        whole.rollout.weigh(joined)
    else:
        whole._weigh(joined)
    return (epoch[0],), (joined[0],)


def check_statistics(gang: Gang) -> None:
    """Compare running statistics over the ranks with those of all numbers."""
    numbers = np.random.default_rng(0).normal(3.0, 2.0, (4, 50))
    mine = numbers[gang.rows.rank * 2 : gang.rows.rank * 2 + 2]
    ranks, alone = RunningMeanStd(), RunningMeanStd()
    for own, every in zip(mine.T, numbers.T, strict=True):
        ranks.update(own, join=gang.rows.moments)
        alone.update(every)
    ranks.update(mine.flatten() if gang.leads else np.zeros(0), join=gang.rows.moments)
    alone.update(numbers[:2].flatten())
    assert np.allclose([ranks.mean, ranks.variance], [alone.mean, alone.variance], rtol=1e-12)
    assert ranks.count == alone.count
    parts, whole = RewardScale(0.9, 2), RewardScale(0.9, 4)
    no = np.zeros(4, bool)
    for own, every in zip(mine.T, numbers.T, strict=True):
        scaled = parts(own, ~no[:2], no[:2], gang.rows.moments)
        wanted = whole(every, ~no, no)[gang.rows.rank * 2 : gang.rows.rank * 2 + 2]
        assert np.allclose(scaled, wanted, rtol=1e-6)
    pictures = torch.rand(6, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    own = pictures[:2] if gang.leads else pictures[2:]
    mean = own.mean(0)
    joint = gang.rows.moments(Moments(mean, (own - mean).square().mean(), len(own)))
    mean = pictures.mean(0)
    assert torch.allclose(joint.mean, mean)
    assert torch.allclose(joint.variance, (pictures - mean).square().mean())
    assert joint.size == 6


def main() -> None:
    torch.set_num_threads(1)
    gang = form_gang(CPU)
    assert gang.size == 2
    check_statistics(gang)
    for name, env_id, changes in CASES:
        check(gang, name, env_id, changes)
    sys.stdout.write("equal\n")


if __name__ == "__main__":
    main()
