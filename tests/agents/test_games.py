"""The replay of self-play games against lists of games."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from ludus.agents.memory.games import Games, Position
from ludus.envs.errors import ConfigError

BOARD = spaces.Box(0, 255, (2,), np.uint8)


def memory(capacity, num_envs, outcome_share=1.0, longest=6, seed=0):
    return Games(
        capacity,
        num_envs,
        BOARD,
        3,
        longest,
        outcome_share=outcome_share,
        device=torch.device("cpu"),
        seed=seed,
    )


def played(games, rows, seed=0, again=0.3):
    """Random games into a memory; all of their positions as they should come out, oldest first.

    Where a game is over the next row is one whose move is not used. With probability `again` the
    same player moves once more.
    """
    generator = np.random.default_rng(seed)
    count = games.num_envs
    running = [[] for _ in range(count)]  # of each env: (row, name, mover, value, learned)
    mover = np.ones(count)
    ended = np.zeros(count, bool)
    rows_of_games = []
    for row in range(rows):
        names = generator.integers(0, 256, (count, 2)).astype(np.uint8)
        policy = generator.dirichlet(np.ones(3), count).astype(np.float32)
        value = generator.uniform(-1, 1, count).astype(np.float32)
        learned, kept = generator.random((2, count)) < 0.5
        long = np.array([len(r) >= 5 for r in running])
        over = ~ended & ((generator.random(count) < 0.25) | long)
        reward = np.where(over, generator.integers(-1, 2, count), 0).astype(np.float32)
        sign = np.where(generator.random(count) < again, 1, -1).astype(np.float32)
        position = Position(
            torch.from_numpy(names),
            torch.from_numpy(policy > 0.1),
            torch.from_numpy(policy),
            torch.from_numpy(value),
            torch.from_numpy(learned),
            kept,
        )
        games.add(position, ~ended, reward, over, sign)
        for i in range(count):
            if ended[i]:
                mover[i] = 1
                continue
            running[i].append((row, names[i], mover[i], value[i], learned[i], policy[i], kept[i]))
            if over[i]:
                first = reward[i] * mover[i]  # for who began
                rows_of_games += [(*e[:-1], first * e[2]) for e in running[i] if e[-1]]
                running[i], mover[i] = [], 1
            else:
                mover[i] *= sign[i]
        ended = over
    return rows_of_games


@pytest.mark.parametrize("share", [1.0, 0.0, 0.25])
@pytest.mark.parametrize("rows", [5, 17, 60])
def test_what_is_kept_is_what_was_played(rows, share):
    games = memory(20 * 4, 4, share)
    rows_of_games = [t for t in played(games, rows) if t[0] >= rows - 20]
    assert len(games) == len(rows_of_games)
    found = games.gather(games._indices())
    key = [tuple(board.tolist()) for board in found.board]
    for row, name, _, value, learned, policy, outcome in rows_of_games:
        at = key.index(tuple(name.tolist()))
        expected = share * outcome + (1 - share) * value
        assert float(found.value[at]) == pytest.approx(expected, abs=1e-6), row
        assert float(found.weight[at]) == learned
        assert found.policy[at].tolist() == policy.tolist()
        assert found.legal[at].tolist() == (policy > 0.1).tolist()


def test_only_games_that_are_over_are_drawn():
    games = memory(20 * 4, 4)
    played(games, 3, seed=1)
    ready = len(games)
    position = Position(
        torch.full((4, 2), 9, dtype=torch.uint8),
        torch.ones(4, 3, dtype=torch.bool),
        torch.ones(4, 3) / 3,
        torch.zeros(4),
        torch.ones(4, dtype=torch.bool),
        np.ones(4, bool),
    )
    none = np.zeros(4, bool)
    games.add(position, ~none, np.zeros(4, np.float32), none, -np.ones(4, np.float32))
    assert len(games) == ready


def test_positions_are_drawn_all_alike():
    games = memory(20 * 4, 4)
    played(games, 20)
    places = games._indices()
    drawn = torch.bincount(games.sample_indices(60_000), minlength=80)[places].double()
    expected = 60_000 / len(places)
    chi_square = float(((drawn - expected) ** 2 / expected).sum())
    assert chi_square < len(places) + 4 * (2 * len(places)) ** 0.5
    assert int(drawn.sum()) == 60_000


def test_a_resumed_memory_goes_on_alike():
    def run(stop):
        games = memory(20 * 4, 4, 0.5)
        played(games, 13, seed=2)
        if stop:
            saved, games = games.state_dict(), memory(20 * 4, 4, 0.5, seed=9)
            games.load_state_dict(saved)
        played(games, 13, seed=3)
        return games

    straight, resumed = run(False), run(True)
    assert len(straight) == len(resumed) > 0
    place = straight.sample_indices(50)
    assert place.tolist() == resumed.sample_indices(50).tolist()
    for a, b in zip(straight.gather(place), resumed.gather(place), strict=True):
        assert torch.equal(a, b)


def test_a_memory_without_room_for_a_game_of_each_env_is_refused():
    with pytest.raises(ConfigError, match="replay_size is 28; 4 games of up to 6 moves need 32"):
        memory(28, 4)
    with pytest.raises(ConfigError, match="GB"):
        memory(10**12, 4)


def test_a_memory_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="resume with the replay_size"):
        memory(40, 4).load_state_dict(memory(80, 4).state_dict())
