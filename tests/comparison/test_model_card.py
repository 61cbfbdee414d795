"""Model cards, and the agents that come with Ludus."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import ludus
from ludus.comparison.model_card import write_card
from ludus.envs.errors import RunError
from ludus.training.find_run import PRETRAINED_ROOT, find_run, pretrained_runs
from ludus.training.run import Run
from tests.forked import run_forked

DOCS = Path(__file__).parents[2] / "docs"
MOST_BYTES, MOST_BYTES_IN_ALL = 3_000_000, 20_000_000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    settings = {"steps": 600, "num_envs": 2, "video_every": 0, "eval_episodes": 4, "quiet": True}
    return ludus.train("dqn", "CartPole-v1", root=root, **settings).run


def test_a_card_says_what_the_run_is(run, tmp_path):
    curve = write_card(run, tmp_path / "card.md", "anna/run")
    text = (tmp_path / "card.md").read_text()
    returns = run.evaluations()[-1]["returns"]
    mean = sum(returns) / len(returns)
    assert f"| mean | {mean:.2f} |" in text
    assert f"| lowest, highest | {min(returns):.2f}, {max(returns):.2f} |" in text
    assert "4 full held-out games with no random actions" in text
    assert "| protocol | kind gymnasium, max_episode_steps 500, stack 1 |" in text
    assert 'ludus.load("anna/run")' in text
    assert "doi.org/10.1038/nature14236" in text
    assert curve == tmp_path / "curve.png"
    assert curve.read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"card.md", "curve.png"}


def test_the_metadata_of_a_card_is_what_hubs_read(run, tmp_path):
    yaml = pytest.importorskip("yaml")
    write_card(run, tmp_path / "card.md", "anna/run")
    metadata = yaml.safe_load((tmp_path / "card.md").read_text().split("---")[1])
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"]["name"] == "CartPole-v1"
    assert re.fullmatch(r"\d+\.\d\d \+/- \d+\.\d\d", result["metrics"][0]["value"])
    assert "reinforcement-learning" in metadata["tags"]


def test_a_run_without_games_has_a_card(run, tmp_path):
    bare = Run(tmp_path / "bare")
    bare.path.mkdir()
    for name in ("config.json", "status.json"):
        (bare.path / name).write_bytes((run.path / name).read_bytes())
    assert write_card(bare, tmp_path / "card.md", "x") is None
    assert "It was not evaluated." in (tmp_path / "card.md").read_text()


def test_a_card_says_when_its_scores_are_older_than_the_agent(run, tmp_path):
    later = Run(tmp_path / "later")
    shutil.copytree(run.path, later.path)
    write_card(later, tmp_path / "card.md", "x")
    assert "They were played after" not in (tmp_path / "card.md").read_text()
    status = later.status()
    later.write_status(replace(status, state="stopped", env_steps=9_000))
    write_card(later, tmp_path / "card.md", "x")
    text = (tmp_path / "card.md").read_text()
    assert "| trained for | 9,000 env steps |" in text
    assert f"They were played after {status.env_steps:,} env steps." in text


def test_the_command_writes_it_beside_the_run(run, tmp_path):
    done = run_forked("card", run.path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{run.path / 'card.md'} and {run.path / 'curve.png'}"
    assert run_forked("card", run.path, "--out", tmp_path / "no" / "card.md").returncode == 2


def test_every_pretrained_agent_is_small_and_has_a_card_and_a_row_in_the_docs():
    sizes, page = [], (DOCS / "pretrained.md").read_text()
    for name, folder in pretrained_runs().items():
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes.append(sum(path.stat().st_size for path in files))
        assert sizes[-1] <= MOST_BYTES
        assert {path.suffix for path in files} <= {".json", ".csv", ".png", ".md", ".safetensors"}
        run = Run(folder)
        assert run.packed
        config, status = run.config(), run.status()
        card = (folder / "README.md").read_text()
        assert f"pretrained:{name}" in card
        assert f"| mean | {status.score + 0.0:.2f} |" in card
        row = f"| `{name}` | `{config.agent}` | {config.env} | {status.env_steps:,} | "
        row += f"{status.score + 0.0:.1f} |"
        assert row in page
        texts = [path.read_text() for path in files if path.suffix in (".json", ".md")]
        assert not [each for each in texts if re.search(r"/(home|root|tmp|work|Users)/", each)]
    assert sum(sizes) <= MOST_BYTES_IN_ALL


@pytest.mark.parametrize("name", pretrained_runs())
def test_a_pretrained_agent_acts(name):
    agent = ludus.load(f"pretrained:{name}")
    env = ludus.make(agent.config.env, 2, 0)
    try:
        actions, _ = agent.predict(env.reset().obs, deterministic=True)
        assert actions.shape[0] == 2
    finally:
        env.close()


def test_a_pretrained_agent_is_named_as_a_run_is(tmp_path):
    before = {p: p.stat().st_mtime_ns for p in PRETRAINED_ROOT.rglob("*")}
    listed = json.loads(run_forked("list", "pretrained", "--json").stdout)["pretrained"]
    assert {row["name"] for row in listed} == {f"pretrained:{name}" for name in pretrained_runs()}
    shown = run_forked("list", "pretrained").stdout.split()
    assert {f"pretrained:{name}" for name in pretrained_runs()} < set(shown)
    words = ("pretrained:tic_tac_toe", "random", "--games", "20", "--game", "tic_tac_toe", "--json")
    done = run_forked("arena", *words, cwd=tmp_path)
    assert json.loads(done.stdout)["standings"][0]["name"] == "pretrained:tic_tac_toe"
    words = ("ppo", "CartPole-v1", "--init-from", "pretrained:cartpole", "--steps", "64", "--quiet")
    done = run_forked("train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        run_forked("record", "pretrained:cartpole", "--max-steps", "5", cwd=tmp_path).returncode
        == 0
    )
    assert run_forked("card", "pretrained:cartpole", cwd=tmp_path).returncode == 0
    words = ("export", "pretrained:cartpole", "--format", "safetensors")
    assert run_forked(*words, cwd=tmp_path).returncode == 0
    made = {"game.mp4", "card.md", "curve.png", "agent.safetensors"}
    assert made <= {path.name for path in tmp_path.iterdir()}
    done = run_forked("train", "--resume", "pretrained:cartpole", "--steps", "90000")
    assert (done.returncode, "is packed" in done.stderr) == (2, True)
    assert {p: p.stat().st_mtime_ns for p in PRETRAINED_ROOT.rglob("*")} == before
    with pytest.raises(RunError, match=r"no pretrained agent cartpol; did you mean cartpole\?"):
        find_run("pretrained:cartpol")
