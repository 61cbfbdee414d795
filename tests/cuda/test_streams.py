"""Acting on a stream of its own: in a certain order with the updates, and with the same results."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from cuda_device import REASON, SIMULATED

if REASON:
    pytest.skip(REASON, allow_module_level=True)
if SIMULATED:
    import simulator

import torch
from cuda_cases import CPU, CUDA, ENVS, PONG, REPLAY, ROLLOUT, SEQUENCES, Case, build, on_host
from streams import RaceError

from ludus.agents.agent import Agent
from ludus.agents.ahead import ActingAhead
from ludus.agents.capture import SideStream, capture
from ludus.envs.halves import make_halves
from ludus.envs.make import EnvOptions
from ludus.training.loop import Turn, train_in_halves

LAKE = "FrozenLake-v1"
CASES = [
    Case("dqn", LAKE, REPLAY),
    Case("rainbow", LAKE, REPLAY),
    Case("r2d2", LAKE, SEQUENCES),
    Case("recurrent_ppo", LAKE, ROLLOUT),
    Case("pqn", LAKE, ROLLOUT),
    Case("dqn", PONG, REPLAY),
    Case("ppo_small", PONG, ROLLOUT),
]
simulated = pytest.mark.skipif(not SIMULATED, reason="a real GPU rounds otherwise and hides races")


def _in_halves(
    case: Case,
    device: torch.device = CUDA,
    *,
    captured: bool = True,
    steps: int = 96,
    on_turn: Callable[[Turn, bool], bool] = lambda turn, waits: False,
) -> Agent:
    agent, env = build(case, device)
    env.close()
    halves = make_halves(case.env, ENVS, 0, EnvOptions())
    try:
        ahead = ActingAhead(agent)
        if captured:
            capture(agent)
        train_in_halves(ahead, halves, None, steps, on_turn)
    finally:
        halves.close()
    assert agent.updates > 0
    return agent


def _watching() -> Any:
    return simulator.SIMULATOR.streams.watch() if SIMULATED else nullcontext()


def _rows(agent: Any) -> dict[str, torch.Tensor]:
    """Return what the memory holds."""
    memory = getattr(agent, "memory", None)
    if memory is None:
        return dict(agent.rollout._rows)
    replay = getattr(memory, "ring", memory)
    names = ("_frames", "_action", "_reward", "_discount", "_first", "_valid", "_sampleable")
    return {name: getattr(replay, name) for name in names}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_halves_are_captured_and_end_as_without(case: Case) -> None:
    with _watching():
        captured = on_host(_in_halves(case).weights())
    with _watching():
        eager = on_host(_in_halves(case, captured=False).weights())
    for name, weight in captured.items():
        if SIMULATED:
            assert torch.equal(weight, eager[name]), name
        else:
            torch.testing.assert_close(weight, eager[name], rtol=1e-2, atol=1e-3)


@simulated
@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_devices_store_the_same_rows_in_halves(case: Case) -> None:
    ours, theirs = _rows(_in_halves(case, CPU)), _rows(_in_halves(case, CUDA))
    assert any(x.any() for x in ours.values())
    for name, rows in ours.items():
        if name in ("value", "log_prob"):  # traced on the CPU, which rounds otherwise
            torch.testing.assert_close(theirs[name].cpu(), rows)
        else:
            assert torch.equal(theirs[name].cpu(), rows), name


@simulated
def test_a_row_in_halves_waits_for_the_actions_alone() -> None:
    counts, rows = simulator.SIMULATOR.counts, 0

    def count(turn: Turn, waits: bool) -> bool:
        nonlocal rows
        rows += 1
        if rows == 30:
            simulator.SIMULATOR.reset()
        return False

    _in_halves(Case("dqn", PONG, REPLAY), steps=240, on_turn=count)
    waits = counts["wait"] + counts["waiting upload"] + counts["download"]
    # of each half the actions, and each half's frames and the rest of the row
    assert waits <= 2 * (rows - 30)
    assert counts["upload"] <= 3 * (rows - 30)
    assert rows == 60


@simulated
@pytest.mark.parametrize("broken", ["follow", "running", "hand_over", "record_stream"])
@pytest.mark.parametrize("captured", [True, False])
def test_an_order_that_is_left_out_is_found(
    monkeypatch: pytest.MonkeyPatch, broken: str, captured: bool
) -> None:
    """R2D2 hands over its state, and so depends on every one of them."""
    match broken:
        case "follow":  # the copy of the weights need not be finished
            monkeypatch.setattr(SideStream, "follow", lambda self: None)
        case "running":
            monkeypatch.setattr(simulator._Stream, "wait_event", lambda self, event: None)
        case "hand_over":
            monkeypatch.setattr(SideStream, "hand_over", lambda self, tensors: None)
        case "record_stream":
            monkeypatch.setattr(
                simulator.SimulatedTensor, "record_stream", lambda self, stream: None
            )
    with pytest.raises(RaceError), simulator.SIMULATOR.streams.watch():
        _in_halves(Case("r2d2", LAKE, SEQUENCES), captured=captured)


@simulated
def test_two_streams_need_an_order() -> None:
    with simulator.SIMULATOR.streams.watch():
        x, side, done = torch.ones(3, device=CUDA), torch.cuda.Stream(), torch.cuda.Event()
        done.record()
        with torch.cuda.stream(side):
            side.wait_event(done)
            y = x + 1  # two may read
        z = x * 2
        with pytest.raises(RaceError, match="may come before or after"):
            x.add_(1)
        torch.cuda.current_stream().wait_stream(side)
        x.add_(1)
        with torch.cuda.stream(side), pytest.raises(RaceError):
            z.add_(y)
        assert x.cpu().tolist() == [3, 3, 3]  # the host has waited
        with torch.cuda.stream(side):
            z.add_(y)
        y.record_stream(torch.cuda.current_stream())


@simulated
@pytest.mark.parametrize("kept", [True, False])
def test_memory_is_not_freed_while_another_stream_uses_it(kept: bool) -> None:
    def use() -> None:
        with simulator.SIMULATOR.streams.watch():
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                x = torch.ones(3, device=CUDA)
            torch.cuda.current_stream().wait_stream(side)
            y = x + 1
            if kept:
                x.record_stream(torch.cuda.current_stream())
            del x
            assert y.cpu().tolist() == [2, 2, 2]

    if kept:
        use()
    else:
        with pytest.raises(RaceError, match="freed while another stream may use it"):
            use()


@simulated
@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[5], CASES[6]], ids=str)
def test_halves_continue_at_a_row_that_was_acted_on(case: Case) -> None:
    """The older frames of that row are on no device, for the agent does not act on it again."""
    whole = _in_halves(case, steps=160)
    agent, env = build(case)
    env.close()
    halves = make_halves(case.env, ENVS, 0, EnvOptions())
    saved: dict[str, Any] = {}
    ahead = ActingAhead(agent)

    def save(turn: Turn, waits: bool) -> bool:
        if waits and not saved:
            saved.update(
                agent=agent.state_dict(), acting=ahead.state_dict(), env=halves.state_dict()
            )
            saved["turn"] = turn
            raise StopIteration
        return agent.env_steps > 80

    try:
        capture(agent)
        with pytest.raises(StopIteration):
            train_in_halves(ahead, halves, None, 160, save)
        fresh, env = build(case, seed=1)
        env.close()
        again = ActingAhead(fresh)
        capture(fresh)
        fresh.load_state_dict(saved["agent"])
        again.load_state_dict(saved["acting"])
        train_in_halves(again, halves, saved["turn"], 160, lambda *_: False)
    finally:
        halves.close()
    for name, weight in on_host(whole.weights()).items():
        assert torch.equal(weight, on_host(fresh.weights())[name]), name
