"""`ludus bench`: measure the speed of Ludus and Stable-Baselines3 on this machine."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch
from rich.table import Table

from ludus.cli.options import parse
from ludus.cli.output import print_json, print_message, print_result, print_table
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
from ludus.envs.bounds import AT_LEAST_ONE, check_bounds
from ludus.envs.errors import UsageError
from ludus.training.device import device_of

_PONG, _CARTPOLE = ("pong_steps", "pong_envs"), ("cartpole_steps", "cartpole_envs")
_USED: dict[str, tuple[str, ...]] = {  # the options that each measurement depends on
    "pong": ("rounds", "peers", *_PONG),
    "cartpole": ("rounds", "peers", *_CARTPOLE),
    "both": ("rounds", "peers", *_PONG, *_CARTPOLE),
    "family": ("rounds", *_PONG),
    "ppo": ("rounds", "peers"),
    "pqn": ("rounds", "peers"),
    "replay": (),
    "search": ("rounds", "peers", "game", "simulations"),
}


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus bench`."""

    only: Literal["pong", "cartpole", "both", "family", "ppo", "pqn", "replay", "search"] = "both"
    """DQN and SB3's DQN on one env or both; the DQN family; PPO; PQN; replay; search"""
    rounds: Annotated[int, AT_LEAST_ONE] = 5
    """number of measurements, of which medians are reported"""
    pong_steps: Annotated[int, AT_LEAST_ONE] = 800
    """env steps of a measurement on Pong"""
    cartpole_steps: Annotated[int, AT_LEAST_ONE] = 6_000
    """env steps of a measurement on CartPole"""
    pong_envs: Annotated[int, AT_LEAST_ONE] = 8
    """number of envs of Ludus on Pong; SB3's DQN has one"""
    cartpole_envs: Annotated[int, AT_LEAST_ONE] = 64
    """number of envs of Ludus on CartPole; SB3's DQN has one"""
    game: str = "connect_four"
    """board game of the search"""
    simulations: Annotated[int, AT_LEAST_ONE] = 32
    """simulations of each move of the search"""
    peers: bool = True
    """also measure SB3, or OpenSpiel's search"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""

    def __post_init__(self) -> None:
        """Check the values, and that what is measured depends on them."""
        check_bounds(self, UsageError)
        for each in fields(self):
            used = each.name in (*_USED[self.only], "only", "device", "json")
            if not used and getattr(self, each.name) != each.default:
                option = each.name.replace("_", "-")
                raise UsageError(f"--only {self.only} does not depend on --{option}; leave it out")


def run(argv: list[str]) -> int:
    """Measure the speed and print it."""
    about = "Measure env steps per second of Ludus and SB3 with the same network and updates."
    given = parse(Arguments, argv, command="bench", about=about)
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
            on_progress=print_message,
        )
        for env, (steps, num_envs) in plan.items()
    ]
    return _print_speeds(speeds, given.json, device)


def _replay(as_json: bool) -> int:
    """Measure prioritised sampling."""
    milliseconds = prioritised_sample_ms()
    if as_json:
        print_json({"prioritised_sample_ms": milliseconds})
    else:
        print_result(f"sample 32 of 1,000,000 by priority: {milliseconds:.3f} ms, median of 200")
    return 0


def _search(given: Arguments, device: torch.device) -> int:
    """Measure the search of a board game."""
    from ludus.comparison.search_speed import measure_search, search_as_dict

    rates = measure_search(
        given.game,
        simulations=given.simulations,
        rounds=given.rounds,
        device=device,
        peers=given.peers,
        on_progress=print_message,
    )
    if given.json:
        print_json(search_as_dict(given.game, given.simulations, rates, device))
        return 0
    table = Table(
        title=f"{given.game}, {given.simulations} simulations per move", title_justify="left"
    )
    for name in ("who", "simulations/s", "games/s", "network", "game", "tree"):
        table.add_column(name, justify="left" if name == "who" else "right")
    for rate in rates:
        shares = (rate.network_share, rate.game_share, rate.tree_share)
        table.add_row(
            rate.name,
            f"{rate.simulations_per_second:,.0f}",
            f"{rate.games_per_second:.2f}",
            *("" if share is None else f"{share:.0%}" for share in shares),
        )
    print_table(table)
    return 0


def _members(given: Arguments, device: torch.device) -> int:
    """Measure the DQN family on Pong, PPO on Pong and CartPole, or PQN on MinAtar."""
    if given.only == "pqn":
        speeds = [
            measure_pqn(
                rounds=given.rounds, device=device, peers=given.peers, on_progress=print_message
            )
        ]
    elif given.only == "ppo":
        speeds = [
            measure_ppo(
                env,
                rounds=given.rounds,
                device=device,
                peers=given.peers,
                on_progress=print_message,
            )
            for env in (PONG, CARTPOLE)
        ]
    else:
        family = measure_family(
            rounds=given.rounds,
            steps=given.pong_steps,
            num_envs=given.pong_envs,
            device=device,
            on_progress=print_message,
        )
        speeds = [family]
    return _print_speeds(speeds, given.json, device)


def _print_speeds(speeds: list[Speed], as_json: bool, device: torch.device) -> int:
    """Print all measurements, as tables or as JSON."""
    if as_json:
        print_json(as_dict(speeds, device))
    else:
        for speed in speeds:
            _print_speed(speed)
    return 0


def _print_speed(speed: Speed) -> None:
    """Print the table of one env."""
    table = Table(title=speed.env, title_justify="left")
    for name in ("who", "env steps/s", "first over this"):
        table.add_column(name, justify="left" if name == "who" else "right")
    for rate in speed.rates:
        table.add_row(rate.name, f"{rate.steps_per_second:.0f}", f"{rate.first_over_this:.2f}x")
    print_table(table)
    if speed.floor_share is not None:
        print_result(
            "The arithmetic alone, 2.18 GFLOP an update at the "
            f"{speed.matrix_gflops:.0f} GFLOP/s of a float32 matrix product, would take "
            f"{100 * speed.floor_share:.0f}% of the time of ludus"
        )
