"""Env steps per second of our DQN and of SB3's, alternating in one run; figures are ratios."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil
import torch

from ludus.agents import dqn, presets, sb3
from ludus.agents.dqn import DQNConfig
from ludus.envs.make import make
from ludus.training.evaluate import tuned_for
from ludus.training.graphs import capture
from ludus.training.loop import train_loop
from ludus.training.run import versions

# One update of the Nature CNN on a batch of 32 with the target's forward pass: convolutions and
# linear layers forward twice, backward once without the gradient of the pixels.
NATURE_UPDATE_GFLOP = 2.18
_WARM_UP, _STARTS, _REPLAY = 1_500, 500, 10_000  # env steps, env steps, transitions

PONG, CARTPOLE = "PongNoFrameskip-v4", "CartPole-v1"


@dataclass(frozen=True)
class Rate:
    """One contender's speed."""

    name: str
    steps_per_second: float  # median over rounds
    ours_over_this: float  # median over rounds of the ratio within a round


@dataclass(frozen=True)
class Speed:
    """What one env's measurement found."""

    env: str
    rates: list[Rate]
    matrix_gflops: float | None = None  # float32 matrix product, same run
    floor_share: float | None = None  # our updates' floating-point work over the machine's rate


Contender = Callable[[int], float]  # env steps to take -> seconds they took


def _config(env_id: str) -> DQNConfig:
    """The same network, batch and cadence on both sides: SB3's defaults for that kind of env."""
    common = DQNConfig(replay_size=_REPLAY, learning_starts=_STARTS, batch_size=32)
    common = replace(common, replay_ratio=0.25, epsilon_steps=10_000, target_interval=250)
    if env_id == PONG:
        return replace(common, encoder="nature", head_hidden=512, clip_reward=True)
    return replace(common, encoder="mlp", hidden=(64, 64))


def _ours(env_id: str, num_envs: int, device: torch.device) -> Contender:
    env = make(env_id, num_envs, seed=1)
    agent = presets.build(_config(env_id), env, device=device, seed=1, steps=1_000_000)
    assert isinstance(agent, dqn.DQN)
    capture(agent)
    where: list[Any] = [env.reset(), agent.initial_state(num_envs)]

    def keep(row: Any, state: Any) -> bool:
        where[:] = [row, state]
        return True

    def run(steps: int) -> float:
        began, before = time.perf_counter(), agent.env_steps
        with tuned_for(env):
            train_loop(agent, env, where[0], where[1], before + steps, keep)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) * steps / (agent.env_steps - before)

    return run


def _theirs(env_id: str, on_our_env: bool, device: torch.device) -> Contender:
    arguments = presets.match_dqn(_config(env_id))
    del arguments["exploration_steps"]
    arguments["exploration_fraction"] = 1.0
    env = make(env_id, 1, seed=1) if on_our_env else None
    model = sb3.reference_dqn(env_id, env, arguments, device, seed=1)

    def run(steps: int) -> float:
        began = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return time.perf_counter() - began

    return run


def matrix_gflops(device: torch.device, size: int = 1024) -> float:
    """The float32 rate of a matrix product, GFLOP/s, best of ten."""
    a, b = torch.randn(2, size, size, device=device)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times) / 1e9


def measure(
    env_id: str,
    *,
    rounds: int,
    steps: int,
    num_envs: int,
    device: torch.device,
    peers: bool = True,
    say: Callable[[str], None],
) -> Speed:
    """Let all contenders take `steps` env steps in turn, `rounds` times.

    Args:
        env_id: Pong or CartPole.
        rounds: how often each has its turn; medians are over these.
        steps: env steps of a turn.
        num_envs: our envs; SB3's DQN has one, as its users run it.
        device: for all.
        peers: measure SB3 too.
        say: called with a line on each turn.
    """
    ours_name = f"ludus dqn, {num_envs} envs"
    contenders: dict[str, Contender] = {ours_name: _ours(env_id, num_envs, device)}
    if peers:
        contenders["sb3 dqn, its own env"] = _theirs(env_id, False, device)
        contenders["sb3 dqn, our env"] = _theirs(env_id, True, device)
    for name, run in contenders.items():
        say(f"{env_id}: warming up {name}")
        run(_WARM_UP)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    rates: list[float] = []
    for turn in range(rounds):
        for name, run in contenders.items():
            found[name].append(steps / run(steps))
            say(f"{env_id}: round {turn + 1} of {rounds}, {name}: {found[name][-1]:.0f} steps/s")
        rates.append(matrix_gflops(device))
    ours = found[ours_name]
    told = [
        Rate(
            name,
            statistics.median(speeds),
            statistics.median(a / b for a, b in zip(ours, speeds, strict=True)),
        )
        for name, speeds in found.items()
    ]
    if env_id != PONG or device.type != "cpu":  # one small product says nothing of a GPU
        return Speed(env_id, told)
    updates = [speed * _config(env_id).replay_ratio for speed in ours]
    shares = [u * NATURE_UPDATE_GFLOP / rate for u, rate in zip(updates, rates, strict=True)]
    return Speed(env_id, told, statistics.median(rates), statistics.median(shares))


def hardware(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "gpu": gpu,
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "torch_threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def as_dict(speeds: list[Speed], device: torch.device) -> dict[str, Any]:
    """All of it, for JSON."""
    return {"hardware": hardware(device), "speeds": [asdict(speed) for speed in speeds]}
