"""`ludus export RUN`: write a trained network to a file that other programs run."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ludus.cli.options import check_file, parse
from ludus.cli.output import print_json, print_result
from ludus.training.api import load
from ludus.training.export import SUFFIXES, Format
from ludus.training.packed import output_folder

ABOUT = """Write the network of RUN to a file that runs without Ludus.

The file maps observations, for any number of them at once, to greedy actions and the values or
probabilities behind them. Scaling and normalisation of observations are inside; a recurrent state
is an input and an output. Of AlphaZero it is the network without the search.

examples:
  ludus export latest                        # agent.onnx in the run's folder
  ludus export latest --format torch --out pong.pt2"""


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus export`."""

    run: Positional[Path]
    """folder of the run; RUN@STEPS for an earlier checkpoint"""
    format: Format = "onnx"
    """onnx; torch, for torch.export.load; or safetensors, the weights alone, for ludus.load"""
    out: Path | None = None
    """file to write (default: agent.onnx, agent.pt2 or agent.safetensors in the run's folder; of a
    pretrained agent in the current one)"""
    json: bool = False
    """print one JSON object on stdout and nothing else"""


def run(argv: list[str]) -> int:
    """Export the network."""
    given = parse(Arguments, argv, command="export", about=ABOUT)
    agent = load(given.run)
    folder = Path() if agent.run is None else output_folder(agent.run)
    out = given.out or folder / f"agent{SUFFIXES[given.format]}"
    check_file(out)
    step = agent.export(out, given.format)
    if given.json:
        both = {"inputs": step.inputs(), "outputs": step.outputs()}
        print_json(
            {"file": str(out)}
            | {name: [array._asdict() for array in arrays] for name, arrays in both.items()}
        )
        return 0
    print_result(f"{out}: {out.stat().st_size:,} bytes")
    if given.format != "safetensors":
        for kind, arrays in (("input", step.inputs()), ("output", step.outputs())):
            for name, dtype, shape in arrays:
                print_result(f"  {kind:6} {name} {dtype}[{', '.join(['B', *map(str, shape)])}]")
    return 0
