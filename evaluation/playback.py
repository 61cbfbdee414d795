"""A trained agent plays one env, step by step, and shows what it thinks and what it looks at."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from ludus.agents.agent import Advice, Advisor, Player
from ludus.envs.board import spiel
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import Row
from ludus.evaluation.evaluate import HELD_OUT
from ludus.evaluation.saliency import NetworkInspector, Saliency

# env steps a second; Atari shows 60 frames, 4 an action
SPEED = {"atari": 15, "minatar": 10, "board": 1}
_USUAL = 30


class Thought(NamedTuple):
    """What the agent thinks of where it stands."""

    action: np.ndarray  # [*action] that it is about to take
    advice: Advice | None  # of one env; None for an agent without opinions
    state: Any  # the agent's after this observation


class Playback:
    """One env that an agent, or a person, plays; both sides of a board game.

    Args:
        player: the agent.
        env_id: what is played.
        options: the protocol, as in training.
        seed: of the held-out games, as in `evaluate`.
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
        self._env = make(env_id, 1, seed + HELD_OUT, options, render=True)
        self._env.action_space.seed(seed)
        self._generator = np.random.default_rng([seed, 4])
        self.speed = SPEED.get(self._env.protocol["kind"], _USUAL)
        """env steps a second at which a person would play it"""
        space = self._env.action_space
        count = int(space.n) if isinstance(space, spaces.Discrete) else 0
        self.first_action = int(space.start) if isinstance(space, spaces.Discrete) else 0
        names = self._env.action_names
        self.action_names = names if len(names) == count else tuple(map(str, range(count)))
        """of discrete actions"""
        self.insight = NetworkInspector(player, self._env.observation_space)
        self._position: Any = None
        if spiel.is_game(env_id):
            self._position = spiel.load(env_id).new_initial_state()
        self.row: Row = self._env.reset()
        self._state: Any = None
        self._thought: Thought | None = None

    def think(self) -> Thought:
        """What the agent would do here; asked once for each row."""
        if self._thought is None:
            row, advice = self.row, None
            if isinstance(self.player, Advisor):
                advice, state = self.player.advise(row.obs, self._state, row.first)
                action = advice.action[0]
            else:
                told = self.player.predict(row.obs, self._state, row.first, deterministic=True)
                action, state = told[0][0], told[1]
            if self._epsilon and self._generator.random() < self._epsilon:
                action = np.asarray(self._env.action_space.sample())
            self._thought = Thought(action, advice, state)
        return self._thought

    def step(self, action: np.ndarray | int | None = None) -> Row:
        """Take the action that the agent thought of, or a person's, of which it is told nothing."""
        if action is None:
            chosen, _, self._state = self.think()
        else:
            chosen = np.asarray(action)
        self._thought = None
        if self._position is not None:
            self._position.apply_action(int(chosen))
        self._env.send(np.asarray(chosen)[None])
        self.row = self._env.recv()
        return self.row

    def legal(self) -> list[int]:
        """The discrete actions that can be taken here, numbered from 0."""
        if self._position is None:
            return list(range(len(self.action_names)))
        return list(self._position.legal_actions())

    def name(self, action: int) -> str:
        """Of an action that is numbered from 0; of a board game, as it is called here."""
        if self._position is None:
            return self.action_names[action]
        return str(self._position.action_to_string(self._position.current_player(), action))

    @property
    def sign(self) -> float:
        """Turns a value into one of who began: -1 where the other side of a board game moves."""
        second = self._position is not None and self._position.current_player() == 1
        return -1.0 if second else 1.0

    def forget(self) -> None:
        """Think again: the agent's weights have changed."""
        self._thought = None

    def picture(self) -> np.ndarray:
        """[height, width, 3] uint8."""
        return self._env.render(0)

    def saliency(self, kind: Saliency) -> np.ndarray:
        """What the agent looks at, [H, W] float32 from 0 to 1."""
        return self.insight.saliency(kind, self.row.obs, self._state, self.row.first)

    def features(self, layer: str) -> np.ndarray:
        """[filters, H, W] float32 from 0 to 1."""
        return self.insight.features(layer, self.row.obs, self._state, self.row.first)

    def close(self) -> None:
        """Free the env."""
        self._env.close()
