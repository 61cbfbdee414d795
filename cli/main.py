"""`ludus`: one verb a file; a user's mistake is one sentence and exit code 2."""

import importlib
import os
import sys
from collections.abc import Sequence

from ludus.cli.options import closest
from ludus.envs.errors import LudusError, TrainingStopped, UsageError

VERBS = {
    "train": "train an agent on an env, or resume a training",
    "evaluate": "play full held-out games with a trained agent",
    "collect": "write a data set of games that a trained agent plays",
    "watch": "show runs and agents at play in the browser",
    "record": "film a trained agent, with what it sees and thinks",
    "compare": "train several agents alike and lay their scores side by side",
    "play": "play against a trained agent, in text or in the browser",
    "arena": "let agents and players of a board game play each other, with Elo ratings",
    "bench": "measure our speed against Stable-Baselines3's on this machine",
    "list": "show the agents, envs, games or runs there are",
}


def _usage() -> str:
    verbs = "\n".join(f"  {verb:10}{about}" for verb, about in VERBS.items())
    return f"usage: ludus VERB ...\n\n{verbs}\n\nludus VERB --help shows every option of a verb."


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb; exits with its status."""
    words = list(sys.argv[1:] if argv is None else argv)
    # read by torch's threads as they start: without it one that waits for another keeps its core
    # from it, and beside another program two threads are ten times slower
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    sys.path.append(os.getcwd())  # so that `module:Env-v0` finds a user's own module
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        sys.exit(0 if words else 2)
    try:
        sys.exit(_run(words[0], words[1:]))
    except KeyboardInterrupt:
        print("ludus: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _run(verb: str, argv: list[str]) -> int:
    try:
        if verb not in VERBS:
            raise UsageError(closest(verb, list(VERBS), "verb"))
        _flush_denormals()
        module = importlib.import_module(f"ludus.cli.{verb}")
        return module.run(argv)
    except TrainingStopped as stopped:
        print(f"ludus: {stopped}", file=sys.stderr)
        return stopped.code
    except BrokenPipeError:
        raise  # `main` handles it
    except (LudusError, OSError) as error:  # an OSError: an unwritable folder, for example
        print(f"ludus: {error}", file=sys.stderr)
        return 2


def _flush_denormals() -> None:
    """Count numbers below 1e-38 as 0, on this thread and on those that torch has yet to start.

    An optimizer's moments fade into them, and computing with them slows a training down.
    """
    import torch

    torch.set_flush_denormal(True)
