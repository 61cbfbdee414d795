"""The help of a command, made from its dataclass: options in groups, with units and defaults."""

import ast
import dataclasses
import inspect
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from tyro.conf import Positional, Suppress

_LEFT = 30  # columns of the options' names
_WIDTHS = (60, 100)  # columns of the help, at least and at most

# The groups of `ludus train`, in this order. What is in none is an option of the run.
GROUPS: dict[str, tuple[str, ...]] = {
    "run": (),
    "evaluation, log and checkpoints": (
        *(
            "log_every",
            "log",
            "eval_every",
            "eval_episodes",
            "eval_epsilon",
            "eval_max_episode_steps",
        ),
        *("video_every", "checkpoint_seconds", "keep_checkpoints", "evaluation_epsilon"),
    ),
    "env": (
        *("stack", "sticky", "frameskip", "screen_size", "noop_max", "life_loss"),
        *("full_action_space", "max_frames", "opponent", "channels", "max_episode_steps"),
        *("env_kwargs", "wrapper", "timeout", "threads", "rivals", "ray", "hosts", "patience"),
    ),
    "network": (
        *("encoder", "hidden", "width", "pool", "spectral_norm", "layer_norm", "freeze"),
        *(
            "activation",
            "renormalize",
            "features",
            "shared",
            "core",
            "core_units",
            "layers",
            "heads",
            "window",
        ),
        *("orthogonal", "xavier", "tower_channels", "blocks"),
    ),
    "auxiliary loss": (
        *(
            "auxiliary",
            "reward_free",
            "reconstruction_weight",
            "kl_weight",
            "code_units",
            "spr_weight",
        ),
        *("spr_steps", "spr_momentum", "spr_units", "inverse_weight"),
    ),
    "head": (
        *("head", "head_hidden", "dueling", "rescale_dueling", "atoms", "v_min", "v_max"),
        *("quantiles", "samples", "target_samples", "policy_samples", "log_std"),
    ),
    "search": (
        *("search", "simulations", "play_simulations", "play_leaves", "fast_simulations"),
        *("full_share", "considered", "c_visit", "c_scale", "play_c_scale", "c_puct", "dirichlet"),
        *("noise_share", "sampled_moves", "reuse_tree", "random_moves", "symmetries"),
    ),
    "replay and rollout": (
        *("replay_size", "batch_size", "learning_starts", "replay_ratio"),
        *("random_shift", "intensity_noise", "prioritised"),
        *("quantile_priority", "priority_alpha", "priority_beta", "priority_beta_start"),
        *("priority_beta_end", "priority_eta", "sequence_length", "burn_in", "stored_state"),
        *("rollout_length", "epochs", "minibatches", "overlap"),
    ),
    "exploration": (
        *("epsilon_start", "epsilon_end", "epsilon_steps", "epsilon_fraction", "epsilon_decay"),
        *("act_by_target", "epsilon_off", "epsilon_alpha", "noisy", "noisy_sigma", "entropy_coef"),
    ),
    "targets and loss": (
        *("gamma", "n_step", "lam", "vtrace", "double", "target_interval", "polyak", "munchausen"),
        *("munchausen_online", "munchausen_scale", "munchausen_temperature", "munchausen_floor"),
        *(
            "n_step_end",
            "gamma_end",
            "horizon_updates",
            "reset_interval",
            "reset_keep",
            "reset_until",
        ),
        *("value_rescaling", "conservative", "loss", "clip_reward", "clip_range", "value_clip"),
        *("value_coef", "normalize_advantage", "normalize_observation", "normalize_reward"),
        *("normalize_value", "target_kl", "value_target", "outcome_share"),
    ),
    "optimizer and schedules": (
        *("optimizer", "learning_rate", "optimizer_eps", "momentum", "weight_decay"),
        *("max_grad_norm", "anneal_learning_rate", "anneal_clip_range", "desired_kl"),
    ),
}


class _Option(NamedTuple):
    """One option."""

    name: str  # of the field
    hint: Any
    text: str  # the field's docstring
    default: Any  # `MISSING` without one
    positional: bool


@cache
def field_docs(kind: type[Any]) -> dict[str, str]:
    """Return the docstring of each field of a dataclass, as the source has it below the field."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError):  # made by `make_dataclass`, whose parts have the docstrings
        return {}
    found = dict[str, str]()
    for base in filter(dataclasses.is_dataclass, kind.__bases__):
        found |= field_docs(base)
    assert isinstance(body, ast.ClassDef)
    for field, after in zip(body.body, body.body[1:], strict=False):
        match field, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found


def options_of(kind: Any, default: Any = None) -> Iterator[_Option]:
    """Yield the options of a dataclass and its parts.

    Args:
        kind: the dataclass.
        default: an instance with the values of the options that are not given, or None.
    """
    hints, docs = typing.get_type_hints(kind, include_extras=True), field_docs(kind)
    for each in dataclasses.fields(kind):
        value: Any = each.default
        factory: Any = each.default_factory
        if value is dataclasses.MISSING and factory is not dataclasses.MISSING:
            value = factory()
        value = value if default is None else getattr(default, each.name)
        hint, markers = _bare(hints[each.name])
        if dataclasses.is_dataclass(hint):
            yield from options_of(hint, None if value is dataclasses.MISSING else value)
        elif Suppress not in markers:
            text = docs.get(each.name, "")
            yield _Option(each.name, hint, text, value, Positional in markers)


_MARKERS = {get_args(mark[int])[1]: mark for mark in (Positional, Suppress)}


def _bare(hint: Any) -> tuple[Any, list[Any]]:
    """Return a type hint without its annotations, and tyro's markers among these."""
    if get_origin(hint) is not Annotated:
        return hint, []
    inner, *others = get_args(hint)
    return inner, [mark for marker, mark in _MARKERS.items() if marker in others]


def _metavar(hint: Any) -> str:
    """Return the word for a value: INT, FLOAT, TEXT, PATH or its choices."""
    hint, _ = _bare(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return "|".join(_metavar(each) for each in arguments if each is not type(None))
    if origin is Literal:
        return "{" + ",".join(str(each) for each in arguments) + "}"
    if origin is tuple:
        return f"{_metavar(arguments[0])} ..."
    return {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}.get(hint, str(hint).upper())


def is_flag(hint: Any) -> bool:
    """Return whether an option is switched on and off, without a value."""
    return hint in (bool, bool | None)


def _written(option: _Option) -> str:
    """Return an option as it is typed."""
    name = option.name.replace("_", "-")
    if option.positional:
        return name.upper()
    if is_flag(option.hint):
        return f"--{name}, --no-{name}"
    return f"--{name} {_metavar(option.hint)}"


def _explained(option: _Option) -> str:
    """Return the text of an option, with its default if it says something."""
    value = option.default
    if value is None or value is dataclasses.MISSING or value in ("", ()):
        return option.text
    if isinstance(value, bool):
        value = "on" if value else "off"
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    return f"{option.text} (default: {value})"


def help_text(kind: type[Any], *, program: str, about: str, default: Any = None) -> str:
    """Return the help of a command.

    Args:
        kind: the dataclass of its options.
        program: the command as it is typed.
        about: what it does: examples are lines of their own.
        default: see `options_of`.
    """
    width = min(max(shutil.get_terminal_size((80, 24)).columns, _WIDTHS[0]), _WIDTHS[1])
    options = list(options_of(kind, default))
    arguments = [option for option in options if option.positional]
    given = " ".join(_written(option) for option in arguments)
    blocks = [" ".join(f"usage: {program} {given} [options]".split()), about.strip()]
    if arguments:
        blocks.append(_group("arguments", arguments, width))
    others = [option for option in options if not option.positional]
    names = {option.name for option in others}
    if "learning_rate" in names or {"seed", "num_envs", "steps"} <= names:  # of a training
        in_groups = {name for members in GROUPS.values() for name in members}
        for title, members in GROUPS.items():
            own = members or names - in_groups
            found = [option for option in others if option.name in own]
            blocks += [_group(title, found, width)] if found else []
    else:
        env = [option for option in others if option.name in GROUPS["env"][:-1]]
        env = env if len(env) > 3 else []  # else the command has an option of that name
        blocks.append(_group("options", [o for o in others if o not in env], width))
        blocks += [_group("env", env, width)] if env else []
    return "\n\n".join(blocks)


def _group(title: str, options: Sequence[_Option], width: int) -> str:
    """Return the lines of a group."""
    lines = [f"{title}:"]
    for option in options:
        left = f"  {_written(option)}"
        right = textwrap.wrap(_explained(option), width - _LEFT) or [""]
        if len(left) > _LEFT - 2:
            lines.append(left)
            left = ""
        lines.append(left.ljust(_LEFT) + right[0])
        lines += [" " * _LEFT + line for line in right[1:]]
    return "\n".join(lines)
