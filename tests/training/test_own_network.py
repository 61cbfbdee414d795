"""A user's own network, by name and as an object."""

import json
import shutil
import sys

import pytest
import torch
from torch import nn

import ludus
from ludus.cli.main import main
from ludus.envs import trust
from ludus.envs.errors import ConfigError, LudusError, RunError
from tests.training import own_networks

BRIEF = {"steps": 500, "eval_episodes": 1, "quiet": True}
NAME = "tests.training.own_networks"


@pytest.fixture(autouse=True)
def _nothing_trusted(monkeypatch):
    monkeypatch.setattr(trust, "_trusted", {"gymnasium", "ludus"})


def _same(agent, other):
    weights = other.algorithm.weights()
    return all(torch.equal(w, weights[k]) for k, w in agent.algorithm.weights().items())


@pytest.mark.parametrize("name", ["dqn", "ppo", "pqn", "r2d2", "sb3:dqn", "sb3:ppo"])
def test_it_trains_and_is_stored_by_its_name(tmp_path, name):
    agent = ludus.train(
        name, "CartPole-v1", network=own_networks.TwoLayers, root=tmp_path, num_envs=2, **BRIEF
    )
    assert agent.algorithm.config.encoder == f"{NAME}:TwoLayers"
    shapes = {tuple(w.shape) for w in agent.algorithm.weights().values()}
    assert (24, 4) in shapes
    loaded = ludus.load(agent.run.path)
    assert _same(loaded, agent)


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_a_training_with_it_goes_on_as_without_a_break(tmp_path, name):
    options = {"network": f"{NAME}:planes", "root": tmp_path, "num_envs": 2}
    if name == "ppo":
        options |= {"anneal_learning_rate": False}
    else:
        options |= {"learning_starts": 100}
    first = ludus.train(name, "MinAtar/Breakout-v1", **BRIEF, **options)
    more = ludus.resume(first.run.path, steps=1_000, quiet=True)
    whole = ludus.train(name, "MinAtar/Breakout-v1", **BRIEF | {"steps": 1_000}, **options)
    assert _same(more, whole)


def test_a_module_is_copied_and_passed_again(tmp_path, monkeypatch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 7)

        def forward(self, obs):
            return self.layer(obs).relu()

    net = Net()
    before = net.layer.weight.clone()
    agent = ludus.train(
        "dqn", "CartPole-v1", network=net, root=tmp_path, learning_starts=100, **BRIEF
    )
    assert torch.equal(net.layer.weight, before)  # each agent has copies
    assert agent.algorithm.config.encoder.startswith("passed/")
    agent.save(tmp_path / "agent")
    monkeypatch.setattr("ludus.networks.own._passed", {})  # as in another process
    for use in (ludus.load, ludus.resume):
        with pytest.raises(ConfigError, match="pass it again as network="):
            use(agent.run.path)
    assert _same(ludus.load(tmp_path / "agent", network=net), agent)
    monkeypatch.setattr("ludus.networks.own._passed", {})
    assert ludus.resume(agent.run.path, network=net, steps=800, quiet=True).env_steps >= 800
    plain = ludus.train("dqn", "CartPole-v1", root=tmp_path, **BRIEF)
    with pytest.raises(RunError, match="has the encoder mlp; leave network out"):
        ludus.load(plain.run.path, network=net)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (f"{NAME}:Broken", r"Broken fails for observations float32\[4\]: IndexError"),
        (f"{NAME}:flat", r"flat returns \[8\] for 2 observations; it must return \[2, dim\]"),
        (f"{NAME}:doubles", r"returns torch.float64 of shape \[2, 4\]; it must return float32"),
        (f"{NAME}:Decides", "decides by a number of the batch"),
        (f"{NAME}:NUMBER", "NUMBER is 3; it must be a class or a function"),
        (f"{NAME}:nothing", "nothing cannot be imported"),
        ("no_such_module:Net", "No module named 'no_such_module'"),
        ("mpl", "there is no encoder mpl; did you mean mlp"),
        (3, "network is 3; it must be"),
    ],
)
def test_one_that_cannot_work_is_one_sentence_and_no_run(tmp_path, network, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ludus.train("ppo", "CartPole-v1", network=network, root=tmp_path, **BRIEF)
    assert not list(tmp_path.iterdir())


def test_a_file_does_not_import_it_without_consent(tmp_path, monkeypatch):
    """The module of a run from a stranger is not imported, in no verb."""
    agent = ludus.train("ppo", "CartPole-v1", network=f"{NAME}:TwoLayers", root=tmp_path, **BRIEF)
    agent.save(tmp_path / "agent")
    monkeypatch.setattr(trust, "_trusted", {"gymnasium", "ludus"})
    monkeypatch.delitem(sys.modules, NAME)
    for path in (agent.run.path, tmp_path / "agent"):
        with pytest.raises(LudusError, match=f"names the module {NAME}, .*--modules"):
            ludus.load(path)
    with pytest.raises(LudusError, match="names the module"):
        ludus.resume(agent.run.path, steps=900)
    assert NAME not in sys.modules
    assert _same(ludus.load(agent.run.path, modules=[NAME]), agent)


def test_on_the_command_line(tmp_path, capsys):
    words = f"train ppo CartPole-v1 --encoder {NAME}:TwoLayers --steps 300 --eval-episodes 1"
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--run-dir", str(tmp_path), "--quiet"])
    assert ended.value.code == 0
    assert "mean return" in capsys.readouterr().out


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run with no module of a user's."""
    return ludus.train("ppo", "CartPole-v1", root=tmp_path_factory.mktemp("runs"), **BRIEF).run.path


@pytest.mark.parametrize("name", ["evil:W", "evil:a:W", "evil-mod:W", "./evil:W", "passed/evil:W"])
@pytest.mark.parametrize("field", ["encoder", "env", "wrapper"])
def test_no_form_of_a_name_slips_past_the_consent(plain, tmp_path, monkeypatch, name, field):
    """Whatever stands before a colon may be the name of a file."""
    run = shutil.copytree(plain, tmp_path / "run")
    for file in ("evil", "evil-mod", "evil:a", "passed/evil"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / f"{file}.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = run / "config.json"
    record = json.loads(path.read_text())
    where = {"encoder": record["config"], "env": record, "wrapper": record["options"]}[field]
    where[field] = [name] if field == "wrapper" else name
    path.write_text(json.dumps(record))
    for use in (ludus.load, lambda run: ludus.resume(run, steps=900), ludus.evaluate):
        with pytest.raises(LudusError, match="names the module"):
            use(run)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", str(path), "--run-dir", str(tmp_path)])
    assert ended.value.code == 2
    flat = {"agent": "ppo", "env": "CartPole-v1"}
    flat["network" if field == "encoder" else field] = name
    (tmp_path / "flat").write_text(json.dumps(flat))
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", str(tmp_path / "flat"), "--run-dir", str(tmp_path)])
    assert ended.value.code == 2


def test_objects_of_one_class_do_not_replace_each_other(tmp_path):
    first, second = (nn.Sequential(nn.Linear(4, 8), act) for act in (nn.ReLU(), nn.Sigmoid()))
    one = ludus.train("ppo", "CartPole-v1", network=first, root=tmp_path, **BRIEF)
    ludus.train("ppo", "CartPole-v1", network=second, root=tmp_path, **BRIEF)
    obs = torch.randn(5, 4).numpy()
    want, got = (each.advise(obs)[0].value for each in (one, ludus.load(one.run.path)))
    assert want == pytest.approx(got)


def test_a_resume_with_another_network_does_not_fit(tmp_path):
    run = ludus.train("ppo", "CartPole-v1", network=own_networks.TwoLayers, root=tmp_path, **BRIEF)
    with pytest.raises(LudusError, match="does not fit its config"):
        ludus.resume(run.run.path, steps=900, encoder=f"{NAME}:Small")


@pytest.mark.parametrize("field", ["encoder", "env", "wrapper"])
@pytest.mark.parametrize("module", ["ludus.agents.registry", "gymnasium.envs.registration"])
def test_functions_of_trusted_modules_are_not_called_in_place_of_a_class(
    tmp_path, monkeypatch, module, field
):
    """`import_module(name="evil")` is an env to nobody."""
    agent = ludus.train("ppo", "CartPole-v1", root=tmp_path, **BRIEF)
    (tmp_path / "evil.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    function = "import_module" if module.startswith("ludus") else "importlib.import_module"
    path = agent.run.path / "config.json"
    record = json.loads(path.read_text())
    record["options"]["env_kwargs"] = ['{"name": "evil"}'] if field == "env" else []
    where = {"encoder": record["config"], "env": record, "wrapper": record["options"]}[field]
    name = f"{module}:{function}"
    where[field] = [name] if field == "wrapper" else name
    path.write_text(json.dumps(record))
    with pytest.raises(LudusError, match=r"must be a|there is no env|no environment|not an env"):
        ludus.load(agent.run.path)
