"""Only a result is printed on stdout, and only printable characters reach the terminal."""

import builtins
import errno
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from ludus.cli.main import main
from ludus.cli.output import named_while_slow, print_result
from ludus.training.console import Terminal, printable
from ludus.training.run import Run

_HOSTILE = "\x1b[31m[bold]oh[/bold]\x07\udc80\r\x9b2J"
_ESCAPED = r"\x1b[31m[bold]oh[/bold]\x07\udc80\r\x9b2J"

_MODULE = f"""
import os
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

print("imported")

class Loud(CartPoleEnv):
    def step(self, action):
        print("by print", flush=True)
        os.write(1, b"by the descriptor\\n")
        os.system("echo by a child")
        if os.environ.get("HOSTILE"):
            raise RuntimeError({_HOSTILE!r})
        return super().step(action)

gymnasium.register("LoudCart-v0", entry_point="loud_carts:Loud", max_episode_steps=5)
"""


def test_printable_leaves_text_as_it_is_and_escapes_the_rest():
    for text in ("plain", "Größe 5 → 6, 囲碁", "[red]x[/red]", r"a\b"):
        assert printable(text) == text
    assert printable(_HOSTILE) == _ESCAPED
    assert printable("a\nb\u202ec\u2028d") == r"a\nb\u202ec\u2028d"
    assert printable(Path("\udcff/x")) == r"\udcff/x"


def test_a_terminal_keeps_lines_and_its_own_style_only(capsys):
    Terminal().print(f"{_HOSTILE}\n:smile: [b]x", style="yellow")
    assert capsys.readouterr().out == f"{_ESCAPED}\n:smile: [b]x\n"


class _Screen(io.StringIO):
    """Stderr, which may be a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal, self.written = terminal, threading.Event()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        count = super().write(text)
        self.written.set()
        return count


def test_what_takes_long_is_named_in_a_terminal_until_it_ends(monkeypatch):
    screen = _Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    with named_while_slow("loading ..."):
        assert screen.written.wait(600)
        assert screen.getvalue() == "loading ..."
    assert screen.getvalue() == "loading ...\r\x1b[K"


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_named_if_it_is_quick_or_nobody_sees_it(monkeypatch, terminal):
    screen, started = _Screen(terminal), []
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(threading.Timer, "run", lambda timer: started.append(timer.interval))
    with named_while_slow("loading ..."):
        pass
    assert started == ([1.0] if terminal else [])
    assert screen.getvalue() == ""


def _main(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code, *capsys.readouterr()


def test_an_error_of_an_env_is_escaped(tmp_path, monkeypatch, capsys):
    (tmp_path / "loud_carts.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HOSTILE", "1")
    words = ["train", "random", "loud_carts:LoudCart-v0", "--steps", "9", "--run-dir"]
    code, out, err = _main(capsys, *words, tmp_path / "a\x1b[2J[red]")
    assert r"/a\x1b[2J[red]/loud_carts" in err
    last = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert last.isprintable()
    # `describe_error` has joined the words
    assert r"raised RuntimeError: \x1b[31m[bold]oh[/bold]\x07\udc80 \x9b2J; " in last
    code, out, err = _main(capsys, *words, tmp_path / "a\udcff")
    assert (code, out) == (2, "")
    assert r"a\udcff" in err.splitlines()[-1]
    assert "is not text in UTF-8, which TensorBoard needs" in err.splitlines()[-1]


def test_a_closed_terminal_is_a_reader_that_is_gone(monkeypatch):
    def write(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=write, flush=lambda: None))
    with pytest.raises(BrokenPipeError):
        print_result("x")


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", _HOSTILE),
        ("watch", _HOSTILE),
        ("list", _HOSTILE),
        ("train", _HOSTILE, "CartPole-v1"),
        ("train", "dqn", _HOSTILE),
        (_HOSTILE,),
    ],
)
def test_words_of_the_command_line_are_escaped(words, capsys):
    code, _, err = _main(capsys, *words)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err[:-1].isprintable()
    assert "[bold]oh[/bold]" in err


def test_a_table_of_runs_is_escaped(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "[bold]env\x1b[2J" / "agent" / "0-\udcff"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv("COLUMNS", "400")
    code, out, err = _main(capsys, "list", "runs", "--run-dir", tmp_path)
    assert (code, err) == (0, "")
    assert all(line.isprintable() for line in out.splitlines())
    assert r"[bold]env\x1b[2J/agent/0-\udcff" in out
    assert _main(capsys, "list", "--run-dir", tmp_path, "--json")[0] == 0


def test_json_is_alone_on_stdout_whatever_an_env_prints(tmp_path):
    (tmp_path / "loud_carts.py").write_text(_MODULE)
    words = ["train", "random", "loud_carts:LoudCart-v0", "--steps", "9", "--eval-episodes", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "ludus", *words, "--num-envs", "1", "--video-every", "0", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Run.open(tmp_path / found["run"]).status().state == "finished"
    for text in ("imported", "by print", "by the descriptor", "by a child"):
        assert f"{text}\n" in done.stderr


def test_a_notebook_gets_plain_lines_that_do_not_look_like_errors(monkeypatch, capsys):
    class ZMQInteractiveShell:
        """Of the name by which Jupyter's shell is known."""

    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    long = "ppo CartPole-v1: 60,009 of 60,000 steps, " * 4
    terminal = Terminal(stderr=True)
    terminal.print(long, style="yellow")
    assert not terminal.rich.is_terminal
    assert capsys.readouterr() == (f"{long}\n", "")
