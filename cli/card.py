"""`ludus card RUN`: write a run's model card."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ludus.cli.options import check_file, parse
from ludus.cli.output import print_result
from ludus.comparison.model_card import write_card
from ludus.training.find_run import PRETRAINED
from ludus.training.hub import HUB
from ludus.training.packed import output_folder
from ludus.training.run import Run

ABOUT = """Write the model card of RUN: what it is, how well it plays, how it was made, its limits.

It is a page in Markdown, with the metadata that model hubs read, and the learning curve beside it.

example:
  ludus card latest        # card.md and curve.png in the run's folder"""


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus card`."""

    run: Positional[Path]
    """folder of the run"""
    out: Path | None = None
    """file to write (default: card.md in the run's folder; of a pretrained agent in the current
    one)"""


def run(argv: list[str]) -> int:
    """Write the card."""
    given = parse(Arguments, argv, command="card", about=ABOUT)
    opened = Run.open(given.run)
    out = given.out or output_folder(opened) / "card.md"
    check_file(out)
    named = str(given.run).startswith((PRETRAINED, HUB))
    curve = write_card(opened, out, str(given.run if named else opened.path))
    print_result(f"{out}" if curve is None else f"{out} and {curve}")
    return 0
