"""What the Tab key completes, asked of the shells themselves."""

import shutil
import subprocess

import pytest

from ludus.cli.main import main
from ludus.training.find_run import pretrained_runs

RUNS = {"latest", "runs/CartPole-v1/dqn/0-a", "runs/ALE-Pong-v5/ppo/0-b"}
RUNS |= {f"pretrained:{name}" for name in pretrained_runs()}
_ASK = """\
COMP_LINE="$1" COMP_POINT=${#1} COMPREPLY=()
_ludus
printf '%s\\n' "${COMPREPLY[@]}"
"""
_LINES = {
    "ludus tr": {"train"},
    "ludus train dq": {"dqn", "dqn2013"},
    "ludus train dqn PongN": {"PongNoFrameskip-v4"},
    "ludus train dqn CartPole-v1 --lea": {"--learning-rate", "--learning-starts"},
    "ludus train ppo CartPole-v1 --lea": {"--learning-rate"},  # the options of that agent
    "ludus train dqn CartPole-v1 --no-du": {"--no-dueling"},
    "ludus train dqn CartPole-v1 --head ": {"q", "c51", "qr", "iqn"},
    "ludus train dqn PongNoFrameskip-v4 --encoder na": {"nature"},
    "ludus train alphazero connect_four --encoder t": {"tower"},
    "ludus pretrain PongN": {"PongNoFrameskip-v4"},
    "ludus pretrain MinAtar/Breakout-v1 --objective re": {"reconstruction"},
    "ludus pretrain MinAtar/Breakout-v1 --layer": {"--layer-norm"},  # an option of dqn
    "ludus compare --agents dqn ppo_s": {"ppo_small"},
    "ludus compare --env CartPole-v1 Acr": {"Acrobot-v1"},
    "ludus list --state fi": {"finished"},
    "ludus watch ": RUNS,
    "ludus train --resume la": {"latest"},
}


@pytest.fixture
def folder(tmp_path):
    """A folder with two runs."""
    for run in ("CartPole-v1/dqn/0-a", "ALE-Pong-v5/ppo/0-b"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "config.json").touch()
    return tmp_path


def _script(shell, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["completion", shell])
    assert ended.value.code == 0
    return capsys.readouterr().out


def _file(folder, script):
    """A file with a script: one argument of a command holds 128 KiB at most."""
    path = folder / "script"
    path.write_text(script)
    return str(path)


def _words(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return {line.split("\t")[0] for line in done.stdout.splitlines() if line}


def test_bash_completes_commands_names_options_values_and_runs(capsys, folder):
    script = _file(folder, _script("bash", capsys) + _ASK)
    for line, expected in _LINES.items():
        assert _words("bash", script, line, cwd=folder) == expected, line
    # a name from somebody else is a name, whatever is in it
    (folder / "runs" / "go(board_size=9)" / "x$(touch made)" / "0 c").mkdir(parents=True)
    (folder / "runs" / "go(board_size=9)" / "x$(touch made)" / "0 c" / "config.json").touch()
    found = _words("bash", script, "ludus watch runs/go", cwd=folder)
    assert found == {r"runs/go\(board_size=9\)/x\$\(touch\ made\)/0\ c"}
    assert not (folder / "made").exists()
    # readline takes what follows the colon for the word
    assert _words("bash", script, "ludus train sb3:t", cwd=folder) == {"td3"}


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_the_same(capsys, folder):
    script = _file(folder, _script("fish", capsys) + "\ncomplete -C $argv[1]")
    for line, expected in _LINES.items():
        assert _words("fish", script, line, cwd=folder) == expected, line


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_reads_the_script_and_keeps_other_completions(capsys, folder):
    before = "autoload -Uz compinit && compinit -u; compdef _files another\n"
    script = before + _script("zsh", capsys) + "print ${_comps[another]}; print ${_comps[ludus]}"
    assert _words("zsh", "-f", _file(folder, script), cwd=folder) == {
        "_bash_complete -o default -F _ludus",
        "_files",
    }
