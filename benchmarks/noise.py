"""Compare what noisy layers change of an agent's action values with what observations change.

python benchmarks/noise.py RUN RUN ...

Prints for each run the standard deviation of its advantages, Q minus its mean over the actions,
over 1,000 observations of random play without noise, and over 50 samples of noise, each as the mean
over all else; and the share of these observations that have the most frequent greedy action.
RUN@0 is the untrained network.
"""

import argparse
from contextlib import closing

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

import ludus
from ludus.agents.dqn import DQN
from ludus.envs.make import make
from ludus.networks.heads import HeadNoise, Streams
from ludus.training.trained_agent import TrainedAgent

ENVS, STEPS, EVERY = 4, 2_500, 10  # of random play; one row in 10 is kept
SAMPLES = 50  # of noise


def observations(trained: TrainedAgent) -> Tensor:
    """Return observations [1,000, *obs] of random play in the env of a training."""
    kept, rng = [], np.random.default_rng(0)
    with closing(make(trained.config.env, ENVS, 0, trained.config.options)) as env:
        assert isinstance(env.action_space, spaces.Discrete)
        row = env.reset()
        for step in range(STEPS):
            if step % EVERY == 0:
                kept.append(row.obs.copy())
            env.send(rng.integers(env.action_space.n, size=ENVS))
            row = env.recv()
    return torch.from_numpy(np.concatenate(kept))


@torch.inference_mode()
def advantages(agent: DQN, obs: Tensor, noise: Tensor | None) -> Tensor:
    """Return Q minus its mean over the actions, [N, A], of observations [N, *obs]."""
    first = torch.zeros(1, len(obs), dtype=torch.bool)
    out, _ = agent.network(obs.unsqueeze(0), (), first, HeadNoise(layers=noise))
    q: Tensor = out.q[0]
    return q - q.mean(1, keepdim=True)


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN")
    for run in parser.parse_args().runs:
        trained = ludus.load(run)
        agent = trained.algorithm
        assert isinstance(agent, DQN)
        assert agent.config.noisy, f"{run} has no noisy layers"
        obs = observations(trained)
        plain = advantages(agent, obs, None)  # [N, A]
        streams = agent.network.head.streams
        assert isinstance(streams, Streams)
        noise = torch.randn(SAMPLES, streams.noise_size, generator=torch.Generator().manual_seed(0))
        noisy = torch.stack([advantages(agent, obs, each) for each in noise])  # [SAMPLES, N, A]
        most = plain.argmax(1).bincount().max() / len(obs)
        print(
            f"{run}: {plain.std(0).mean():.4f} over observations, {noisy.std(0).mean():.4f} over "
            f"noise, most frequent action {most:.0%}"
        )


if __name__ == "__main__":
    main()
