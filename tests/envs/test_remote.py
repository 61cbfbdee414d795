"""Envs on hosts against the same envs in this process, with hosts that are lost at any call."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from env_fakes import assert_same, through_json
from fake_ray import (
    ActorDiedError,
    ActorUnavailableError,
    FakeCluster,
    FakeRayError,
    GetTimeoutError,
)

from ludus.envs import remote
from ludus.envs.env_object import PREFIX
from ludus.envs.errors import EnvError, RunError
from ludus.envs.halves import make_halves
from ludus.envs.make import EnvOptions, make
from ludus.envs.remote import EnvHosts, make_remote
from ludus.envs.vector import episode_seed
from ludus.training.gang import ALONE_GANG
from ludus.training.run import TrainOptions
from ludus.training.train import _open

LOSSES = (ActorDiedError, ActorUnavailableError, GetTimeoutError)
ENVS = {
    "CartPole-v1": EnvOptions(),
    "MinAtar/Breakout-v1": EnvOptions(sticky=0.5),
    "PongNoFrameskip-v4": EnvOptions(screen_size=36),
    "ALE/Breakout-v5": EnvOptions(screen_size=36, stack=2, max_frames=80),
    "FrozenLake-v1": EnvOptions(max_episode_steps=9),
    "CliffWalking-v1": EnvOptions(stack=3, max_episode_steps=12),
    "MountainCarContinuous-v0": EnvOptions(),
    "connect_four": EnvOptions(),
}
ROWS = 60


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits end at once: a scripted host either answers or never does."""

    def waits(seconds: float) -> Iterator[float]:
        yield from [0.0] * int(seconds)

    monkeypatch.setattr(remote, "waits", waits)
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)


def _hosts(
    cluster: FakeCluster, count: int = 3, patience: float = 100.0, said: list[str] | None = None
) -> EnvHosts:
    said = [] if said is None else said
    return EnvHosts(cluster, count, patience, said.append)  # type: ignore[arg-type]


def _actions(env: Any, row: Any, rng: np.random.Generator) -> np.ndarray:
    """Return legal actions: a board's are the empty columns of its top row, else any."""
    space = env.action_space
    if env.env_id == "connect_four":
        mask = env._mask
        legal = row.obs[:, mask.start : mask.end]
        return np.array([rng.choice(np.flatnonzero(x)) if x.any() else 0 for x in legal])
    if hasattr(space, "n"):
        return np.asarray(rng.integers(space.n, size=env.num_envs))
    low, high = space.low, space.high
    return rng.uniform(low, high, (env.num_envs, *space.shape)).astype(np.float32)


def _play(env: Any, rows: int, action: int) -> None:
    for _ in range(rows):
        env.send(np.full(env.num_envs, action))
        env.recv()


def _losses(share: float, seed: int) -> Callable[[int, int], type[FakeRayError] | None]:
    """Return a fate in which a share of all calls loses its host."""
    rng = np.random.default_rng(seed)

    def fate(actor: int, call: int) -> type[FakeRayError] | None:
        return LOSSES[rng.integers(3)] if rng.random() < share else None

    return fate


@pytest.mark.parametrize("env_id", ENVS)
def test_rows_are_those_of_local_envs_however_many_hosts_are_lost(env_id: str) -> None:
    options, said = ENVS[env_id], list[str]()
    cluster = FakeCluster()
    local = make(env_id, 7, 5, options)
    far = make_remote(env_id, 7, 5, options, _hosts(cluster, said=said))
    cluster.ray._fate = _losses(0.01, 1)
    for actor in cluster.ray.actors:
        actor._fate = cluster.ray._fate
    assert far.protocol == local.protocol
    assert far.observation_space == local.observation_space
    assert far.action_names == local.action_names
    rng = np.random.default_rng(2)
    try:
        row = local.reset()
        assert_same(row, far.reset())
        for _ in range(ROWS):
            actions = _actions(local, row, rng)
            local.send(actions)
            far.send(actions)
            row = local.recv()
            assert_same(row, far.recv())
        assert any("is lost" in sentence for sentence in said)
        assert far.failing() is None
    finally:
        local.close()
        far.close()
    assert cluster.ray.running == 0
    assert cluster.users == 0


def test_a_saved_env_resumes_on_hosts_and_back() -> None:
    options = EnvOptions(max_episode_steps=20)
    local, far = (
        make("FrozenLake-v1", 5, 3, options),
        make_remote("FrozenLake-v1", 5, 3, options, _hosts(FakeCluster())),
    )
    try:
        row = far.reset()
        rng = np.random.default_rng(0)
        for _ in range(30):
            far.send(_actions(far, row, rng))
            row = far.recv()
        local.load_state_dict(through_json(far.state_dict()), row)
        again = make_remote("FrozenLake-v1", 5, 3, options, _hosts(FakeCluster(), 5))
        again.load_state_dict(through_json(local.state_dict()), row)
        for _ in range(10):
            actions = _actions(far, row, rng)
            for env in (local, far, again):
                env.send(actions)
            row = local.recv()
            assert_same(row, far.recv())
            assert_same(row, again.recv())
        again.close()
    finally:
        local.close()
        far.close()


def test_a_row_is_one_call_of_each_host_also_where_episodes_begin() -> None:
    cluster = FakeCluster()
    far = make_remote("CartPole-v1", 6, 0, EnvOptions(), _hosts(cluster, 2))
    far.reset()
    _play(far, 50, action=0)
    assert far.episode.min() > 2
    assert [actor.calls for actor in cluster.ray.actors] == [2 + 50] * 2  # open, reset, steps
    far.close()


def test_only_single_frames_travel() -> None:
    far = make_remote("PongNoFrameskip-v4", 4, 0, EnvOptions(), _hosts(FakeCluster(), 2))
    try:
        far.reset()
        assert far.observation_space.shape == (4, 84, 84)
        inner = far.backend.inner  # type: ignore[attr-defined]
        assert inner._records["obs"].shape == (4, 1, 84, 84)
    finally:
        far.close()


def test_without_another_host_the_envs_go_on_here_and_ask_for_an_end() -> None:
    """All hosts are lost at once and none comes back, in the middle of an episode."""
    gone = False

    def fate(actor: int, call: int) -> type[FakeRayError] | None:
        return GetTimeoutError if gone else None

    local = make("CartPole-v1", 4, 0)
    far = make_remote("CartPole-v1", 4, 0, EnvOptions(), _hosts(FakeCluster(fate), 2, patience=3))
    try:
        assert_same(local.reset(), far.reset())
        for t in range(30):
            gone = t > 12
            assert (far.failing() is None) == (t <= 13)
            actions = np.full(4, t % 2)
            local.send(actions)
            far.send(actions)
            assert_same(local.recv(), far.recv())
        assert far.failing() == "no env host could be had for 3 s"
    finally:
        local.close()
        far.close()


def test_steps_that_kill_every_host_are_an_error() -> None:
    def fate(actor: int, call: int) -> type[FakeRayError] | None:
        return ActorDiedError if call > 5 else None

    far = make_remote("CartPole-v1", 2, 0, EnvOptions(), _hosts(FakeCluster(fate), 1))
    far.reset()
    with pytest.raises(EnvError, match="killed 3 hosts one after the other in the same 4 steps"):
        _play(far, 9, action=0)
    far.close()


@pytest.mark.parametrize(
    ("fault", "problem"),
    [("raises in step", "raised ZeroDivisionError"), ("exits", "died"), ("NaN reward", "returned")],
)
def test_what_goes_wrong_in_an_env_of_a_host_names_the_env(fault: str, problem: str) -> None:
    """It is an answer: no other host is asked to repeat it."""
    victim = episode_seed(0, 2, 0)
    options = EnvOptions(env_kwargs=(f"fault={fault}", f"victim={victim}"))
    cluster = FakeCluster()
    far = make_remote("bad_envs:Bad", 4, 0, options, _hosts(cluster, 2))
    far.reset()
    with pytest.raises(EnvError, match=f"env 2 .*seed {victim}, step 2.* {problem}") as raised:
        _play(far, 4, action=1)
    assert raised.value.index == 2
    assert len(cluster.ray.actors) == 2
    far.close()


def test_what_goes_wrong_in_a_reset_that_comes_with_a_step_says_so() -> None:
    victim = episode_seed(0, 3, 1)
    options = EnvOptions(env_kwargs=("fault=raises in reset", f"victim={victim}"))
    far = make_remote("bad_envs:Bad", 4, 0, options, _hosts(FakeCluster(), 2))
    far.reset()
    message = f"env 3 .* raised KeyError: 'level' at its reset with seed {victim}"
    with pytest.raises(EnvError, match=message):
        _play(far, 9, action=1)
    far.close()


@pytest.mark.parametrize(
    ("env_id", "count", "message"),
    [
        ("CartPole-v1", 9, "hosts is 9; 4 envs are for 1 to 4 hosts"),
        ("CartPole-v2", 2, "there is no env CartPole-v2; did you mean"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(env_id: str, count: int, message: str) -> None:
    cluster = FakeCluster()
    with pytest.raises(EnvError, match=message):
        make_remote(env_id, 4, 0, EnvOptions(), _hosts(cluster, count))
    assert cluster.users == 0


def test_a_cluster_without_a_place_is_one_sentence() -> None:
    cluster = FakeCluster(lambda actor, call: GetTimeoutError if actor else None)
    with pytest.raises(
        EnvError, match=r"no host for envs 2 to 3 within 5 s: it gave no answer.*2 ma"
    ):
        make_remote("CartPole-v1", 4, 0, EnvOptions(), _hosts(cluster, 2, patience=5))
    assert cluster.ray.running == 0
    assert cluster.users == 0


def test_a_host_that_is_lost_before_it_has_its_envs_is_asked_for_again() -> None:
    cluster = FakeCluster(lambda actor, call: ActorDiedError if actor in (1, 2) else None)
    make_remote("CartPole-v1", 4, 0, EnvOptions(), _hosts(cluster, 2)).close()
    assert len(cluster.ray.actors) == 4


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = remote.host_versions()
    monkeypatch.setattr(remote, "host_versions", lambda: ours | {"ale-py": "0.1"})
    with pytest.raises(EnvError, match=r"has ale-py .*, and the trainer 0\.1; install the same"):
        make_remote("CartPole-v1", 4, 0, EnvOptions(), _hosts(FakeCluster(), 2))


def test_halves_divide_the_hosts() -> None:
    cluster = FakeCluster()
    halves = make_halves("CartPole-v1", 8, 0, EnvOptions(), hosts=_hosts(cluster, 4))
    assert len(cluster.ray.actors) == 4
    halves.close()
    assert cluster.users == 0
    with pytest.raises(EnvError, match="hosts is 3; two halves of the envs need an even number"):
        make_halves("CartPole-v1", 8, 0, EnvOptions(), hosts=_hosts(cluster, 3))


def test_where_ray_is_of_no_use_it_is_refused() -> None:
    with pytest.raises(RunError, match="ray is for one process that plays in envs; leave it out"):
        _open("", TrainOptions(dataset="a folder", ray="auto"), EnvOptions(), ALONE_GANG)
    with pytest.raises(EnvError, match="was passed as an object, which stays in this process"):
        make_remote(f"{PREFIX}Env-v0", 4, 0, EnvOptions(), _hosts(FakeCluster()))
