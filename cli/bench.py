"""`ludus bench`: our speed against Stable-Baselines3's, and of the family, on this machine."""

import sys
from dataclasses import dataclass
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from ludus.cli.options import parse, print_json
from ludus.comparison.speed import (
    CARTPOLE,
    PONG,
    Speed,
    as_dict,
    measure,
    measure_family,
    measure_ppo,
    measure_pqn,
    prioritised_sample_ms,
)
from ludus.envs.errors import UsageError
from ludus.training.train import device_of


@dataclass(frozen=True)
class Arguments:
    """What is measured, and how long."""

    only: Literal["pong", "cartpole", "both", "family", "ppo", "pqn", "replay", "search"] = "both"
    """DQN against SB3's on one env or both; the family; PPO; PQN; replay; search"""
    rounds: int = 5
    """turns of each contender; figures are medians over rounds"""
    pong_steps: int = 800
    """env steps of a turn on Pong"""
    cartpole_steps: int = 6_000
    """env steps of a turn on CartPole"""
    pong_envs: int = 8
    """our envs on Pong; SB3's DQN has one"""
    cartpole_envs: int = 64
    """our envs on CartPole; SB3's DQN has one"""
    game: str = "connect_four"
    """what is searched"""
    simulations: int = 32
    """of a move, in a search"""
    peers: bool = True
    """measure SB3 too; for a search, OpenSpiel's"""
    device: str = "auto"
    """auto, cpu or cuda"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""


def run(argv: list[str]) -> int:
    """Measure and print the ratios."""
    about = "Env steps per second of our DQN and of SB3's: same network, batch 32, 1 update per 4."
    given = parse(Arguments, argv, command="bench", about=about)
    for name in (
        "rounds",
        "pong_steps",
        "cartpole_steps",
        "pong_envs",
        "cartpole_envs",
        "simulations",
    ):
        if getattr(given, name) < 1:
            raise UsageError(f"{name} is {getattr(given, name)}; it must be 1 or more")
    device = device_of(given.device)
    if given.only == "replay":
        return _replay(given.json)
    if given.only == "search":
        return _search(given, device)
    if given.only in ("family", "ppo", "pqn"):
        return _members(given, device)
    plan = {PONG: (given.pong_steps, given.pong_envs)}
    plan[CARTPOLE] = (given.cartpole_steps, given.cartpole_envs)
    if given.only != "both":
        plan = {env: v for env, v in plan.items() if given.only in env.lower()}
    speeds = [
        measure(
            env,
            rounds=given.rounds,
            steps=steps,
            num_envs=num_envs,
            device=device,
            peers=given.peers,
            say=lambda line: print(line, file=sys.stderr),
        )
        for env, (steps, num_envs) in plan.items()
    ]
    return _tell(speeds, given.json, device)


def _replay(as_json: bool) -> int:
    taken = prioritised_sample_ms()
    if as_json:
        print_json({"prioritised_sample_ms": taken})
    else:
        print(f"32 of 1,000,000 by priority: {taken:.3f} ms, median of 200")
    return 0


def _search(given: Arguments, device: torch.device) -> int:
    from ludus.comparison.search_speed import measure_search, search_as_dict

    rates = measure_search(
        given.game,
        simulations=given.simulations,
        rounds=given.rounds,
        device=device,
        peers=given.peers,
        say=lambda line: print(line, file=sys.stderr),
    )
    if given.json:
        print_json(search_as_dict(given.game, given.simulations, rates, device))
        return 0
    shown = Table(
        title=f"{given.game}, {given.simulations} simulations a move", title_justify="left"
    )
    for name in ("who", "simulations/s", "games/s", "network", "game", "tree"):
        shown.add_column(name, justify="left" if name == "who" else "right")
    for rate in rates:
        shares = (rate.network_share, rate.game_share, rate.tree_share)
        shown.add_row(
            *(rate.name, f"{rate.simulations_per_second:,.0f}", f"{rate.games_per_second:.2f}"),
            *("" if share is None else f"{share:.0%}" for share in shares),
        )
    Console().print(shown)
    return 0


def _members(given: Arguments, device: torch.device) -> int:
    """The family on Pong, PPO on Pong and CartPole, or PQN on MinAtar."""

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    if given.only == "pqn":
        speeds = [measure_pqn(rounds=given.rounds, device=device, say=say)]
    elif given.only == "ppo":
        speeds = [
            measure_ppo(env, rounds=given.rounds, device=device, say=say)
            for env in (PONG, CARTPOLE)
        ]
    else:
        family = measure_family(
            rounds=given.rounds,
            steps=given.pong_steps,
            num_envs=given.pong_envs,
            device=device,
            say=say,
        )
        speeds = [family]
    return _tell(speeds, given.json, device)


def _tell(speeds: list[Speed], as_json: bool, device: torch.device) -> int:
    if as_json:
        print_json(as_dict(speeds, device))
    else:
        for speed in speeds:
            _show(speed)
    return 0


def _show(speed: Speed) -> None:
    shown = Table(title=speed.env, title_justify="left")
    for name in ("who", "env steps/s", "first over this"):
        shown.add_column(name, justify="left" if name == "who" else "right")
    for rate in speed.rates:
        shown.add_row(rate.name, f"{rate.steps_per_second:.0f}", f"{rate.first_over_this:.2f}x")
    Console().print(shown)
    if speed.floor_share is not None:
        print(
            f"{100 * speed.floor_share:.0f}% of the floating-point floor: 2.18 GFLOP an update, "
            f"{speed.matrix_gflops:.0f} GFLOP/s in a float32 matrix product"
        )
