"""Self-play: opponents of the agent in a training on a board game.

Every move of a game is a row of the stream. In a game against a rival, the rival's moves replace
the agent's on one side. An on-policy learner ignores those rows; an off-policy learner uses all.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ludus.agents.agent import Agent
from ludus.envs.board import spiel
from ludus.envs.board.opponents import MinimaxOpponent, make_opponent
from ludus.envs.vector import Row
from ludus.networks.cores import state_on_device

SELF, PAST = "self", "past"
_POOL = 10  # past networks in the pool


class Rivals:
    """Samples the opponent of each game: the agent itself, a past network or a fixed player.

    Args:
        names: opponents to sample from uniformly: "self", "past", or a fixed player's name.
        game: OpenSpiel's name and parameters.
        num_envs: number of parallel envs, B.
        seed: seed of the sampling and of the fixed players.
        make_past: makes an agent like the one that learns, to load past weights into.
        every: env steps between two additions to the pool of past networks.

    Raises:
        EnvError: there is no such player.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        game: str,
        num_envs: int,
        seed: int,
        make_past: Callable[[], Agent],
        every: int,
    ) -> None:
        self._names, self._rules, self._every = names, spiel.load(game), max(1, every)
        for name in set(names) - {SELF, PAST}:
            make_opponent(name, self._rules, 0)
        self._seed, self._generator = seed, np.random.default_rng([seed, 6])
        self._past = make_past() if PAST in names else None
        self._past_state: Any = None
        self._pool: list[dict[str, Tensor]] = []
        self._added = 0  # networks added so far
        self._minimax = MinimaxOpponent(self._rules)
        self._rival = np.zeros(num_envs, np.int64)  # [B] index in `names`
        self._side = np.zeros(num_envs, bool)  # [B] the rival moves second
        self._second = np.zeros(num_envs, bool)  # [B] the second player is to move
        self._games = np.zeros(num_envs, np.int64)  # [B] games so far
        longest = min(int(self._rules.max_game_length()), spiel.MOST_MOVES)
        self._moves = np.zeros((longest, num_envs), np.int64)  # [T, B] of the running games
        self._length = np.zeros(num_envs, np.int64)  # [B] moves of the running games

    def replace_actions(self, row: Row, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Replace the agent's actions [B] where a rival moves.

        Returns:
            The actions [B], and where they are the agent's own, [B] bool.
        """
        self._begin(row)
        names = np.array(self._names)[self._rival]  # [B]
        theirs = (names != SELF) & (self._second == self._side) & ~row.game_over
        actions = actions.copy()
        if self._past is not None and self._pool:
            chosen, self._past_state = self._past.predict(
                row.obs, self._past_state, row.first, deterministic=False
            )
            actions = np.where(theirs & (names == PAST), chosen, actions)
        for i in np.flatnonzero(theirs & (names != PAST)):
            actions[i] = self._fixed_move(int(i), str(names[i]))
        going = np.flatnonzero(~row.game_over)
        self._moves[self._length[going], going] = actions[going]
        self._length[going] += 1
        # until the pool has its first network, the agent plays for "past" itself
        own = ~theirs if self._pool else ~(theirs & (names != PAST))
        return actions, own

    def _begin(self, row: Row) -> None:
        """Update the players to move, and sample the rival and its side where a game starts."""
        self._second = np.where(row.first, False, self._second ^ (row.discount_sign < 0))
        count = int(row.first.sum())
        self._games += row.first
        self._rival[row.first] = self._generator.integers(len(self._names), size=count)
        self._side[row.first] = self._generator.integers(2, size=count) == 1
        self._length[row.first] = 0

    def _fixed_move(self, index: int, name: str) -> int:
        """Return a fixed player's move in one env.

        Its random numbers follow from the seed, the game and the number of the move alone, so that
        a resumed training has the same moves without storing the player.
        """
        moves = self._moves[: self._length[index], index].tolist()
        state = self._rules.new_initial_state()
        for move in moves:
            state.apply_action(move)
        if name == "minimax":
            return self._minimax.choose(state)
        entropy = [self._seed, 7, index, int(self._games[index]), len(moves)]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
        return make_opponent(name, self._rules, seed).choose(state)

    def update_pool(self, agent: Agent) -> None:
        """Add the agent's network to the pool if that is due, and sample the one that plays."""
        if self._past is None or agent.env_steps < (self._added + 1) * self._every:
            return
        self._added = agent.env_steps // self._every
        copy = {name: weight.detach().cpu().clone() for name, weight in agent.weights().items()}
        self._pool = [*self._pool, copy][-_POOL:]
        self._past.load_weights(self._pool[int(self._generator.integers(len(self._pool)))])

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next moves depend on."""
        past = self._past.state_dict() if self._past is not None and self._pool else {}
        return {
            "generator": self._generator.bit_generator.state,
            "rival": self._rival,
            "side": self._side,
            "second": self._second,
            "games": self._games,
            "moves": self._moves[: self._length.max()],
            "length": self._length,
            "added": self._added,
            "pool": {str(i): weights for i, weights in enumerate(self._pool)},
            "past": past,
            "past_state": list(self._past_state or ()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned."""
        self._generator.bit_generator.state = state["generator"]
        for name in ("rival", "side", "second", "games", "length"):
            setattr(self, f"_{name}", np.array(state[name]))
        self._moves[: len(state["moves"])] = state["moves"]
        self._added = state["added"]
        pool = state["pool"]
        self._pool = [
            {name: torch.as_tensor(weight).clone() for name, weight in pool[str(i)].items()}
            for i in range(len(pool))
        ]
        if self._past is not None and self._pool:
            self._past.load_state_dict(state["past"])
            fresh = self._past.initial_state(len(self._games))
            stored = state["past_state"]  # empty before the network's first move
            self._past_state = state_on_device(stored, fresh) if stored else None
