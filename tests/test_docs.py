"""The Python of the documentation runs as it is written, with fewer steps and games."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
FEWER = {"steps": 1_200, "eval_every": 600, "episodes": 2}


def _python_of(page):
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))


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
