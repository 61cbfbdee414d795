"""`ludus explain RUN`: show what a trained network has learned, as one offline page."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from ludus.cli.options import HELD_OUT_SEED, check_file, parse
from ludus.cli.output import print_json, print_result
from ludus.comparison.explain import Explanation, explain
from ludus.comparison.explain_page import verdict, write_explanation
from ludus.envs.bounds import AT_LEAST_ONE, FRACTION, Bounds, check_bounds
from ludus.envs.errors import UsageError
from ludus.evaluation.played_states import require_explainable
from ludus.training.find_run import at_steps
from ludus.training.packed import output_folder
from ludus.training.progress import Show, task
from ludus.training.run import Run
from ludus.training.train import load_saved

ABOUT = """Show what the network of RUN has learned, as one HTML file that needs no network.

The agent plays held-out games. The page has a map of the features of their states, the most similar
states to each, the states that excite a unit, the weights of the first layer, for board games the
pieces that the policy looks at, of a network with a decoder what it shows, and a test whether
saliency maps can be trusted.

examples:
  ludus explain latest                        # explain.html in the run's folder
  ludus explain pretrained:minatar_breakout --out breakout.html"""
_STATES = Bounds(2, 20_000)


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus explain`."""

    run: Positional[Path]
    """folder of the run; RUN@STEPS for an earlier checkpoint"""
    out: Path | None = None
    """page to write (default: explain.html in the run's folder; of a pretrained agent in the
    current one)"""
    states: Annotated[int, _STATES] = 2_000
    """most states to keep, the last different ones of the games"""
    every: Annotated[int | None, AT_LEAST_ONE] = None
    """env steps of a game between two states (default: 1 in board games, else 4)"""
    seed: Annotated[int, HELD_OUT_SEED] = 0
    """seed of the held-out games, and of the random networks of the test"""
    epsilon: Annotated[float | None, FRACTION] = None
    """probability of a random action (default: 0.25 in board games, else 0)"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""

    def __post_init__(self) -> None:
        """Check the values."""
        check_bounds(self, UsageError)


def run(argv: list[str]) -> int:
    """Write the page."""
    given = parse(Arguments, argv, command="explain", about=ABOUT)
    opened = Run.open(at_steps(given.run)[0])
    out = given.out or output_folder(opened) / "explain.html"
    if out.suffix != ".html":
        raise UsageError(f"{out} does not end in .html; name it {out.with_suffix('.html').name}")
    check_file(out)
    loaded = load_saved(given.run, device=given.device)
    require_explainable(loaded.agent, loaded.config.agent)
    found = explain(
        loaded,
        count=given.states,
        every=given.every,
        seed=given.seed,
        epsilon=given.epsilon,
        task=_quiet(given.json),
    )
    write_explanation(out, loaded, found, given.seed)
    verdicts = {check.kind: verdict(check) for check in found.checks}
    if given.json:
        correlations = {check.kind: _finite(check.final) for check in found.checks}
        print_json(
            {
                "page": str(out),
                "states": len(found.states.obs),
                "variance": found.components.share,
                "randomised_saliency": correlations,
                "reconstruction": _errors(found),
            }
        )
        return 0
    size = out.stat().st_size / 1e6
    print_result(f"{out}: {len(found.states.obs):,} states, {size:.1f} MB")
    if found.reconstructed is not None:
        error = found.reconstructed.error
        mean, constant = error.mean, error.of_mean_frame
        print_result(
            f"reconstruction: mean squared error {mean:.3g}, that of the mean frame {constant:.3g}"
        )
    for kind, sentence in verdicts.items():
        print_result(f"{kind} saliency: {sentence}")
    return 0


def _quiet(quiet: bool) -> Callable[[str, int, str], AbstractContextManager[Show]]:
    return lambda name, total, unit: task(name, total, unit, quiet=quiet)


def _errors(found: Explanation) -> dict[str, float | None] | None:
    """Return the errors of a decoder; None without one."""
    if found.reconstructed is None:
        return None
    error = found.reconstructed.error
    return {
        "error": _finite(error.mean),
        "mean_frame_error": _finite(error.of_mean_frame),
        "explained": _finite(error.explained),
    }


def _finite(number: float) -> float | None:
    return number if number == number else None
