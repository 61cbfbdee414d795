"""Run the tests of the CUDA path and measure speeds, on a machine with a GPU, in under 9 minutes.

python benchmarks/gpu.py                            # writes gpu/<name of the GPU>.md and .json
python benchmarks/gpu.py --device cpu --seconds 1   # tries this program out
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ludus.agents import registry
from ludus.agents.agent import Agent
from ludus.agents.ahead import ActingAhead
from ludus.agents.capture import capture
from ludus.envs.action_mask import legal_mask, random_actions
from ludus.envs.errors import LudusError
from ludus.envs.halves import Halves, make_halves
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import VectorEnv
from ludus.evaluation.evaluate import torch_settings
from ludus.training.device import Precision, arithmetic, device_of
from ludus.training.loop import train_in_halves, train_loop
from ludus.training.provenance import commit, hardware

ROOT = Path(__file__).parents[1]
TEST_SECONDS = 240  # the tests end after this time at the latest
PONG = "PongNoFrameskip-v4"


class Row(NamedTuple):
    """One line of the table."""

    agent: str
    env: str
    num_envs: int
    changes: dict[str, Any]
    precision: Precision = "float32"
    deterministic: bool = False
    halves: bool = False


EARLY: dict[str, Any] = {"learning_starts": 2_000, "replay_size": 100_000}
ROWS = [
    *(Row("dqn", PONG, envs, EARLY) for envs in (8, 64)),
    Row("dqn", PONG, 64, EARLY, "tf32"),
    Row("dqn", PONG, 64, EARLY, "bfloat16"),
    Row("dqn", PONG, 64, EARLY, deterministic=True),
    *(Row("dqn", PONG, envs, EARLY, halves=True) for envs in (8, 64)),
    Row("rainbow", PONG, 64, EARLY),
    Row("iqn", PONG, 64, EARLY),
    Row("btr", PONG, 64, EARLY),
    *(Row("ppo", PONG, envs, {}) for envs in (8, 64)),
    Row("ppo", PONG, 64, {}, halves=True),
    Row("ppo_small", PONG, 16, {}),
    Row("pqn", PONG, 128, {}),
    Row("r2d2", PONG, 64, EARLY),
    Row("dqn", "CartPole-v1", 64, {}),
    Row("ppo", "CartPole-v1", 64, {}),
    Row("alphazero", "connect_four", 128, {}),
]


def run_tests() -> tuple[str, bool]:
    """Run the tests of the CUDA path; return pytest's last line, and whether all passed."""
    command = [sys.executable, "-m", "pytest", "-x", "-m", "not slow", "tests/cuda"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=TEST_SECONDS, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not finished after {TEST_SECONDS} s", False
    lines = [line for line in done.stdout.strip().splitlines() if line]
    if done.returncode:
        print(done.stdout[-6_000:], done.stderr[-2_000:], flush=True)
    return lines[-1] if lines else done.stderr[-200:], done.returncode == 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def env_rate(row: Row, seconds: float) -> float:
    """Return the env steps per second of the env alone, with actions at random."""
    env = make(row.env, row.num_envs, 0)
    try:
        now, generator = env.reset(), np.random.default_rng(0)
        steps, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            legal = legal_mask(env.observation_space, now.obs)
            env.send(random_actions(env.action_space, row.num_envs, generator, legal))
            now = env.recv()
            steps += row.num_envs
        return steps / seconds
    finally:
        env.close()


def train_rate(row: Row, seconds: float, device: torch.device) -> tuple[float, float]:
    """Return env steps per second of a training, and its updates per second."""
    env: VectorEnv | Halves
    if row.halves:
        env = make_halves(row.env, row.num_envs, 0, EnvOptions())
    else:
        env = make(row.env, row.num_envs, 0)
    try:
        config = replace(registry.preset(row.agent, env).config, **row.changes)
        agent = registry.build(config, env, device=device, seed=0, steps=1_000_000)
        assert isinstance(agent, Agent)
        settings = arithmetic(device.type, row.precision, deterministic=row.deterministic)
        with torch_settings(env, agent), settings:
            ahead = ActingAhead(agent) if row.halves else None
            capture(agent, bfloat16=row.precision == "bfloat16")
            return _timed(agent, env, ahead, seconds, device)
    finally:
        env.close()


class _Enough(Exception):
    """Ends a measurement."""


def _timed(
    agent: Agent,
    env: VectorEnv | Halves,
    ahead: ActingAhead | None,
    seconds: float,
    device: torch.device,
) -> tuple[float, float]:
    """Train until updates have begun, and then for some seconds."""
    limit = time.perf_counter() + 2 * seconds  # of the part before the first update
    marks: list[tuple[float, int, int]] = []

    def go_on() -> bool:
        now = time.perf_counter()
        if marks and now - marks[0][0] >= seconds:
            raise _Enough
        if not marks and (agent.updates >= 4 or now > limit):
            _wait(device)
            marks.append((time.perf_counter(), agent.env_steps, agent.updates))
        return True

    with suppress(_Enough):
        if isinstance(env, Halves):
            assert ahead is not None
            train_in_halves(ahead, env, None, 10**9, lambda *_: not go_on())
        else:
            state = agent.initial_state(env.num_envs)
            train_loop(agent, env, env.reset(), state, 10**9, lambda *_: go_on())
    _wait(device)
    began, steps, updates = marks[0]
    spent = time.perf_counter() - began
    return (agent.env_steps - steps) / spent, (agent.updates - updates) / spent


def main() -> int:
    """Run the tests, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gpu")
    given = parser.parse_args()
    device = device_of(given.device)
    machine = hardware(device)
    torch.set_num_threads(min(4, torch.get_num_threads()))
    print(machine, flush=True)
    tests, passed = run_tests()
    print(tests, flush=True)
    results = []
    for row in ROWS:
        alone = rate = updates = float("nan")
        try:
            alone = env_rate(row, given.seconds / 3)
            rate, updates = train_rate(row, given.seconds, device)
        except (RuntimeError, LudusError) as error:  # the other rows still say something
            print(f"{row.agent} {row.env}: {error}", flush=True)
            passed = False
        results.append(
            {
                "agent": row.agent,
                "env": row.env,
                "num_envs": row.num_envs,
                "precision": row.precision + (", deterministic" if row.deterministic else ""),
                "halves": row.halves,
                "env_steps_per_second": round(rate, 1),
                "updates_per_second": round(updates, 1),
                "env_alone": round(alone, 1),
            }
        )
        print(json.dumps(results[-1]), flush=True)
        write(given.out, machine, tests, results)
    return 0 if passed else 1


def write(folder: Path, machine: dict[str, Any], tests: str, results: list[dict[str, Any]]) -> None:
    """Write the results as JSON and as a page."""
    folder.mkdir(exist_ok=True)
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "commit": commit()}
    name = str(machine["gpu"] or "cpu").replace(" ", "-").replace("/", "-")
    record = {"machine": machine, "versions": versions, "tests": tests, "speeds": results}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        f"# {machine['gpu'] or machine['processor']}",
        "",
        f"{machine['cores']} cores, torch {torch.__version__}, CUDA {torch.version.cuda}, commit "
        f"{versions['commit']}. Made by `make gpu`. Tests of the CUDA path: {tests}.",
        "",
        "| agent | env | envs | in halves | precision | env steps/s | updates/s | env alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        lines.append(
            f"| {each['agent']} | {each['env']} | {each['num_envs']} "
            f"| {'yes' if each['halves'] else ''} | {each['precision']} "
            f"| {each['env_steps_per_second']:,.0f} | {each['updates_per_second']:,.1f} "
            f"| {each['env_alone']:,.0f} |"
        )
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
