"""Make a run a pretrained agent that comes with Ludus: `pretrained/ENV/AGENT/NAME`.

python benchmarks/pretrained.py NAME RUN [--half] [--games 100]

The run and its packed copy play the same held-out games, under the run's own protocol, and both
scores are printed; those of the copy are in its model card. Without `--half` they are equal. The
copy gets its place when its card is written.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import ludus
from ludus.comparison.aggregates import Score, summarise
from ludus.comparison.model_card import write_card
from ludus.evaluation.evaluate import Evaluation
from ludus.training.find_run import PRETRAINED, PRETRAINED_ROOT
from ludus.training.packed import pack
from ludus.training.run import Run

MOST_BYTES = 3_000_000


def _shown(score: Score) -> str:
    return f"mean {score.mean:.2f}, IQM {score.iqm:.2f} ({score.low:.2f} to {score.high:.2f})"


def main() -> int:
    """Pack, play and write the card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("run")
    parser.add_argument("--half", action="store_true", help="store weights as float16")
    parser.add_argument("--games", type=int, default=100)
    given = parser.parse_args()
    run = Run.open(given.run)
    config = run.config()
    place = PRETRAINED_ROOT / config.env.replace("/", "-") / config.agent / given.name
    if place.exists():
        print(f"{place} exists; delete it to make the agent anew", file=sys.stderr)
        return 1
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as parent:
        folder = Path(parent) / given.name
        if not _complete(run, folder, given):
            return 1
        folder.rename(place)
    return 0


def _complete(run: Run, folder: Path, given: argparse.Namespace) -> bool:
    """Write the copy of a run with its scores and its card; False if it cannot be shipped."""
    config, copy = run.config(), pack(run, folder, half=given.half)
    results: list[Evaluation] = []
    for which, path in (("run", run.path), ("copy", copy.path)):
        epsilon = config.train.eval_epsilon
        results.append(ludus.evaluate(path, episodes=given.games, epsilon=epsilon))
        print(f"{which}: {_shown(summarise(np.array([results[-1].returns])))}")
    if not given.half and results[0].returns != results[1].returns:
        print("the copy plays otherwise than the run", file=sys.stderr)
        return False
    played, status = results[1], copy.status()
    entry = {"env_steps": status.env_steps, "returns": played.returns, "lengths": played.lengths}
    copy.write_evaluations([*copy.evaluations(), entry])
    copy.write_status(replace(status, score=float(np.mean(played.returns))))
    write_card(copy, folder / "README.md", PRETRAINED + given.name)
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print(f"{given.name}: {size:,} bytes")
    if size > MOST_BYTES:
        print(f"at most {MOST_BYTES:,} bytes should be shipped", file=sys.stderr)
    return size <= MOST_BYTES


if __name__ == "__main__":
    sys.exit(main())
