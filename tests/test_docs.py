"""The Python of the documentation runs as it is written, with fewer steps and games.

So do the commands of two tutorials; those of all other pages are parsed.
"""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ludus.cli.main import main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FEWER = {"steps": 1_200, "eval_every": 600, "episodes": 2}
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.M | re.S)


def _python_of(page):
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))


def _commands_of(text):
    """Return the commands `ludus ...` of a block of code, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("ludus ")]
    return [line[1:] for line in words if "$" not in "".join(line)]


def _commands(page):
    blocks = [text for language, text in _BLOCK.findall(page.read_text()) if not language]
    return [words for text in blocks for words in _commands_of(text)]


def _run(words):
    """Run a command with fewer steps."""
    for option, number in FEWER.items():
        if f"--{option}" in words:
            words[words.index(f"--{option}") + 1] = str(number)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0, words


@pytest.mark.parametrize("name", ["first-agent", "own-env"])
def test_a_tutorial_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = (DOCS / "tutorials" / f"{name}.md").read_text()
    text = text.replace("--resume latest --steps 90000", "--resume latest --steps=2400")
    text = text.replace("--out game", "--max-steps 20 --out game")
    done = 0
    for language, block in _BLOCK.findall(text):
        module = re.match(r"# (\w+\.py)\n", block)
        if module:
            Path(module[1]).write_text(block)
        elif language == "python":
            block = re.sub(r"\bsteps=[\d_]+", "steps=1200", block)
            exec(compile(block, name, "exec"), {"__name__": "page"})
        elif not language:
            for words in _commands_of(block):
                if words[0] != "watch":  # serves until it is stopped
                    _run(words)
                    done += 1
    assert done >= 4


class Understood(Exception):
    """Raised in place of what a command does."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_understood(tmp_path, monkeypatch, page):
    """Options and their values; a run, a module or a data set need not exist."""
    commands = _commands(page)
    if not commands:
        pytest.skip("the page has no commands")
    monkeypatch.chdir(tmp_path)
    for command, *words in commands:
        module = importlib.import_module(f"ludus.cli.{command}")
        needs_files = {"--resume", "--dataset", "--config"} & set(words)
        if command == "train" and (needs_files or "corridor" in words[1]):
            continue
        if command in ("doctor", "completion") or "--help" in words:
            continue
        if "--modules" in words:  # which `main` takes
            at = words.index("--modules")
            words = words[:at] + words[at + 2 :]
        words = [f"RUN{i}" if word == "RUN" else word for i, word in enumerate(words)]

        def parsed(*arguments, parse=module.parse, **keywords):
            parse(*arguments, **keywords)
            raise Understood

        def started(*_, **__):
            raise Understood

        with monkeypatch.context() as patch:
            if command == "train":
                patch.setattr("ludus.training.train.start_session", started)
            else:
                patch.setattr(module, "parse", parsed)
            patch.setattr("ludus.cli.options.find_run", Path)
            with pytest.raises(Understood):
                module.run(words)


@pytest.mark.parametrize("name", ["from-sb3.md", "python-api.md", "own-network.md"])
def test_the_python_of_a_page_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    text = _python_of(DOCS / name)
    assert text.count("\n") > 10
    for word, number in FEWER.items():
        text = re.sub(rf"\b{word}=[\d_]+", f"{word}={number}", text)
    text = text.replace("agent.run.path, steps=1200", "agent.run.path, steps=2400")
    exec(compile(text, name, "exec"), {"__name__": "page"})


def test_the_example_plays_from_the_file_alone(tmp_path):
    """With neither Ludus nor torch."""
    pytest.importorskip("onnxruntime")
    import ludus

    settings = {"steps": 600, "num_envs": 2, "video_every": 0, "eval_episodes": 1, "quiet": True}
    agent = ludus.train("dqn", "CartPole-v1", root=tmp_path, **settings)
    agent.export(tmp_path / "cartpole.onnx")
    (tmp_path / "play_onnx.py").write_text(
        _python_of(DOCS / "export.md")
        + "assert not {'torch', 'ludus', 'stable_baselines3'} & set(sys.modules)"
    )
    words = [sys.executable, "play_onnx.py", "cartpole.onnx", "CartPole-v1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("8 games: mean return ")


def test_every_argument_of_the_translation_is_a_setting():
    """The table's second column, and the names that settings are answered with."""
    from ludus.agents.dqn_config import DQNConfig
    from ludus.agents.ppo_config import PPOConfig
    from ludus.training.run import TrainOptions
    from ludus.training.settings import SB3_NAMES

    known = {"steps"}.union(*(k.__dataclass_fields__ for k in (DQNConfig, PPOConfig, TrainOptions)))
    table = (DOCS / "from-sb3.md").read_text().partition("## Arguments")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for theirs, ours in rows:
        assert set(re.findall(r"`(\w+)`", ours)) <= known, ours
        for name in re.findall(r"`(\w+)", theirs):
            assert name in SB3_NAMES or name in known, name
