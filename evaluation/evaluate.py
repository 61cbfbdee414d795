"""Evaluation: full games on held-out seeds, unclipped, under the protocol of the training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ludus.agents.agent import EnvLike, MultiThreaded, Player
from ludus.envs.action_mask import legal_mask, mix_random_actions
from ludus.envs.board.spiel import is_game
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import Backend, BackendStep, VectorEnv
from ludus.evaluation.match import AgentSide, FixedSide, MatchStopped, play_match
from ludus.evaluation.perturbation import Perturber

HELD_OUT_SEEDS = 1 << 40  # added to an evaluation's seed; training seeds lie below

MAX_EPISODE_STEPS = 108_000  # of a game in an env that has no limit of its own


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
    limit: int | None = None  # env steps after which a game was truncated; None for the env's own
    truncated: int = 0  # number of games that reached it

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
    max_episode_steps: int = 0,
    perturb: Perturber | None = None,
    stop: Callable[[], bool] | None = None,
    on_step: Callable[[int, int], None] | None = None,
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
        max_episode_steps: env steps after which a game is truncated; see `step_limit`. Board games
            end by their rules.
        perturb: changes what the player observes; not for board games, see `perturbed_frame`.
        stop: called at every step; return True to abort.
        on_step: called at every step with the games that have ended and the env steps so far. Board
            games count as ended once all have.

    Raises:
        EvaluationStopped: `stop` returned True.
    """
    if is_game(env_id):
        return _match(player, env_id, options, episodes, seed, epsilon, stop, on_step)
    env = make(env_id, min(num_envs, episodes), seed + HELD_OUT_SEEDS, options)
    generator = np.random.default_rng([seed, 3])
    limit = step_limit(env.protocol, max_episode_steps)
    if limit is not None:
        env.backend = _StepLimit(env.backend, limit)
    try:
        with torch_settings(env, player):
            return _play(player, env, episodes, generator, epsilon, limit, perturb, stop, on_step)
    finally:
        env.close()


def step_limit(protocol: dict[str, Any], max_episode_steps: int = 0) -> int | None:
    """Return the env steps after which an evaluation truncates a game; None for the env's own.

    Args:
        protocol: of the env.
        max_episode_steps: the limit; 0 for `MAX_EPISODE_STEPS` if the env has none of its own.
    """
    kind = protocol.get("kind")
    if kind == "board":
        return None
    has_limit = kind == "atari" or protocol.get("max_episode_steps")
    return max_episode_steps or (None if has_limit else MAX_EPISODE_STEPS)


def without_limit(env_id: str, limit: int, option: str) -> str:
    """Return a sentence on an env without a time limit, which names the option that sets one."""
    return (
        f"{env_id} has no time limit; an evaluation truncates a game after {limit:,} steps, which "
        f"--{option} changes"
    )


def truncated_games(result: Evaluation) -> str:
    """Return a sentence on the games that reached the limit."""
    return (
        f"{result.truncated} of {len(result.returns)} games of the evaluation reached "
        f"{result.limit:,} steps and were truncated"
    )


class _StepLimit:
    """A backend that truncates games after `limit` steps."""

    def __init__(self, backend: Backend, limit: int) -> None:
        self._backend, self._limit = backend, limit
        self.num_envs, self.action_names = backend.num_envs, backend.action_names
        self.observation_space, self.action_space = backend.observation_space, backend.action_space
        self.render, self.close, self.send = backend.render, backend.close, backend.send
        self._length = np.zeros(backend.num_envs, np.int64)

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true."""
        self._length[mask] = 0
        return self._backend.reset(mask, seeds)

    def recv(self) -> BackendStep:
        """Return the result of the step, truncated at the limit."""
        step = self._backend.recv()
        self._length += 1
        at_limit = (self._length >= self._limit) & ~step.terminated
        return step._replace(truncated=step.truncated | at_limit)


def _match(
    player: Player,
    game: str,
    options: EnvOptions,
    games: int,
    seed: int,
    epsilon: float,
    stop: Callable[[], bool] | None,
    on_step: Callable[[int, int], None] | None,
) -> Evaluation:
    moves = 0

    def on_move() -> bool:
        nonlocal moves
        if on_step is not None:
            on_step(0, moves * games)
        moves += 1
        return stop is not None and stop()

    opponent = FixedSide(options.opponent or "random", game, games, seed)
    own = AgentSide(player, deterministic=True, epsilon=epsilon, seed=seed)
    probe = make(game, 1)
    try:
        with torch_settings(probe, player):
            sides = (own, opponent)
            match = play_match(sides, game, games, seed=seed + HELD_OUT_SEEDS, stop=on_move)
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
    limit: int | None,
    perturb: Perturber | None,
    stop: Callable[[], bool] | None,
    on_step: Callable[[int, int], None] | None,
) -> Evaluation:
    count = env.num_envs
    # games that count for each env: an env that is done goes on playing, without being counted
    quota = np.array([len(range(i, episodes, count)) for i in range(count)])
    scores: list[list[tuple[float, int]]] = [[] for _ in range(count)]
    row, state = env.reset(), None
    done = steps = truncated = 0
    while done < episodes:
        if stop is not None and stop():
            raise EvaluationStopped
        seen = row.obs
        if perturb is not None:
            seen = perturb(row.obs, state, row.first, env.episode_seeds)
        actions, state = player.predict(seen, state, row.first, deterministic=True)
        legal = legal_mask(env.observation_space, row.obs)
        actions = mix_random_actions(actions, epsilon, env.action_space, generator, legal)
        env.send(actions)
        row = env.recv()
        steps += count
        if on_step is not None:
            on_step(done, steps)
        for i in np.flatnonzero(row.game_over):
            if len(scores[i]) < quota[i]:
                scores[i].append((float(row.episode_return[i]), int(row.episode_length[i])))
                done += 1
                truncated += bool(row.truncated[i] and row.episode_length[i] == limit)
    ordered = [scores[game % count][game // count] for game in range(episodes)]
    return Evaluation([r for r, _ in ordered], [n for _, n in ordered], limit, truncated)
