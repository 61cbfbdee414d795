"""Transfer from another run: the parts that are taken, those that are not, and the record."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from ludus.agents import registry
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.pqn_config import PQNConfig
from ludus.agents.r2d2_config import R2D2Config
from ludus.agents.random_agent import RandomConfig
from ludus.envs.errors import RunError
from ludus.envs.make import EnvOptions, make
from ludus.training.run import Run, TrainOptions
from ludus.training.train import resume_session, start_session
from ludus.training.transfer import transfer

BREAKOUT = "MinAtar/Breakout-v1"  # 3 actions
SMALL = DQNConfig(encoder="minatar", head_hidden=16, learning_starts=100, replay_size=2_000)


def _start(root, env_id, config=SMALL, *, source=None, agent="dqn", steps=300, quiet=True):
    init = None if source is None else str(source.path)
    options = TrainOptions(steps=steps, eval_episodes=0, num_envs=4, init_from=init)
    return start_session(agent, env_id, options, EnvOptions(), config, root, quiet=quiet)


@pytest.fixture(scope="module")
def breakout(tmp_path_factory):
    session = _start(tmp_path_factory.mktemp("source"), BREAKOUT)
    session.run_to_end()
    return session.run


@pytest.fixture(scope="module")
def c51(tmp_path_factory):
    source = replace(SMALL, head="c51")
    session = _start(tmp_path_factory.mktemp("c51"), BREAKOUT, source, steps=4)
    session.run_to_end()
    return session.run


def _record(session):
    session.mode.close()
    return json.loads((session.run.path / "transfer.json").read_text())


def test_the_same_env_takes_all_and_the_target_too(breakout, tmp_path, capsys):
    session = _start(tmp_path, BREAKOUT, source=breakout, quiet=False)
    assert _record(session) == {
        "source": str(breakout.path),
        "taken": ["encoder", "head"],
        "left": {},
    }
    assert f"starts from the encoder and head of {breakout.path}\n" in capsys.readouterr().err
    assert session.run.config().train.init_from == str(breakout.path)
    theirs = breakout.newest_weights()
    fresh = _start(tmp_path, BREAKOUT).agent.weights()
    for network in (session.agent.network, session.agent.target.network):
        for name, value in network.state_dict().items():
            assert torch.equal(value, theirs[name]), name
            assert not torch.equal(value, fresh[name])


def test_other_actions_leave_the_head_and_a_frozen_encoder_stays(breakout, tmp_path, capsys):
    frozen = replace(SMALL, freeze="encoder")
    session = _start(tmp_path, "MinAtar/Breakout-v0", frozen, source=breakout, quiet=False)
    record = json.loads((session.run.path / "transfer.json").read_text())
    assert record["taken"] == ["encoder"]
    why = "head.streams.advantage.layers.1.bias is [3] there and [6] here"
    assert record["left"] == {"head": why}
    assert f"does not take its head: {why}\n" in capsys.readouterr().err
    started = {k: v.clone() for k, v in session.agent.weights().items()}
    session.run_to_end()
    assert session.agent.updates > 20
    theirs, now = breakout.newest_weights(), session.run.newest_weights()
    for name in now:
        assert torch.equal(now[name], started[name]) == name.startswith("encoder."), name
        assert torch.equal(now[name], theirs[name]) == name.startswith("encoder."), name


def test_a_resume_takes_nothing_again(breakout, tmp_path, monkeypatch):
    session = _start(tmp_path, BREAKOUT, source=breakout)
    session.run_to_end()
    trained = session.run.newest_weights()
    monkeypatch.setattr(sys.modules["ludus.training.train"], "transfer", None)
    resumed = resume_session(session.run, quiet=True).run_to_end()
    assert all(torch.equal(resumed.weights()[name], trained[name]) for name in trained)


class Other(NamedTuple):
    """An env by name: what a transfer asks of it."""

    env_id: str
    action_names: tuple[str, ...]


def test_a_head_is_taken_where_the_actions_have_the_same_names(breakout):
    agent = _start_nothing()
    for env, taken in (
        (Other("MinAtar/Breakout-v1", ()), True),  # the same env
        (Other("a", ("noop", "left", "right")), True),
        (Other("a", ("noop", "right", "left")), False),
        (Other("a", ()), False),
    ):
        found = transfer(agent, SMALL, breakout, env)
        assert ("head" in found.taken) == taken, env
    assert "have different actions, or no names for them" in found.left["head"]


def _start_nothing():
    env = make(BREAKOUT, 1)
    env.close()
    return registry.build(SMALL, env, device=torch.device("cpu"), seed=1, steps=1)


def test_where_the_other_env_is_gone_its_head_stays(breakout, monkeypatch):
    config = breakout.config()
    monkeypatch.setattr(Run, "config", lambda self: replace(config, env="gone:Env-v0"))
    found = transfer(_start_nothing(), SMALL, breakout, Other("a", ("noop", "left", "right")))
    assert found.taken == ["encoder"]
    assert found.left["head"].startswith("its actions are unknown, because gone:Env-v0: the mod")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"head": "c51", "v_max": 5.0}, r"v_min and v_max are \(-10.0, 10.0\) there and"),
        ({"head": "qr", "quantiles": 51}, "head is c51 there and qr here"),
        ({"head": "c51", "value_rescaling": True}, "value_rescaling is False there and True here"),
        ({"head": "c51", "noisy": True}, "noisy is False there and True here"),
        ({"head": "c51"}, None),
    ],
)
def test_a_head_whose_outputs_mean_something_else_stays(c51, tmp_path, changes, why):
    record = _record(_start(tmp_path, BREAKOUT, replace(SMALL, **changes), source=c51))
    if why is None:
        assert record["left"] == {}
    else:
        assert list(record["left"]) == ["head"]
        assert re.match(why, record["left"]["head"]), record["left"]


def test_other_agents_of_ours_start_from_it_too(breakout, tmp_path):
    pqn = PQNConfig(encoder="minatar", layer_norm="none", head_hidden=16)
    record = _record(_start(tmp_path, BREAKOUT, pqn, source=breakout, agent="pqn"))
    assert record["taken"] == ["encoder", "head"]
    r2d2 = R2D2Config(encoder="minatar", core_units=128, dueling=False, replay_size=4_000)
    session = _start(tmp_path, BREAKOUT, r2d2, source=breakout, agent="r2d2")
    assert _record(session)["taken"] == ["encoder"]
    assert list(_record(session)["left"]) == ["core", "head"]
    theirs = breakout.newest_weights()
    for network in (session.agent.network, session.agent.target.network):
        assert torch.equal(
            network.state_dict()["encoder.layers.0.weight"], theirs["encoder.layers.0.weight"]
        )


def test_what_does_not_fit_is_refused(breakout, tmp_path):
    with pytest.raises(RunError, match=r"^nothing of .* fits this agent; its encoder: "):
        _start(tmp_path, "CartPole-v1", None, source=breakout)
    with pytest.raises(RunError, match=r"^random cannot start from another run; leave out"):
        _start(tmp_path, BREAKOUT, RandomConfig(), source=breakout, agent="random")
    with pytest.raises(RunError, match=r"^sb3:dqn cannot start from another run"):
        _start(tmp_path, "CartPole-v1", None, source=breakout, agent="sb3:dqn")
    with pytest.raises(RunError, match="is not a run"):
        _start(tmp_path, BREAKOUT, source=Run(Path(tmp_path / "none")))
    young = _start(tmp_path / "young", BREAKOUT)
    young.mode.close()
    with pytest.raises(RunError, match=r"has no weights yet; its first checkpoint saves them$"):
        _start(tmp_path / "other", BREAKOUT, source=young.run)
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob("MinAtar*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 0.5}, "its encoder: width is 1.0 there and 0.5 here; its head: "),
        ({"encoder": "mlp", "hidden": (8,)}, "its encoder: encoder is minatar there and mlp here;"),
        ({"features": 32}, "its encoder: features is 0 there and 32 here;"),
    ],
)
def test_options_that_give_an_encoder_another_shape_are_named(breakout, tmp_path, change, said):
    with pytest.raises(RunError, match=f"^nothing of .* fits this agent; {said}"):
        _start(tmp_path, BREAKOUT, replace(SMALL, **change), source=breakout)


def test_options_that_give_a_head_another_shape_are_named(breakout, tmp_path):
    other = replace(SMALL, head_hidden=24, dueling=not SMALL.dueling)
    left = _record(_start(tmp_path, BREAKOUT, other, source=breakout))["left"]
    before = f"head_hidden is {SMALL.head_hidden} there and 24 here"
    assert left == {"head": f"{before}, dueling is {SMALL.dueling} there and {other.dueling} here"}


def test_an_encoder_whose_normalisation_means_something_else_stays(tmp_path):
    """Both kinds of layer normalisation have weights of the same shapes."""
    config = PQNConfig(encoder="minatar", layer_norm="all", head_hidden=16, minibatches=2)
    options = TrainOptions(steps=300, num_envs=2, eval_episodes=0)
    source = start_session("pqn", BREAKOUT, options, EnvOptions(), config, tmp_path, quiet=True)
    source.run_to_end()
    other = replace(config, layer_norm="channels")
    reasons = "encoder: layer_norm is all there and channels here; its head: it follows the encoder"
    with pytest.raises(RunError, match=rf"^nothing of .* fits this agent; its {reasons}, which "):
        _start(tmp_path, BREAKOUT, other, source=source.run, agent="pqn")
    same = _record(_start(tmp_path, BREAKOUT, config, source=source.run, agent="pqn"))
    assert same["taken"] == ["encoder", "head"]
