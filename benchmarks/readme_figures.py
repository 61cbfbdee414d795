"""Write what README.md shows of `make demo`, from the report of one run of it.

python benchmarks/readme_figures.py [FOLDER]

FOLDER is the report's, by default `runs/demo`, where `make demo` writes it. The lines of README.md
between the two comments that name this script are replaced, and so are `docs/pictures/demo.gif`,
`docs/pictures/demo_curves.png` and `benchmarks/demo.json`.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
BEGIN, END = "<!-- written by make readme-figures -->", "<!-- end of what it writes -->"
STEPS = 300  # env steps of the film: 20 seconds


def main() -> None:
    """Write the lines and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/demo"))
    folder = parser.parse_args().folder
    results = json.loads((folder / "results.json").read_text())
    (group,) = results["groups"]
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"README.md lacks the comment {BEGIN} or {END}")
    shown = max((t for t in results["trainings"] if t["run"]), key=lambda t: sum(t["returns"]))
    film(Path(shown["run"]), PICTURES / "demo.gif")
    curves = (path for path in folder.glob("curves-*.png") if not path.stem.endswith("-dark"))
    shutil.copy(next(curves), PICTURES / "demo_curves.png")
    (ROOT / "benchmarks" / "demo.json").write_text(json.dumps(results, indent=1) + "\n")
    readme.write_text(f"{before}{begin}\n{lines(group, results, shown)}\n{end}{after}")


def film(run: Path, out: Path) -> None:
    """Record a game of a run."""
    command = [sys.executable, "-m", "ludus", "record", str(run), "--out", str(out)]
    subprocess.run([*command, "--overlay", "none", "--max-steps", str(STEPS)], check=True)


def lines(group: dict[str, Any], results: dict[str, Any], best: dict[str, Any]) -> str:
    """Return the part of README.md."""
    rows = sorted(group["agents"], key=lambda row: -row["score"]["iqm"])
    trained = {t["agent"]: t for t in results["trainings"] if t["run"]}
    game, machine = re.sub("NoFrameskip.*", "", group["env"]), results["about"]["hardware"]
    table = [
        "| agent | mean | IQM | 95% interval of the IQM | human-normalised | env steps |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        score, done = row["score"], trained.get(row["agent"], {}).get("done")
        cells = [row["agent"], *(f"{score[name]:,.1f}" for name in ("mean", "iqm"))]
        cells += [f"{score['low']:,.1f} to {score['high']:,.1f}", f"{100 * row['human']:.0f}%"]
        cells += [f"{done:,}" if done else ""]
        table.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            f"One run of it (seed {best['seed']}, {results['about']['date']}, {machine['cores']} "
            f"cores of a machine with {machine['processor']}): trainings of {group['minutes']:g} "
            f"minutes each, then {len(best['returns'])} held-out games.",
            "",
            *table,
            "",
            group["finding"],
            "",
            f"![{best['agent']} plays {game} after {group['minutes']:g} minutes]"
            "(docs/pictures/demo.gif)",
            "",
            "![Learning curves of the demo](docs/pictures/demo_curves.png)",
        ]
    )


if __name__ == "__main__":
    main()
