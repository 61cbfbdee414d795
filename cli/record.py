"""`ludus record RUN`: a film of a trained agent, with what it sees and thinks."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ludus.cli.options import parse, print_json
from ludus.envs.errors import UsageError
from ludus.evaluation.video import SUFFIXES, Overlay, record
from ludus.training.run import Run
from ludus.training.train import load


@dataclass(frozen=True)
class Arguments:
    """Which run and which game."""

    run: Positional[Path]
    """folder of the run"""
    out: Path | None = None
    """the film, .mp4 or .gif; None for RUN/game.mp4"""
    seed: int = 0
    """of the held-out game"""
    epsilon: float = 0.0
    """probability of a random action"""
    max_steps: int = 2_000
    """env steps after which the film ends, the game over or not"""
    overlay: Overlay = "gradient"
    """what the agent looks at, drawn on the picture; perturbation is slower and clearer"""
    panel: bool = True
    """show the agent's actions, its value and the return beside the picture"""
    device: str = "auto"
    """auto, cpu or cuda"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""


def run(argv: list[str]) -> int:
    """Record one game."""
    given = parse(Arguments, argv, command="record", about="Film RUN playing one game.")
    if given.max_steps < 1 or not 0 <= given.epsilon <= 1 or not 0 <= given.seed < 1 << 40:
        raise UsageError("max_steps must be 1 or more, epsilon from 0 to 1, seed 0 or more")
    config = Run.open(given.run).config()
    out = given.out or given.run / "game.mp4"
    if out.suffix not in SUFFIXES:
        raise UsageError(f"{out} does not end in {' or '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise UsageError(f"the folder {out.parent} is not there; make it first")
    score, length = record(
        load(given.run, device=given.device),
        config.env,
        config.options,
        out,
        seed=given.seed,
        epsilon=given.epsilon,
        max_steps=given.max_steps,
        overlay=given.overlay,
        panel=given.panel,
    )
    if given.json:
        print_json({"video": str(out), "return": score, "length": length})
    else:
        print(f"{out}: {length} steps, return {score:.1f}")
    return 0
