"""`ludus pretrain`: an encoder without rewards, from play or from a data set, and its use."""

import json
import math
import re

import pytest
import torch

from ludus.cli.main import main
from ludus.training.dataset import is_dataset
from ludus.training.run import Run

FEW = ("--learning-starts", "100", "--batch-size", "16", "--quiet", "--video-every", "0")
SHORT = ("--steps", "20", "--quiet")


def _call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code, capsys.readouterr()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_encoder_is_pretrained_and_taken_over(here, capsys):
    given = ("pretrain", "CartPole-v1", "--objective", "spr", "--steps", "400")
    with pytest.raises(SystemExit) as ended:
        main([*given, *FEW, "--json"])
    assert ended.value.code == 0
    run = Run.open(json.loads(capsys.readouterr().out)["run"])
    config = run.config()
    assert config.agent == "dqn"
    assert config.config.auxiliary == "spr"
    assert config.config.reward_free
    assert not run.evaluations()
    with pytest.raises(SystemExit):
        main(
            [
                *("train", "dqn", "CartPole-v1", "--init-from", str(run.path)),
                *("--freeze", "encoder", "--steps", "300", "--eval-episodes", "1", *FEW, "--json"),
            ]
        )
    later = Run.open(json.loads(capsys.readouterr().out)["run"])
    ours, theirs = run.newest_weights(), later.newest_weights()
    names = [name for name in theirs if name.startswith("encoder.")]
    assert names
    assert all(torch.equal(ours[name], theirs[name]) for name in names)


def test_what_follows_a_pretraining_is_said(here, capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "CartPole-v1", "--objective", "inverse", "--steps", "300", *FEW])
    (path,) = here.glob("runs/CartPole-v1/dqn/*")
    said = " ".join(capsys.readouterr().out.split())
    assert f"go on with: ludus train dqn CartPole-v1 --init-from {path.relative_to(here)}" in said


def test_the_loss_of_a_pretraining_is_said_and_its_folder_quoted(here, capsys):
    given = ("CartPole-v1", "--objective", "inverse", "--steps", "600", "--log-every", "200")
    with pytest.raises(SystemExit):
        main(["pretrain", *given, "--run-dir", "my runs", *FEW])
    said = " ".join(capsys.readouterr().out.split())
    (loss,) = re.findall(r"\d steps, not evaluated, auxiliary loss (\S+) go on with", said)
    assert 0 < float(loss) < math.log(2)  # of a guess between two actions
    assert "--init-from 'my runs/CartPole-v1/dqn/" in said


def test_a_frozen_encoder_that_nothing_has_trained_is_noted(here, capsys):
    options = ("--freeze", "encoder", "--steps", "20", "--eval-episodes", "0")
    with pytest.raises(SystemExit) as ended:
        main(["train", "dqn", "CartPole-v1", *options])
    assert ended.value.code == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert "the frozen encoder keeps its random weights; --init-from gives it others" in said


def test_a_data_set_takes_the_place_of_an_env(here, capsys):
    with pytest.raises(SystemExit):
        main(["collect", "pretrained:cartpole", "--episodes", "3", "--out", "games"])
    capsys.readouterr()
    assert is_dataset("games")
    assert is_dataset("D4RL/door/human-v2")
    assert not is_dataset("MinAtar/Breakout-v1")
    assert not is_dataset("CartPole-v1")
    given = ("pretrain", "games", "--objective=reconstruction", "--steps", "50")
    with pytest.raises(SystemExit) as ended:
        main([*given, "--batch-size", "16", "--quiet", "--json"])
    assert ended.value.code == 0
    config = Run.open(json.loads(capsys.readouterr().out)["run"]).config()
    assert config.train.dataset is not None
    assert config.config.auxiliary == "reconstruction"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "pretrain needs"),
        (("CartPole-v1",), "objective"),
        (("CartPole-v1", "--objective", "sqr"), "sqr"),
        (("--objective", "spr"), "pretrain needs"),
        (("dqn", "CartPole-v1", "--objective", "spr"), "leave out dqn, as in"),
        (("CartPole-v1", "--objective", "spr", "--prioritised"), "reward_free"),
        (("CartPole-v1", "--objective", "spr", "--auxiliary=inverse", *SHORT), "in place of"),
        (("CartPole-v1", "--objective", "spr", "--no-reward-free", *SHORT), "never learns"),
        (("runs/datasets/none", "--objective", "spr"), "is neither the folder of a data set nor"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(here, capsys, words, expected):
    code, output = _call(capsys, "pretrain", *words)
    assert code == 2
    assert expected in output.err
    assert "Traceback" not in output.err
