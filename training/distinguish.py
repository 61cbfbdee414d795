"""What distinguishes runs of one agent on one env: the settings in which they differ."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LEARNING_OPTIONS = ("num_envs", "init_from", "rivals", "dataset")  # they change what is learned
_NAMED_SETTINGS = 3  # the most that a description lists
_LONGEST_VALUE = 80  # characters of it


def learning_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was learned, where and how, by name, from the entries of a run's config.json.

    Raises:
        KeyError, TypeError, ValueError: an entry is missing, or is no JSON object.
    """
    train = dict(record["train"])
    named = {"env": record["env"], "agent": record["agent"]}
    options = {name: train.get(name) for name in LEARNING_OPTIONS}
    return named | options | dict(record["options"]) | dict(record["config"])


def distinctions(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe how each of several runs differs from most of the others; "" if it does not.

    Args:
        runs: the env, agent and further settings of each run. Only runs of the same env and agent
            are compared. Where no value is the most common, that of the last of the most common
            ones counts, so that in a list with the newest run first it is the oldest's.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    keys = [tuple(_text(settings.get(name)) for name in ("env", "agent")) for settings in runs]
    for key, settings in zip(keys, runs, strict=True):
        groups.setdefault(key, []).append(settings)
    usual = {key: _most_common(group) for key, group in groups.items()}
    return [_difference(settings, usual[key]) for key, settings in zip(keys, runs, strict=True)]


def _most_common(group: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the most common value of each setting, as text, of the runs that have it."""
    counts: dict[str, Counter[str]] = {}
    for settings in reversed(group):  # of equal counts, the first that is met is chosen
        for name, value in settings.items():
            counts.setdefault(name, Counter())[_text(value)] += 1
    return {name: count.most_common(1)[0][0] for name, count in counts.items()}


def _difference(settings: Mapping[str, Any], usual: Mapping[str, str]) -> str:
    own = {name: _text(value) for name, value in settings.items()}
    named = [f"{name} {value}" for name, value in own.items() if value != usual[name]]
    more = len(named) - _NAMED_SETTINGS
    return ", ".join([*named[:_NAMED_SETTINGS], *([f"{more} more"] if more > 0 else [])])


def _text(value: Any) -> str:
    """Return a value as printable text of limited length; it may be from a damaged file."""
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
