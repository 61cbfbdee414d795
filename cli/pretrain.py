"""`ludus pretrain ENV|DATASET`: train an encoder without rewards."""

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from ludus.cli import train
from ludus.cli.options import is_agent, parse
from ludus.envs.errors import UsageError
from ludus.training.dataset import is_dataset

ABOUT = """Train an encoder without rewards, for --init-from of a later training.

It learns from one loss alone, from random play in an env of discrete actions or
from a data set. All other options are those of `ludus train dqn ENV`. With
continuous actions, `ludus train ppo ENV --auxiliary OBJECTIVE` learns the same
loss beside the rewards.

examples:
  ludus pretrain MinAtar/Breakout-v1 --objective spr --steps 100000
  ludus train dqn MinAtar/Breakout-v1 --init-from latest --freeze encoder
  ludus pretrain runs/datasets/CartPole-v1/dqn-v0 --objective reconstruction"""


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus pretrain` besides those of a training."""

    source: Positional[str]
    """env, or data set: a folder or a Minari id"""
    objective: Literal["reconstruction", "variational", "spr", "inverse"]
    """what is learned: to show the newest frame, the same by a variational autoencoder, to predict
    the features that follow, or the action between two observations"""


def run(argv: list[str]) -> int:
    """Train the encoder."""
    own, further = _split(argv)
    asks_for_help = "--help" in own or "-h" in own
    if not asks_for_help and (not argv or argv[0].startswith("-")):
        raise UsageError(
            "pretrain needs an env or a data set, and the options after it, as in "
            "`ludus pretrain MinAtar/Breakout-v1 --objective spr`"
        )
    if own and is_agent(own[0]):
        raise UsageError(
            f"pretrain takes no agent: it trains the encoder of a dqn; leave out {own[0]}, as in "
            "`ludus pretrain MinAtar/Breakout-v1 --objective spr`"
        )
    given = parse(Arguments, own, command="pretrain", about=ABOUT)
    _refuse_contradictions(further)
    source = ["--dataset", given.source] if is_dataset(given.source) else [given.source]
    options = ["--auxiliary", given.objective, "--reward-free", "--eval-episodes", "0"]
    return train.run(["dqn", *source, *options, *further])


def _refuse_contradictions(further: list[str]) -> None:
    """Refuse options that would take the place of what a pretraining sets.

    Raises:
        UsageError: there is one.
    """
    names = {word.partition("=")[0].replace("_", "-") for word in further}
    if "--auxiliary" in names:
        raise UsageError("pretrain takes --objective in place of --auxiliary; leave out the latter")
    if "--no-reward-free" in names:
        raise UsageError(
            "pretrain never learns from rewards; leave out --no-reward-free, or use `ludus train "
            "dqn ENV --auxiliary OBJECTIVE`"
        )


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return the words of `Arguments` and all others."""
    own, further = argv[:1], list[str]()
    words = iter(argv[1:])
    for word in words:
        if word in ("-h", "--help") or word.startswith("--objective="):
            own.append(word)
        elif word == "--objective":
            own += [word, *(value for value in (next(words, None),) if value is not None)]
        else:
            further.append(word)
    return own, further
