"""`ludus push RUN OWNER/NAME`: put a trained agent on the Hugging Face Hub."""

import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ludus.cli.options import parse
from ludus.cli.output import print_message, print_result
from ludus.comparison.analysis import About
from ludus.comparison.compare import Plan, compare
from ludus.comparison.model_card import write_card
from ludus.comparison.report import write_report
from ludus.envs.errors import RunError, UsageError, describe_error
from ludus.envs.make import EnvOptions
from ludus.training.api import record
from ludus.training.hub import HUB, check_name, library, upload
from ludus.training.packed import pack
from ludus.training.run import Run

ABOUT = """Put the agent of RUN on the Hugging Face Hub, with its model card, a film and its report.

What is sent is a packed run: its settings, scores and weights, and no code. `hub:OWNER/NAME` then
stands wherever a run does. `hf auth login` gives the right to write.

example:
  ludus push latest anna/dqn-cartpole
  ludus watch hub:anna/dqn-cartpole"""


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus push`."""

    run: Positional[Path]
    """folder of the run"""
    repository: Positional[str]
    """repository on the hub, as owner/name; made if it does not exist"""
    private: bool = False
    """make a new repository private"""
    film: bool = True
    """send a film of one game"""
    report: bool = True
    """send the report of its held-out games"""
    half: bool = False
    """store the weights as float16"""


def run(argv: list[str]) -> int:
    """Pack the run, write its card, film and report, and send them."""
    given = parse(Arguments, argv, command="push", about=ABOUT)
    name, revision = check_name(given.repository)
    if revision is not None:
        raise UsageError(f"{given.repository} names a revision; push writes to {name}")
    library()  # or one sentence that it is missing, before the film and the report
    opened = Run.open(given.run)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        copy = pack(opened, folder, half=given.half)
        write_card(copy, folder / "README.md", HUB + name)
        if given.film:
            try:
                record(copy.path, folder / "replay.mp4")
            except Exception as error:  # whatever an env without a picture raises
                print_message(f"no film: {describe_error(error)}")
        if given.report and opened.evaluations() and opened.status().state == "finished":
            _report(opened, Path(temporary) / "report", argv)
            (Path(temporary) / "report" / "report.html").rename(folder / "report.html")
        print_result(f"{upload(folder, name, private=given.private)}: {HUB}{name}")
    return 0


def _report(run: Run, folder: Path, argv: list[str]) -> None:
    """Write the report of one run, of its own held-out games."""
    config = run.config()
    plan = Plan(
        envs=(),
        agents=(),
        steps=config.train.steps,
        minutes=0.0,
        seeds=1,
        first_seed=0,
        episodes=len(run.evaluations()[-1]["returns"]),
        epsilon=config.train.eval_epsilon,
        options=EnvOptions(),
        runs=(run.path,),
        root=folder,
        device="cpu",
        jobs=1,
        quiet=True,
    )
    trainings, failed = compare(plan)
    if not trainings:
        raise RunError(failed[0] if failed else f"{run.path} has no held-out games")
    about = About.here(config.agent, shlex.join(["ludus", "push", *argv]), "cpu")
    write_report(folder, trainings, about)
