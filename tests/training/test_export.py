"""Networks that were exported, run by onnxruntime and by `torch.export`, against the agents'."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

import ludus
from ludus.agents import registry
from ludus.agents.agent import EnvSpec
from ludus.agents.random_agent import RandomAgent
from ludus.envs.dict_observation import PackedDict, legal_actions
from ludus.envs.errors import RunError
from ludus.envs.make import EnvOptions, make
from ludus.networks.encoders import update_statistics
from ludus.networks.policies import PolicyOut
from ludus.training import export as exporting
from ludus.training.export import OneStep, export
from ludus.training.run import RunConfig, TrainOptions
from tests.forked import run_forked

TOLERANCE = 1e-5  # of a number x: TOLERANCE * (1 + |x|)
ROWS, ENVS = 125, 8  # 1,000 observations
PONG = "PongNoFrameskip-v4"
# one of each class, encoder, core, head and kind of action
FAMILIES = [
    ("dqn", "CartPole-v1", {}),
    pytest.param("dqn2013", PONG, {}, marks=pytest.mark.slow),
    ("rainbow", "MinAtar/Breakout-v1", {}),
    pytest.param("qrdqn", "MinAtar/Breakout-v1", {}, marks=pytest.mark.slow),
    ("iqn", "MinAtar/Breakout-v1", {}),
    ("btr", PONG, {"width": 0.25}),
    ("pqn", "MinAtar/Breakout-v1", {}),
    ("dqn", "tic_tac_toe", {}),
    ("r2d2", "MinAtar/Breakout-v1", {}),
    ("drqn", "CartPole-v1", {"core": "gru"}),
    ("ppo", "CartPole-v1", {"normalize_observation": True}),
    ("ppo", "Pendulum-v1", {}),
    ("ppo", "tic_tac_toe", {}),
    ("ppo_small", PONG, {}),
    ("recurrent_ppo", "CartPole-v1", {}),
    ("recurrent_ppo", "CartPole-v1", {"core": "gtrxl", "window": 8}),
    pytest.param("a2c", "MinAtar/Breakout-v1", {}, marks=pytest.mark.slow),
    ("alphazero", "connect_four", {}),
    ("alphazero", "tic_tac_toe", {"encoder": "mlp"}),
]


def _build(name, env, changes):
    config = replace(registry.preset(name, env).config, **changes)
    return registry.build(config, env, device=torch.device("cpu"), seed=0, steps=99, training=False)


def _write(agent, env, path, form="onnx"):
    config = RunConfig("an agent", env.env_id, TrainOptions(), EnvOptions(), agent.config, {})
    return export(agent, config, 5, env.observation_space, env.action_space, path, form)


def _inputs(env, obs):
    """Return the inputs that an observation [N, *obs] is, by name."""
    space = env.observation_space
    if not isinstance(space, PackedDict):
        return {"observation": obs}
    return {key: space.part(torch.from_numpy(obs), key).numpy() for key in space.parts}


def _run(session, env, obs, first, state):
    """Return the outputs by name and the next state for obs [N, *obs]."""
    given = _inputs(env, obs)
    given |= {"first": first} | {f"state_{i}": s for i, s in enumerate(state)}
    names = [each.name for each in session.get_inputs()]
    values = session.run(None, {name: given[name] for name in names})
    outputs = dict(zip([each.name for each in session.get_outputs()], values, strict=True))
    after = [outputs.pop(f"next_state_{i}") for i in range(len(state))]
    return outputs, after


@torch.no_grad()
def _expected(agent, env, obs, state, first):
    """Return the agent's action, the numbers it chooses by, and its next state."""
    tensors = torch.from_numpy(obs), torch.from_numpy(first)
    legal = legal_actions(env.observation_space, tensors[0])
    if isinstance(env.observation_space, PackedDict) and "board" in _inputs(env, obs):
        planes = env.observation_space.part(tensors[0], "board")
        tensors = (planes if type(agent).__name__ == "AlphaZero" else tensors[0]), tensors[1]
    out, after = agent.network(tensors[0][None], state, tensors[1][None])
    if not isinstance(out, PolicyOut):
        return {"q": out.q[0].numpy()}, after
    if out.log_std is not None:
        std = out.log_std.exp().expand_as(out.logits[0]).numpy()
        return {"mean": out.logits[0].numpy(), "std": std, "value": out.value[0].numpy()}, after
    logits = out.logits[0]
    if legal is not None:
        logits = logits.masked_fill(~legal & legal.any(-1, keepdim=True), -1e9)
    log_p = logits.log_softmax(-1)
    return {"log_probability": log_p.numpy(), "value": out.value[0].numpy()}, after


def _close(found, expected):
    assert found.shape == expected.shape
    return np.all(np.abs(found - expected) <= TOLERANCE * (1 + np.abs(expected)))


def _clear(scores):
    """Return where the best action [N] of scores [N, A] is no tie."""
    best = np.sort(scores, -1)[:, -2:]
    return best[:, 1] - best[:, 0] > 2 * TOLERANCE * (1 + np.abs(best[:, 1]))


@pytest.mark.parametrize(("name", "env_id", "changes"), FAMILIES)
def test_onnxruntime_agrees_with_the_agent_on_a_thousand_observations(
    tmp_path, name, env_id, changes
):
    onnxruntime = pytest.importorskip("onnxruntime")
    env = make(env_id, ENVS, 0)
    try:
        agent = _build(name, env, changes)
        player = RandomAgent(env.observation_space, env.action_space, seed=1)
        row = env.reset()
        update_statistics(agent.network.encoder, torch.from_numpy(row.obs))
        _write(agent, env, tmp_path / "a.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
        state = agent.network.initial_state(ENVS)
        # the file's own states, for one env and for the other seven
        own = [[s[part].numpy() for s in state] for part in (slice(1), slice(1, ENVS))]
        compared = 0
        for _ in range(ROWS):
            expected, after = _expected(agent, env, row.obs, state, row.first)
            outputs = []
            for i, part in enumerate((slice(1), slice(1, ENVS))):
                found, own[i] = _run(session, env, row.obs[part], row.first[part], own[i])
                outputs.append(found)
            found = {key: np.concatenate([o[key] for o in outputs]) for key in outputs[0]}
            action = found.pop("action")
            assert found.keys() == expected.keys()
            assert all(_close(found[key], value) for key, value in expected.items())
            assert all(
                _close(np.concatenate(pair), s.numpy())
                for *pair, s in zip(*own, after, strict=True)
            )
            if name != "alphazero":  # it plays by a search
                first = row.first if state else np.ones(ENVS, bool)
                chosen, _ = agent.choose(row.obs, state, first, deterministic=True)
                if "mean" in found:
                    assert _close(action, chosen)
                else:
                    clear = _clear(found.get("q", found.get("log_probability")))
                    assert np.array_equal(action[clear], chosen[clear])
                    compared += clear.sum()
            state = after
            env.send(player.predict(row.obs)[0])
            row = env.recv()
        assert compared >= 500 or name == "alphazero" or env_id == "Pendulum-v1"
    finally:
        env.close()


# a choice of a number that does not begin at 0, and several choices
ACTIONS = [spaces.Discrete(3, start=2), spaces.MultiDiscrete([2, 3], start=[5, 1])]


@pytest.mark.parametrize(("name", "actions"), [("dqn", 0), ("ppo", 0), ("ppo", 1)])
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_dictionaries_and_numbers_of_actions(tmp_path, name, actions, form):
    onnxruntime = pytest.importorskip("onnxruntime")
    space = PackedDict(
        {
            "image": spaces.Box(0, 255, (3, 10, 10), np.uint8),
            "speed": spaces.Box(-9, 9, (2,), np.float32),
            "action_mask": spaces.Box(0, 1, (3 if actions == 0 else 5,), np.uint8),
        }
    )
    env = EnvSpec(space, ACTIONS[actions], num_envs=2, env_id="dictionaries")
    agent, path = _build(name, env, {}), tmp_path / "file"
    step = _write(agent, env, path, form)
    generator = np.random.default_rng(0)
    obs = {
        "image": generator.integers(0, 256, (200, 3, 10, 10), np.uint8),
        "speed": generator.normal(0, 1, (200, 2)).astype(np.float32),
        "action_mask": generator.integers(0, 2, (200, 3 if actions == 0 else 5), np.uint8),
    }
    if form == "onnx":
        values = onnxruntime.InferenceSession(path).run(None, obs)
    else:
        module = torch.export.load(path).module()
        values = [
            t.numpy() for t in module(*(torch.from_numpy(obs[a.name]) for a in step.inputs()))
        ]
    found = dict(zip([a.name for a in step.outputs()], values, strict=True))
    chosen, _ = agent.predict(obs, deterministic=True)
    scores = found["q"] if name == "dqn" else found["log_probability"]
    parts = np.split(scores, [2], -1) if actions else [scores]
    clear = np.logical_and.reduce([_clear(part) for part in parts])
    assert clear.sum() > 50
    assert np.array_equal(found["action"][clear], chosen[clear])


@pytest.mark.parametrize("side", [1, 2, 3, 6, 11])
def test_the_fixed_pooling_is_the_adaptive_one(side):
    images = torch.randn(2, 3, 11, 8)
    expected = torch.nn.AdaptiveMaxPool2d(side)(images)
    assert torch.equal(exporting._FixedMaxPool(side)(images), expected)


def test_the_state_is_reset_where_an_episode_begins():
    env = make("CartPole-v1", 2, 0)
    agent = _build("drqn", env, {})
    step = OneStep(agent.network, env.observation_space, env.action_space)
    env.close()
    obs, full = torch.randn(2, 4), tuple(torch.randn(2, *a.shape) for a in step.inputs()[2:])
    empty = tuple(torch.zeros_like(s) for s in full)
    both = step(obs, torch.tensor([True, False]), *full)
    reset = step(obs, torch.tensor([False, False]), *empty)
    kept = step(obs, torch.tensor([False, False]), *full)
    for mixed, begun, went_on in zip(both, reset, kept, strict=True):
        assert torch.equal(mixed[0], begun[0])
        assert torch.equal(mixed[1], went_on[1])
    assert not torch.equal(reset[1], kept[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    settings = {"steps": 600, "num_envs": 2, "video_every": 0, "eval_episodes": 1, "quiet": True}
    return ludus.train("dqn", "CartPole-v1", root=root, **settings).run.path


@pytest.mark.parametrize(
    ("form", "name"),
    [("onnx", "agent.onnx"), ("torch", "agent.pt2"), ("safetensors", "agent.safetensors")],
)
def test_the_command_writes_a_file_and_says_what_it_takes(run, form, name):
    done = run_forked("export", run, "--format", form, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["file"] == str(run / name)
    assert said["inputs"] == [{"name": "observation", "dtype": "float32", "shape": [4]}]
    assert [each["name"] for each in said["outputs"]] == ["action", "q"]
    content = (run / name).read_bytes()
    assert b"CartPole-v1" in content
    assert b"/training/export.py" not in content


def test_a_file_of_weights_is_the_agent(run, tmp_path):
    agent = ludus.load(run)
    agent.export(tmp_path / "a.safetensors", "safetensors")
    again = ludus.load(tmp_path / "a.safetensors")
    obs = np.random.default_rng(0).normal(0, 1, (50, 4)).astype(np.float32)
    assert np.array_equal(
        agent.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0]
    )


def test_the_file_says_where_it_is_from(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    ludus.load(run).export(tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    known = json.loads(session.get_modelmeta().custom_metadata_map["ludus"])
    assert (known["agent"], known["env"]) == ("dqn", "CartPole-v1")
    assert known["env_steps"] >= 600
    extra = {"ludus": ""}
    ludus.load(run).export(tmp_path / "a.pt2", "torch")
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    assert json.loads(extra["ludus"]) == known


def test_mistakes_are_one_sentence(run, tmp_path, monkeypatch):
    done = run_forked("export", run, "--out", tmp_path / "no" / "a.onnx")
    assert (done.returncode, "does not exist" in done.stderr) == (2, True)
    random = ludus.train("random", "CartPole-v1", steps=16, root=tmp_path, quiet=True)
    with pytest.raises(RunError, match="random has no network"):
        random.export(tmp_path / "a.onnx")


def test_a_missing_package_of_onnx_is_named_as_pip_names_it(run, tmp_path, monkeypatch):
    agent = ludus.load(run)
    for name in ("onnx", "onnxscript"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(RunError, match="pip install onnx onnxscript: "):
                agent.export(tmp_path / "a.onnx")
    broken = tmp_path / "onnxscript"  # it is installed, and what it needs is not
    broken.mkdir()
    (broken / "__init__.py").write_text("import email.no_such_part")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxscript", raising=False)
    with pytest.raises(RunError, match=r"pip install onnx onnxscript: .*no_such_part"):
        agent.export(tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


class Peculiar(torch.nn.Module):
    """A network with an operation that ONNX does not have."""

    def __init__(self, space):
        super().__init__()
        self.layer = torch.nn.Linear(4, 8)

    def forward(self, obs):
        return self.layer(torch.special.bessel_j0(obs))


def test_a_network_that_cannot_be_exported_is_refused(tmp_path):
    settings = {"steps": 64, "num_envs": 2, "video_every": 0, "eval_episodes": 1, "quiet": True}
    agent = ludus.train("dqn", "CartPole-v1", root=tmp_path, network=Peculiar, **settings)
    with pytest.raises(RunError, match="the network cannot be exported to onnx"):
        agent.export(tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
