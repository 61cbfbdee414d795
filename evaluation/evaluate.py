"""Evaluation: full games on held-out seeds, unclipped, under the protocol of the training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ludus.agents.agent import EnvLike, MultiThreaded, Player
from ludus.envs.action_mask import legal_mask, random_actions
from ludus.envs.board.spiel import is_game
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import VectorEnv
from ludus.evaluation.match import AgentSide, FixedSide, MatchStopped, play_match

HELD_OUT_SEEDS = 1 << 40  # added to an evaluation's seed; training seeds lie below


@contextmanager
def torch_settings(env: EnvLike, agent: object = None) -> Iterator[None]:
    """Set torch's CPU options for the size of a network, and restore them on exit.

    With observations below 36 x 36 numbers, torch uses one thread and flushes denormal numbers to
    0. Two threads are not faster for such a network, and many times slower on a busy machine, where
    each operation waits for the other thread to be scheduled. Denormals, which an optimizer's
    moments decay to, cost the optimizer a fifth of its time.

    Args:
        env: the env or data set whose observations the network gets.
        agent: keeps its threads if it is `MultiThreaded`.
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
    """Raised when an evaluation is aborted before its last game."""


@dataclass(frozen=True)
class Evaluation:
    """Results of one evaluation, in the order of the games."""

    returns: list[float]  # unclipped
    lengths: list[int]  # env steps

    @property
    def mean(self) -> float:
        """Return the mean return."""
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
    """Play `episodes` full games with the deterministic policy and return their scores.

    Env i plays games i, i + n, i + 2n, ...: the set of games is fixed, so that short games are not
    counted more often than long ones. A board game is played against `options.opponent`, all games
    in one batch; the player moves first in every second game.

    Args:
        player: the agent.
        env_id: id of the env.
        options: protocol of the env, as in training.
        episodes: number of games, 1 or more.
        seed: seed of the set of games, among the held-out seeds.
        epsilon: probability of a random action.
        num_envs: number of parallel envs; with `seed` it determines which games are played.
        stop: called at every step; return True to abort.

    Raises:
        EvaluationStopped: `stop` returned True.
    """
    if is_game(env_id):
        return _match(player, env_id, options, episodes, seed, epsilon, stop)
    env = make(env_id, min(num_envs, episodes), seed + HELD_OUT_SEEDS, options)
    generator = np.random.default_rng([seed, 3])
    try:
        with torch_settings(env, player):
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
    opponent = FixedSide(options.opponent or "random", game, games, seed)
    own = AgentSide(player, deterministic=True, epsilon=epsilon, seed=seed)
    probe = make(game, 1)
    try:
        with torch_settings(probe, player):
            match = play_match((own, opponent), game, games, seed=seed + HELD_OUT_SEEDS, stop=stop)
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
    # games that count for each env: an env that is done goes on playing, without being counted
    quota = np.array([len(range(i, episodes, count)) for i in range(count)])
    scores: list[list[tuple[float, int]]] = [[] for _ in range(count)]
    row, state = env.reset(), None
    done = 0
    while done < episodes:
        if stop is not None and stop():
            raise EvaluationStopped
        actions, state = player.predict(row.obs, state, row.first, deterministic=True)
        if epsilon:
            explore = generator.random(count) < epsilon
            legal = legal_mask(env.observation_space, row.obs)
            random = random_actions(env.action_space, count, generator, legal)
            actions = np.where(explore.reshape(count, *[1] * (actions.ndim - 1)), random, actions)
        env.send(actions)
        row = env.recv()
        for i in np.flatnonzero(row.game_over):
            if len(scores[i]) < quota[i]:
                scores[i].append((float(row.episode_return[i]), int(row.episode_length[i])))
                done += 1
    ordered = [scores[game % count][game // count] for game in range(episodes)]
    return Evaluation([r for r, _ in ordered], [n for _, n in ordered])
