"""`ludus record RUN`: record a video of a trained agent, its saliency and its values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from ludus.cli.options import HELD_OUT_SEED, check_file, parse
from ludus.cli.output import print_json, print_result
from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, check_bounds
from ludus.envs.errors import UsageError
from ludus.evaluation.video import SUFFIXES, Overlay, most_steps, record
from ludus.training.film import film_title
from ludus.training.find_run import at_steps
from ludus.training.packed import output_folder
from ludus.training.progress import task
from ludus.training.run import Run
from ludus.training.train import load_saved


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus record`."""

    run: Positional[Path]
    """folder of the run"""
    out: Path | None = None
    """video file, .mp4 or .gif (default: RUN/game.mp4; game.mp4 for a pretrained agent)"""
    seed: Annotated[int | None, HELD_OUT_SEED] = None
    """seed of the held-out game (default: the one with the median return of 5)"""
    epsilon: Annotated[float, FRACTION] = 0.0
    """probability of a random action"""
    max_steps: Annotated[int, AT_LEAST_ONE] = 2_000
    """maximum length of the video in env steps"""
    overlay: Overlay = "gradient"
    """saliency map drawn over the image; perturbation is slower and clearer"""
    panel: bool = True
    """show action probabilities or values, the state value and the return beside the image"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)


def run(argv: list[str]) -> int:
    """Record one game."""
    given = parse(Arguments, argv, command="record", about="Record a video of one game of RUN.")
    opened = Run.open(at_steps(given.run)[0])
    config, out = opened.config(), given.out or output_folder(opened) / "game.mp4"
    if out.suffix not in SUFFIXES:
        raise UsageError(f"{out} does not end in {' or '.join(SUFFIXES)}")
    check_file(out)
    loaded = load_saved(given.run, device=given.device)
    steps = most_steps(config.env, given.max_steps, given.seed)
    with task("video", steps, "steps at most", quiet=given.json) as show:
        score, length, seed = record(
            loaded.agent,
            config.env,
            config.options,
            out,
            title=film_title(config, loaded.env_steps),
            seed=given.seed,
            epsilon=given.epsilon,
            max_steps=given.max_steps,
            overlay=given.overlay,
            panel=given.panel,
            on_step=lambda step: show(step, ""),
        )
    if given.json:
        print_json({"video": str(out), "return": score, "length": length, "seed": seed})
    else:
        print_result(f"{out}: game of seed {seed}, {length} steps, return {score:.1f}")
    return 0
