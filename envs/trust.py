"""Consent to import modules and to start programs that files name.

The env id of a run folder or a data set may be `module:Env-v0`, and its encoder `module:Class`;
importing that module runs its code. Its opponent may be `gtp:COMMAND`, which is a program. A name
that the user typed is consent; one that was read from a file is not. The consent holds for this
process and is stored nowhere.
"""

from collections.abc import Iterable, Sequence

from ludus.envs.errors import EnvError

_ALWAYS = ("gymnasium", "ludus")
_trusted = set(_ALWAYS)
_programs = set[str]()


def trust_modules(names: Iterable[str]) -> None:
    """Allow files to name these modules, and what lies within them."""
    _trusted.update(name for name in names if name)


def modules_of(env_id: str, others: Sequence[str] = ()) -> list[str]:
    """Return the modules that an env id, wrappers and networks name, which would be imported.

    Whatever stands before a colon counts, for a file may be named in any way.
    """
    texts = [text for text in (env_id, *others) if ":" in text]
    names = [part for text in texts for part in (text.partition(":")[0], text.rpartition(":")[0])]
    return list(dict.fromkeys(name for name in names if name))


def require_trust(env_id: str, others: Sequence[str], source: str) -> None:
    """Refuse modules that a file names and that the user did not allow.

    Args:
        env_id: env id that was read from the file.
        others: wrappers and networks that were read from the file.
        source: the file, for the message.

    Raises:
        EnvError: a module is not trusted.
    """
    for module in modules_of(env_id, others):
        if not _is_trusted(module):
            raise EnvError(
                f"{source} names the module {module}, which would be imported and run; add "
                f"--modules {module} (Python: modules=) if you trust it"
            )


def trust_programs(players: Iterable[str]) -> None:
    """Allow the programs of players `gtp:COMMAND` that the user named; others need no consent."""
    _programs.update(players)


def require_program(player: str) -> None:
    """Refuse a player `gtp:COMMAND` that the user did not name.

    Raises:
        EnvError: the program is not trusted.
    """
    if player not in _programs:
        raise EnvError(
            f"{player} is a program, which only `ludus arena` and `ludus evaluate --opponent` "
            "(Python: ludus.evaluate(opponent=)) start, where it is written there"
        )


def is_kind(found: object, module: str, kind: type) -> bool:
    """Return whether what a file names in a module may be called as a class of that kind.

    In the modules that need no consent only such classes may: they have functions that do anything.
    """
    ours = module.partition(".")[0] in _ALWAYS
    return callable(found) and (not ours or (isinstance(found, type) and issubclass(found, kind)))


def consent_arguments(env_id: str, others: Sequence[str]) -> list[str]:
    """Return the arguments that give another command the consent that this process has."""
    names = [name for name in modules_of(env_id, others) if _is_trusted(name)]
    return ["--modules", ",".join(names)] if names else []


def _is_trusted(module: str) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in _trusted)
