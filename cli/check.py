"""`ludus check ENV`: what agents see of an env, and whether its episodes can be reproduced."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional

from ludus.agents import registry
from ludus.cli.options import parse
from ludus.cli.output import print_result
from ludus.envs.action_mask import legal_mask, random_actions
from ludus.envs.adapt import describe
from ludus.envs.bounds import AT_LEAST_ONE, NON_NEGATIVE
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import EnvError
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import Row, VectorEnv
from ludus.networks.scale import describe_scale


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus check`."""

    env: Positional[str]
    """env id, such as CartPole-v1 or module:Env-v0"""
    steps: Annotated[int, AT_LEAST_ONE] = 500
    """random env steps to play"""
    seed: Annotated[int, NON_NEGATIVE] = 0
    """seed of the episodes and the actions"""
    options: OmitArgPrefixes[EnvOptions] = field(default_factory=EnvOptions)
    """the env's protocol"""


def run(argv: Sequence[str]) -> int:
    """Print what the env is; return 1 if its episodes do not follow from their seeds."""
    chosen = parse(Arguments, argv, command="check", about=__doc__ or "")
    env = make(chosen.env, 1, chosen.seed, chosen.options)
    try:
        for label, text in _spaces(env):
            _print(label, text)
        began = time.perf_counter()
        rows = _play(env, chosen.steps, chosen.seed)
        seconds = time.perf_counter() - began
        _print("episodes", _episodes(rows))
        _print("speed", f"{chosen.steps / seconds:,.0f} random steps a second, one env")
        problem = _difference(chosen, rows) or _resume(chosen)
    finally:
        env.close()
    _print("picture", _picture(chosen))
    _print("determinism", problem or "an episode follows from its seed and its actions")
    return 1 if problem else 0


def _print(label: str, text: str) -> None:
    print_result(f"{label:15}{text}")


def _spaces(env: VectorEnv) -> list[tuple[str, str]]:
    source = env.observation_space if env.adaptation is None else env.adaptation.source
    lines = [("env", env.env_id), ("shows", str(source))]
    lines.append(("agents see", describe(env.observation_space)))
    if env.adaptation is not None and env.adaptation.dropped:
        lines.append(("dropped", f"{', '.join(env.adaptation.dropped)}: no network reads it"))
    lines += [("scaled", describe_scale(env.observation_space)), ("actions", str(env.action_space))]
    space = env.observation_space
    masked = isinstance(space, PackedDict) and MASK in space.parts
    in_info = env.adaptation is not None and env.adaptation.info_mask_size
    where = "in info" if in_info else "in the observation"
    lines.append(("action mask", where if masked else "none"))
    lines.append(("limit", _limit(env.protocol)))
    preset = registry.preset("dqn", env).config
    lines.append(("dqn's encoder", str(getattr(preset, "encoder", "none"))))
    return lines


def _limit(protocol: dict[str, Any]) -> str:
    for key, unit in (
        ("max_episode_steps", "steps"),
        ("max_frames", "frames"),
        ("max_moves", "moves"),
    ):
        if protocol.get(key):
            return f"{protocol[key]:,} {unit}"
    return "none: an episode may never end"


def _play(env: VectorEnv, steps: int, seed: int) -> list[Row]:
    """Return the rows of random steps."""
    generator, rows = np.random.default_rng(seed), [env.reset()]
    for _ in range(steps):
        legal = legal_mask(env.observation_space, rows[-1].obs)
        env.send(random_actions(env.action_space, env.num_envs, generator, legal))
        rows.append(env.recv())
    return rows


def _episodes(rows: list[Row]) -> str:
    over = [row for row in rows if row.game_over[0]]
    if not over:
        return f"none ended in {len(rows) - 1} random steps"
    returns = [float(row.episode_return[0]) for row in over]
    lengths = [int(row.episode_length[0]) for row in over]
    return (
        f"{len(over)} ended in {len(rows) - 1} random steps; return {np.mean(returns):g} on "
        f"average, from {min(returns):g} to {max(returns):g}; length {np.mean(lengths):.1f}"
    )


def _difference(chosen: Arguments, rows: list[Row]) -> str | None:
    """Play the same again in another process; describe the first difference."""
    env = make(chosen.env, 1, chosen.seed, chosen.options)
    try:
        again = _play(env, chosen.steps, chosen.seed)
    except EnvError as error:  # the actions were legal before
        return f"the same seed and actions led to another episode: {error}"
    finally:
        env.close()
    for number, (row, other) in enumerate(zip(rows, again, strict=True)):
        for name in ("obs", "reward", "terminated", "truncated"):
            if not np.array_equal(getattr(row, name), getattr(other, name), equal_nan=False):
                return (
                    f"NO: the same seed and actions led to another {name} at step {number}, so "
                    "trainings on it cannot be repeated or resumed exactly"
                )
    return None


def _resume(chosen: Arguments) -> str | None:
    """Rebuild a running episode from its seed and actions; describe what prevents it."""
    envs = [make(chosen.env, 1, chosen.seed, chosen.options) for _ in range(2)]
    try:
        row = _play(envs[0], min(chosen.steps, 50), chosen.seed)[-1]
        envs[1].load_state_dict(envs[0].state_dict(), row)
    except EnvError as error:
        return f"NO: {error}"
    finally:
        for env in envs:
            env.close()
    return None


def _picture(chosen: Arguments) -> str:
    try:
        env = make(chosen.env, 1, chosen.seed, chosen.options, render=True)
    except EnvError as error:
        return f"none: {error}"
    try:
        env.reset()
        height, width, _ = env.render(0).shape
        return f"{width} x {height} pixels"
    except EnvError as error:
        return f"none: {error}"
    finally:
        env.close()
