"""The five MinAtar games as arrays, so that one step plays B games at once.

MinAtar: Young and Tian (2019), https://arxiv.org/abs/1903.03176
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from ludus.envs.minatar_board import (
    ACTIONS,
    DX,
    DY,
    KEYS,
    LANES,
    NOOP,
    Draws,
    MinAtarGame,
    clip,
    full,
    inside,
)
from ludus.envs.minatar_shooters import Seaquest, SpaceInvaders
from ludus.envs.vector import BackendStep

CELL = 32  # pixels
BACKGROUND = (16, 16, 22)


class _Asterix:
    """Collect gold and avoid enemies; slot i holds the one thing of row i + 1, or nothing."""

    channels = 4  # player, enemy, trail, gold
    minimal = "nlurd"
    colours = "5cc8ff e24a42 4a5060 facc3c"
    layers = "2310"

    def __init__(self, num: int, draws: Draws, ramping: bool) -> None:
        self._draws, self._ramping, self._envs = draws, ramping, np.arange(num)
        self.over = np.zeros(num, bool)
        self.x, self.y = full(num, 5, 5)
        self.spawn_speed, self.spawn_timer, self.ramp_timer = full(num, 10, 10, 100)
        self.move_speed, self.move_timer, self.ramp_index = full(num, 5, 5, 0)
        self.thing_x, self.way = full((num, 8), 0, 0)
        self.alive, self.gold = np.zeros((2, num, 8), bool)

    def deal(self, envs: np.ndarray) -> None:
        pass

    def step(self, actions: np.ndarray) -> np.ndarray:
        self._spawn(np.flatnonzero(self.spawn_timer == 0))
        self.x = clip(self.x + DX[actions], 0, 9)
        self.y = clip(self.y + DY[actions], 1, 8)
        reward = self._meet()
        moves = self.move_timer == 0
        self.thing_x += self.way * moves[:, None]
        self.alive &= inside(self.thing_x)
        reward = reward + self._meet()  # where nothing moved, nothing is left to meet
        self.move_timer = np.where(moves, self.move_speed, self.move_timer) - 1
        self.spawn_timer -= 1
        if self._ramping:
            self._ramp()
        return reward

    def write_planes(self, obs: np.ndarray) -> None:
        obs[self._envs, 0, self.y, self.x] = 1
        envs, slots = np.nonzero(self.alive)
        x = self.thing_x[envs, slots]
        obs[envs, np.where(self.gold[envs, slots], 3, 1), slots + 1, x] = 1
        back = x - self.way[envs, slots]
        seen = inside(back)
        obs[envs[seen], 2, slots[seen] + 1, back[seen]] = 1

    def _spawn(self, envs: np.ndarray) -> None:
        """Put a thing into a free row of envs [n], if there is one."""
        if not envs.size:
            return
        self.spawn_timer[envs] = self.spawn_speed[envs]
        side, kind = self._draws.uniform(envs, 2).T
        free = ~self.alive[envs]  # [n, 8]
        rooms = free.sum(axis=1)
        some = rooms > 0
        envs, side, kind, free, rooms = (a[some] for a in (envs, side, kind, free, rooms))
        nth = (self._draws.uniform(envs, 1)[:, 0] * rooms).astype(np.int64)
        slot = np.argmax(free & (free.cumsum(axis=1) == nth[:, None] + 1), axis=1)
        self.alive[envs, slot], self.gold[envs, slot] = True, kind < 1 / 3
        self.thing_x[envs, slot] = np.where(side < 0.5, 0, 9)
        self.way[envs, slot] = np.where(side < 0.5, 1, -1)

    def _meet(self) -> np.ndarray:
        """Take the gold [B] in the player's cell, or end the game on an enemy there."""
        slot = self.y - 1
        here = self.alive[self._envs, slot] & (self.thing_x[self._envs, slot] == self.x)
        taken = here & self.gold[self._envs, slot]
        self.alive[self._envs, slot] &= ~taken
        self.over |= here & ~taken
        return taken.astype(np.int64)

    def _ramp(self) -> None:
        ramps = (self.spawn_speed > 1) | (self.move_speed > 1)
        due = ramps & (self.ramp_timer < 0)
        self.ramp_timer -= ramps
        if due.any():
            self.move_speed -= due & (self.move_speed > 1) & (self.ramp_index % 2 == 1)
            self.spawn_speed -= due & (self.spawn_speed > 1)
            self.ramp_index += due
            self.ramp_timer[due] = 100


class _Breakout:
    """Break three rows of bricks with a ball that flies along diagonals."""

    channels = 4  # paddle, ball, trail, brick
    minimal = "nlr"
    colours = "5cc8ff ffffff 686e82 ce603e"
    layers = "3210"
    # [4] of the directions up-left, up-right, down-right, down-left; a bounce off a side is ^ 1,
    # off a row ^ 3, off the paddle's near edge ^ 2
    _dx, _dy = np.array([[-1, 1, 1, -1], [-1, -1, 1, 1]])

    def __init__(self, num: int, draws: Draws, ramping: bool) -> None:
        self._draws, self._envs = draws, np.arange(num)
        self.over, self.strike = np.zeros((2, num), bool)
        self.x, self.y, self.last_x, self.last_y = full(num, 0, 3, 0, 3)
        self.direction, self.paddle = full(num, 0, 4)
        self.bricks = np.zeros((num, 10, 10), bool)
        self.bricks[:, 1:4] = True

    def deal(self, envs: np.ndarray) -> None:
        right = self._draws.uniform(envs, 1)[:, 0] >= 0.5
        self.x[envs] = self.last_x[envs] = np.where(right, 9, 0)
        self.direction[envs] = np.where(right, 3, 2)

    def step(self, actions: np.ndarray) -> np.ndarray:
        self.paddle = clip(self.paddle + DX[actions], 0, 9)
        self.last_x, self.last_y = self.x, self.y
        x, y = self.x + self._dx[self.direction], self.y + self._dy[self.direction]
        turn = 1 * ~inside(x)  # [B] what to xor the direction with
        x = clip(x, 0, 9)
        top, y = y < 0, clip(y, 0, 9)  # a game that is over would fly out below
        touch = self.bricks[self._envs, y, x]
        broken = touch & ~self.strike  # after a strike, the ball passes through the next brick
        self.bricks[self._envs, y, x] ^= broken
        self.strike = touch
        low = y == 9
        self.bricks[np.flatnonzero(low & ~self.bricks.any(axis=(1, 2))), 1:4] = True
        centre = low & (self.x == self.paddle)
        edge = low & ~centre & (x == self.paddle)
        self.over |= low & ~centre & ~edge
        self.direction ^= turn ^ 3 * (top | broken | centre) ^ 2 * edge
        self.x, self.y = x, np.where(broken | centre | edge, self.y, y)
        return broken.astype(np.int64)

    def write_planes(self, obs: np.ndarray) -> None:
        obs[self._envs, 0, 9, self.paddle] = 1
        obs[self._envs, 1, self.y, self.x] = 1
        obs[self._envs, 2, self.last_y, self.last_x] = 1
        obs[:, 3] = self.bricks


class _Freeway:
    """Cross eight lanes; the car of row i + 1 is car i."""

    channels = 7  # chicken, car, and the trails of the speeds 1 to 5
    minimal = "nud"
    colours = "ffe65a e24a42 9c6838 78844c 407476 385474 343c5c"
    layers = "6543210"

    def __init__(self, num: int, draws: Draws, ramping: bool) -> None:
        self._draws, self._envs = draws, np.arange(num)
        self.over = np.zeros(num, bool)
        self.y, self.move_timer, self.time_left = full(num, 9, 3, 2500)
        self.car_x, self.car_timer, self.speed = full((num, 8), 0, 0, 0)

    def deal(self, envs: np.ndarray) -> None:
        speed = 1 + (self._draws.uniform(envs, 8) * 5).astype(np.int64)  # [n, 8]
        self.car_timer[envs] = speed
        self.speed[envs] = speed * np.where(self._draws.uniform(envs, 8) < 0.5, -1, 1)

    def step(self, actions: np.ndarray) -> np.ndarray:
        walk = DY[actions] * (self.move_timer == 0)
        self.move_timer[walk != 0] = 3
        self.y = clip(self.y + walk, 0, 9)
        won = self.y == 0
        if won.any():
            self.deal(np.flatnonzero(won))
            self.y[won] = 9
        self._collide()
        moves = self.car_timer == 0
        self.car_x = (self.car_x + moves * np.sign(self.speed)) % 10
        self.car_timer = np.where(moves, np.abs(self.speed), self.car_timer - 1)
        self._collide()
        self.move_timer -= self.move_timer > 0
        self.time_left -= 1
        self.over |= self.time_left < 0
        return won.astype(np.int64)

    def write_planes(self, obs: np.ndarray) -> None:
        envs = self._envs[:, None]
        obs[self._envs, 0, self.y, 4] = 1
        obs[envs, 1, LANES, self.car_x] = 1
        back = (self.car_x - np.sign(self.speed)) % 10
        obs[envs, 1 + np.abs(self.speed), LANES, back] = 1

    def _collide(self) -> None:
        self.y[((self.car_x == 4) & (self.y[:, None] == LANES)).any(axis=1)] = 9


GAMES: dict[str, Callable[[int, Draws, bool], MinAtarGame]] = {
    "asterix": _Asterix,
    "breakout": _Breakout,
    "freeway": _Freeway,
    "seaquest": Seaquest,
    "space_invaders": SpaceInvaders,
}


class MinAtarBackend:
    """B games of one MinAtar title, with the dynamics of the `minatar` package.

    An episode follows from its seed and its actions alone. So the action that a sticky action
    repeats is "noop" in an episode's first step, where the library would carry it over from the
    episode before.

    Args:
        game: one of `GAMES`.
        num_envs: B.
        sticky_action_prob: how often the action before is played in place of the given one.
        difficulty_ramping: the game becomes harder with time (not in Breakout and Freeway).
        full_action_set: all six actions (MinAtar's -v0), or those that do something (-v1).
        max_episode_steps: steps after which an episode is truncated; 0 is never, as in MinAtar.

    Raises:
        ValueError: there is no such game.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        *,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        full_action_set: bool = True,
        max_episode_steps: int = 0,
    ) -> None:
        if game not in GAMES:
            raise ValueError(f"MinAtar has no game {game!r}; it has {', '.join(GAMES)}")
        self.num_envs = num_envs
        self._draws = Draws(num_envs)
        self.game = GAMES[game](num_envs, self._draws, difficulty_ramping)
        arrays = {k: v for k, v in vars(self.game).items() if isinstance(v, np.ndarray)}
        self._start = {name: array.copy() for name, array in arrays.items()}
        self._table = np.array(
            range(6) if full_action_set else [KEYS.index(key) for key in self.game.minimal]
        )
        self.action_space: spaces.Space[Any] = spaces.Discrete(len(self._table))
        self.action_names: Sequence[str] = tuple(ACTIONS[action] for action in self._table)
        shape = (self.game.channels, 10, 10)
        self.observation_space: spaces.Box = spaces.Box(0, 1, shape, np.uint8)
        self._sticky, self._limit = sticky_action_prob, max_episode_steps
        self._envs = np.arange(num_envs)
        self._sent, self._last, self._steps = full(num_envs, 0, 0, 0)

    def _observe(self) -> np.ndarray:
        obs = np.zeros((self.num_envs, *self.observation_space.shape), np.uint8)
        self.game.write_planes(obs)
        return obs

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start new episodes where mask [B] is true, from seeds [B]; return all observations."""
        envs = np.flatnonzero(mask)
        self._draws.restart(envs, np.asarray(seeds)[envs])
        self._last[envs], self._steps[envs] = NOOP, 0
        for name, start in self._start.items():
            getattr(self.game, name)[envs] = start[envs]
        self.game.deal(envs)
        return self._observe()

    def send(self, actions: np.ndarray) -> None:
        """Take the actions [B] of the next step, which `recv` plays."""
        self._sent = self._table[actions]

    def recv(self) -> BackendStep:
        """Play the step and return observations [B, C, 10, 10] and what came with them."""
        repeats = self._draws.uniform(self._envs, 1)[:, 0] < self._sticky
        self._last = np.where(repeats, self._last, self._sent)
        reward = self.game.step(self._last).astype(np.float32)
        self._steps += 1
        over, never = self.game.over.copy(), np.zeros(self.num_envs, bool)
        truncated = ~over & (self._steps >= self._limit) if self._limit else never.copy()
        return BackendStep(self._observe(), reward, over, truncated, never)

    def render(self, index: int) -> np.ndarray:
        """Return an image of one game, [320, 320, 3] uint8, with one colour per channel."""
        board = self._observe()[index].astype(bool)  # [C, 10, 10]
        picture = np.full((10, 10, 3), BACKGROUND, np.uint8)
        for channel in map(int, self.game.layers):
            picture[board[channel]] = tuple(bytes.fromhex(self.game.colours.split()[channel]))
        picture = picture.repeat(CELL, axis=0).repeat(CELL, axis=1)
        picture[::CELL], picture[:, ::CELL] = BACKGROUND, BACKGROUND  # a line between the cells
        return picture

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
