"""Repeat a table or figure of README.md, docs/ or benchmarks/README.md by its name.

python benchmarks/reproduce.py             # all names, with where they stand and what was kept
python benchmarks/reproduce.py NAME        # run its commands, and keep a record

The record, `records/NAME.json`, holds what the commands printed, the commit, the versions, the
hardware and the seconds. Trainings whose results `results/` holds are not repeated: move a file of
it away to have them anew.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ludus.training.checkpoint import write_atomically
from ludus.training.provenance import commit, hardware, versions

HERE = Path(__file__).parent
ROOT = HERE.parent
RECORDS = HERE / "records"

_AGENTS = "dqn ddqn dueling c51 qrdqn iqn munchausen rainbow btr pqn r2d2 drqn sb3:dqn sb3:qrdqn"
_MINATAR = "MinAtar/Breakout-v1 MinAtar/SpaceInvaders-v1"
_COMPARE = "ludus compare --seeds 5 --run-dir runs"
_PERFECT = (
    "ludus arena pretrained:connect_four mcts:1000 --games 200 --epsilon 0 --openings 4 --perfect",
    "ludus evaluate pretrained:connect_four --opponent perfect --episodes 100",
)


@dataclass(frozen=True)
class Figure:
    """A table or figure, and what makes it."""

    name: str
    where: tuple[str, ...]
    """file, and heading above it"""
    commands: tuple[str, ...]
    raw: str = ""
    """file or folder of its numbers in benchmarks/; "" if the record alone holds them"""


def _trained(name: str, heading: str) -> Figure:
    run = f"python benchmarks/trainings.py run {name}"
    table = f"python benchmarks/trainings.py table {name}"
    where = ("benchmarks/README.md", heading)
    return Figure(name, where, (run, table), f"results/{name}.jsonl")


def _drawn(name: str, heading: str, program: str) -> Figure:
    trained = _trained(name, heading)
    return replace(trained, commands=(*trained.commands, f"python benchmarks/{program}.py {name}"))


def _evaluated(figure: Figure) -> Figure:
    evaluations = f"python benchmarks/trainings.py evaluations {figure.name}"
    return replace(figure, commands=(*figure.commands, evaluations))


def _measured(name: str, heading: str, command: str) -> Figure:
    return Figure(name, ("benchmarks/README.md", heading), (command,))


FIGURES = (
    Figure(
        "demo",
        ("README.md", "Start"),
        ("make demo", "make readme-figures"),
        "demo.json",
    ),
    Figure(
        "comparison",
        ("benchmarks/README.md", "A comparison with SB3"),
        (
            f"{_COMPARE}/report --env CartPole-v1 {_MINATAR} --agents dqn rainbow ppo pqn sb3:dqn "
            "sb3:qrdqn sb3:ppo random --steps 30000 --out runs/reproduced/comparison",
        ),
        "comparison/results.json",
    ),
    Figure(
        "family",
        ("benchmarks/README.md", "The DQN family"),
        (
            f"{_COMPARE}/family --env CartPole-v1 --agents {_AGENTS} --steps 30000",
            f"{_COMPARE}/family --env {_MINATAR} --agents {_AGENTS} --steps 50000",
        ),
        "family.json",
    ),
    _trained("dqn_sb3", "DQN against SB3's, and the number of envs"),
    _trained("dqn_sb3_again", "DQN against SB3's, and the number of envs"),
    _trained("r2d2_eps", "R2D2: Adam's eps"),
    _trained("pqn", "PQN: normalisation and initialisation"),
    _drawn("minatar_long", "PQN on MinAtar, at length", "curves"),
    _trained("minatar_million", "PPO on MinAtar"),
    Figure(
        "scaling",
        ("benchmarks/README.md", "Scores against compute"),
        ("python benchmarks/trainings.py run scaling", "python benchmarks/scaling.py"),
        "results/scaling.jsonl",
    ),
    Figure(
        "policy",
        ("benchmarks/README.md", "Policy agents"),
        (
            f"{_COMPARE}/policy --env CartPole-v1 --agents ppo a2c sb3:ppo sb3:a2c --steps 60000",
            f"{_COMPARE}/policy --env Acrobot-v1 {_MINATAR} --agents ppo a2c sb3:ppo sb3:a2c "
            "--steps 100000",
        ),
        "policy.json",
    ),
    _trained("a2c_sb3", "A2C against SB3's"),
    _evaluated(_drawn("pong", "Pong on two cores", "curves")),
    Figure(
        "alphazero",
        ("benchmarks/README.md", "AlphaZero"),
        (
            "ludus train alphazero connect_four --steps 1000000 --eval-every 250000 "
            "--eval-episodes 100 --opponent mcts:1000",
        ),
        "connect_four/evaluations.json",
    ),
    Figure(
        "perfect",
        ("benchmarks/README.md", "Connect four against perfect play"),
        _PERFECT,
        "connect_four/perfect.json",
    ),
    Figure(
        "perfect_search",
        ("benchmarks/README.md", "Connect four against perfect play"),
        tuple(
            f"{command} --simulations {simulations}"
            for simulations in (256, 1024)
            for command in _PERFECT
        ),
        "connect_four/perfect_simulations.json",
    ),
    Figure(
        "perfect_4m",
        ("benchmarks/README.md", "Connect four against perfect play"),
        (
            *(command.replace("connect_four", "connect_four_4m", 1) for command in _PERFECT),
            "ludus arena pretrained:connect_four_4m pretrained:connect_four --games 200 "
            "--epsilon 0 --openings 4",
        ),
        "connect_four/perfect_4m.json",
    ),
    _evaluated(_trained("connect_four", "Connect four against perfect play")),
    _evaluated(_trained("othello", "Othello")),
    _trained("small_machine", "Two presets for a small machine"),
    _trained("atari_hour", "An hour"),
    _trained("alphazero_value", "AlphaZero's value target"),
    _measured("search", "Search", "ludus bench --only search --rounds 5"),
    Figure(
        "selfplay",
        ("benchmarks/README.md", "Self-play of the other agents"),
        (
            "ludus compare --env connect_four --agents dqn ppo --steps 400000 --seeds 3 "
            "--episodes 200 --run-dir runs/selfplay",
        ),
        "selfplay.json",
    ),
    Figure(
        "speed",
        ("benchmarks/README.md", "Speed"),
        ("ludus bench --rounds 4", "ludus bench --only ppo --rounds 3"),
    ),
    _measured("updates", "Updates in bfloat16, and compiled", "python benchmarks/updates.py"),
    _trained("precision", "Updates in bfloat16, and compiled"),
    _measured(
        "auxiliary_speed",
        "Updates with an auxiliary loss",
        "python benchmarks/updates.py --auxiliary",
    ),
    _drawn("pretraining", "Pretraining without rewards", "scores"),
    _drawn("data_efficient", "A hundred thousand env steps", "scores"),
    _drawn("boxing", "A hundred thousand env steps", "scores"),
    _measured("overlap_speed", "Overlap", "python benchmarks/overlap.py"),
    _trained("overlap", "Overlap"),
    _measured("family_speed", "The family", "ludus bench --only family --rounds 3"),
    _measured("pqn_speed", "The family", "ludus bench --only pqn"),
    _measured("replay_speed", "The family", "ludus bench --only replay"),
    _measured("watching", "Being watched", "python benchmarks/watching.py"),
    Figure(
        "env_faults",
        ("benchmarks/README.md", "Faulty environments"),
        ("python benchmarks/env_faults.py --out benchmarks/env_faults.md",),
        "env_faults.md",
    ),
    Figure("ranks", ("docs/scale.md", "What it gains"), ("python benchmarks/ranks.py scaling",)),
    Figure(
        "hosts",
        ("docs/scale.md", "When it pays"),
        ("python benchmarks/hosts.py rows", "python benchmarks/hosts.py pays"),
    ),
    Figure(
        "tuning",
        ("docs/tuning.md", "Tuning"),
        ("ludus tune ppo MinAtar/Breakout-v1 --steps 60000 --trials 12 --seeds 2 --episodes 10",),
    ),
)


def reproduce(figure: Figure) -> int:
    """Run the commands of a figure, keep their record, and return the exit code of the last."""
    since, outputs, code = time.monotonic(), [], 0
    for command in figure.commands:
        print(f"$ {command}", flush=True)
        first, *words = shlex.split(command)
        program = {"ludus": [sys.executable, "-m", "ludus"], "python": [sys.executable]}
        process = subprocess.Popen(
            [*program.get(first, [first]), *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        code = process.wait()
        outputs.append({"command": command, "output": "".join(lines), "exit_code": code})
        if code:
            break
    record = {
        "name": figure.name,
        "where": list(figure.where),
        "commands": outputs,
        "seconds": round(time.monotonic() - since),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    }
    if code:
        print(f"{figure.name}: the last command ended with exit code {code}; no record is kept")
        return code
    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{figure.name}.json"
    write_atomically(path, json.dumps(record, indent=1) + "\n")
    print(f"record: {path.relative_to(ROOT)}; it stands in {', '.join(figure.where)}")
    return 0


def _kept(figure: Figure) -> str:
    """Return what is kept of a figure, and how long it took."""
    record = RECORDS / f"{figure.name}.json"
    said = []
    if figure.raw:
        said.append(f"benchmarks/{figure.raw}")
    if figure.raw.endswith(".jsonl") and (HERE / figure.raw).exists():
        lines = [json.loads(line) for line in (HERE / figure.raw).read_text().splitlines()]
        hours = sum(line["seconds"] for line in lines) / 3600
        said.append(f"{len(lines)} trainings, {hours:.1f} core-hours")
    if record.exists():
        kept = json.loads(record.read_text())
        said.append(f"record of {kept['date']}, {kept['seconds'] / 60:.0f} minutes")
    return ", ".join(said) or "no record yet"


def main() -> int:
    """List the figures, or reproduce one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [figure.name for figure in FIGURES]
    parser.add_argument("name", nargs="?", choices=names, metavar="NAME", help=", ".join(names))
    name = parser.parse_args().name
    if name is not None:
        return reproduce(next(figure for figure in FIGURES if figure.name == name))
    for figure in FIGURES:
        print(f"{figure.name:16} {': '.join(figure.where)}; {_kept(figure)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
