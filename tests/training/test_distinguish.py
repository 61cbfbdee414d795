"""What distinguishes runs of one agent on one env."""

import pytest

from ludus.training.distinguish import distinctions, learning_settings

BASE = {"env": "A-v0", "agent": "dqn", "auxiliary": "none", "lr": 0.1, "init_from": None}


def test_a_run_is_described_by_what_most_others_do_not_have():
    runs = [BASE, BASE | {"auxiliary": "spr"}, BASE, BASE | {"init_from": "runs/a", "lr": 0.2}]
    assert distinctions(runs) == ["", "auxiliary spr", "", "lr 0.2, init_from runs/a"]


def test_of_two_runs_the_newer_is_described():
    assert distinctions([BASE | {"lr": 0.5}, BASE]) == ["lr 0.5", ""]


def test_only_runs_of_the_same_agent_on_the_same_env_are_compared():
    others = [BASE | {"env": "B-v0", "lr": 1.0}, BASE | {"agent": "ppo", "lr": 2.0}]
    assert distinctions([BASE, *others]) == ["", "", ""]


def test_a_setting_counts_among_the_runs_that_have_it():
    """Those of an earlier version do not have all."""
    runs = [BASE | {"new": 2}, BASE | {"new": 1}, BASE, BASE | {"new": 1}, BASE]
    assert distinctions(runs) == ["new 2", "", "", "", ""]


def test_a_description_is_short_and_printable():
    names = [f"field{number}" for number in range(5)]
    many, few = (BASE | dict.fromkeys(names, value) for value in (1, 0))
    assert distinctions([many, few, few]) == ["field0 1, field1 1, field2 1, 2 more", "", ""]
    (text, _) = distinctions([BASE | {"init_from": "a\x1b[31m" + "b" * 500}, BASE])
    assert text.isprintable()
    assert len(text) < 110


def test_nothing_distinguishes_no_runs_and_those_without_settings():
    assert distinctions([]) == []
    assert distinctions([{}, {}, BASE]) == ["", "", ""]
    assert distinctions([{"env": ["a"]}, {"env": {"b": 1}}]) == ["", ""]  # of a damaged file


def test_the_settings_are_of_what_is_learned():
    train = {"steps": 5, "seed": 1, "num_envs": 8, "init_from": "runs/a"}
    record = {"env": "A", "agent": "dqn", "train": train, "options": {"wrapper": ["w"]}}
    settings = learning_settings(record | {"config": {"lr": 0.1}})
    assert (settings["init_from"], settings["lr"]) == ("runs/a", 0.1)
    assert (settings["num_envs"], settings["wrapper"]) == (8, ["w"])
    assert not settings.keys() & {"steps", "seed"}
    with pytest.raises((KeyError, TypeError)):
        learning_settings({"env": "A"})
