"""Command lines from dataclasses: each field is an option, each mistake is one sentence."""

import dataclasses
import re
import sys
import tempfile
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ludus.agents import registry
from ludus.cli.help import help_text
from ludus.cli.output import print_result
from ludus.envs.board.opponent_names import OPPONENTS, is_opponent
from ludus.envs.bounds import Bounds
from ludus.envs.errors import LudusError, RunError, UsageError
from ludus.envs.suggest import closest
from ludus.training.find_run import find_run
from ludus.training.settings import SB3_NAMES

_T = TypeVar("_T")
PORT = Bounds(0, (1 << 16) - 1)
HELD_OUT_SEED = Bounds(0, 1 << 40, below_high=True)


def parse(
    kind: type[_T], argv: Sequence[str], *, command: str, about: str, default: _T | None = None
) -> _T:
    """Parse arguments into a dataclass. Print the help and exit with 0 if `argv` asks for it.

    Args:
        kind: the dataclass; the docstrings of its fields are the help of its options.
        argv: arguments after the command.
        command: the command, as in `ludus COMMAND`.
        about: description in the help.
        default: values of the fields that are not given; None for those of `kind`.

    Raises:
        UsageError: an option is unknown or a value is invalid.
    """
    import contextlib
    import io

    import tyro

    cli: Any = tyro.cli  # its overloads exclude a default of None
    program = f"ludus {command}"
    if "--help" in argv or "-h" in argv:
        print_result(help_text(kind, program=program, about=about, default=default))
        sys.exit(0)
    output = io.StringIO()
    hints = _options_of(kind)
    _refuse_unknown(argv, hints, command)
    words = _whole_numbers(join_repeated(kind, argv), hints)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return cli(kind, args=words, prog=program, description=about, default=default)
    except SystemExit as ended:
        own = _own_error(ended)  # as it is: the box wraps lines, within numbers and paths too
        raise UsageError(own or _sentence(output.getvalue(), command)) from None


def _own_error(ended: BaseException) -> str:
    """Return the message of the error of `__post_init__` for which tyro ended; "" without any."""
    error: BaseException | None = ended
    while error is not None and not isinstance(error, LudusError):
        error = error.__context__
    return "" if error is None else str(error)


def _options_of(kind: Any) -> dict[str, Any]:
    """Return the type hint of every option of a dataclass and its parts."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for each in dataclasses.fields(kind):
        hint = hints[each.name]
        if dataclasses.is_dataclass(hint):
            found |= _options_of(hint)
        else:
            found["--" + each.name.replace("_", "-")] = hint
    return found


def _refuse_unknown(argv: Sequence[str], known: typing.Collection[str], command: str) -> None:
    """Refuse an option that does not exist, with the most similar one, ours, or its agents.

    Raises:
        UsageError: there is no such option.
    """
    for word in argv:
        if word == "--":
            return
        option = word.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option.replace("--no-", "--", 1) not in known:
            ours = SB3_NAMES.get(option[2:].replace("-", "_"))
            if ours is not None:
                raise UsageError(f"there is no option {option}; Ludus has {ours}")
            field = option.replace("--no-", "--", 1)[2:].replace("-", "_")
            others = registry.agents_with(field) if command.startswith("train ") else []
            if others:
                agent = "this run's agent" if "--resume" in command else command.split()[1]
                raise UsageError(
                    f"{agent} has no option {option}; it is one of {', '.join(others)}"
                )
            raise UsageError(closest(option, known, "option", f"ludus {command} --help shows all"))


def _whole_numbers(words: list[str], hints: dict[str, Any]) -> list[str]:
    """Write 1e5 as 100000 where an option takes whole numbers."""
    written, option = [], ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        option = name or option
        hint = hints.get(option.replace("_", "-"))
        if hint in (int, int | None) and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d{1,2}", value):
            number = float(value)
            value = str(int(number)) if number.is_integer() else value
        written.append(name + equals + value)
    return written


def join_repeated(kind: type[Any], argv: Sequence[str]) -> list[str]:
    """Join the values of options that list names or paths and are given more than once.

    `--wrapper a:A --wrapper b:B` is the same as `--wrapper a:A b:B`. Without this, tyro keeps the
    last occurrence only. The last occurrence of any other option counts.
    """
    listing = _listing_options(kind)
    joined: dict[str, list[str]] = {}
    rest: list[str] = []
    target = rest
    end = argv.index("--") if "--" in argv else len(argv)
    for word in argv[:end]:
        name, equals, value = word.partition("=")
        option = name.replace("_", "-")
        if word.startswith("--"):
            target = joined.setdefault(option, []) if option in listing else rest
        if target is rest:
            rest.append(word)
        elif not word.startswith("--"):
            target.append(word)
        elif equals:
            target.append(value)
    lists = [word for name, values in joined.items() for word in (name, *values)]
    return [*rest, *lists, *argv[end:]]


def _listing_options(kind: Any) -> set[str]:
    """Return the options of a dataclass and its parts that take any number of names or paths."""
    found: set[str] = set()
    hints = typing.get_type_hints(kind)
    for each in dataclasses.fields(kind):
        hint = hints[each.name]
        if dataclasses.is_dataclass(hint):
            found |= _listing_options(hint)
        elif hint in (tuple[str, ...], tuple[Path, ...]):
            found.add("--" + each.name.replace("_", "-"))
    return found


def _sentence(output: str, command: str) -> str:
    """Extract the message from the box that tyro prints, with its suggestion."""
    lines = [line.strip(" │─╭╮╰╯|") for line in output.splitlines()]
    parts = [part.strip() for part in "\n".join(lines).split("---")]
    parts = [" ".join(part.strip("- \n").split()) for part in parts if part.strip("- \n")]
    message = (parts[1] if len(parts) > 1 else " ".join(parts)).rstrip(".")
    # a ValueError of __post_init__: tyro puts the name of the dataclass or of its field before it
    own = re.fullmatch(r"Error parsing (?!--)\S+: (.+)", message)
    if own:
        return own[1]
    missing = re.match(r"Missing from .*?: (.+)", message)
    if missing:
        needed = [_named(part) for part in missing[1].split("(required)") if part.strip()]
        name = command.split()[0]
        return f"{name} needs: {', '.join(needed)}; ludus {name} --help shows every option"
    _, _, hint = " ".join(parts).partition("Perhaps you meant:")
    flags = [word.rstrip(",") for word in hint.split() if word.startswith("--")]
    suggestion = f"; did you mean {flags[0]}?" if flags else ""
    return f"{message}{suggestion or f'; ludus {command} --help shows every option'}"


def _named(required: str) -> str:
    """Return an option and its choices, or what a word without a name is, from a line of help."""
    option = re.match(r"\s*(--\S+(?: \{.*?\})?)", required)
    return option[1] if option else required.split(maxsplit=1)[1].split(";")[0].strip()


def check_file(path: Path) -> None:
    """Check that a file can be written at a path, before the work that is to be written there.

    Raises:
        UsageError: it is a folder, or in a folder that does not exist or takes no files.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist; create it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(
            f"no file can be written in the folder {path.parent} ({error.strerror}); name another"
        ) from error


def check_agents(names: Iterable[str]) -> None:
    """Check names of agents before anything slow is imported.

    Raises:
        ConfigError: there is no agent of one of these names.
    """
    for name in names:
        registry.entry(name)


def is_agent(name: str) -> bool:
    """Return whether an agent has that name."""
    return name in registry.names()


def values_of(option: str, words: Sequence[str]) -> list[str]:
    """Return the values of an option before the command line is parsed."""
    found: list[str] = []
    inside = False
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            inside = name == option
            found += [value] if inside and equals else []
        elif inside:
            found.append(word)
    return found


def check_compared(argv: Sequence[str]) -> None:
    """Check the agents of `ludus compare` before torch is imported.

    Raises:
        ConfigError: there is no agent of one of these names.
    """
    check_agents(values_of("--agents", argv))


def check_contenders(argv: Sequence[str]) -> None:
    """Check the contenders of `ludus arena` before torch is imported.

    Raises:
        UsageError: a contender is neither a folder nor a player.
    """
    for name in argv:
        if name.startswith("-"):
            return  # contenders come first; parsing the whole line finds those after an option
        if is_opponent(name) or Path(name).is_dir():
            continue
        folder, at, _ = name.rpartition("@")
        try:
            find_run(folder if at else name)
        except RunError as error:
            raise UsageError(
                f"there is no opponent {name}, which are {', '.join(OPPONENTS)}, "
                f"and no such run: {error}"
            ) from error


def flush_denormals() -> None:
    """Treat numbers below 1e-38 as 0, on this thread and on those that torch has yet to start.

    The moments of an optimizer decay into that range, where arithmetic is slow on a CPU.
    """
    import torch

    torch.set_flush_denormal(True)


def tensorboard() -> str:
    """Return the command that starts TensorBoard: its path if it is not on the PATH."""
    import shutil

    beside = Path(sys.executable).with_name("tensorboard")
    return "tensorboard" if shutil.which("tensorboard") or not beside.exists() else str(beside)
