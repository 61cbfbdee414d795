"""Playback: a trained agent plays one env, step by step, with its values, images and saliency."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from ludus.agents.agent import Advice, Advisor, Player
from ludus.envs.action_mask import legal_mask, random_actions
from ludus.envs.board import spiel
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import Row
from ludus.evaluation.evaluate import HELD_OUT_SEEDS
from ludus.evaluation.saliency import NetworkInspector, Saliency

# env steps per second; Atari runs at 60 frames, 4 of them for each action
_SPEEDS = {"atari": 15, "minatar": 10, "board": 1}
_DEFAULT_SPEED = 30


class Decision(NamedTuple):
    """An agent's decision for one observation."""

    action: np.ndarray  # [*action], to be taken
    advice: Advice | None  # for one env; None if the agent is not an `Advisor`
    state: Any  # the agent's state after this observation


class Playback:
    """One env that an agent or a person plays; both sides of a board game.

    Args:
        player: the agent.
        env_id: id of the env.
        options: protocol of the env, as in training.
        seed: seed of the held-out games, as in `evaluate`.
        epsilon: probability of a random action.
    """

    def __init__(
        self,
        player: Player,
        env_id: str,
        options: EnvOptions,
        seed: int = 0,
        epsilon: float = 0.0,
    ) -> None:
        self.player, self._epsilon = player, epsilon
        self._env = make(env_id, 1, seed + HELD_OUT_SEEDS, options, render=True)
        self._generator = np.random.default_rng([seed, 4])
        self.speed = _SPEEDS.get(self._env.protocol["kind"], _DEFAULT_SPEED)
        """env steps per second at which a person would play it"""
        space = self._env.action_space
        count = int(space.n) if isinstance(space, spaces.Discrete) else 0
        self.first_action = int(space.start) if isinstance(space, spaces.Discrete) else 0
        names = self._env.action_names
        self.action_names = names if len(names) == count else tuple(map(str, range(count)))
        """names of discrete actions; empty for other action spaces"""
        self.observation_space, self.stack = self._env.observation_space, self._env.stack
        self.inspector = NetworkInspector(player, self.observation_space)
        self._position: Any = None
        if spiel.is_game(env_id):
            self._position = spiel.load(env_id).new_initial_state()
        self.row: Row = self._env.reset()
        self._state: Any = None
        self._decision: Decision | None = None

    def decision(self) -> Decision:
        """Return the agent's decision for the current row; computed once for each row."""
        if self._decision is None:
            row, advice = self.row, None
            if isinstance(self.player, Advisor):
                advice, state = self.player.advise(row.obs, self._state, row.first)
                action = advice.action[0]
            else:
                actions, state = self.player.predict(
                    row.obs, self._state, row.first, deterministic=True
                )
                action = actions[0]
            if self._epsilon and self._generator.random() < self._epsilon:
                env = self._env
                legal = legal_mask(env.observation_space, row.obs)
                action = random_actions(env.action_space, 1, self._generator, legal)[0]
            self._decision = Decision(action, advice, state)
        return self._decision

    def step(self, action: np.ndarray | int | None = None) -> Row:
        """Take the agent's action, or a given one, which leaves the agent's state as it is."""
        if action is None:
            chosen, _, self._state = self.decision()
        else:
            chosen = np.asarray(action)
        self._decision = None
        if self._position is not None:
            self._position.apply_action(int(chosen))
        self._env.send(np.asarray(chosen)[None])
        self.row = self._env.recv()
        return self.row

    def legal_actions(self) -> list[int]:
        """Return the discrete actions that are legal now, numbered from 0."""
        if self._position is None:
            return list(range(len(self.action_names)))
        return list(self._position.legal_actions())

    def action_name(self, action: int) -> str:
        """Return the name of an action, numbered from 0; of a board game, in this position."""
        if self._position is None:
            return self.action_names[action]
        return str(self._position.action_to_string(self._position.current_player(), action))

    @property
    def value_sign(self) -> float:
        """Return the factor that turns the mover's value into that of the first player: 1 or -1."""
        state = self._position
        second = state is not None and spiel.side_of(state, state.current_player()) == 1
        return -1.0 if second else 1.0

    def discard_decision(self) -> None:
        """Decide again: the agent's weights have changed."""
        self._decision = None

    def picture(self) -> np.ndarray:
        """Render the env, [height, width, 3] uint8."""
        return self._env.render(0)

    def saliency(self, kind: Saliency) -> np.ndarray:
        """Return the saliency of each pixel, [H, W] float32 from 0 to 1."""
        return self.inspector.saliency(kind, self.row.obs, self._state, self.row.first)

    def features(self, layer: str) -> np.ndarray:
        """Return the feature maps of a layer, [filters, H, W] float32 from 0 to 1."""
        return self.inspector.features(layer, self.row.obs, self._state, self.row.first)

    def close(self) -> None:
        """Close the env."""
        self._env.close()
