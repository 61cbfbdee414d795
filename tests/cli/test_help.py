"""The help of every command: all options, in groups, with their texts."""

import importlib
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

import pytest
from tyro.conf import OmitArgPrefixes, Positional

from ludus.agents import registry
from ludus.cli.help import GROUPS, field_docs, help_text, options_of
from ludus.cli.main import COMMANDS, main
from ludus.envs.make import EnvOptions
from ludus.training.run import TrainOptions

CONFIGS = [
    registry.config_class(name)
    for name in (
        *("DQNConfig", "PPOConfig", "PQNConfig", "R2D2Config", "AlphaZeroConfig", "SB3Config"),
    )
]


def _lines(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_every_option_in_words(capsys, command):
    words = (command, "--help") if command != "train" else ("train", "ppo", "CartPole-v1", "-h")
    lines = _lines(capsys, *words)
    assert lines[0].startswith(f"usage: ludus {command}")
    text = "\n".join(lines)
    for unwanted in ("None", "MISSING", "typing.", "(default: )"):
        assert unwanted not in text, unwanted
    assert max(map(len, lines)) <= 100
    if command != "train":
        module = importlib.import_module(f"ludus.cli.{command}")
        kind = module.Arguments
        for option in options_of(kind):
            assert option.text, option.name
            shown = option.name.upper() if option.positional else f"--{option.name}"
            assert shown.replace("_", "-") in text


def test_a_training_has_its_options_in_groups(capsys):
    lines = _lines(capsys, "train", "rainbow", "CartPole-v1", "--help")
    titles = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    expected = [title for title in GROUPS if title != "search"]
    assert titles == ["examples", *expected]
    text = "\n".join(lines)
    assert text.index("--resume") < text.index("run:")
    for name in ("steps", "encoder", "replay-size", "epsilon-start", "learning-rate", "dueling"):
        assert text.count(f"  --{name}") == 1


def test_each_field_of_an_agent_is_in_one_group():
    grouped = [name for members in GROUPS.values() for name in members]
    assert max(Counter(grouped).values()) == 1
    of_agents = {each.name for config in CONFIGS for each in fields(config)}
    elsewhere = {"algorithm", "arguments"}  # of SB3, which are not for the command line or one only
    assert of_agents - set(grouped) == elsewhere
    of_run = {each.name for kind in (TrainOptions, EnvOptions) for each in fields(kind)}
    assert set(grouped) <= of_agents | of_run


def test_each_field_has_a_docstring():
    for kind in (*CONFIGS, TrainOptions, EnvOptions):
        assert set(field_docs(kind)) == {each.name for each in fields(kind)}, kind


@dataclass(frozen=True)
class Inner:
    """A part."""

    choice: Literal["a", "b"] | None = None
    """one of two"""
    on: bool = True
    """a flag"""


@dataclass(frozen=True)
class Outer:
    """Options."""

    what: Positional[str]
    """the argument"""
    sizes: Annotated[tuple[int, ...], "positive"] = (3, 4)
    """two numbers"""
    inner: OmitArgPrefixes[Inner] = field(default=Inner("b"))


def test_options_and_defaults_are_written_as_they_are_typed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = help_text(Outer, program="ludus x", about="Do it.")
    assert text == (
        "usage: ludus x WHAT [options]\n\nDo it.\n\n"
        "arguments:\n"
        "  WHAT                        the argument\n\n"
        "options:\n"
        "  --sizes INT ...             two numbers (default: 3 4)\n"
        "  --choice {a,b}              one of two (default: b)\n"
        "  --on, --no-on               a flag (default: on)"
    )
    changed = help_text(Outer, program="x", about="", default=Outer("y", (), Inner(None, False)))
    assert "two numbers\n" in changed
    assert "one of two\n" in changed
    assert "a flag (default: off)" in changed
