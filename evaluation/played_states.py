"""States of held-out games that an agent plays, with what its network makes of each."""

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from PIL import Image
from torch import Tensor

from ludus.agents.agent import Advice, Advisor, HasNetwork, Searching
from ludus.envs.action_mask import legal_mask, mix_random_actions
from ludus.envs.board import spiel
from ludus.envs.board.game import BOARD
from ludus.envs.dict_observation import PackedDict
from ludus.envs.errors import RunError
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import VectorEnv
from ludus.evaluation.evaluate import HELD_OUT_SEEDS, torch_settings
from ludus.networks.network import Network

_ENVS = 8  # games at a time
_BATCH = 256  # states in one forward pass
_FRAME = 160  # pixels of the longer side of a kept frame, at most
_ACTIONS = 6  # of each state whose numbers are kept, the best


@runtime_checkable
class Explainable(HasNetwork, Advisor, Protocol):
    """An agent whose network can be inspected, and that assesses states."""


class ActionScore(NamedTuple):
    """An action of one state, and its probability or value."""

    name: str
    score: float


class PlayedStates(NamedTuple):
    """N different states of games, in the order in which they were played."""

    frames: np.ndarray  # [N, height, width, 3] uint8, reduced
    obs: np.ndarray  # [N, *obs]
    features: np.ndarray  # [N, dim] float32, the encoder's output
    value: np.ndarray  # [N] expected return; of a board game that of the player to move
    chosen: list[str]  # [N] names of the agent's actions
    actions: list[list[ActionScore]]  # [N] the best actions, best first; empty if continuous
    scores_are_values: bool  # else probabilities
    game: np.ndarray  # [N] int64, number of the game
    step: np.ndarray  # [N] int64, env steps of the game before the state


class _KeptState(NamedTuple):
    """One state before its features are computed."""

    frame: np.ndarray
    obs: np.ndarray
    value: float
    chosen: str
    actions: list[ActionScore]
    game: int
    step: int


def require_explainable(agent: object, name: str) -> Explainable:
    """Return an agent whose network can be explained.

    Raises:
        RunError: it has no network, or one of another library.
    """
    if isinstance(agent, Explainable):
        return agent
    reason = "a network of Stable-Baselines3" if name.startswith("sb3:") else "no network"
    raise RunError(f"the agent {name} has {reason}; explain needs a run of another agent of Ludus")


def encoder_input(agent: object, space: spaces.Box, obs: Tensor) -> Tensor:
    """Return the part of observations [N, *obs] that the encoder of an agent gets."""
    if isinstance(agent, Searching) and isinstance(space, PackedDict):
        return space.part(obs, BOARD)  # a search keeps the moves and the mask for itself
    return obs


@torch.no_grad()
def features_of(agent: Explainable, space: spaces.Box, obs: np.ndarray) -> np.ndarray:
    """Return the encoder's output for observations [N, *obs], [N, dim] float32."""
    network: Network[Any] = agent.network
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(obs), _BATCH):
        batch = torch.from_numpy(obs[start : start + _BATCH]).to(device)
        output = network.encoder(encoder_input(agent, space, batch))
        parts.append(output.to(torch.float32).cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def assess(
    agent: Explainable, space: spaces.Box, obs: np.ndarray, state: Any, first: np.ndarray
) -> tuple[Advice, Any]:
    """Return what the network says of obs [B, *obs], and the next state of the agent.

    It is `advise`, but for agents that search: they answer by their network alone.
    """
    if not isinstance(agent, Searching):
        return agent.advise(obs, state, first)
    device = next(agent.network.parameters()).device
    packed = torch.from_numpy(obs).to(device)
    logits, value = agent.forward(encoder_input(agent, space, packed))
    assert isinstance(space, PackedDict)
    legal = space.legal_actions(packed)
    assert legal is not None
    # at the end of a game no move is legal, and the answer is not used
    logits = logits.masked_fill(~legal & legal.any(1, keepdim=True), -torch.inf)
    policy = logits.softmax(1).cpu().numpy()
    return Advice(policy.argmax(1), value.cpu().numpy(), None, policy), state


def play_states(
    agent: Explainable,
    env_id: str,
    options: EnvOptions,
    *,
    count: int,
    every: int,
    seed: int,
    epsilon: float,
    on_step: Callable[[int], None] = lambda steps: None,
) -> PlayedStates:
    """Play held-out games and keep their last states, each different one once.

    Args:
        agent: plays; it moves for both sides of a board game.
        env_id: id of the env.
        options: protocol of the env, as in training.
        count: states to keep, N at most.
        every: env steps of a game between two states that are kept.
        seed: of the games and of the random actions.
        epsilon: probability of a random action.
        on_step: called with the env steps so far, of `steps_of_states`.

    Raises:
        RunError: no state was reached that the agent acts in.
    """
    env = make(env_id, _ENVS, seed + HELD_OUT_SEEDS, options, render=True)
    try:
        with torch_settings(env, agent):
            kept = _play(agent, env, env_id, count, every, seed, epsilon, on_step)
            space = env.observation_space
            if not kept:
                raise RunError(f"no state of {env_id} was reached in which the agent acts")
            obs = np.stack([each.obs for each in kept])
            return PlayedStates(
                frames=np.stack([each.frame for each in kept]),
                obs=obs,
                features=features_of(agent, space, obs),
                value=np.array([each.value for each in kept]),
                chosen=[each.chosen for each in kept],
                actions=[each.actions for each in kept],
                scores_are_values=_gives_values(agent, space, obs[:1]),
                game=np.array([each.game for each in kept]),
                step=np.array([each.step for each in kept]),
            )
    finally:
        env.close()


def steps_of_states(count: int, every: int) -> int:
    """Return the env steps that `play_states` takes."""
    return -(-count * every // _ENVS) * _ENVS


def _gives_values(agent: Explainable, space: spaces.Box, obs: np.ndarray) -> bool:
    return assess(agent, space, obs, None, np.ones(1, bool))[0].probability is None


def _play(
    agent: Explainable,
    env: VectorEnv,
    env_id: str,
    count: int,
    every: int,
    seed: int,
    epsilon: float,
    on_step: Callable[[int], None],
) -> list[_KeptState]:
    """Return the last different states."""
    generator = np.random.default_rng([seed, 5])
    kept, known = deque[_KeptState](maxlen=count), set[bytes]()
    moves = _Moves(env, env_id)
    row, state = env.reset(), None
    games, next_game = np.arange(_ENVS), _ENVS  # numbers of the running games
    for taken in range(-(-count * every // _ENVS)):
        on_step(taken * _ENVS)
        legal = legal_mask(env.observation_space, row.obs)
        advice, state = assess(agent, env.observation_space, row.obs, state, row.first)
        for i in map(int, np.flatnonzero(~row.game_over)) if taken % every == 0 else ():
            name = row.obs[i].tobytes()
            if name not in known:
                known.add(name)
                kept.append(
                    _KeptState(
                        frame=reduced(env.render(i), kept[0].frame.shape if kept else None, _FRAME),
                        obs=row.obs[i].copy(),
                        value=float(advice.value[i]),
                        chosen=moves.name(i, advice.action[i]),
                        actions=_scores(moves, i, advice, None if legal is None else legal[i]),
                        game=int(games[i]),
                        step=int(row.episode_length[i]),
                    )
                )
        actions = mix_random_actions(advice.action, epsilon, env.action_space, generator, legal)
        env.send(actions)
        moves.follow(actions, row.game_over)
        for i in map(int, np.flatnonzero(row.game_over)):
            games[i], next_game = next_game, next_game + 1
        row = env.recv()
    return list(kept)


def _scores(
    moves: "_Moves", index: int, advice: Advice, legal: np.ndarray | None
) -> list[ActionScore]:
    """Return the best legal actions of env `index`, the best first."""
    scores = advice.q if advice.probability is None else advice.probability
    if scores is None:
        return []
    row = np.nan_to_num(scores[index], nan=-np.inf)
    row = row if legal is None or len(legal) != len(row) else np.where(legal, row, -np.inf)
    best = np.argsort(-row, kind="stable")[:_ACTIONS]
    return [
        ActionScore(moves.name(index, moves.first_action + int(a)), float(row[a]))
        for a in best
        if np.isfinite(row[a])
    ]


class _Moves:
    """Names of the actions of B envs; in a board game a name depends on the position."""

    def __init__(self, env: VectorEnv, env_id: str) -> None:
        space = env.action_space
        self._discrete = isinstance(space, spaces.Discrete)
        self.first_action = int(space.start) if isinstance(space, spaces.Discrete) else 0
        self._names = tuple(env.action_names)
        self._rules = spiel.load(env_id) if spiel.is_game(env_id) else None
        self._positions = [self._start() for _ in range(env.num_envs)]

    def _start(self) -> Any:
        return None if self._rules is None else self._rules.new_initial_state()

    def name(self, index: int, action: Any) -> str:
        """Return the name of an action of env `index`, as the env numbers it."""
        position = self._positions[index]
        if not self._discrete:
            return " ".join(f"{x:.3g}" for x in np.atleast_1d(action).ravel()[:_ACTIONS])
        if position is not None:
            return str(position.action_to_string(position.current_player(), int(action)))
        number = int(action) - self.first_action
        return self._names[number].lower() if number < len(self._names) else str(number)

    def follow(self, actions: np.ndarray, over: np.ndarray) -> None:
        """Take the actions [B]; a game that was over begins again."""
        for i, position in enumerate(self._positions):
            if position is not None and not over[i]:
                position.apply_action(int(actions[i]))
            elif position is not None:
                self._positions[i] = self._start()


def reduced(picture: np.ndarray, shape: tuple[int, ...] | None, longest: int) -> np.ndarray:
    """Reduce a picture to `shape`; without one, to `longest` pixels a side at most."""
    height, width = picture.shape[:2]
    if shape is None:
        scale = min(1.0, longest / max(height, width))
        shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    if picture.shape[:2] == shape[:2]:
        return picture.copy()
    small = Image.fromarray(picture).resize((shape[1], shape[0]), Image.Resampling.BOX)
    return np.asarray(small)
