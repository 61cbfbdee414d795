"""Options as users type them."""

from pathlib import Path

import pytest

from ludus.agents import registry
from ludus.cli import check, compare, explain, pretrain, train, tune
from ludus.cli.options import parse
from ludus.cli.train import _arguments
from ludus.envs.errors import ConfigError, LudusError, UsageError


@pytest.mark.parametrize(
    "words",
    [
        "--wrapper a:A b:B --env-kwargs x=1 y=2 --seed 3",
        "--wrapper a:A --env-kwargs x=1 --wrapper b:B --seed 3 --env-kwargs y=2",
        "--wrapper=a:A --env_kwargs=x=1 --seed=3 --env-kwargs y=2 --wrapper=b:B",
        "--wrapper a:A b:B --seed 3 --env-kwargs x=1 y=2 --",
    ],
)
def test_options_that_list_names_may_be_repeated(words):
    """tyro alone keeps the last occurrence, and loses the others without a word."""
    given = parse(check.Arguments, ["Env-v0", *words.split()], command="check", about="")
    assert given.options.wrapper == ("a:A", "b:B")
    assert given.options.constructor_kwargs() == {"x": 1, "y": 2}
    assert (given.env, given.seed) == ("Env-v0", 3)


@pytest.mark.parametrize(
    ("agent", "option", "says"),
    [
        (
            "alphazero",
            "--auxiliary",
            r"^alphazero has no option --auxiliary; it is one of dqn, .*, impala$",
        ),
        ("ppo", "--no-dueling", "^ppo has no option --no-dueling; it is one of dqn, .*r2d2, drqn$"),
        (
            "dqn",
            "--play-simulations",
            "^dqn has no option --play-simulations; it is one of alphazero$",
        ),
        ("dqn", "--play-similations", "^there is no option --play-similations"),
    ],
)
def test_an_option_of_other_agents_names_them(agent, option, says):
    env = "connect_four" if agent == "alphazero" else "CartPole-v1"
    kind = _arguments(agent, env, None, [], {})
    with pytest.raises(UsageError, match=says):
        parse(kind, [option], command=f"train {agent} {env}", about="")


def test_an_option_without_effect_is_refused():
    with pytest.raises(ConfigError, match=r"^atoms has no effect with head q; choose head c51"):
        train.run(["dqn", "CartPole-v1", "--atoms", "21"])


def test_a_resumed_run_has_no_option_of_other_agents():
    kind = _arguments("dqn", "CartPole-v1", None, [], {})
    with pytest.raises(UsageError, match=r"^this run's agent has no option --play-simulations"):
        parse(kind, ["--play-simulations", "3"], command="train --resume RUN", about="")


@pytest.mark.parametrize(
    ("module", "words", "says"),
    [
        (explain, [], "explain needs: folder of the run; ludus explain --help shows every option"),
        (tune, [], "tune needs: name of the preset, env id; ludus tune --help shows every option"),
        (
            pretrain,
            ["CartPole-v1"],
            "pretrain needs: --objective {reconstruction,variational,spr,inverse}; ludus pretrain "
            "--help shows every option",
        ),
    ],
)
def test_what_is_missing_is_named(module, words, says):
    with pytest.raises(UsageError) as raised:
        parse(module.Arguments, words, command=module.__name__.rpartition(".")[2], about="")
    assert str(raised.value) == says


def test_a_long_message_stays_as_it_is():
    """tyro wraps it in a box, and breaks lines after the commas of a number."""
    with pytest.raises(UsageError) as raised:
        parse(explain.Arguments, ["latest", "--seed", "-1"], command="explain", about="")
    assert str(raised.value) == "seed is -1; it must be from 0 to below 1,099,511,627,776"


@pytest.mark.parametrize("agent", registry.names())
def test_no_two_options_of_a_training_have_one_name(agent):
    """The agent's, the env's and the training's options share one command line."""
    for env in ("CartPole-v1", "PongNoFrameskip-v4", "tic_tac_toe", "Pendulum-v1"):
        try:
            kind = _arguments(agent, env, None)
        except LudusError:  # the agent is for other envs
            continue
        given = parse(kind, ["--steps", "7"], command="train", about="")
        assert given.train.steps == 7
        return
    pytest.fail(f"no env for {agent}")


def test_paths_and_agents_are_joined_and_numbers_are_replaced():
    words = "--runs a --agents dqn --steps 5 --runs b c --agents ppo --steps 7"
    given = parse(compare.Arguments, words.split(), command="compare", about="")
    assert given.runs == (Path("a"), Path("b"), Path("c"))
    assert given.agents == ("dqn", "ppo")
    assert given.steps == 7
