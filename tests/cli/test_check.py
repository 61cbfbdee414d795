"""`ludus check` shows what agents see of an env, and finds envs that cannot be reproduced."""

from pathlib import Path
from typing import Any

import pytest

from ludus.cli.main import main

ENVS = Path(__file__).parents[1] / "envs"


@pytest.fixture
def check(monkeypatch: Any, capfd: Any) -> Any:
    """Run `ludus check` and return its exit code and its lines by label."""
    monkeypatch.syspath_prepend(ENVS)

    def run(*words: str) -> tuple[Any, dict[str, str]]:
        with pytest.raises(SystemExit) as ended:
            main(["check", *words])
        lines = capfd.readouterr().out.splitlines()
        return ended.value.code, {line[:15].strip(): line[15:] for line in lines}

    return run


def test_an_env_is_described(check: Any) -> None:
    code, lines = check("bad_envs:bad/Picture-v0", "--steps", "20")
    assert code == 0
    assert lines["shows"] == "Box(0, 255, (12, 10, 3), uint8)"
    assert lines["agents see"] == "picture 3x12x10 from 0 to 255"
    assert lines["scaled"] == "its input scaled from 0..255 to 0..1"
    assert lines["limit"] == "none: an episode may never end"
    assert lines["episodes"] == "none ended in 20 random steps"
    assert lines["picture"].startswith("none: ")
    assert lines["determinism"] == "an episode follows from its seed and its actions"


def test_masks_limits_and_arguments_are_shown(check: Any) -> None:
    code, lines = check("Taxi-v4", "--steps", "20", "--max-episode-steps", "7")
    assert code == 0
    assert lines["agents see"] == "observation 500 numbers + action_mask"
    assert lines["action mask"] == "in info"
    assert lines["limit"] == "7 steps"
    assert lines["episodes"].startswith("2 ended in 20 random steps")


def test_an_env_that_ignores_its_seed_is_found(check: Any) -> None:
    code, lines = check("bad_envs:bad/Double-v0", "--env-kwargs", "moody=true", "--steps", "9")
    assert code == 1
    assert lines["determinism"].startswith("NO: the same seed and actions led to another obs")
