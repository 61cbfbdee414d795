"""Training speed of agents measured alternately in one run; the results are ratios."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ludus.agents import registry, sb3
from ludus.agents.agent import Agent, AgentConfig
from ludus.agents.capture import capture
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.memory.priority import Priorities
from ludus.agents.ppo_config import PPOConfig
from ludus.agents.sb3_config import SB3Config, match_dqn, match_ppo
from ludus.envs.make import make
from ludus.envs.vector import VectorEnv
from ludus.evaluation.evaluate import torch_settings
from ludus.training.loop import train_loop
from ludus.training.provenance import hardware, versions

# One update of the Nature CNN on a batch of 32 with the target's forward pass: convolutions and
# linear layers forward twice, backward once without the gradient of the pixels.
NATURE_UPDATE_GFLOP = 2.18
_WARM_UP, _STARTS, _REPLAY = 1_500, 500, 10_000  # env steps, env steps, transitions

PONG, CARTPOLE = "PongNoFrameskip-v4", "CartPole-v1"
MINATAR = "MinAtar/Breakout-v1"


@dataclass(frozen=True)
class Rate:
    """Speed of one contender."""

    name: str
    steps_per_second: float  # median over rounds
    first_over_this: float  # the first contender's rate over this one's, median over rounds


@dataclass(frozen=True)
class Speed:
    """Measured speeds on one env."""

    env: str
    rates: list[Rate]
    matrix_gflops: float | None = None  # float32 matrix product, same run
    floor_share: float | None = None  # our updates' floating-point work over the machine's rate


Contender = Callable[[int], float]  # env steps to take -> seconds they took


def _config(env_id: str) -> DQNConfig:
    """Return the settings of both sides: SB3's defaults for that kind of env."""
    common = DQNConfig(replay_size=_REPLAY, learning_starts=_STARTS, batch_size=32)
    common = replace(common, replay_ratio=0.25, epsilon_steps=10_000, target_interval=250)
    if env_id == PONG:
        return replace(common, encoder="nature", head_hidden=512, clip_reward=True)
    return replace(common, encoder="mlp", hidden=(64, 64))


def _ours(env_id: str, num_envs: int, device: torch.device, config: AgentConfig) -> Contender:
    env = make(env_id, num_envs, seed=1)
    agent = registry.build(config, env, device=device, seed=1, steps=1_000_000)
    assert isinstance(agent, Agent)
    capture(agent)
    stream: list[Any] = [env.reset(), agent.initial_state(num_envs)]

    def keep(row: Any, state: Any) -> bool:
        stream[:] = [row, state]
        return True

    def run(steps: int) -> float:
        began, before = time.perf_counter(), agent.env_steps
        with torch_settings(env, agent):
            train_loop(agent, env, stream[0], stream[1], before + steps, keep)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) * steps / (agent.env_steps - before)

    return run


def _theirs(env_id: str, on_our_env: bool, device: torch.device) -> Contender:
    arguments = match_dqn(_config(env_id))
    del arguments["exploration_steps"]
    arguments["exploration_fraction"] = 1.0
    env = make(env_id, 1, seed=1) if on_our_env else 1
    return _learning(sb3.reference(sb3.DQN, env_id, env, arguments, device, seed=1))


def _learning(model: sb3.BaseAlgorithm) -> Contender:
    def run(steps: int) -> float:
        began = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return time.perf_counter() - began

    return run


def matrix_gflops(device: torch.device, size: int = 1024) -> float:
    """Return the float32 rate of a matrix product in GFLOP/s, best of ten."""
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
    on_progress: Callable[[str], None],
) -> Speed:
    """Measure DQN against SB3's: all contenders run alternately for `rounds` rounds.

    Args:
        env_id: Pong or CartPole.
        rounds: number of rounds; medians are over these.
        steps: env steps of a contender in one round.
        num_envs: number of our envs; SB3's DQN has one, as its users run it.
        device: of all contenders.
        peers: also measure SB3.
        on_progress: called with a line on each measurement.
    """
    ours = _ours(env_id, num_envs, device, _config(env_id))
    contenders: dict[str, Contender] = {f"ludus dqn, {num_envs} envs": ours}
    if peers:
        contenders["sb3 dqn, its own env"] = _theirs(env_id, False, device)
        contenders["sb3 dqn, our env"] = _theirs(env_id, True, device)
    turns, products = _take_turns(
        env_id, contenders, rounds, [steps] * len(contenders), device, on_progress
    )
    rates = _rates(turns)
    if env_id != PONG or device.type != "cpu":  # one small product is no measure of a GPU
        return Speed(env_id, rates)
    updates = [speed * _config(env_id).replay_ratio for speed in next(iter(turns.values()))]
    shares = [u * NATURE_UPDATE_GFLOP / rate for u, rate in zip(updates, products, strict=True)]
    return Speed(env_id, rates, statistics.median(products), statistics.median(shares))


def _take_turns(
    env_id: str,
    contenders: dict[str, Contender],
    rounds: int,
    steps: Sequence[int],
    device: torch.device,
    on_progress: Callable[[str], None],
) -> tuple[dict[str, list[float]], list[float]]:
    """Return the steps per second of each contender in each round, and the GFLOP/s of a product."""
    for (name, run), count in zip(contenders.items(), steps, strict=True):
        on_progress(f"{env_id}: warming up {name}")
        run(max(_WARM_UP, count // 4))
    found: dict[str, list[float]] = {name: [] for name in contenders}
    products: list[float] = []
    for turn in range(rounds):
        for (name, run), count in zip(contenders.items(), steps, strict=True):
            found[name].append(count / run(count))
            on_progress(
                f"{env_id}: round {turn + 1} of {rounds}, {name}: {found[name][-1]:.0f} steps/s"
            )
        products.append(matrix_gflops(device))
    return found, products


def _rates(found: dict[str, list[float]]) -> list[Rate]:
    first = next(iter(found.values()))
    return [
        Rate(
            name,
            statistics.median(speeds),
            statistics.median(a / b for a, b in zip(first, speeds, strict=True)),
        )
        for name, speeds in found.items()
    ]


def measure_family(
    *,
    rounds: int,
    steps: int,
    num_envs: int,
    device: torch.device,
    on_progress: Callable[[str], None],
) -> Speed:
    """Measure dqn, rainbow, iqn, and iqn with 8 samples in place of 64, on Pong."""
    env = make(PONG, 1)
    configs: dict[str, DQNConfig] = {}
    for name in ("dqn", "rainbow", "iqn"):
        config = registry.preset(name, env).config
        assert isinstance(config, DQNConfig)
        configs[name] = replace(config, replay_size=_REPLAY, learning_starts=_STARTS)
    env.close()
    configs["iqn, 8 samples"] = replace(
        configs["iqn"], samples=8, target_samples=8, policy_samples=8
    )
    contenders = {name: _ours(PONG, num_envs, device, config) for name, config in configs.items()}
    turns, _ = _take_turns(PONG, contenders, rounds, [steps] * len(contenders), device, on_progress)
    return Speed(PONG, _rates(turns))


def measure_ppo(
    env_id: str,
    *,
    rounds: int,
    device: torch.device,
    peers: bool,
    on_progress: Callable[[str], None],
) -> Speed:
    """Measure PPO, and SB3's if `peers`, with the same network, rows, epochs and batch.

    These are SB3's defaults for each env. Ours has 8 envs on Pong and 64 on CartPole; SB3 has 8, as
    its users run it.
    """
    pong = env_id == PONG
    rows, batch = (1_024, 256) if pong else (2_048, 64)
    envs = 8 if pong else 64
    config = PPOConfig(
        epochs=4 if pong else 10,
        minibatches=rows // batch,
        rollout_length=rows // envs,
        anneal_learning_rate=False,
        clip_reward=pong,
    )
    if pong:
        config = replace(config, encoder="nature", features=512, shared=True)
    contenders = {f"ludus ppo, {envs} envs": _ours(env_id, envs, device, config)}
    if peers:
        arguments = match_ppo(config) | {"batch_size": batch}
        del arguments["anneal"], arguments["minibatches"]
        its_own = arguments | {"n_steps": rows // 8}
        contenders["sb3 ppo, 8 of its own envs"] = _learning(
            sb3.reference(sb3.PPO, env_id, 8, its_own, device, seed=1)
        )
        contenders[f"sb3 ppo, {envs} of our envs"] = _learning(
            sb3.reference(sb3.PPO, env_id, make(env_id, envs, seed=1), arguments, device, seed=1)
        )
    steps = [4 * rows] * len(contenders)
    turns, _ = _take_turns(env_id, contenders, rounds, steps, device, on_progress)
    return Speed(env_id, _rates(turns))


def measure_pqn(
    *, rounds: int, device: torch.device, peers: bool, on_progress: Callable[[str], None]
) -> Speed:
    """Measure PQN with 128 envs, and SB3's DQN if `peers`, on MinAtar's Breakout."""
    env = make(MINATAR, 1, seed=1)
    contenders = {
        "ludus pqn, 128 envs": _ours(MINATAR, 128, device, registry.preset("pqn", env).config)
    }
    if peers:
        contenders["sb3 dqn, our env"] = _sb3_on_minatar(env, device)
    steps = [65_536, 1_500][: len(contenders)]
    turns, _ = _take_turns(MINATAR, contenders, rounds, steps, device, on_progress)
    return Speed(MINATAR, _rates(turns))


def _sb3_on_minatar(env: VectorEnv, device: torch.device) -> Contender:
    """Return SB3's DQN on one of our envs."""
    theirs = registry.preset("sb3:dqn", env).config
    assert isinstance(theirs, SB3Config)
    arguments = theirs.arguments | {"learning_starts": _STARTS}
    sb3_agent = registry.build(
        replace(theirs, arguments=arguments), env, device=device, seed=1, steps=_REPLAY
    )
    assert isinstance(sb3_agent, sb3.SB3Agent)
    model = sb3_agent.model_on(env, _REPLAY)

    def run(steps: int) -> float:
        began = time.perf_counter()
        with torch_settings(env):
            model.learn(steps, reset_num_timesteps=False)
        return time.perf_counter() - began

    return run


def prioritised_sample_ms(size: int = 1_000_000, batch: int = 32, times: int = 200) -> float:
    """Return the median milliseconds of sampling a batch by priority, on a CPU."""
    device = torch.device("cpu")
    priorities = Priorities(size, 0.5, device)
    indices = torch.arange(size)
    priorities.admit(indices)
    priorities.update(indices, torch.rand(size))
    taken = []
    for _ in range(times):
        uniforms = torch.rand(batch, dtype=torch.float64)
        began = time.perf_counter()
        priorities.sample(uniforms)
        taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken)


def measured_on(device: torch.device) -> dict[str, Any]:
    """Return the machine, torch's threads and the versions."""
    return {
        **hardware(device),
        "torch_threads": torch.get_num_threads(),
        "versions": versions(),
    }


def as_dict(speeds: list[Speed], device: torch.device) -> dict[str, Any]:
    """Return the measurement for JSON."""
    return {"hardware": measured_on(device), "speeds": [asdict(speed) for speed in speeds]}
