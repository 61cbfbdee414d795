"""MinAtarBackend against the `minatar` package, step by step, on the same random numbers."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from minatar.gym import BaseEnv

from ludus.envs.minatar import BACKGROUND, CELL, GAMES, MinAtarBackend
from ludus.envs.minatar_board import KEYS, Draws
from ludus.envs.minatar_shooters import ENEMIES
from ludus.envs.vector import VectorEnv

GOLDEN, WORD = 0x9E3779B97F4A7C15, 2**64 - 1
HABITS = {"freeway": "u", "space_invaders": "f"}  # what a random player of the game favours


def splitmix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
    return z ^ z >> 31


class Random:
    """What the library asks of its RandomState, from the backend's numbers, in plain integers."""

    def __init__(self, seed: int) -> None:
        self.key, self.count = splitmix(seed + GOLDEN & WORD), 0

    def draw(self) -> float:
        self.count += 1
        return (splitmix(self.key + self.count * GOLDEN & WORD) >> 11) * 2.0**-53

    def rand(self, size: int | None = None) -> Any:
        return self.draw() if size is None else np.array([self.draw() for _ in range(size)])

    def randint(self, low: int, high: int | None = None, size: int | None = None) -> Any:
        low, high = (0, low) if high is None else (low, high)
        if size is not None:
            return np.array([self.randint(low, high) for _ in range(size)])
        return low + int(self.draw() * (high - low))


class Twins:
    """B library envs and one backend of B, which must agree after every reset and step."""

    def __init__(self, game: str, num: int, full: bool, sticky: float, ramping: bool) -> None:
        kwargs = {"sticky_action_prob": sticky, "difficulty_ramping": ramping}
        self.backend = MinAtarBackend(
            game,
            num,
            full_action_set=full,
            sticky_action_prob=sticky,
            difficulty_ramping=ramping,
        )
        self.library = [
            BaseEnv(game, use_minimal_action_set=not full, **kwargs) for _ in range(num)
        ]
        self.actions = [KEYS[action] for action in self.library[0].action_set]
        self.ours: Any = self.backend.game
        self.obs = np.zeros(0)

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> None:
        for i in np.flatnonzero(mask):
            game = self.library[i].game
            game.random = game.env.random = Random(int(seeds[i]))
            game.last_action = 0  # the library keeps it, so that episodes hang together
            game.reset()
        self.obs = self.backend.reset(mask, seeds)

    def step(self, actions: np.ndarray, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Step all and compare those alive [B]; the rewards and ends [B] of those."""
        self.backend.send(actions)
        self.obs, reward, terminated, truncated, life_lost, sign = self.backend.recv()
        assert sign is None
        assert not truncated.any()
        assert not life_lost.any()
        for i in np.flatnonzero(alive):
            _, expected, over, _, _ = self.library[i].step(actions[i])
            assert (reward[i], terminated[i]) == (expected, over), f"env {i}"
        return reward * alive, terminated & alive

    def compare(self, alive: np.ndarray) -> None:
        for i in np.flatnonzero(alive):
            board = self.library[i].game.env.state().transpose(2, 0, 1)
            if not np.array_equal(self.obs[i], board):
                channel, row, column = np.argwhere(self.obs[i] != board)[0]
                raise AssertionError(f"env {i}, channel {channel}, row {row}, column {column}")

    def revive(self) -> None:
        """Let games that are over go on, so that play gets to where few players do."""
        self.ours.over[:] = False
        for env in self.library:
            env.game.env.terminal = False


def choose(twins: Twins, rng: np.random.Generator, game: str, habit: np.ndarray) -> np.ndarray:
    """Actions [B]: half at random, half a habit of the env; in Breakout mostly after the ball."""
    num = len(habit)
    habit[rng.random(num) < 0.1] = rng.integers(len(twins.actions))
    if game == "breakout":
        ball = twins.ours.x + np.array([-1, 1, 1, -1])[twins.ours.direction]
        side = np.sign(np.clip(ball, 0, 9) - twins.ours.paddle)
        aimed = np.array([twins.actions.index(key) for key in "lnr"])[side + 1]
        return np.where(rng.random(num) < 0.05, rng.integers(len(twins.actions), size=num), aimed)
    if game in HABITS:
        habit[: num // 2] = twins.actions.index(HABITS[game])
    return np.where(rng.random(num) < 0.5, rng.integers(len(twins.actions), size=num), habit)


def play(
    game: str,
    steps: int,
    *,
    full: bool = True,
    sticky: float = 0.1,
    ramping: bool = True,
    immortal: bool = False,
    num: int = 8,
    late: dict[str, int] | None = None,
) -> tuple[float, int, Twins]:
    """Play both and compare every step; the sum of rewards, the games that ended, and the twins."""
    rng = np.random.default_rng(1)
    twins = Twins(game, num, full, sticky, ramping)
    habit = rng.integers(len(twins.actions), size=num)
    resets, alive = np.ones(num, bool), np.zeros(num, bool)
    total, ends = 0.0, 0
    for _ in range(steps):
        if resets.any():
            twins.reset(resets, rng.integers(2**31, size=num))
            alive |= resets
            twins.compare(alive)
            for name, value in (late or {}).items():
                begin_late(twins, resets, name, value)
        rewards, over = twins.step(choose(twins, rng, game, habit), alive)
        twins.compare(alive)
        total, ends = total + rewards.sum(), ends + over.sum()
        if immortal:
            twins.revive()
        else:
            alive &= ~over
        resets = ~alive & (rng.random(num) < 0.4) | (rng.random(num) < 0.0005)
    return total, ends, twins


def begin_late(twins: Twins, envs: np.ndarray, name: str, value: int) -> None:
    ours = {"e_spawn_speed": "spawn_speed", "diver_count": "held"}.get(name, name)
    getattr(twins.ours, ours)[envs] = value
    for i in np.flatnonzero(envs):
        setattr(twins.library[i].game.env, name, value)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("game", GAMES)
def test_plays_as_the_library_does(game: str, full: bool) -> None:
    total, ends, twins = play(game, 2700 if game == "freeway" else 1500, full=full)
    assert total > 20
    assert ends > (0 if game == "freeway" else 20)
    assert len(twins.actions) == len(twins.backend.action_names)


def test_breakout_passes_through_bricks_as_the_library_does() -> None:
    rng, num, alive = np.random.default_rng(2), 8, np.ones(8, bool)
    twins = Twins("breakout", num, False, 0.1, True)
    for step in range(400):
        if step % 10 == 0:
            twins.reset(np.ones(num, bool), np.arange(step, step + num))
            alive[:] = True
            twins.ours.bricks[:, 1:8] = rng.random((num, 7, 10)) < 0.5
            for env, bricks in zip(twins.library, twins.ours.bricks, strict=True):
                env.game.env.brick_map[:] = bricks
        _, over = twins.step(rng.integers(3, size=num), alive)
        twins.compare(alive)
        alive &= ~over


@pytest.mark.parametrize("game", ["asterix", "seaquest", "space_invaders"])
def test_plays_as_the_library_does_where_few_players_get(game: str) -> None:
    late = {"diver_count": 6, "e_spawn_speed": 4, "move_speed": 2} if game == "seaquest" else {}
    _, _, twins = play(game, 2000, immortal=True, late=late)
    ours = twins.ours
    reached = {
        "asterix": lambda: ours.move_speed.min() == 1,
        "seaquest": lambda: ours.held.min() < 0 and ours.enemies.alive.sum(axis=1).max() > 15,
        "space_invaders": lambda: ours.move_interval.min() < 12,
    }
    assert reached[game]()


def crowd(twins: Twins, rng: np.random.Generator, index: int) -> None:
    """Fill one game of Seaquest, in both, so that much meets in one cell in one step."""
    ours, game = twins.ours, twins.library[index].game.env
    env, ways = np.array([index]), rng.choice([True, False], size=5)
    x, y = int(rng.integers(1, 9)), int(rng.integers(0, 4))
    held, oxygen = int(rng.integers(-1, 7)), 20 * int(rng.integers(1, 11))
    game.sub_x, game.sub_y, game.diver_count, game.oxygen = x, y, held, oxygen
    ours.x[env], ours.y[env], ours.held[env], ours.oxygen[env] = x, y, held, oxygen
    game.shot_timer = ours.shot_timer[index] = 5  # there are never more bullets than two
    game.surface = ours.surfaced[index] = bool(rng.integers(2))

    def enter(swarm: Any, row: int, way: bool, **timers: int) -> list[Any]:
        column = int(np.clip(x + rng.integers(-3, 4), 0, 9))
        swarm.append(env, np.array([column]), np.array([row]), np.array([1 if way else -1]))
        for name, value in timers.items():
            getattr(swarm, name)[index, -1] = value
        return [column, row, way, *(value for name, value in timers.items() if name != "is_sub")]

    for _ in range(2):
        game.f_bullets.append(enter(ours.bullets, int(rng.integers(1, 3)), bool(rng.integers(2))))
        diver = enter(ours.divers, max(y, 1), bool(rng.integers(2)), timer=int(rng.integers(2)))
        game.divers.append(diver)
    for is_sub in rng.integers(2, size=20):
        row, timer, shot = int(rng.integers(1, 3)), int(rng.integers(3)), int(rng.integers(4))
        if is_sub:
            sub = enter(ours.enemies, row, ways[row], timer=timer, shot_timer=shot, is_sub=1)
            game.e_subs.append(sub)
        else:
            game.e_fish.append(enter(ours.enemies, row, ways[row], timer=timer))


def test_crowds_in_seaquest_meet_in_the_library_s_order() -> None:
    rng, num, total = np.random.default_rng(2), 16, 0
    twins, everywhere = Twins("seaquest", num, True, 0.1, True), np.ones(num, bool)
    for _ in range(100):
        twins.reset(everywhere, rng.integers(2**31, size=num))
        for index in range(num):
            crowd(twins, rng, index)
        for _ in range(5):
            rewards, _ = twins.step(rng.integers(6, size=num), everywhere)
            twins.compare(everywhere)
            twins.revive()
            total += rewards.sum()
    assert total > 1000


def test_seaquest_holds_as_many_enemies_as_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Random, "draw", lambda self: 0.2)  # all from the left, in one row
    monkeypatch.setattr(
        Draws, "uniform", lambda self, envs, count: np.full((len(envs), count), 0.2)
    )
    twins, alone, most = Twins("seaquest", 1, True, 0.1, True), np.ones(1, bool), 0
    twins.reset(alone, np.zeros(1, np.int64))
    begin_late(twins, alone, "e_spawn_speed", 1)
    begin_late(twins, alone, "move_speed", 2)
    for _ in range(90):
        twins.step(np.array([KEYS.index("n")]), alone)
        twins.compare(alone)
        most = max(most, twins.ours.enemies.alive.sum())
    assert most == ENEMIES - 1  # and within a step one more, until the oldest leaves


@pytest.mark.parametrize("ramping", [True, False])
@pytest.mark.parametrize("sticky", [0.0, 0.5])
@pytest.mark.parametrize("game", ["asterix", "seaquest", "space_invaders"])
def test_settings_are_the_library_s(game: str, sticky: float, ramping: bool) -> None:
    play(game, 500, sticky=sticky, ramping=ramping, immortal=True, num=4)


def episode(backend: MinAtarBackend, seeds: list[int], steps: int = 150) -> np.ndarray:
    """Observations [steps + 1, B, C, 10, 10] of all games, from seeds, with one plan of actions."""
    rng = np.random.default_rng(7)
    seen = [backend.reset(np.ones(len(seeds), bool), np.array(seeds))]
    for action in rng.integers(len(backend.action_names), size=steps):
        backend.send(np.full(len(seeds), action))
        seen.append(backend.recv().obs)
    return np.stack(seen)


@pytest.mark.parametrize("game", GAMES)
def test_an_episode_follows_from_its_seed_and_actions(game: str) -> None:
    backend = MinAtarBackend(game, 3)
    first = episode(backend, [5, 6, 7])
    again = episode(backend, [7, 5, 6])
    alone = episode(MinAtarBackend(game, 1), [6])
    np.testing.assert_array_equal(first, again[:, [1, 2, 0]])
    np.testing.assert_array_equal(first[:, 1], alone[:, 0])
    assert any((first[:, 0] != first[:, i]).any() for i in (1, 2))
    assert first[0, 0].dtype == np.uint8
    assert backend.observation_space.contains(first[-1, 0])


@pytest.mark.parametrize("game", GAMES)
def test_a_reset_leaves_the_others_untouched(game: str) -> None:
    """With one env restarted and some games over, the others go on as in a batch without that."""
    backends = [MinAtarBackend(game, 4) for _ in range(2)]
    rng = np.random.default_rng(3)
    for backend in backends:
        backend.reset(np.ones(4, bool), np.arange(4))
    others = [0, 1, 3]
    for step in range(300):
        actions = rng.integers(len(backends[0].action_names), size=4)
        for backend in backends:
            backend.send(actions)
        disturbed, plain = (backend.recv() for backend in backends)
        for mine, theirs in zip(disturbed[:5], plain[:5], strict=True):
            np.testing.assert_array_equal(mine[others], theirs[others])
        if step % 20 == 10:
            kept = [field.copy() for field in disturbed[:5]]
            obs = backends[0].reset(np.array([False, False, True, False]), np.full(4, step))
            np.testing.assert_array_equal(obs[others], plain.obs[others])
            for mine, before in zip(disturbed[:5], kept, strict=True):  # what was handed out stays
                np.testing.assert_array_equal(mine, before)


@pytest.mark.parametrize("game", GAMES)
def test_a_game_that_is_over_may_be_stepped_on(game: str) -> None:
    backend = MinAtarBackend(game, 2)
    backend.reset(np.ones(2, bool), np.array([1, 2]))
    rng = np.random.default_rng(0)
    over, action_count = 0, len(backend.action_names)
    while over < 100:
        backend.send(rng.integers(action_count, size=2))
        raw = backend.recv()
        assert raw.terminated.all() >= (over > 0)  # what is over stays over
        assert raw.obs.max() == 1
        over += int(raw.terminated.all())


def test_the_library_has_no_time_limit_and_ours_truncates() -> None:
    assert all(
        spec.max_episode_steps is None
        for spec in gymnasium.registry.values()
        if spec.namespace == "MinAtar"
    )
    backend = MinAtarBackend("freeway", 2, max_episode_steps=3)
    backend.reset(np.ones(2, bool), np.array([1, 2]))
    ends = []
    for step in range(5):
        if step == 1:
            backend.reset(np.array([False, True]), np.array([0, 0]))
        backend.send(np.zeros(2, np.int64))
        raw = backend.recv()
        ends.append(raw.truncated.tolist())
        assert not raw.terminated.any()
    assert ends[:4] == [[False, False], [False, False], [True, False], [True, True]]
    backend = MinAtarBackend("freeway", 1, max_episode_steps=2501)
    backend.reset(np.ones(1, bool), np.array([1]))
    for _ in range(2501):
        backend.send(np.zeros(1, np.int64))
        raw = backend.recv()
    assert raw.terminated[0]  # the game's own end goes before the limit
    assert not raw.truncated[0]


def test_names_of_actions() -> None:
    full, minimal = (MinAtarBackend("freeway", 1, full_action_set=full) for full in (True, False))
    assert full.action_names == ("noop", "left", "up", "right", "down", "fire")
    assert minimal.action_names == ("noop", "up", "down")
    with pytest.raises(ValueError, match="no game 'pong'"):
        MinAtarBackend("pong", 1)


@pytest.mark.parametrize("game", GAMES)
def test_the_picture_shows_each_channel_in_its_colour(game: str) -> None:
    backend = MinAtarBackend(game, 2)
    backend.reset(np.ones(2, bool), np.array([1, 2]))
    for _ in range(12):  # until Asterix shows something
        backend.send(np.zeros(2, np.int64))
        backend.recv()
    picture = backend.render(1)
    assert picture.shape == (10 * CELL, 10 * CELL, 3)
    assert picture.dtype == np.uint8
    board = backend.game
    colours = [tuple(bytes.fromhex(colour)) for colour in board.colours.split()]
    assert len(colours) == board.channels
    assert sorted(map(int, board.layers)) == list(range(board.channels))
    assert BACKGROUND not in colours
    shown = {tuple(cell) for row in picture[CELL // 2 :: CELL, CELL // 2 :: CELL] for cell in row}
    assert shown <= {BACKGROUND, *colours}
    assert len(shown) > 2
    assert colours[0] in shown  # the player lies on top


def test_an_interrupted_stream_is_rebuilt() -> None:
    def stream() -> VectorEnv:
        backend = MinAtarBackend("seaquest", 3)
        return VectorEnv(backend, env_id="seaquest", protocol={}, seed=1, trusted=True)

    env, rng = stream(), np.random.default_rng(0)
    row = env.reset()
    for _ in range(200):
        env.send(rng.integers(6, size=3))
        row = env.recv()
    resumed = stream()
    resumed.load_state_dict(env.state_dict(), row)  # raises where the observations differ
    for _ in range(50):
        actions = rng.integers(6, size=3)
        for each in (env, resumed):
            each.send(actions)
        for mine, theirs in zip(env.recv(), resumed.recv(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_draws_are_uniform_and_independent() -> None:
    draws, envs = Draws(2000), np.arange(2000)
    draws.restart(envs, envs)
    numbers = np.concatenate([draws.uniform(envs, 1), draws.uniform(envs, 3)], axis=1)  # [2000, 4]
    draws.restart(envs, envs)
    np.testing.assert_array_equal(draws.uniform(envs, 4), numbers)
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert abs(counts - 800).max() < 5 * 27  # 27 is the standard deviation of a count
    # one env's numbers against each other, and against those of the next seed
    neighbours = np.corrcoef(np.concatenate([numbers[:-1].T, numbers[1:].T]))  # [8, 8]
    assert abs(neighbours - np.eye(8)).max() < 5 / 2000**0.5
