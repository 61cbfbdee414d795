"""Evaluation: full games on seeds that training never sees, unclipped, under the same protocol."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ludus.agents.agent import Player
from ludus.agents.presets import EnvLike
from ludus.envs.board.spiel import is_game
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import VectorEnv
from ludus.evaluation.match import AgentSeat, MatchStopped, PlayerSeat, play_match

HELD_OUT = 1 << 40  # added to an evaluation's seed; training seeds lie below


@runtime_checkable
class MultiThreaded(Protocol):
    """An agent whose network is large although its observations may be small."""

    multithreaded: bool


@contextmanager
def tuned_for(env: EnvLike, agent: object = None) -> Iterator[None]:
    """Torch on a CPU as suits a small network, where observations are below 36 x 36 pixels.

    One thread: two are no faster on a quiet machine, and many times slower on a busy one, where
    each operation waits for a thread that does not get its turn. And numbers below 1e-38, which an
    optimizer's moments fade into, count as 0: they cost the optimizer a fifth of its time.
    """
    threads, flushes = torch.get_num_threads(), float(torch.tensor([1e-40]) * 1.0) == 0.0
    small = np.prod(env.observation_space.shape) < 36 * 36
    if small:
        torch.set_num_threads(threads if isinstance(agent, MultiThreaded) else 1)
        torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if small:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(flushes)


class EvaluationStopped(Exception):
    """An evaluation was given up on before its last game."""


@dataclass(frozen=True)
class Evaluation:
    """The games of one evaluation, in the order of their seeds."""

    returns: list[float]  # unclipped
    lengths: list[int]  # env steps

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))


def evaluate(
    player: Player,
    env_id: str,
    options: EnvOptions,
    *,
    episodes: int,
    seed: int = 0,
    epsilon: float = 0.0,
    num_envs: int = 8,
    stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """Play `episodes` full games and return their scores.

    Env i plays the games i, i + n, i + 2n, ...: a fixed set of games, so that fast ones are not
    counted more often than slow ones. A board game is played against `options.opponent`, all games
    side by side, of which the player begins every second.

    Args:
        player: who plays, without exploration of its own.
        env_id: what is played.
        options: the protocol, as in training.
        episodes: games, 1 or more.
        seed: of the held-out set.
        epsilon: probability of a random action; 0 is the deterministic policy.
        num_envs: games at the same time; with `seed` it fixes which games are played.
        stop: asked at every step; the evaluation is given up on where it says so.

    Raises:
        EvaluationStopped: `stop` said so.
    """
    if is_game(env_id):
        return _match(player, env_id, options, episodes, seed, epsilon, stop)
    env = make(env_id, min(num_envs, episodes), seed + HELD_OUT, options)
    env.action_space.seed(seed)
    generator = np.random.default_rng([seed, 3])
    try:
        with tuned_for(env, player):
            return _play(player, env, episodes, generator, epsilon, stop)
    finally:
        env.close()


def _match(
    player: Player,
    game: str,
    options: EnvOptions,
    games: int,
    seed: int,
    epsilon: float,
    stop: Callable[[], bool] | None,
) -> Evaluation:
    opponent = PlayerSeat(options.opponent or "random", game, games, seed)
    own = AgentSeat(player, deterministic=True, epsilon=epsilon, seed=seed)
    probe = make(game, 1)
    try:
        with tuned_for(probe, player):
            match = play_match((own, opponent), game, games, seed=seed + HELD_OUT, stop=stop)
    except MatchStopped:
        raise EvaluationStopped from None
    finally:
        probe.close()
    return Evaluation(match.returns, match.lengths)


def _play(
    player: Player,
    env: VectorEnv,
    episodes: int,
    generator: np.random.Generator,
    epsilon: float,
    stop: Callable[[], bool] | None,
) -> Evaluation:
    count = env.num_envs
    quota = np.array([len(range(i, episodes, count)) for i in range(count)])
    scores: list[list[tuple[float, int]]] = [[] for _ in range(count)]
    row, state = env.reset(), None
    done = 0
    while done < episodes:
        if stop is not None and stop():
            raise EvaluationStopped
        actions, state = player.predict(row.obs, state, row.first, deterministic=True)
        for i in np.flatnonzero(generator.random(count) < epsilon) if epsilon else ():
            actions[i] = env.action_space.sample()
        env.send(actions)
        row = env.recv()
        for i in np.flatnonzero(row.game_over):
            if len(scores[i]) < quota[i]:
                scores[i].append((float(row.episode_return[i]), int(row.episode_length[i])))
                done += 1
    ordered = [scores[game % count][game // count] for game in range(episodes)]
    return Evaluation([r for r, _ in ordered], [n for _, n in ordered])
