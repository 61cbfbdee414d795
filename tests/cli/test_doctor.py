"""`ludus doctor` and `ludus bench` say what there is, and measure what was asked for."""

import json

import pytest
import torch

from ludus.cli import doctor
from ludus.cli.main import main
from ludus.comparison import speed
from ludus.envs.errors import EnvError


def _findings(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json", *words])
    found = json.loads(capsys.readouterr().out)["findings"]
    return ended.value.code, {each["what"]: each for each in found}


def test_it_names_versions_devices_and_extras(capsys):
    code, found = _findings(capsys)
    assert code == 0
    assert found["torch"]["found"] == torch.__version__
    assert "cores" in found["processor"]["found"]
    assert found["Atari"]["found"] == "Pong starts"
    with pytest.raises(SystemExit):
        main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(found)


def test_what_is_missing_has_a_remedy(capsys, monkeypatch):
    def refuse(*_):
        raise EnvError("no ROM")

    def absent(name):
        raise doctor.PackageNotFoundError

    monkeypatch.setattr("ludus.envs.make.make", refuse)
    monkeypatch.setattr(doctor, "version", absent)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    code, found = _findings(capsys)
    assert code == 1
    assert "no ROM" in found["Atari"]["found"]
    assert "gymnasium[atari]" in found["Atari"]["remedy"]
    assert "'.[contrib]', for sb3:qrdqn" in found["sb3-contrib"]["remedy"]
    assert found["C++ compiler"]["found"] == "none"


def test_a_gpu_that_does_not_compute_is_named(capsys, monkeypatch):
    """As with a torch that has no kernels for it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "Old GPU")
    code, found = _findings(capsys)
    assert code == 1
    assert found["GPU 0"]["found"] == "Old GPU"
    assert "install a torch for it" in found["GPU 0"]["remedy"]


@pytest.mark.parametrize("only", ["ppo", "pqn", "both"])
def test_bench_without_peers_measures_ours_alone(capsys, monkeypatch, only):
    def refuse(*_, **__):
        raise AssertionError("SB3 was made")

    monkeypatch.setattr(speed, "_ours", lambda *_: lambda steps: steps / 100)
    monkeypatch.setattr(speed.sb3, "reference", refuse)
    monkeypatch.setattr(speed, "_sb3_on_minatar", refuse)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--only", only, "--no-peers", "--rounds", "1", "--json"])
    assert ended.value.code == 0
    assert "sb3 " not in capsys.readouterr().out
