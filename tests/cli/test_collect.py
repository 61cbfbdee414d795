"""`ludus collect`, `ludus train --dataset` and `--init-from` as a user meets them."""

import json
import signal
import sys
from pathlib import Path

import pytest

from ludus.cli import main, train
from ludus.envs.installed import is_installed
from ludus.training.run import Run
from tests.forked import Forked, run_forked

minari = pytest.importorskip("minari")


@pytest.fixture
def ludus(monkeypatch, capsys, tmp_path):
    """Run a verb in this process and in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for module in (main, train):
        monkeypatch.setattr(module, "flush_denormals", lambda: None)  # it would outlast the test

    def call(line, *more):
        capsys.readouterr()
        verb, *words = [*line.split(), *map(str, more)]
        code = main._run(verb, words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short training of a DQN on CartPole."""
    root = tmp_path_factory.mktemp("runs")
    words = ["train", "dqn", "CartPole-v1", "--steps", "1500", "--run-dir", str(root), "--json"]
    words += ["--eval-episodes", "0", "--quiet"]
    done = run_forked(*words)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["run"])


def test_from_a_run_to_a_data_set_to_a_run(ludus, run, monkeypatch):
    code, out, err = ludus("collect --episodes 20 --epsilon 0.1 --seed 3", run)
    assert code == 0
    assert "runs/datasets/CartPole-v1/dqn-v0: 20 games, " in out
    assert "ludus train dqn --dataset runs/datasets/CartPole-v1/dqn-v0\n" in out
    assert "dqn on CartPole-v1: 20 of 20 games, " in err
    assert "s left" in err
    code, out, err = ludus("collect --steps 300 --quiet --json", run)
    output = json.loads(out)
    assert (code, err) == (0, "")
    assert (output["dataset"], output["id"]) == (
        "runs/datasets/CartPole-v1/dqn-v1",
        "CartPole-v1/dqn-v1",
    )
    assert output["steps"] >= 300
    monkeypatch.setenv("MINARI_DATASETS_PATH", "runs/datasets")
    assert list(minari.list_local_datasets()) == ["CartPole-v1/dqn-v0", "CartPole-v1/dqn-v1"]
    assert minari.load_dataset(output["id"]).total_steps == output["steps"]
    assert minari.load_dataset(output["id"]).total_episodes == output["episodes"]

    data = "--dataset CartPole-v1/dqn-v0"  # below runs/datasets
    code, out, err = ludus(f"train dqn {data} --steps 60 --eval-episodes 2 --conservative 1.0")
    assert code == 0
    assert ": 60 updates, mean return " in out
    assert "18 episodes, " in err
    assert "its steps are updates" in err
    assert "60 of 60 updates" in err
    code, out, err = ludus(f"train c51 CartPole-v1 {data} --steps 30 --eval-episodes 2 --json")
    output = json.loads(out)
    assert (code, output["state"], output["env_steps"]) == (0, "finished", 30)
    assert Run.open(output["run"]).config().config.head == "c51"
    code, out, err = ludus(
        f"train dqn CartPole-v1 --steps 100 --init-from {output['run']}", "--json"
    )
    assert code == 0
    assert f"starts from the encoder of {output['run']}\n" in err
    assert "does not take its head: head is c51 there and q here\n" in err
    output = json.loads((Path(json.loads(out)["run"]) / "transfer.json").read_text())
    assert (output["taken"], list(output["left"])) == (["encoder"], ["head"])


def test_a_chosen_folder_and_its_name(ludus, run, tmp_path):
    for out, name in (
        ("a/set", "CartPole-v1/dqn-v0"),
        ("a/mine-v2", "mine-v2"),
        ("runs/datasets/b/c/mine-v3", "b/c/mine-v3"),
    ):
        code, said, _ = ludus(f"collect --episodes 2 --quiet --json --out {out}", run)
        assert (code, json.loads(said)["id"]) == (0, name)
        assert minari.MinariDataset(Path(out).resolve() / "data").id == name
        assert minari.MinariDataset(Path(out) / "data").total_episodes == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("collect nowhere", "nowhere is not a run"),
        ("collect RUN --episodes 0", "episodes is 0; it must be"),
        ("collect RUN --steps 0", "steps is 0; it must be"),
        ("collect RUN --epsilon 2", "epsilon is 2.0; it must be"),
        ("collect RUN --episodes 3 --steps 3", "both given; give one of them"),
        ("collect RUN --episdes 3", "did you mean --episodes?"),
        ("collect RUN --out RUN", "exists already; name another folder with --out"),
        ("train dqn --dataset", "needs an agent and an env"),
        ("train dqn --dataset nowhere", "nowhere is neither the folder of a data set nor a Minari"),
        ("train dqn --dataset no/where-v0", "as a Minari id it cannot be loaded"),
        ("train dqn CartPole-v1 --held-out 1.5", "held_out is 1.5"),
        ("train dqn CartPole-v1 --init-from nowhere", "nowhere is not a run"),
        ("train dqn MinAtar/Breakout-v1 --init-from RUN", "fits this agent; its encoder: "),
        ("train random CartPole-v1 --init-from RUN", "random cannot start from another run"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(ludus, run, line, said, monkeypatch, tmp_path):
    if is_installed("huggingface_hub"):  # without the network it would try for 20 seconds
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, out, err = ludus(line.replace("RUN", str(run)))
    assert code == 2
    assert out == ""
    assert err.startswith("ludus: ")
    assert said in err
    assert len(err.strip().splitlines()) == 1, err
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_agents_and_envs_that_do_not_suit_a_data_set(ludus, run):
    assert ludus("collect --episodes 3 --out set --quiet", run)[0] == 0
    for line, said in (
        ("train ppq --dataset set", "there is no agent ppq; did you mean "),
        ("train pqn --dataset set", "pqn cannot learn from a data set; dqn and its family can"),
        ("train r2d2 --dataset set", "r2d2 cannot learn from a data set"),
        ("train sb3:dqn --dataset set", "sb3:dqn cannot learn from a data set"),
        ("train random CartPole-v1 --dataset set", "random cannot learn from a data set"),
        ("train dqn CartPol-v1 --dataset set", "did you mean CartPole-v1?"),
        ("train dqn Acrobot-v1 --dataset set", "Acrobot-v1 has observations float32[6]"),
        ("train dqn CartPole-v1 --dataset set --stack 2", "CartPole-v1 has observations float32"),
        ("train dqn --dataset set --held-out 0.9", "held_out is 0.9, which leaves no episode"),
        ("train dqn --dataset set --encoder nature", "nature encoder takes pictures"),
    ):
        code, out, err = ludus(line)
        assert (code, out) == (2, ""), line
        assert said in err, line
        assert len(err.strip().splitlines()) == 1, err
    assert not Path("runs").exists()


def test_without_minari_the_command_that_brings_it_is_said(ludus, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    for line in (f"collect {run}", "train dqn --dataset x"):
        code, _, err = ludus(line)
        assert code == 2
        assert err == (
            "ludus: data sets need the package minari; "
            'run pip install -e ".[offline]" in the checkout\n'
        )


def test_the_envs_options_are_there_before_the_agents(ludus):
    words = "--steps 20 --eval-episodes 0 --num-envs 2 --quiet --json"
    code, out, err = ludus(f"train dqn MinAtar/Breakout-v1 --stack 2 {words}")
    assert code == 0, err
    config = Run.open(json.loads(out)["run"]).config()
    assert config.config.encoder == "minatar"  # the frames are channels
    assert ludus("train dqn ALE/Pong-v5 --sticky 5 --encoder x")[2].startswith("ludus: sticky is 5")


def test_a_signal_saves_an_offline_run_and_says_how_to_go_on(run, tmp_path, wait_until):
    def ludus(*words):
        return Forked(*words, cwd=tmp_path)

    collection = ludus("collect", run, "--episodes", 5, "--out", "set", "--quiet")
    assert collection.wait(wait_until.seconds) == 0
    process = ludus("train", "dqn", "--dataset", "set", "--steps", 10_000_000)

    def studies():
        statuses = map(json.loads, (p.read_text() for p in tmp_path.glob("runs/*/*/*/status.json")))
        return any(s["state"] == "running" and s["env_steps"] > 0 for s in statuses)

    wait_until(studies, "the first updates are in the status", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=wait_until.seconds)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert " updates is saved; go on with: ludus train --resume runs/CartPole-v1/dqn/" in err
    (status,) = tmp_path.glob("runs/*/*/*/status.json")
    assert json.loads(status.read_text())["state"] == "stopped"
    assert len(list(status.parent.glob("checkpoints/0*"))) == 1
