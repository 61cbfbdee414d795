"""Every agent on a CUDA device.

On a real GPU, numbers agree within tolerances. On a CPU build of torch the device is simulated,
see `simulator.py`: captured updates then equal eager ones bit for bit, and copies and waits are
counted.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cuda_device import REASON, SIMULATED

if REASON:
    pytest.skip(REASON, allow_module_level=True)
if SIMULATED:
    import simulator

import torch
from cuda_cases import (
    CPU,
    CUDA,
    ENVS,
    GAMES,
    GTRXL,
    MINATAR,
    PONG,
    REPLAY,
    RESETS,
    ROLLOUT,
    SEQUENCES,
    Case,
    build,
    on_host,
    play,
)

import ludus
from ludus.agents.agent import Agent
from ludus.agents.capture import capture
from ludus.agents.memory.replay import _ARRAYS as ARRAYS
from ludus.agents.memory.replay import Replay
from ludus.agents.memory.step import Staging
from ludus.envs.errors import CheckpointError, RunError
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.rivals import Rivals
from ludus.training.checkpoint import newest_checkpoint, save_checkpoint
from ludus.training.device import arithmetic
from ludus.training.loop import train_loop
from ludus.training.run import Run, TrainOptions


def _slow(*case: Any) -> Any:
    return pytest.param(*case, marks=pytest.mark.slow)


ROWS = ("obs", "action", "first", "valid", "reward", "discount")
SMALL_IMPALA = REPLAY | {"replay_ratio": 0.1, "width": 1, "batch_size": 4}
SPIEL = "breakthrough(rows=4,columns=4)"
FAMILY = ("dqn", "ddqn", "dueling", "c51", "qrdqn", "iqn", "munchausen", "rainbow", "btr")
SLOWER = ("ddqn", "dueling", "munchausen")  # parts of btr
CAPTURED = [
    *(Case(name, changes=REPLAY) for name in FAMILY if name not in SLOWER),
    *(_slow(Case(name, changes=REPLAY)) for name in SLOWER),
    Case("dqn", changes=REPLAY | {"optimizer": "rmsprop"}),
    *(_slow(Case("dqn", changes=REPLAY | {"optimizer": o})) for o in ("radam", "sgd")),
    Case("dqn", MINATAR, REPLAY | {"layer_norm": "all", "prioritised": True, "n_step": 3}),
    Case("dqn", "connect_four", REPLAY),  # a dictionary with an action mask
    Case("btr", PONG, SMALL_IMPALA),
    Case("bbf", changes=RESETS),
    Case("bbf", PONG, SMALL_IMPALA | {"features": 16, "reset_interval": 3}),
    Case("ppo", changes=ROLLOUT),
    _slow(Case("ppo", changes=ROLLOUT | {"optimizer": "radam"})),
    Case("ppo", "Pendulum-v1", ROLLOUT | {"normalize_value": True}),
    Case("ppo_small", PONG, ROLLOUT),
    Case("a2c"),
    Case("impala", changes={"rollout_length": 8}),
    Case("recurrent_ppo", changes=GTRXL),
    Case("pqn", changes=ROLLOUT),
    Case("pqn", MINATAR, ROLLOUT),
    Case("r2d2", changes=SEQUENCES | {"core": "lstm"}),
    Case("dqn", changes=REPLAY | {"auxiliary": "variational"}),
    Case("pqn", changes=ROLLOUT | {"auxiliary": "inverse"}),
    _slow(Case("r2d2", changes=SEQUENCES | {"auxiliary": "spr"})),
    _slow(Case("ppo", changes=ROLLOUT | {"auxiliary": "reconstruction"})),
    _slow(Case("r2d2", changes=SEQUENCES | {"core": "gru"})),
    Case("drqn", changes=SEQUENCES),
    Case("recurrent_ppo", changes=ROLLOUT | {"core": "lstm"}),
    Case("pqn", changes=ROLLOUT | {"core": "gru"}),
    Case("alphazero", "tic_tac_toe", GAMES),
    Case("alphazero", "connect_four", GAMES | {"search": "puct", "reuse_tree": True}),
    Case("alphazero", SPIEL, GAMES),  # the network alone is recorded
]
EAGER = [Case("ppo", changes=ROLLOUT | {"optimizer": "adagrad"})]


def _trained(case: Case, *, captured: bool, steps: int = 72) -> Agent:
    agent, env = build(case)
    try:
        if captured:
            capture(agent)
        if SIMULATED:
            simulator.SIMULATOR.reset()
        play(agent, env, steps)
    finally:
        env.close()
    assert agent.updates > 0
    return agent


@pytest.mark.parametrize("case", CAPTURED, ids=str)
def test_a_captured_update_equals_the_eager_one(case: Case) -> None:
    captured = _trained(case, captured=True)
    assert captured.learner.step.__name__ == "replay"
    eager = on_host(_trained(case, captured=False).weights())
    for name, weight in on_host(captured.weights()).items():
        assert weight.isfinite().all()
        if SIMULATED:
            assert torch.equal(weight, eager[name]), name
        else:
            torch.testing.assert_close(weight, eager[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("case", EAGER, ids=str)
def test_an_agent_that_stays_eager_learns_on_the_device(case: Case) -> None:
    agent = _trained(case, captured=True, steps=160)
    assert agent.learner.step.__name__ != "replay"
    assert all(weight.isfinite().all() for weight in on_host(agent.weights()).values())


@pytest.mark.skipif(SIMULATED, reason="the simulator is deterministic")
@pytest.mark.parametrize("name", ["dqn", "rainbow", "ppo", "pqn"])
def test_a_deterministic_training_repeats_bit_for_bit(name: str) -> None:
    case = Case(name, MINATAR, ROLLOUT if name in ("ppo", "pqn") else REPLAY)
    with arithmetic("cuda", "float32", deterministic=True):
        weights = [on_host(_trained(case, captured=True).weights()) for _ in range(2)]
        eager = on_host(_trained(case, captured=False).weights())
    for key, weight in weights[0].items():
        assert torch.equal(weights[1][key], weight), key
        assert torch.equal(eager[key], weight), key


@pytest.mark.skipif(SIMULATED, reason="mixed precision is not simulated")
@pytest.mark.parametrize(
    "case", [Case("rainbow", MINATAR, REPLAY), Case("ppo", changes=ROLLOUT)], ids=str
)
def test_an_update_in_bfloat16_is_captured(case: Case) -> None:
    agent, env = build(case)
    try:
        capture(agent, bfloat16=True)
        play(agent, env, 72)
    finally:
        env.close()
    assert agent.learner.step.__name__ == "replay"
    exact = on_host(_trained(case, captured=True).weights())
    weights = on_host(agent.weights())
    assert any(not torch.equal(weights[name], weight) for name, weight in exact.items())
    assert all(weight.isfinite().all() for weight in weights.values())


class Budget(NamedTuple):
    """What one row of a training and one update may cost."""

    waits: float  # of the host for the device, a row, updates included
    uploads: float  # copies to the device that the host does not wait for, a row
    act: int  # kernels of an act besides those of its graph
    update: int  # operations of a recorded update


# What was measured; smaller is better. A row needs one wait, for its actions, and one upload.
BUDGETS = {
    "dqn": (Case("dqn", changes=REPLAY), Budget(1, 1, 4, 58)),
    "rainbow": (Case("rainbow", changes=REPLAY), Budget(1, 1, 5, 308)),
    "btr": (Case("btr", PONG, SMALL_IMPALA), Budget(1, 1, 5, 756)),
    "bbf": (Case("bbf", PONG, SMALL_IMPALA | {"features": 16}), Budget(1, 1, 2, 767)),
    # One wait more in each rollout of 8 rows, and one for each KL divergence.
    "ppo": (Case("ppo", changes=ROLLOUT), Budget(1.125, 1, 4, 142)),
    "ppo_small": (Case("ppo_small", PONG, ROLLOUT), Budget(1.375, 1, 4, 139)),
    "gtrxl": (Case("recurrent_ppo", changes=GTRXL), Budget(1.125, 1, 12, 502)),
    "r2d2": (Case("r2d2", changes=SEQUENCES), Budget(1, 1, 8, 772)),
    "lstm": (Case("recurrent_ppo", changes=ROLLOUT), Budget(1.125, 1, 12, 812)),
    "pqn": (Case("pqn", MINATAR, ROLLOUT), Budget(1, 1, 4, 102)),
    "alphazero": (Case("alphazero", "tic_tac_toe", GAMES), Budget(1, 2.3, 41, 98)),
}


@pytest.mark.skipif(not SIMULATED, reason="a real GPU does not count")
@pytest.mark.parametrize("name", BUDGETS)
def test_a_row_and_an_update_cost_no_more_than_their_budget(name: str) -> None:
    case, budget = BUDGETS[name]
    agent, env = build(case)
    counts, rows = simulator.SIMULATOR.counts, 0

    def count(*_: object) -> bool:
        nonlocal rows
        rows += 1
        return rows < 40

    try:
        capture(agent)
        recorded = simulator.SIMULATOR.recorded
        play(agent, env, 90)
        row, state = env.reset(), agent.initial_state(ENVS)
        simulator.SIMULATOR.reset()
        agent.act(row.obs, state, row.first)
        act = counts["kernel"]
        simulator.SIMULATOR.reset()
        train_loop(agent, env, row, state, 10_000, count)
    finally:
        env.close()
    waits = counts["wait"] + counts["waiting upload"] + counts["download"]
    spent = Budget(waits / rows, counts["upload"] / rows, act, recorded)
    over = {f: s for f, s, b in zip(Budget._fields, spent, budget, strict=True) if s > b}
    assert not over, f"{spent}; lines: {simulator.SIMULATOR.lines.most_common(12)}"


MOVED = [
    Case("rainbow", changes=REPLAY | {"normalize_observation": True}),
    Case("bbf", changes=RESETS),
    Case("r2d2", changes=SEQUENCES),
    Case("ppo", "Pendulum-v1", ROLLOUT | {"normalize_observation": True}),
    Case("pqn", changes=ROLLOUT | {"core": "gru"}),
    Case("alphazero", "tic_tac_toe", GAMES),
]


def _saved(agent: Agent, folder: Path) -> Any:
    save_checkpoint(folder, agent.env_steps, agent.state_dict(), keep=1)
    return newest_checkpoint(folder)[0]


@pytest.mark.parametrize("case", MOVED, ids=str)
@pytest.mark.parametrize(
    ("there", "here"), [(CPU, CUDA), _slow(CUDA, CPU)], ids=["to GPU", "to CPU"]
)
def test_an_agent_continues_on_another_device(
    case: Case, there: torch.device, here: torch.device, tmp_path: Path
) -> None:
    (agent, env), (moved, _) = build(case, there), build(case, here, seed=1)
    (twin, _) = build(case, here, seed=2)
    try:
        play(agent, env, 120)
        tree = _saved(agent, tmp_path)
        for each in (moved, twin):
            each.load_state_dict(tree)
        weights, kept = on_host(agent.weights()), on_host(moved.weights())
        assert all(torch.equal(kept[name], weight) for name, weight in weights.items())
        assert (moved.env_steps, moved.updates) == (agent.env_steps, agent.updates)
        for each in (moved, twin):
            play(each, make(case.env, ENVS, 5), agent.env_steps + 120)
    finally:
        env.close()
    assert moved.updates > agent.updates
    again, other = on_host(moved.weights()), on_host(twin.weights())
    for name, weight in again.items():  # the same random numbers, whatever the seed of the build
        assert torch.equal(other[name], weight) if SIMULATED else weight.isfinite().all()


@pytest.mark.parametrize("case", MOVED, ids=str)
def test_a_resume_on_the_same_device_is_exact(case: Case, tmp_path: Path) -> None:
    (agent, env), (fresh, _) = build(case), build(case, seed=1)
    try:
        for each in (agent, fresh):
            capture(each)
        play(agent, env, 120)
        fresh.load_state_dict(_saved(agent, tmp_path))
        end = agent.env_steps + 120
        for each in (agent, fresh):
            play(each, make(case.env, ENVS, 5), end)
    finally:
        env.close()
    assert fresh.updates == agent.updates
    weights = on_host(fresh.weights())
    for name, weight in on_host(agent.weights()).items():
        if SIMULATED:
            assert torch.equal(weights[name], weight), name
        else:
            torch.testing.assert_close(weights[name], weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("there", [CPU, CUDA], ids=["saved on CPU", "saved on GPU"])
def test_a_recurrent_rival_continues_on_the_device(there: torch.device, tmp_path: Path) -> None:
    """Rivals keep the core's state of past networks, which a checkpoint brings back on the CPU."""
    case = Case("recurrent_ppo", "tic_tac_toe", ROLLOUT)

    def rivals(device: torch.device, seed: int) -> Rivals:
        names = ("self", "past")
        return Rivals(names, "tic_tac_toe", ENVS, 0, lambda: build(case, device, seed)[0], 40)

    (agent, env), (moved, again) = build(case, there), build(case, CUDA, seed=1)
    before, after = rivals(there, 0), rivals(CUDA, 1)
    try:
        state = agent.initial_state(ENVS)
        train_loop(agent, env, env.reset(), state, 160, lambda *_: True, before)
        assert before.state_dict()["past_state"], "a past network has moved"
        save_checkpoint(tmp_path, 1, {"rivals": before.state_dict()}, keep=1)
        after.load_state_dict(newest_checkpoint(tmp_path)[0]["rivals"])
        moved.load_state_dict(_saved(agent, tmp_path / "agent"))
        fresh = moved.initial_state(ENVS)
        train_loop(moved, again, again.reset(), fresh, 240, lambda *_: True, after)
    finally:
        env.close()
        again.close()
    assert moved.updates > agent.updates


def test_a_run_says_that_it_continues_on_another_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = TrainOptions(num_envs=ENVS, eval_episodes=1, device="cpu")
    ludus.train("dqn", "CartPole-v1", steps=200, train_options=options, root=tmp_path, quiet=True)
    (folder,) = tmp_path.glob("*/*/*")
    capsys.readouterr()
    ludus.resume(folder, device="cuda", steps=400)
    said = " ".join(capsys.readouterr().err.split())
    assert "it was saved on cpu and continues on cuda: from the same state, but not bit" in said
    assert Run.open(folder).config().train.device == "cuda"
    with pytest.raises(RunError, match="device is tpu; it must be auto, cpu, cuda or mps"):
        ludus.resume(folder, device="tpu")


class _Update(Exception):
    """Raised in place of an update, with its random input."""


def _before_an_update(case: Case) -> tuple[Agent, tuple[torch.Tensor, ...]]:
    """Train on the CPU; return the agent right before an update, and the update's random input."""
    agent, env = build(case, CPU)

    def stop(*randomness: torch.Tensor) -> None:
        raise _Update(*randomness)

    try:
        play(agent, env, 120)
        assert agent.updates > 0
        agent.learner.step = stop
        play(agent, env, 1_000)
    except _Update as reached:
        return agent, reached.args
    finally:
        env.close()
    raise AssertionError("no update came")


# Simulated, both devices run the same kernels: a few agents show that a state is moved whole.
PARITY = [
    case if not SIMULATED or case.agent in ("rainbow", "ppo", "r2d2") else _slow(case)
    for case in (each if isinstance(each, Case) else each.values[0] for each in CAPTURED + EAGER)
]


@pytest.mark.parametrize("case", PARITY, ids=str)
def test_both_devices_compute_the_same_gradient(case: Case) -> None:
    agent, randomness = _before_an_update(case)
    moved, env = build(case, CUDA, seed=1)
    env.close()
    moved.load_state_dict(agent.state_dict())
    if hasattr(agent, "rollout"):  # targets are computed before the updates of a rollout
        moved.rollout.load_state_dict(agent.rollout.state_dict())
        for name, values in agent.rollout.extras.items():
            moved.rollout.extras[name].copy_(values)
    if hasattr(agent, "_clip"):
        moved._clip.copy_(agent._clip)
        moved._explained.copy_(agent._explained)
    if getattr(agent, "_horizon", None) is not None:  # as before each update
        for each in (agent, moved):
            each._horizon.move(each._updates_since_reset)
    here = agent.gradients(*randomness)
    there = moved.gradients(*(x.to(CUDA) for x in randomness))
    assert any(x.abs().max() > 0 for x in here)
    for ours, theirs in zip(here, there, strict=True):
        torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-3, atol=1e-5)


def test_a_failed_resume_leaves_the_run_on_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TrainOptions(num_envs=ENVS, eval_episodes=0, device="cpu")
    ludus.train("dqn", "CartPole-v1", steps=100, train_options=options, root=tmp_path, quiet=True)
    (folder,) = tmp_path.glob("*/*/*")

    def fail(*_: object) -> None:
        raise ValueError("no memory")

    monkeypatch.setattr(Replay, "load_state_dict", fail)
    with pytest.raises(CheckpointError, match="no memory"):
        ludus.resume(folder, device="cuda", steps=200, quiet=True)
    assert Run.open(folder).config().train.device == "cpu"


@pytest.mark.parametrize("rows", [1, 7])
def test_arrays_are_copied_whole_and_the_next_copy_takes_their_place(rows: int) -> None:
    generator = np.random.default_rng(0)
    staging = Staging(CUDA)

    def arrays() -> list[np.ndarray]:
        shapes = ((rows, 3), (rows,), (), (rows, 2, 2))
        kinds = (np.float32, np.int64, bool, np.uint8)
        return [
            np.asarray(generator.integers(0, 2, shape)).astype(kind)
            for shape, kind in zip(shapes, kinds, strict=True)
        ]

    received: list[list[torch.Tensor]] = []
    for _ in range(5):
        sent = arrays()
        copied = [array.copy() for array in sent]
        received.append(staging.upload(*sent))
        for array in sent:  # the host goes on with its arrays
            array[...] = 0
        for old in received:
            for tensor, array in zip(old, copied, strict=True):
                assert tensor.device.type == "cuda"
                assert staging.download(tensor).tolist() == array.tolist()


STREAMS = [
    Case("dqn", changes=REPLAY),
    Case("dqn", PONG, REPLAY | {"width": 1}),
    Case("ppo", changes=ROLLOUT),
    Case("ppo_small", PONG, ROLLOUT),
    Case("dqn", "connect_four", REPLAY),
]


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("case", STREAMS, ids=str)
@pytest.mark.parametrize("stack", [None, 3])
def test_the_device_holds_the_observation_of_each_row(
    case: Case, stack: int | None, captured: bool
) -> None:
    """Older frames of a stack are not copied again, and zeros come before an episode."""
    if stack and case.env == "connect_four":
        pytest.skip("dictionaries are not stacked")
    agent, env = build(case, options=EnvOptions(stack=stack))
    staging, whole = agent.learner.actor.staging, []
    upload, act = staging.upload, agent.act
    shape = (ENVS, *env.observation_space.shape)

    def count(*arrays: np.ndarray) -> list[torch.Tensor]:
        whole.append(env.stack > 1 and any(a.shape == shape for a in arrays))
        return upload(*arrays)

    def check(obs: np.ndarray, state: Any, first: np.ndarray) -> Any:
        held = [x.cpu().numpy() for x in staging.observation(obs, first)]
        assert np.array_equal(held[0], obs)
        assert np.array_equal(held[1], first)
        return act(obs, state, first)

    staging.upload, agent.act = count, check
    try:
        if captured:
            capture(agent)
        play(agent, env, 400)
    finally:
        env.close()
    assert sum(whole) == (1 if env.stack > 1 else 0), "the first observation alone is copied whole"


@pytest.mark.skipif(not SIMULATED, reason="a real GPU rounds differently")
@pytest.mark.parametrize("case", [*STREAMS, Case("rainbow", changes=REPLAY)], ids=str)
def test_both_devices_store_the_same_rows(case: Case) -> None:
    memories = []
    for device in (CPU, CUDA):
        agent, env = build(case, device)
        try:
            capture(agent)
            play(agent, env, 200)
        finally:
            env.close()
        memories.append(agent.memory if hasattr(agent, "memory") else agent.rollout)
    ours, theirs = memories
    names = [f"_{name}" for name in ARRAYS] if isinstance(ours, Replay) else ROWS
    for name in names:
        assert torch.equal(getattr(theirs, name).cpu(), getattr(ours, name)), name
    if isinstance(ours, Replay):
        assert len(ours) == len(theirs)
        assert torch.equal(theirs._range.cpu(), ours._range)
