"""Supported games of OpenSpiel, by name and parameters, one at a time or batched.

OpenSpiel (https://arxiv.org/abs/1908.09453) implements the rules. A batch is an array of states.
"""

import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pyspiel
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.envs.board.bits import ConnectFour, Othello, TicTacToe
from ludus.envs.board.game import BOARD, Game, Move
from ludus.envs.dict_observation import MOVES
from ludus.envs.errors import EnvError

_MOST = 1000  # of any parameter whose default is not larger
_MOST_NUMBERS = 1 << 17  # in the observation of one position, and of actions
MOST_MOVES = 1000  # a longer game is a draw: chess may last 17,695 moves
_FAST: dict[str, Callable[[torch.device], Game]] = {
    "tic_tac_toe": TicTacToe,
    "connect_four": ConnectFour,
    "othello": Othello,
}


def names() -> list[str]:
    """Return the names of all supported games."""
    return [t.short_name for t in pyspiel.registered_games() if _misfit(t) is None]


def is_game(name: str) -> bool:
    """Return whether OpenSpiel has a game of that name, whatever its parameters."""
    return name.partition("(")[0] in pyspiel.registered_names()


def why_not(word: str) -> str | None:
    """Return which of OpenSpiel's games has a word in its name, and why it is not supported.

    None if none has, or if one of them is supported.
    """
    of = {t.short_name: _misfit(t) for t in pyspiel.registered_games() if word in t.short_name}
    if not of or None in of.values():
        return None
    shortest = min(of, key=len)
    return f"{shortest} is not supported: {of[shortest]}; `ludus list games` shows the others"


def load(name: str) -> pyspiel.Game:
    """Load OpenSpiel's game of that name and parameters.

    Raises:
        EnvError: the game does not exist or is not supported, or a parameter is wrong.
    """
    short = name.partition("(")[0]
    known = {t.short_name: t for t in pyspiel.registered_games()}
    if short not in known:
        close = difflib.get_close_matches(short, names(), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else "; `ludus list games` shows all"
        raise EnvError(f"there is no game {short}{hint}")
    why = _misfit(known[short])
    if why is not None:
        raise EnvError(f"{short} is not supported: {why}")
    try:
        with _silent():
            usual = pyspiel.load_game(short).get_parameters()
            _refuse_large_numbers(name, usual)
            game = pyspiel.load_game(name)
            _refuse_sizes(name, game, usual)
            first = game.new_initial_state()
            if first.is_chance_node():
                raise EnvError(f"{name} is not supported: it starts with a chance event")
            playable = not first.is_terminal() and bool(first.legal_actions())
            first.observation_tensor(0)
    except EnvError:
        raise
    except Exception as error:  # pyspiel.SpielError, and what its parser raises
        text = " ".join(str(error).split())
        text = re.sub(r"^\S+\.(cc|h):\d+ | Available parameters are:.*", "", text)
        given = ", ".join(sorted(parameters(short))) or "none"
        raise EnvError(
            f"{name}: {text.rstrip('.')}; {short} has the parameters: {given}"
        ) from error
    if not playable:
        raise EnvError(f"{name} has no first move; choose other parameters")
    if game.num_players() != 2:
        raise EnvError(f"{name} is not supported: it has {game.num_players()} players, not two")
    return game


def parameters(short: str) -> dict[str, Any]:
    """Return the parameters of a game and their default values.

    Those that add chance events to a game without any are left out.
    """
    usual = pyspiel.load_game(short).get_parameters()
    return {key: value for key, value in usual.items() if key != "chess960"}


def _refuse_large_numbers(name: str, usual: dict[str, Any]) -> None:
    """Refuse numbers for which OpenSpiel would need all memory while it loads the game."""
    for key, digits in re.findall(r"(\w+)=(\d+)", name):
        most = max(_MOST, usual[key] if type(usual.get(key)) is int else 0)
        if int(digits) > most:
            raise EnvError(f"{name}: {key} is {digits}; it must be {most:,} or less")


def _refuse_sizes(name: str, game: pyspiel.Game, usual: dict[str, Any]) -> None:
    """Refuse sizes that OpenSpiel accepts and that would crash or freeze the process."""
    for key, default in usual.items():
        given = game.get_parameters()[key]
        if type(default) is int and given < min(default, 1):  # a bool is no size
            raise EnvError(f"{name}: {key} is {given}; it must be {min(default, 1)} or more")
    numbers, actions = math.prod(game.observation_tensor_shape()), game.num_distinct_actions()
    if numbers > _MOST_NUMBERS or not 0 < actions <= _MOST_NUMBERS:
        raise EnvError(
            f"{name} is too large: a position has {numbers:,} numbers and {actions:,} actions; "
            f"{_MOST_NUMBERS:,} of each are possible"
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress stderr: OpenSpiel also prints the errors that it raises."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _misfit(game: pyspiel.GameType) -> str | None:
    """Return why a kind of game is not supported; None if it is."""
    kind = pyspiel.GameType
    for wrong, why in (
        (game.dynamics != kind.Dynamics.SEQUENTIAL, "players do not take turns"),
        (game.chance_mode != kind.ChanceMode.DETERMINISTIC, "it has chance events"),
        (game.information != kind.Information.PERFECT_INFORMATION, "information is hidden"),
        (
            not game.min_num_players <= 2 <= game.max_num_players,
            f"it has {game.min_num_players} to {game.max_num_players} players, not two",
        ),
        (game.utility != kind.Utility.ZERO_SUM, "one player's gain is not the other's loss"),
        (not game.default_loadable, "OpenSpiel cannot load it by its name"),
        (not game.provides_observation_tensor, "OpenSpiel has no observation tensor for it"),
    ):
        if wrong:
            return why
    return None


def make_game(name: str, device: torch.device | None = None) -> Game:
    """Return the batched game: a bit board if there is one, else OpenSpiel's states.

    Raises:
        EnvError: see `load`.
    """
    game = load(name)
    short = name.partition("(")[0]
    fast = _FAST.get(short)
    if fast is not None and game.get_parameters() == load(short).get_parameters():
        return fast(device or torch.device("cpu"))
    return SpielGame(game)


def side_of(state: Any, player: int) -> int:
    """Return 0 for the player who moves first in a game, 1 for the other.

    In most games OpenSpiel's player 0 moves first; in chess, player 1 is white.
    """
    return player ^ _first_player(str(state.get_game()))


@lru_cache(64)
def _first_player(game: str) -> int:
    return int(pyspiel.load_game(game).new_initial_state().current_player())


def next_player(state: Any) -> int:
    """Return the player to move, 0 or 1; after the end, who would be next."""
    player = int(state.current_player())
    return player if player >= 0 else int(state.move_number()) % 2


def seen_by(game: Game, board: Any, state: Any, player: int) -> np.ndarray:
    """Return one position [*shape] from the view of a player.

    Args:
        game: the game.
        board: the position, as a batch of one.
        state: the position as OpenSpiel's state.
        player: 0 or 1, as OpenSpiel numbers players.
    """
    mine = player == next_player(state)
    seen = game.observation(board) if mine else game.opponent_observation(board)
    return seen[BOARD][0].numpy()


class SpielGame:
    """Implements `Game` by a batch of OpenSpiel's states, on the CPU.

    An observation holds OpenSpiel's tensor for the player to move, one number or plane with that
    player's index, and the moves so far, from which the position can be rebuilt.
    """

    def __init__(self, game: pyspiel.Game) -> None:
        self.spiel, self.name = game, str(game)
        self.num_actions: int = game.num_distinct_actions()
        self.max_moves = min(int(game.max_game_length()), MOST_MOVES)
        shape = tuple(game.observation_tensor_shape())
        self._shape = shape
        whole = (shape[0] + 1, *shape[1:])  # one plane more, or one number
        self.parts = {
            BOARD: spaces.Box(-np.inf, np.inf, whole, np.float32),
            MOVES: spaces.Box(-1, np.inf, (self.max_moves,), np.float32),
        }

    def init(self, batch: int) -> np.ndarray:
        """Return initial positions [B]."""
        return _objects([self.spiel.new_initial_state() for _ in range(batch)])

    def legal_actions(self, board: np.ndarray) -> Tensor:
        """Return the legal actions [B, A] bool."""
        mask = np.zeros((len(board), self.num_actions), bool)
        for row, state in zip(mask, board, strict=True):
            if not self._over(state):
                row[state.legal_actions()] = True
        return torch.from_numpy(mask)

    def step(self, board: np.ndarray, action: Tensor) -> Move:
        """Make moves [B] without changing the given positions."""
        after, outcome = [], np.zeros((len(board), 3), np.float32)
        for i, (state, chosen) in enumerate(zip(board, action.tolist(), strict=True)):
            if self._over(state):
                after.append(state)
                outcome[i] = 0, 1, -1
                continue
            mover, state = state.current_player(), state.clone()
            if mover < 0:
                raise EnvError(f"{self.name} came to a chance event, which is not supported")
            state.apply_action(chosen)
            over = self._over(state)
            same = not over and state.current_player() == mover
            reward = state.rewards()[mover] if state.is_terminal() else 0
            outcome[i] = reward, over, 1 if same else -1
            after.append(state)
        rewards, ends, signs = torch.from_numpy(outcome).unbind(1)
        return Move(_objects(after), rewards, ends > 0, signs)

    def observation(self, board: np.ndarray) -> dict[str, Tensor]:
        """Return tensors [B, *shape], and the moves so far [B, max_moves] padded with -1."""
        return self._observed(board, [next_player(state) for state in board])

    def opponent_observation(self, board: np.ndarray) -> dict[str, Tensor]:
        """Return the same from the view of the players who are not to move."""
        return self._observed(board, [1 - next_player(state) for state in board])

    def _observed(self, board: np.ndarray, players: list[int]) -> dict[str, Tensor]:
        shown = np.zeros((len(board), self._shape[0] + 1, *self._shape[1:]), np.float32)
        moves = np.full((len(board), self.max_moves), -1, np.float32)
        for i, (state, player) in enumerate(zip(board, players, strict=True)):
            history = state.history()
            moves[i, : len(history)] = history
            tensor = np.asarray(state.observation_tensor(player), np.float32)
            shown[i, :-1], shown[i, -1] = tensor.reshape(self._shape), player
        return {BOARD: torch.from_numpy(shown), MOVES: torch.from_numpy(moves)}

    def from_observation(self, seen: dict[str, Tensor]) -> np.ndarray:
        """Rebuild positions [B] from the moves that led to them."""
        board = self.init(len(seen[MOVES]))
        for state, moves in zip(board, seen[MOVES].tolist(), strict=True):
            for move in moves:
                if move < 0:
                    break
                state.apply_action(int(move))
        return board

    def symmetries(self) -> tuple[Tensor, Tensor]:
        """Return the identity only."""
        size = int(np.prod(self.parts[BOARD].shape))
        return torch.arange(size).unsqueeze(0), torch.arange(self.num_actions).unsqueeze(0)

    def _over(self, state: Any) -> bool:
        return state.is_terminal() or state.move_number() >= self.max_moves


def _objects(states: list[Any]) -> np.ndarray:
    array = np.empty(len(states), object)
    array[:] = states
    return array
