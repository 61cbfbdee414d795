"""Commands that compute nothing import no torch, so that they answer at once."""

import subprocess
import sys

import pytest

CODE = """
import sys
from ludus.cli.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"torch", "pyspiel", "stable_baselines3", "matplotlib"} & set(sys.modules)
    print("IMPORTED", *sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--help", 0),
        ("list agents", 0),
        ("trian", 2),
        ("train dqm CartPole-v1", 2),
        ("compare --env CartPole-v1 --agents random dqm --steps 5", 2),
        ("compare --agents=ppq", 2),
        ("arena random mtcs:10 --game tic_tac_toe", 2),
        ("arena nowhere@100 greedy", 2),
    ],
)
def test_no_torch_is_imported(line, code):
    command = [sys.executable, "-c", CODE, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == "IMPORTED"
