"""`ludus completion SHELL`: what the Tab key completes, as a script for the shell.

The script holds all words, since starting Python at every key would take seconds. Only runs are
looked up, in the folder `runs`.
"""

import importlib
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin

from tyro.conf import Positional

from ludus.agents import registry
from ludus.agents.dqn_config import DQNConfig
from ludus.cli.help import is_flag, options_of
from ludus.cli.list import KINDS
from ludus.cli.options import parse
from ludus.cli.output import print_result
from ludus.cli.train import Common
from ludus.envs.make import EnvOptions, known_ids
from ludus.networks.names import BuiltInEncoder
from ludus.training.find_run import PRETRAINED, pretrained_runs
from ludus.training.run import TrainOptions

ABOUT = """Print a script with which the Tab key completes commands, agents, envs, runs and options.

examples:
  ludus completion bash >> ~/.bashrc
  ludus completion zsh >> ~/.zshrc
  ludus completion fish > ~/.config/fish/completions/ludus.fish"""

Shell = Literal["bash", "zsh", "fish"]
_RUNS = ("RUNS",)  # the shell puts the runs there
_ON_RUNS = (
    *("collect", "evaluate", "card", "explain", "export", "gtp", "play", "push", "record"),
    "watch",
)


@dataclass(frozen=True)
class Arguments:
    """Options of `ludus completion`."""

    shell: Positional[Shell]
    """shell that reads the script"""


class _Flag(NamedTuple):
    """One option."""

    words: tuple[str, ...]  # --x, or --x and --no-x
    about: str
    values: tuple[str, ...] = ()  # those that can be listed
    takes: int = 0  # 0: no value, 1: one, 2: any number


def run(argv: list[str]) -> int:
    """Print the script."""
    given = parse(Arguments, argv, command="completion", about=ABOUT)
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[given.shell]()
    print_result(script)
    return 0


def _flags(kinds: Iterable[Any]) -> list[_Flag]:
    """Return the options of dataclasses, each once."""
    found: dict[str, _Flag] = {}
    for name, hint, about, _, positional in (each for kind in kinds for each in options_of(kind)):
        if positional:
            continue
        word = "--" + name.replace("_", "-")
        if is_flag(hint):
            found[name] = _Flag((word, "--no-" + word[2:]), about)
        else:
            found[name] = _Flag(
                (word,), about, _values(name, hint), 1 + (get_origin(hint) is tuple)
            )
    return list(found.values())


def _values(name: str, hint: Any) -> tuple[str, ...]:
    """Return the values of an option that can be listed."""
    named = {"agent": registry.names(), "agents": registry.names(), "env": known_ids()}
    if name in named:
        return tuple(named[name])
    if name == "runs":
        return _RUNS
    if name == "encoder" and hint is str:  # or a module's, which cannot be listed
        return get_args(BuiltInEncoder)
    kinds = [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
    return tuple(str(value) for kind in kinds for value in get_args(kind))


def _commands() -> dict[str, list[_Flag]]:
    """Return the options of every command; train's do not include those of an agent."""
    from ludus.cli.main import COMMANDS

    found = {}
    for command in COMMANDS:
        if command == "train":
            found[command] = [
                *_flags((TrainOptions, EnvOptions, Common)),
                _Flag(("--resume",), "run to go on with", _RUNS, 1),
                _Flag(("--config",), "file of options as JSON, or a run's config", (), 1),
            ]
        else:
            own = importlib.import_module(f"ludus.cli.{command}").Arguments
            training = (TrainOptions, EnvOptions, Common, DQNConfig)
            found[command] = _flags((own, *(training if command == "pretrain" else ())))
        found[command].append(_Flag(("--help",), "show every option"))
    return found


def _pretrained() -> list[str]:
    return [PRETRAINED + name for name in pretrained_runs()]


def _agents() -> Iterator[tuple[list[str], list[_Flag]]]:
    """Yield agents that have the same options, with these."""
    modules: dict[str, list[str]] = {}
    for name in registry.names():
        modules.setdefault(registry.entry(name).module, []).append(name)
    for module, names in modules.items():
        yield names, _flags(registry.config_classes(module))


def _positions() -> list[tuple[int, str, Iterable[str]]]:
    """Return the words that can stand at each position of each command."""
    from ludus.cli.main import COMMANDS

    return [
        (2, "train", registry.names()),
        (3, "train", known_ids()),
        (2, "check", known_ids()),
        (2, "pretrain", known_ids()),
        (2, "list", KINDS),
        (2, "help", COMMANDS),
        (2, "completion", get_args(Shell)),
        *((2, command, _RUNS) for command in _ON_RUNS),
    ]


_BASH = """\
_ludus_offer() { # those of its arguments that begin with what is typed
    local each quoted
    for each; do
        @quote@
        case "$quoted" in "$word"*) COMPREPLY+=("$quoted") ;; esac
    done
}
_ludus_runs() {
    local file
    _ludus_offer latest @pretrained@
    for file in runs/*/*/*/config.json; do
        [ ! -e "$file" ] || _ludus_offer "${file%/config.json}"
    done
}
_ludus() {
    local line="${COMP_LINE:0:$COMP_POINT}" before= option=
    local word="${line##* }"
    set -f
    set -- ${line%"$word"}
    set +f
    for before; do
        case "$before" in -*) option="$before" ;; esac
    done
    case "$word" in
    -*)
        case "$2" in
@options@
        esac
        [ "$2" != train ] || case "$3" in
@agents@
        esac
        ;;
    *)
        case "$2 $before" in
@one@
        esac
        [ "$2" != train ] || case "$3 $before" in
@of_agents@
        esac
        case "$2 $option" in
@many@
        esac
        [ -n "$option" ] || case "$# $2" in
@positions@
        esac
        ;;
    esac
    case "$COMP_WORDBREAKS" in # what follows the last colon is a word of its own
    *:*) COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*:}"}"}") ;;
    esac
}
complete -o default -F _ludus ludus
"""
_QUOTE = {"bash": 'printf -v quoted %q "$each"', "zsh": 'quoted="$each"'}  # zsh quotes by itself


def _bash(shell: str = "bash") -> str:
    """Return the script for bash, or for zsh's emulation of it."""
    from ludus.cli.main import COMMANDS

    commands, agents = _commands(), list(_agents())

    def words(flags: Iterable[_Flag]) -> list[str]:
        return [word for flag in flags for word in flag.words]

    def values(name: str, flags: Iterable[_Flag], takes: int) -> list[tuple[str, Iterable[str]]]:
        found = (flag for flag in flags if flag.values and flag.takes == takes)
        return [(f'"{name} {flag.words[0]}"', flag.values) for flag in found]

    cases: dict[str, list[tuple[str, Iterable[str]]]] = {
        "options": [(command, words(flags)) for command, flags in commands.items()],
        "agents": [("|".join(names), words(flags)) for names, flags in agents],
        "one": [each for name, flags in commands.items() for each in values(name, flags, 1)],
        "of_agents": [
            each for names, flags in agents for name in names for each in values(name, flags, 1)
        ],
        "many": [each for name, flags in commands.items() for each in values(name, flags, 2)],
        "positions": [
            ("1*", [*COMMANDS, "help"]),
            *((f'"{at} {command}"', found) for at, command, found in _positions()),
        ],
    }
    script = _BASH.replace("@quote@", _QUOTE[shell])
    script = script.replace("@pretrained@", shlex.join(_pretrained()))
    for name, found in cases.items():
        lines = [f"        {label}) {_offer(each)} ;;" for label, each in found if tuple(each)]
        script = script.replace(f"@{name}@", "\n".join(lines))
    return script


def _offer(words: Iterable[str]) -> str:
    words = tuple(words)
    return "_ludus_runs" if words == _RUNS else f"_ludus_offer {shlex.join(words)}"


def _zsh() -> str:
    """Return the script for zsh, which runs bash's."""
    once = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }"
    return f"{once}\nautoload -Uz bashcompinit && bashcompinit\n{_bash('zsh')}"


_FISH_RUNS = "latest @pretrained@ (for file in runs/*/*/*/config.json; dirname $file; end)"


def _fish() -> str:
    """Return the script for fish."""
    from ludus.cli.main import COMMANDS

    def values(found: Iterable[str]) -> str:
        runs = _FISH_RUNS.replace("@pretrained@", " ".join(_pretrained()))
        return f"'{' '.join(found).replace('RUNS', runs)}'"

    def line(when: str, rest: str) -> str:
        return f"complete -c ludus -n '{when}' {rest}"

    def options(when: str, flags: Iterable[_Flag]) -> Iterator[str]:
        for flag in flags:
            about = flag.about.replace("'", "\\'")
            value = f"-x -a {values(flag.values)}" if flag.values else "-r" if flag.takes else ""
            for word in flag.words:
                yield line(when, f"-l {word[2:]} {value} -d '{about}'")
            if flag.values and flag.takes == 2:  # further ones
                seen = f"{when}; and __fish_seen_argument -l {flag.words[0][2:]}"
                yield line(seen, f"-f -a {values(flag.values)}")

    lines = ["complete -c ludus -f -n '__fish_is_first_token'"]
    for command, about in (COMMANDS | {"help": "show the options of a command"}).items():
        lines.append(
            line("__fish_is_first_token", f"-a {command} -d '{about.replace(chr(39), '')}'")
        )
    for at, command, found in _positions():
        when = f"__fish_seen_subcommand_from {command}; and __fish_is_nth_token {at}"
        lines.append(line(when, f"-f -a {values(found)}"))
    for command, flags in _commands().items():
        lines += options(f"__fish_seen_subcommand_from {command}", flags)
    for names, flags in _agents():
        when = (
            f"__fish_seen_subcommand_from train; and __fish_seen_subcommand_from {' '.join(names)}"
        )
        lines += options(when, flags)
    return "\n".join(lines)
