"""The command `ludus`: one module per command; a user's mistake is one sentence and exit code 2."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import TextIO, cast

from ludus.cli.options import check_compared, check_contenders, flush_denormals
from ludus.cli.output import named_while_slow, print_message, stdout_for_results
from ludus.envs.deadline import Deadline
from ludus.envs.errors import ConfigError, LudusError, RunError, TrainingStopped, UsageError
from ludus.envs.suggest import closest
from ludus.envs.trust import trust_modules
from ludus.training.console import LossyStream
from ludus.training.launcher import own_rank
from ludus.training.signals import Interrupted, Signals, signal_name

COMMANDS = {
    "train": "train an agent on an env, or resume a training",
    "pretrain": "train an encoder without rewards, from random play or a data set",
    "evaluate": "play full held-out games with a trained agent",
    "collect": "write a data set of games that a trained agent plays",
    "watch": "show runs and playing agents in the browser",
    "export": "write a trained network to a file that runs without Ludus, such as ONNX",
    "explain": "show what a trained network has learned, as one offline page",
    "record": "record a video of a trained agent, its saliency and its values",
    "compare": "train several agents under the same conditions and report their scores",
    "tune": "search for better values of an agent's configuration with Optuna",
    "play": "play against a trained agent, in text or in the browser",
    "arena": "run a round robin of agents and players of a board game, with Elo ratings",
    "gtp": "play go in programs such as Sabaki, by the Go Text Protocol",
    "bench": "measure the training speed of Ludus and Stable-Baselines3 on this machine",
    "check": "show what agents see of an env, and whether it can be reproduced",
    "doctor": "print versions, devices and optional packages, and what is missing",
    "list": "list the available agents, envs, board games, runs or pretrained agents",
    "push": "put a trained agent on the Hugging Face Hub",
    "card": "write what a run is and how well it plays as a page in Markdown",
    "completion": "print a script that completes commands in bash, zsh or fish",
}
# `list` computes nothing; `train` checks the agent's name before it imports torch
_WITHOUT_TORCH = ("list", "train")
# these import torch with their modules, so their names of agents are checked before
_NAMES = {"compare": check_compared, "arena": check_contenders}
_NOTHING_SAVED = "nothing was saved; the same command starts again"


def _usage() -> str:
    commands = "\n".join(f"  {command:12}{about}" for command, about in COMMANDS.items())
    return (
        f"usage: ludus COMMAND ...\n\n{commands}\n\n"
        "ludus COMMAND --help or ludus help COMMAND shows every option of a command, and\n"
        "ludus --version the version.\n"
        "--modules A,B lets runs and data sets name envs and wrappers of these Python modules."
    )


def entry() -> None:
    """Run the command of this process and end the process."""
    try:
        main()
    except SystemExit as ended:
        if Deadline.given_up and isinstance(ended.code, int):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code)
        raise


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status.

    Args:
        argv: the command and its arguments; None for those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Torch's threads read this when they start. By default a waiting thread spins on its core:
    # next to another busy process, two threads are then ten times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    sys.path.append(os.getcwd())  # so that `module:Env-v0` finds a user's own module
    stderr = sys.stderr
    sys.stderr = cast(TextIO, LossyStream(stderr))
    try:
        sys.exit(_status(words))
    finally:
        sys.stderr = stderr


def _status(words: list[str]) -> int:
    """Run one command under the signal handlers and return its exit status."""
    if words[:1] == ["--version"]:
        import ludus

        print(f"ludus {ludus.__version__}")
        return 0
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    try:
        with stdout_for_results(), Signals(raises=True) as signals:
            code = _run(words[0], words[1:])
        if signals.received is not None:  # the command ended by itself, as the viewer does
            return 128 + signals.received
        return code
    except KeyboardInterrupt as stopped:
        number = stopped.number if isinstance(stopped, Interrupted) else signal.SIGINT
        saved = "; ".join(getattr(stopped, "__notes__", [_NOTHING_SAVED]))
        print_message(f"ludus: stopped by {signal_name(number)}; {saved}")
        return 128 + number
    except BrokenPipeError:  # the reader of a pipe has exited, as with `| head`
        return 0


def _extract_modules(words: list[str]) -> list[str]:
    """Trust the modules of every `--modules A,B`, and return the other words."""
    rest = []
    given = iter(words)
    for word in given:
        option, equals, value = word.partition("=")
        if option != "--modules":
            rest.append(word)
            continue
        names = value if equals else next(given, "")
        if not names or names.startswith("-"):
            raise UsageError("--modules needs names of Python modules, separated by commas")
        trust_modules(names.split(","))
    return rest


def _run(command: str, argv: list[str]) -> int:
    try:
        argv = _extract_modules(argv)
        if command not in COMMANDS:
            raise UsageError(closest(command, COMMANDS, "command"))
        if command in _NAMES:
            _NAMES[command](argv)
        with named_while_slow("loading ..."):
            if command not in _WITHOUT_TORCH:
                flush_denormals()
            module = importlib.import_module(f"ludus.cli.{command}")
        return module.run(argv)
    except TrainingStopped as stopped:
        if not own_rank():
            print_message(f"ludus: {stopped}")
        return stopped.code
    except BrokenPipeError:
        raise  # `main` handles it
    except (LudusError, OSError) as error:  # an OSError: an unwritable folder, for example
        rank = own_rank()
        if not (rank and isinstance(error, UsageError | ConfigError | RunError)):  # rank 0 says it
            print_message(f"ludus: rank {rank}: {error}" if rank else f"ludus: {error}")
        return 2
