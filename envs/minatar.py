"""The five MinAtar games as arrays, so that one step plays B games at once.

MinAtar: Young and Tian (2019), https://arxiv.org/abs/1903.03176
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from ludus.envs.vector import Raw

KEYS = "nlurdf"  # the library's letters for its actions
ACTIONS = ("noop", "left", "up", "right", "down", "fire")
NOOP, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
DX = np.array([0, -1, 0, 1, 0, 0])  # [6] what an action adds to the player's column
DY = np.array([0, 0, -1, 0, 1, 0])  # [6] and to its row
COLUMNS, LANES = np.arange(10), np.arange(1, 9)
ENEMIES = 30  # in Seaquest; at the fastest, one leaves after 29 steps and the next comes after 1
OLDEST_FIRST = np.arange(ENEMIES, 0, -1, dtype=np.int8)  # [30] their ranks
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

CELL = 32  # pixels
BACKGROUND = (16, 16, 22)


class Game(Protocol):
    """B boards of one game; every array attribute has the leading axis [B].

    The arrays as `__init__` leaves them are the start of an episode. A game that is over may be
    stepped on; what it shows then is unused.
    """

    channels: int
    minimal: str  # the keys of the actions that do something
    colours: str  # hexadecimal, one a channel
    layers: str  # the channels' digits in the order of painting, what lies on top last
    over: np.ndarray  # [B] bool

    def deal(self, envs: np.ndarray) -> None:
        """Draw what is random in the start of the games with these indices [n]."""

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Play actions [B], indices of `KEYS`, and return the rewards [B]."""

    def show(self, obs: np.ndarray) -> None:
        """Mark the boards in obs [B, channels, 10, 10], which is all 0."""


class Draws:
    """Random numbers by counter: number k of env i is a hash of its seed and k alone.

    The hash is splitmix64 (Steele et al., 2014, https://doi.org/10.1145/2660193.2660195), started
    from a hash of the seed.
    """

    def __init__(self, num_envs: int) -> None:
        self._keys = np.zeros(num_envs, np.uint64)
        self._counters = np.zeros(num_envs, np.uint64)

    def restart(self, envs: np.ndarray, seeds: np.ndarray) -> None:
        """Begin again at number 0 of seeds [n] for envs [n]."""
        self._keys[envs] = _mix(seeds.astype(np.uint64) + GOLDEN)
        self._counters[envs] = 0

    def uniform(self, envs: np.ndarray, count: int) -> np.ndarray:
        """The next `count` numbers of envs [n], [n, count] float64 in [0, 1)."""
        number = self._counters[envs, None] + np.arange(1, count + 1, dtype=np.uint64)
        self._counters[envs] += np.uint64(count)
        bits = _mix(self._keys[envs, None] + number * GOLDEN)  # [n, count]
        return (bits >> np.uint64(11)) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _full(shape: int | tuple[int, ...], *values: int) -> Iterator[np.ndarray]:
    return (np.full(shape, value, np.int64) for value in values)


def _clip(x: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.minimum(np.maximum(x, low), high)  # np.clip takes three times as long on small arrays


def _inside(x: np.ndarray) -> np.ndarray:
    return (x >= 0) & (x <= 9)


class _Asterix:
    """Collect gold and avoid enemies; slot i holds the one thing of row i + 1, or nothing."""

    channels = 4  # player, enemy, trail, gold
    minimal = "nlurd"
    colours = "5cc8ff e24a42 4a5060 facc3c"
    layers = "2310"

    def __init__(self, num: int, draws: Draws, ramping: bool) -> None:
        self._draws, self._ramping, self._envs = draws, ramping, np.arange(num)
        self.over = np.zeros(num, bool)
        self.x, self.y = _full(num, 5, 5)
        self.spawn_speed, self.spawn_timer, self.ramp_timer = _full(num, 10, 10, 100)
        self.move_speed, self.move_timer, self.ramp_index = _full(num, 5, 5, 0)
        self.thing_x, self.way = _full((num, 8), 0, 0)
        self.alive, self.gold = np.zeros((2, num, 8), bool)

    def deal(self, envs: np.ndarray) -> None:
        pass

    def step(self, actions: np.ndarray) -> np.ndarray:
        self._spawn(np.flatnonzero(self.spawn_timer == 0))
        self.x = _clip(self.x + DX[actions], 0, 9)
        self.y = _clip(self.y + DY[actions], 1, 8)
        reward = self._meet()
        moves = self.move_timer == 0
        self.thing_x += self.way * moves[:, None]
        self.alive &= _inside(self.thing_x)
        reward = reward + self._meet()  # where nothing moved, nothing is left to meet
        self.move_timer = np.where(moves, self.move_speed, self.move_timer) - 1
        self.spawn_timer -= 1
        if self._ramping:
            self._ramp()
        return reward

    def show(self, obs: np.ndarray) -> None:
        obs[self._envs, 0, self.y, self.x] = 1
        envs, slots = np.nonzero(self.alive)
        x = self.thing_x[envs, slots]
        obs[envs, np.where(self.gold[envs, slots], 3, 1), slots + 1, x] = 1
        back = x - self.way[envs, slots]
        seen = _inside(back)
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
        self.x, self.y, self.last_x, self.last_y = _full(num, 0, 3, 0, 3)
        self.direction, self.paddle = _full(num, 0, 4)
        self.bricks = np.zeros((num, 10, 10), bool)
        self.bricks[:, 1:4] = True

    def deal(self, envs: np.ndarray) -> None:
        right = self._draws.uniform(envs, 1)[:, 0] >= 0.5
        self.x[envs] = self.last_x[envs] = np.where(right, 9, 0)
        self.direction[envs] = np.where(right, 3, 2)

    def step(self, actions: np.ndarray) -> np.ndarray:
        self.paddle = _clip(self.paddle + DX[actions], 0, 9)
        self.last_x, self.last_y = self.x, self.y
        x, y = self.x + self._dx[self.direction], self.y + self._dy[self.direction]
        turn = 1 * ~_inside(x)  # [B] what to xor the direction with
        x = _clip(x, 0, 9)
        top, y = y < 0, _clip(y, 0, 9)  # a game that is over would fly out below
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

    def show(self, obs: np.ndarray) -> None:
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
        self.y, self.move_timer, self.time_left = _full(num, 9, 3, 2500)
        self.car_x, self.car_timer, self.speed = _full((num, 8), 0, 0, 0)

    def deal(self, envs: np.ndarray) -> None:
        speed = 1 + (self._draws.uniform(envs, 8) * 5).astype(np.int64)  # [n, 8]
        self.car_timer[envs] = speed
        self.speed[envs] = speed * np.where(self._draws.uniform(envs, 8) < 0.5, -1, 1)

    def step(self, actions: np.ndarray) -> np.ndarray:
        walk = DY[actions] * (self.move_timer == 0)
        self.move_timer[walk != 0] = 3
        self.y = _clip(self.y + walk, 0, 9)
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

    def show(self, obs: np.ndarray) -> None:
        envs = self._envs[:, None]
        obs[self._envs, 0, self.y, 4] = 1
        obs[envs, 1, LANES, self.car_x] = 1
        back = (self.car_x - np.sign(self.speed)) % 10
        obs[envs, 1 + np.abs(self.speed), LANES, back] = 1

    def _collide(self) -> None:
        self.y[((self.car_x == 4) & (self.y[:, None] == LANES)).any(axis=1)] = 9


class _Swarm:
    """One of Seaquest's lists, in its order: the newest in the last slot, the oldest falls out."""

    def __init__(self, num: int, slots: int) -> None:
        self._fields = np.zeros((7, num, slots), np.int8)
        self.x, self.y, self.way, self.timer, self.shot_timer = self._fields[:5]  # [B, slots]
        self.alive, self.is_sub = self._fields[5:].view(bool)

    def append(self, envs: np.ndarray, x: np.ndarray, y: np.ndarray, way: np.ndarray) -> None:
        """Add one living thing to each of envs [n], its other fields 0."""
        self._fields[:, envs, :-1] = self._fields[:, envs, 1:]
        self._fields[:, envs, -1] = 0
        self.x[envs, -1], self.y[envs, -1], self.way[envs, -1] = x, y, way
        self.alive[envs, -1] = True

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The living [B, slots] in the cells (x, y) [B]."""
        x, y = x.astype(np.int8), y.astype(np.int8)
        return self.alive & (self.x == x[:, None]) & (self.y == y[:, None])

    def show(self, obs: np.ndarray, channel: int, trail: int | None = None) -> None:
        """Mark the living in obs [B, C, 10, 10]; submarines in the channel after `channel`."""
        envs, slots = np.nonzero(self.alive)
        x, y = self.x[envs, slots], self.y[envs, slots]
        obs[envs, channel + self.is_sub[envs, slots], y, x] = 1
        if trail is not None:
            back = x - self.way[envs, slots]
            seen = _inside(back)
            obs[envs[seen], trail, y[seen], back[seen]] = 1


class _Seaquest:
    """Shoot fish and submarines, and bring divers up before the air runs out.

    The library removes by value from the list it walks backwards, which could take another than the
    one meant. It never shows: no enemy is ever in a bullet's cell when an enemy moves there, and of
    two equal bullets it does not matter which is gone.
    """

    # front, back, own bullet, trail, enemy bullet, fish, submarine, oxygen, divers held, diver
    channels = 10
    minimal = "nlurdf"
    colours = "ffe65a 968228 ffffff 3a4258 ff8c3c 54be6e e24a42 4684c8 facc3c f496dc"
    layers = "3789564210"

    def __init__(self, num: int, draws: Draws, ramping: bool) -> None:
        self._draws, self._ramping, self._envs = draws, ramping, np.arange(num)
        self.over, self.surfaced = np.zeros(num, bool), np.ones(num, bool)
        self.x, self.y, self.facing = _full(num, 5, 0, -1)
        self.oxygen, self.held, self.shot_timer, self.diver_timer = _full(num, 200, 0, 0, 30)
        self.spawn_speed, self.enemy_timer = _full(num, 20, 20)
        self.move_speed, self.ramp_index = _full(num, 5, 0)
        self.bullets = _Swarm(num, 2)  # one lives 9 steps at most, the next comes after 5
        self.divers = _Swarm(num, 2)  # 59 steps, the next after 30
        self.enemies = _Swarm(num, ENEMIES)
        self.enemy_bullets = np.zeros((num, 2, 10, 10), bool)  # to the left, to the right

    def deal(self, envs: np.ndarray) -> None:
        for swarm in (self.bullets, self.divers, self.enemies):
            swarm.alive[envs] = False

    def step(self, actions: np.ndarray) -> np.ndarray:
        self._spawn_enemies(np.flatnonzero(self.enemy_timer == 0))
        self._spawn_divers(np.flatnonzero(self.diver_timer == 0))
        self._act(actions)
        reward = self._move_bullets()
        if self.divers.alive.any():
            self._move_divers()
        reward += self._move_enemies()
        self._move_enemy_bullets()
        for timer in (self.enemy_timer, self.diver_timer, self.shot_timer):
            timer -= timer > 0
        return reward + self._breathe()

    def show(self, obs: np.ndarray) -> None:
        obs[self._envs, 0, self.y, self.x] = 1
        obs[self._envs, 1, self.y, self.x - self.facing] = 1
        self.bullets.show(obs, 2)
        np.logical_or(self.enemy_bullets[:, 0], self.enemy_bullets[:, 1], out=obs[:, 4])
        self.enemies.show(obs, 5, trail=3)
        obs[:, 7, 9] = (np.maximum(self.oxygen, 0) * 10 // 200)[:, None] > COLUMNS
        obs[:, 8, 9] = (COLUMNS + self.held[:, None] >= 9) & (COLUMNS < 9)
        self.divers.show(obs, 9, trail=3)

    def _spawn_enemies(self, envs: np.ndarray) -> None:
        if not envs.size:
            return
        self.enemy_timer[envs] = self.spawn_speed[envs]
        side, kind, row = self._draws.uniform(envs, 3).T
        way, y = np.where(side < 0.5, 1, -1), 1 + (row * 8).astype(np.int64)
        enemies = self.enemies
        oncoming = enemies.alive[envs] & (enemies.y[envs] == y[:, None])  # [n, 30]
        clear = ~(oncoming & (enemies.way[envs] != way[:, None])).any(axis=1)
        envs, way = envs[clear], way[clear]
        enemies.append(envs, np.where(way > 0, 0, 9), y[clear], way)
        enemies.timer[envs, -1], enemies.shot_timer[envs, -1] = self.move_speed[envs], 10
        enemies.is_sub[envs, -1] = kind[clear] < 1 / 3

    def _spawn_divers(self, envs: np.ndarray) -> None:
        if envs.size:
            self.diver_timer[envs] = 30
            side, row = self._draws.uniform(envs, 2).T
            y, left = 1 + (row * 8).astype(np.int64), side < 0.5
            self.divers.append(envs, np.where(left, 0, 9), y, np.where(left, 1, -1))
            self.divers.timer[envs, -1] = 5

    def _act(self, actions: np.ndarray) -> None:
        envs = np.flatnonzero((actions == FIRE) & (self.shot_timer == 0))
        if envs.size:
            self.bullets.append(envs, self.x[envs], self.y[envs], self.facing[envs])
            self.shot_timer[envs] = 5
        dx = DX[actions]
        self.facing = np.where(dx != 0, dx, self.facing)
        self.x = _clip(self.x + dx, 0, 9)
        self.y = _clip(self.y + DY[actions], 0, 8)

    def _move_bullets(self) -> np.ndarray:
        """Fly on; the newest bullet first, each strikes the oldest fish there, else submarine."""
        self.bullets.x += self.bullets.way
        self.bullets.alive &= _inside(self.bullets.x)
        order = OLDEST_FIRST + np.int8(ENEMIES) * ~self.enemies.is_sub  # [B, 30]
        alive = self.enemies.alive
        return self._strike(1, alive, order) + self._strike(0, alive, order)

    def _strike(self, slot: int, among: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Remove a bullet and, of the enemies `among` [B, 30] in its cell, the highest in order.

        Returns:
            how many were removed, [B].
        """
        bullets, enemies = self.bullets, self.enemies
        hit = among & enemies.at(bullets.x[:, slot], bullets.y[:, slot])
        hit &= bullets.alive[:, slot, None]
        struck = hit.any(axis=1)
        envs = np.flatnonzero(struck)
        if envs.size:
            bullets.alive[envs, slot] = False
            enemies.alive[envs, np.argmax(hit[envs] * order[envs], axis=1)] = False
        return struck.astype(np.int64)

    def _move_divers(self) -> None:
        """Take divers aboard, the newest first, before or after they move."""
        divers = self.divers
        for slot in (1, 0):
            room = self.held < 6
            taken = divers.at(self.x, self.y)[:, slot] & room
            moves = ~taken & (divers.timer[:, slot] == 0)
            divers.x[:, slot] += moves * divers.way[:, slot]
            divers.timer[:, slot] = np.where(moves, 5, divers.timer[:, slot] - 1)
            taken |= moves & divers.at(self.x, self.y)[:, slot] & room
            divers.alive[:, slot] &= ~taken & _inside(divers.x[:, slot])
            self.held += taken

    def _move_enemies(self) -> np.ndarray:
        """Move fish and submarines; one that moves into a bullet is struck, submarines first."""
        enemies = self.enemies
        self.over |= enemies.at(self.x, self.y).any(axis=1)
        moves = enemies.alive & (enemies.timer == 0)  # [B, 30]
        enemies.timer[:] = np.where(moves, self.move_speed[:, None], enemies.timer - 1)
        enemies.x += moves * enemies.way
        # a submarine still fires in the step in which it is struck
        fires = enemies.alive & enemies.is_sub & (enemies.shot_timer == 0)
        enemies.shot_timer[:] = np.where(fires, 10, enemies.shot_timer - 1)
        enemies.alive &= _inside(enemies.x)
        envs, slots = np.nonzero(fires & enemies.alive)
        x, y, way = (field[envs, slots] for field in (enemies.x, enemies.y, enemies.way))
        self.enemy_bullets[envs, 1 * (way > 0), y, x] = True
        rams = enemies.at(self.x, self.y)
        self.over |= rams.any(axis=1)
        moves &= ~rams
        order = OLDEST_FIRST[::-1] + np.int8(ENEMIES) * enemies.is_sub
        return self._strike(0, moves, order) + self._strike(1, moves, order)

    def _move_enemy_bullets(self) -> None:
        bullets = self.enemy_bullets
        self.over |= bullets[self._envs, :, self.y, self.x].any(axis=1)
        flat = bullets.reshape(-1, 2, 100)  # a view; its rows are shifted at once, which is faster
        flat[:, 0, :-1], bullets[:, 0, :, 9] = flat[:, 0, 1:], False
        flat[:, 1, 1:], bullets[:, 1, :, 0] = flat[:, 1, :-1], False
        self.over |= bullets[self._envs, :, self.y, self.x].any(axis=1)

    def _breathe(self) -> np.ndarray:
        """Use up air below; at the surface hand over divers for air and, with six, a reward [B]."""
        self.over |= self.oxygen <= 0
        deep = self.y > 0
        self.oxygen -= deep
        arrives = ~deep & ~self.surfaced
        self.over |= arrives & (self.held == 0)
        arrives &= self.held != 0
        self.surfaced = ~deep & (self.surfaced | arrives)
        reward = np.zeros(len(self.over), np.int64)
        if not arrives.any():
            return reward
        full = arrives & (self.held == 6)
        reward[full] = self.oxygen[full] * 10 // 200
        # the library's own: six divers leave -1 behind, and with those one may surface for nothing
        self.held[full] = 0
        self.held -= arrives
        self.oxygen[arrives] = 200
        if self._ramping:
            ramps = arrives & ((self.spawn_speed > 1) | (self.move_speed > 2))
            self.move_speed -= ramps & (self.move_speed > 2) & (self.ramp_index % 2 == 1)
            self.spawn_speed -= ramps & (self.spawn_speed > 1)
            self.ramp_index += ramps
        return reward


class _SpaceInvaders:
    """Shoot the aliens before they or their bullets arrive; boards are maps [B, 10, 10]."""

    channels = 6  # cannon, alien, alien to the left, alien to the right, own bullet, enemy bullet
    minimal = "nlrf"
    colours = "5cc8ff 54be6e 54be6e 54b0b0 ffffff e24a42"
    layers = "123540"

    def __init__(self, num: int, draws: Draws, ramping: bool) -> None:
        self._ramping, self._envs = ramping, np.arange(num)
        self.over = np.zeros(num, bool)
        self.x, self.way, self.shot_timer, self.alien_shot_timer = _full(num, 5, -1, 0, 10)
        self.move_timer, self.move_interval = _full(num, 12, 12)
        self.aliens, self.bullets, self.enemy_bullets = np.zeros((3, num, 10, 10), bool)
        self.aliens[:, 0:4, 2:8] = True

    def deal(self, envs: np.ndarray) -> None:
        pass

    def step(self, actions: np.ndarray) -> np.ndarray:
        fires = np.flatnonzero((actions == FIRE) & (self.shot_timer == 0))
        self.bullets[fires, 9, self.x[fires]] = True
        self.shot_timer[fires] = 5
        self.x = _clip(self.x + DX[actions], 0, 9)
        self.bullets[:, :-1], self.bullets[:, 9] = self.bullets[:, 1:], False
        self.enemy_bullets[:, 1:], self.enemy_bullets[:, 0] = self.enemy_bullets[:, :-1], False
        self.over |= self.enemy_bullets[self._envs, 9, self.x]
        self.over |= self.aliens[self._envs, 9, self.x]
        self._march(np.flatnonzero(self.move_timer == 0))
        self.over |= self.aliens[self._envs, 9, self.x]
        self._shoot(np.flatnonzero(self.alien_shot_timer == 0))
        hit = self.aliens & self.bullets
        self.aliens ^= hit
        self.bullets ^= hit
        self.shot_timer -= self.shot_timer > 0
        self.move_timer -= 1
        self.alien_shot_timer -= 1
        cleared = ~self.aliens.any(axis=(1, 2))
        self.move_interval -= cleared & (self.move_interval > 6) & self._ramping
        self.aliens[np.flatnonzero(cleared), 0:4, 2:8] = True
        return np.count_nonzero(hit, axis=(1, 2))

    def show(self, obs: np.ndarray) -> None:
        obs[self._envs, 0, 9, self.x] = 1
        obs[:, 1] = self.aliens
        obs[self._envs, np.where(self.way < 0, 2, 3)] = self.aliens
        obs[:, 4] = self.bullets
        obs[:, 5] = self.enemy_bullets

    def _march(self, envs: np.ndarray) -> None:
        """Move the aliens of envs [n] sideways, or down where they stand at their edge."""
        if not envs.size:
            return
        aliens, way = self.aliens[envs], self.way[envs]
        count = np.count_nonzero(aliens, axis=(1, 2))
        self.move_timer[envs] = np.minimum(count, self.move_interval[envs])
        edge = np.where(way < 0, aliens[:, :, 0].any(axis=1), aliens[:, :, 9].any(axis=1))  # [n]
        self.over[envs] |= edge & aliens[:, 9].any(axis=1)
        self.way[envs] = np.where(edge, -way, way)
        rows = (COLUMNS - edge[:, None]) % 10  # [n, 10] where each row and column comes from
        columns = (COLUMNS - (way * ~edge)[:, None]) % 10
        self.aliens[envs] = self.aliens[envs[:, None, None], rows[:, :, None], columns[:, None]]

    def _shoot(self, envs: np.ndarray) -> None:
        """In envs [n], the lowest alien of the column nearest to the player fires."""
        if not envs.size:
            return
        self.alien_shot_timer[envs] = 10
        aliens = self.aliens[envs]
        distance = np.abs(COLUMNS - self.x[envs, None])  # [n, 10]; of two, the left column is taken
        column = np.argmin(np.where(aliens.any(axis=1), distance, 99), axis=1)
        row = 9 - np.argmax(aliens[np.arange(len(envs)), ::-1, column], axis=1)
        self.enemy_bullets[envs, row, column] = True


GAMES: dict[str, Callable[[int, Draws, bool], Game]] = {
    "asterix": _Asterix,
    "breakout": _Breakout,
    "freeway": _Freeway,
    "seaquest": _Seaquest,
    "space_invaders": _SpaceInvaders,
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
        self._sent, self._last, self._steps = _full(num_envs, 0, 0, 0)

    def _observe(self) -> np.ndarray:
        obs = np.zeros((self.num_envs, *self.observation_space.shape), np.uint8)
        self.game.show(obs)
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

    def recv(self) -> Raw:
        """Play the step and return observations [B, C, 10, 10] and what came with them."""
        repeats = self._draws.uniform(self._envs, 1)[:, 0] < self._sticky
        self._last = np.where(repeats, self._last, self._sent)
        reward = self.game.step(self._last).astype(np.float32)
        self._steps += 1
        over, never = self.game.over.copy(), np.zeros(self.num_envs, bool)
        truncated = ~over & (self._steps >= self._limit) if self._limit else never.copy()
        return Raw(self._observe(), reward, over, truncated, never)

    def render(self, index: int) -> np.ndarray:
        """The picture of one game, [320, 320, 3] uint8, a colour to each channel."""
        board = self._observe()[index].astype(bool)  # [C, 10, 10]
        picture = np.full((10, 10, 3), BACKGROUND, np.uint8)
        for channel in map(int, self.game.layers):
            picture[board[channel]] = tuple(bytes.fromhex(self.game.colours.split()[channel]))
        picture = picture.repeat(CELL, axis=0).repeat(CELL, axis=1)
        picture[::CELL], picture[:, ::CELL] = BACKGROUND, BACKGROUND  # a line between the cells
        return picture

    def close(self) -> None:
        """Nothing to free."""
