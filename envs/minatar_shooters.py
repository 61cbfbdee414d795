"""MinAtar's two shooters, Seaquest and Space Invaders, as arrays of B games."""

import numpy as np

from ludus.envs.minatar_board import COLUMNS, DX, DY, FIRE, Draws, clip, full, inside

ENEMIES = 30  # in Seaquest; at the fastest, one leaves after 29 steps and the next comes after 1
OLDEST_FIRST = np.arange(ENEMIES, 0, -1, dtype=np.int8)  # [30] their ranks


class Swarm:
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
        """Return which living ones [B, slots] are in the cells (x, y) [B]."""
        x, y = x.astype(np.int8), y.astype(np.int8)
        return self.alive & (self.x == x[:, None]) & (self.y == y[:, None])

    def write_planes(self, obs: np.ndarray, channel: int, trail: int | None = None) -> None:
        """Mark the living in obs [B, C, 10, 10]; submarines in the channel after `channel`."""
        envs, slots = np.nonzero(self.alive)
        x, y = self.x[envs, slots], self.y[envs, slots]
        obs[envs, channel + self.is_sub[envs, slots], y, x] = 1
        if trail is not None:
            back = x - self.way[envs, slots]
            seen = inside(back)
            obs[envs[seen], trail, y[seen], back[seen]] = 1


class Seaquest:
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
        self.x, self.y, self.facing = full(num, 5, 0, -1)
        self.oxygen, self.held, self.shot_timer, self.diver_timer = full(num, 200, 0, 0, 30)
        self.spawn_speed, self.enemy_timer = full(num, 20, 20)
        self.move_speed, self.ramp_index = full(num, 5, 0)
        self.bullets = Swarm(num, 2)  # one lives 9 steps at most, the next comes after 5
        self.divers = Swarm(num, 2)  # 59 steps, the next after 30
        self.enemies = Swarm(num, ENEMIES)
        self.enemy_bullets = np.zeros((num, 2, 10, 10), bool)  # to the left, to the right

    def deal(self, envs: np.ndarray) -> None:
        """Empty the water."""
        for swarm in (self.bullets, self.divers, self.enemies):
            swarm.alive[envs] = False

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Play actions [B] and return the rewards [B]."""
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

    def write_planes(self, obs: np.ndarray) -> None:
        """Mark the boards in obs [B, C, 10, 10]."""
        obs[self._envs, 0, self.y, self.x] = 1
        obs[self._envs, 1, self.y, self.x - self.facing] = 1
        self.bullets.write_planes(obs, 2)
        np.logical_or(self.enemy_bullets[:, 0], self.enemy_bullets[:, 1], out=obs[:, 4])
        self.enemies.write_planes(obs, 5, trail=3)
        obs[:, 7, 9] = (np.maximum(self.oxygen, 0) * 10 // 200)[:, None] > COLUMNS
        obs[:, 8, 9] = (COLUMNS + self.held[:, None] >= 9) & (COLUMNS < 9)
        self.divers.write_planes(obs, 9, trail=3)

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
        self.x = clip(self.x + dx, 0, 9)
        self.y = clip(self.y + DY[actions], 0, 8)

    def _move_bullets(self) -> np.ndarray:
        """Fly on; the newest bullet first, each strikes the oldest fish there, else submarine."""
        self.bullets.x += self.bullets.way
        self.bullets.alive &= inside(self.bullets.x)
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
            divers.alive[:, slot] &= ~taken & inside(divers.x[:, slot])
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
        enemies.alive &= inside(enemies.x)
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
        six = arrives & (self.held == 6)
        reward[six] = self.oxygen[six] * 10 // 200
        # the library's own: six divers leave -1 behind, and with those one may surface for nothing
        self.held[six] = 0
        self.held -= arrives
        self.oxygen[arrives] = 200
        if self._ramping:
            ramps = arrives & ((self.spawn_speed > 1) | (self.move_speed > 2))
            self.move_speed -= ramps & (self.move_speed > 2) & (self.ramp_index % 2 == 1)
            self.spawn_speed -= ramps & (self.spawn_speed > 1)
            self.ramp_index += ramps
        return reward


class SpaceInvaders:
    """Shoot the aliens before they or their bullets arrive; boards are maps [B, 10, 10]."""

    channels = 6  # cannon, alien, alien to the left, alien to the right, own bullet, enemy bullet
    minimal = "nlrf"
    colours = "5cc8ff 54be6e 54be6e 54b0b0 ffffff e24a42"
    layers = "123540"

    def __init__(self, num: int, draws: Draws, ramping: bool) -> None:
        self._ramping, self._envs = ramping, np.arange(num)
        self.over = np.zeros(num, bool)
        self.x, self.way, self.shot_timer, self.alien_shot_timer = full(num, 5, -1, 0, 10)
        self.move_timer, self.move_interval = full(num, 12, 12)
        self.aliens, self.bullets, self.enemy_bullets = np.zeros((3, num, 10, 10), bool)
        self.aliens[:, 0:4, 2:8] = True

    def deal(self, envs: np.ndarray) -> None:
        """Return nothing: nothing is random."""

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Play actions [B] and return the rewards [B]."""
        fires = np.flatnonzero((actions == FIRE) & (self.shot_timer == 0))
        self.bullets[fires, 9, self.x[fires]] = True
        self.shot_timer[fires] = 5
        self.x = clip(self.x + DX[actions], 0, 9)
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

    def write_planes(self, obs: np.ndarray) -> None:
        """Mark the boards in obs [B, C, 10, 10]."""
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
        """Let the lowest alien of the column nearest to the player fire, in envs [n]."""
        if not envs.size:
            return
        self.alien_shot_timer[envs] = 10
        aliens = self.aliens[envs]
        distance = np.abs(COLUMNS - self.x[envs, None])  # [n, 10]; of two, the left column is taken
        column = np.argmin(np.where(aliens.any(axis=1), distance, 99), axis=1)
        row = 9 - np.argmax(aliens[np.arange(len(envs)), ::-1, column], axis=1)
        self.enemy_bullets[envs, row, column] = True
