"""The generated part of an agent's page: its scores, and its fields with their defaults."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from gymnasium import spaces

from ludus.agents import registry
from ludus.agents.agent import EnvSpec
from ludus.agents.preset import Preset
from ludus.agents.sb3_config import SB3Config
from ludus.cli.help import GROUPS, field_docs, options_of
from ludus.envs.bounds import Bounds
from ludus.envs.errors import ConfigError
from ludus.envs.make import make
from ludus.envs.markers import bare

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "README.md"
OTHERS = "sb3"  # the page of all baselines
# agents for continuous actions; the others refuse them when they are built
CONTINUOUS = (
    *("ppo", "recurrent_ppo", "a2c", "impala", "random"),
    *("sb3:ppo", "sb3:a2c", "sb3:sac", "sb3:td3"),
)
# presets whose page says in which fields they differ from another one
BASES = {
    **dict.fromkeys(("ddqn", "dueling", "c51", "qrdqn", "iqn", "munchausen"), "dqn"),
    **dict.fromkeys(("rainbow", "btr", "bbf", "dqn2013"), "dqn"),
    **dict.fromkeys(("der", "spr"), "rainbow"),
    **dict.fromkeys(("ppo_small", "recurrent_ppo", "a2c", "impala"), "ppo"),
    "drqn": "r2d2",
}


def _image(channels: int, side: int) -> spaces.Box:
    return spaces.Box(0, 255, (channels, side, side), np.uint8)


@cache
def _envs() -> dict[str, EnvSpec]:
    """Return an env of each kind that presets tell apart."""
    vector, actions = spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(6)
    force = spaces.Box(-1, 1, (1,), np.float32)
    board = make("connect_four", 1, seed=0)
    kinds = {
        "vectors": EnvSpec(vector, actions, env_id="CartPole-v1"),
        "continuous actions": EnvSpec(vector, force, env_id="Pendulum-v1"),
        "MinAtar": EnvSpec(_image(4, 10), actions, env_id="MinAtar/Breakout-v1"),
        "Atari": EnvSpec(_image(4, 84), actions, env_id="ALE/Pong-v5"),
        "board games": EnvSpec(board.observation_space, board.action_space, env_id="connect_four"),
    }
    board.close()
    return kinds


@cache
def presets(name: str) -> dict[str, Preset]:
    """Return the presets of an agent by the kind of env, without the kinds that it refuses."""
    found = {}
    for kind, env in _envs().items():
        if kind == "continuous actions" and name not in CONTINUOUS:
            continue
        if kind == "board games" and registry.trains_itself(name):  # SB3 has no action masks
            continue
        try:
            found[kind] = registry.preset(name, env)
        except ConfigError:
            continue
    return found


def generated(name: str) -> str:
    """Return the Markdown below the text of an agent's page."""
    if name == OTHERS:
        return _baselines()
    parts = [_scores([name]), f"## Fields\n\n{_where(name)}"]
    base = BASES.get(name)
    if base is not None:
        parts.append(_differences(name, base))
    parts += _tables(name)
    return "\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _where(name: str) -> str:
    """Return how the defaults are to be read."""
    found = presets(name)
    envs = _by_kind({kind: preset.num_envs for kind, preset in found.items()})
    if not fields(next(iter(found.values())).config):  # type: ignore[arg-type]  # a dataclass
        return f"It has none. Number of envs: {envs}."
    return (
        f"Options of `ludus train {name} ENV` (`--learning-rate` for `learning_rate`) and "
        f"arguments of `ludus.train`. Defaults are those of the preset for {_listed(list(found))}. "
        f"Number of envs (`num_envs`): {envs}."
    )


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _differences(name: str, base: str) -> str:
    """Return the fields in which a preset differs from another one."""
    ours, theirs = presets(name), presets(base)
    lines = []
    for field in fields(next(iter(ours.values())).config):  # type: ignore[arg-type]  # a dataclass
        values = {
            kind: getattr(ours[kind].config, field.name)
            for kind in ours
            if getattr(ours[kind].config, field.name) != getattr(theirs[kind].config, field.name)
        }
        if values:
            shown = _by_kind(values, always=len(values) < len(ours))
            lines.append(f"- `{field.name}`: {shown}")
    return f"It differs from [`{base}`]({base}.md) in\n\n" + "\n".join(lines)


def _tables(name: str) -> Iterator[str]:
    """Yield a table of the fields of each group."""
    found = presets(name)
    kind = type(next(iter(found.values())).config)
    docs, hints = field_docs(kind), get_type_hints(kind, include_extras=True)
    names = [option.name for option in options_of(kind)]
    groups = dict(GROUPS)
    groups["evaluation"] = groups.pop("evaluation, log and checkpoints")  # the last one
    grouped = {name for members in groups.values() for name in members}
    for title, members in groups.items():
        rows = [field for field in members or names if field in names]
        rows = [field for field in rows if members or field not in grouped]
        if rows:
            table = [f"### {title.capitalize()}\n\n| field | default | accepted | meaning |"]
            table.append("|---|---|---|---|")
            for field in rows:
                values = {k: getattr(preset.config, field) for k, preset in found.items()}
                table.append(_row(field, _by_kind(values), hints[field], docs[field]))
            yield "\n".join(table)


def table_of(kind: type[Any]) -> str:
    """Return a table of the fields of a dataclass of options, with its own defaults."""
    hints = get_type_hints(kind, include_extras=True)
    rows = [
        _row(
            o.name,
            "" if o.default in (None, "", ()) else f"`{_shown(o.default)}`",
            hints[o.name],
            o.text,
        )
        for o in options_of(kind)
    ]
    return "\n".join(["| field | default | accepted | meaning |", "|---|---|---|---|", *rows])


def _row(field: str, default: str, hint: Any, meaning: str) -> str:
    """Return the row of a field."""
    return f"| `{field}` | {default} | {_accepted(hint)} | {meaning.replace('|', chr(92) + '|')} |"


def _accepted(hint: Any) -> str:
    """Return the values that a field takes: bounds, names, or on and off."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Bounds):
            return str(extra).removeprefix("it must be ").removesuffix(" and finite")
    hint = bare(hint)
    if get_origin(hint) is Literal:
        return ", ".join(f"`{name}`" for name in get_args(hint))
    return "on, off" if hint is bool else ""


def _by_kind(values: dict[str, Any], *, always: bool = False) -> str:
    """Return a value, or each value with the kinds of envs that have it."""
    kinds: dict[str, list[str]] = {}
    for kind, value in values.items():
        kinds.setdefault(_shown(value), []).append(kind)
    if len(kinds) == 1 and not always:
        return f"`{next(iter(kinds))}`"
    return "; ".join(f"`{value}` ({', '.join(named)})" for value, named in kinds.items())


def _shown(value: Any) -> str:
    """Return a value as it is typed."""
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:.6g}"
        case int():
            return f"{value:_}"
        case tuple() | list():
            return " ".join(map(_shown, value))
    return str(value)


class _Section(NamedTuple):
    title: str
    anchor: str
    text: str


@cache
def _sections() -> list[_Section]:
    """Return the sections of the benchmarks."""
    parts = re.split(r"^###? (.+)\n", BENCHMARKS.read_text(), flags=re.M)[1:]
    return [_Section(t, _slug(t), text) for t, text in zip(parts[::2], parts[1::2], strict=True)]


def _slug(title: str) -> str:
    """Return the anchor of a heading, as GitHub and the site have it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _scores(names: Sequence[str]) -> str:
    """Return the rows of agents in the tables of the benchmarks, with their commands."""
    found = []
    for section in _sections():
        for table in re.findall(r"^\| agent \|.*\n(?:\|.*\n)+", section.text, re.M):
            header, line, *rows = table.splitlines()
            rows = [row for row in rows if row.split("|")[1].strip() in names]
            if rows:
                link = f"../../benchmarks/README.md#{section.anchor}"
                block = re.search(r"^```\n(.*?)^```", section.text, re.M | re.S)
                command = block or re.search(r"`((?:ludus|python) [^`]+)`", section.text)
                assert command, f"{section.title} has no command"
                found.append(
                    f"### {section.title}\n\n[Explanation and all agents]({link}).\n\n"
                    + "\n".join([header, line, *rows])
                    + f"\n\n```\n{command[1].strip()}\n```"
                )
    return "\n\n".join(found)


def _baselines() -> str:
    """Return the scores of SB3's agents, their arguments, and the fields."""
    names = [name for name in registry.names() if name.startswith("sb3:")]
    lines = ["| agent | env | arguments |", "|---|---|---|"]
    for name in names:
        kinds: dict[str, list[str]] = {}
        for kind, preset in presets(name).items():
            assert isinstance(preset.config, SB3Config)
            values = ", ".join(f"{k}={_shown(v)}" for k, v in preset.config.arguments.items())
            kinds.setdefault(values or "SB3's defaults", []).append(kind)
        lines += [f"| `{name}` | {', '.join(kind)} | {values} |" for values, kind in kinds.items()]
    text = (
        "## Fields\n\nArguments of SB3's classes by preset. `exploration_steps` counts env steps, "
        "`minibatches` stands for `batch_size`, `anneal` names arguments that fall to 0, and "
        "`noise` is the deviation of exploration."
    )
    rest = "The other fields, with the defaults of `sb3:ppo`:"
    parts = [_scores(names), text, "\n".join(lines), rest, *_tables("sb3:ppo")]
    return "\n\n" + "\n\n".join(filter(None, parts))
