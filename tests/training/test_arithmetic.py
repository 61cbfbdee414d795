"""`--precision`, `--compile` and `--deterministic`."""

import shutil
from dataclasses import replace

import pytest
import torch

import ludus
from ludus.agents import registry
from ludus.agents.capture import capture
from ludus.envs.errors import ConfigError, RunError
from ludus.envs.make import make
from ludus.training.device import arithmetic
from ludus.training.loop import train_loop
from ludus.training.run import Run, TrainOptions

SMALL = {
    "dqn": {"learning_starts": 24, "batch_size": 8, "replay_size": 2_000},
    "rainbow": {"learning_starts": 24, "batch_size": 8, "replay_size": 2_000},
    "ppo": {"rollout_length": 8},
    "recurrent_ppo": {"rollout_length": 8},
    "pqn": {"rollout_length": 8, "minibatches": 4},
    "r2d2": {"learning_starts": 24, "batch_size": 4, "replay_size": 2_000, "sequence_length": 6}
    | {"burn_in": 2, "replay_ratio": 0.25},
}


@pytest.fixture
def before_an_update():
    """Trains an agent; returns it and the random input of its next update."""

    def trained(name):
        env = make("CartPole-v1", 4, 0)
        config = replace(registry.preset(name, env).config, **SMALL[name])
        agent = registry.build(config, env, device=torch.device("cpu"), seed=0, steps=1_000)
        inputs = []
        step = agent.learner.step

        def keep(*randomness):
            inputs.append([x.clone() for x in randomness])
            step(*randomness)

        agent.learner.step = keep
        train_loop(agent, env, env.reset(), agent.initial_state(4), 200, lambda *_: True)
        env.close()
        return agent, inputs[-1]

    return trained


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_nearly_the_same_gradient(before_an_update, name):
    agent, randomness = before_an_update(name)
    _, exact, *_ = agent.gradients(*randomness)
    capture(agent, bfloat16=True)
    _, rounded, *_ = agent.learner.gradients(*randomness)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    likeness = torch.nn.functional.cosine_similarity(rounded, exact, dim=0)
    assert likeness > 0.98
    assert rounded.norm() == pytest.approx(float(exact.norm()), rel=0.1)
    last = dict(agent.network.head.named_parameters())
    size = sum(parameter.numel() for parameter in last.values())
    assert size > 0
    of_head = rounded[-size:]  # the head's parameters come last; its products are in float32
    assert not torch.equal(of_head, of_head.to(torch.bfloat16).float())
    before = agent.learner.flat.clone()
    agent.learner.update(*randomness)
    assert not torch.equal(agent.learner.flat, before)
    moments = agent.learner.optimizer.state[agent.learner.trained].values()
    assert all(moment.dtype == torch.float32 for moment in [*moments, agent.learner.flat])


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("name", ["dqn", "ppo", pytest.param("rainbow", marks=pytest.mark.slow)])
def test_a_compiled_update_computes_the_same_gradient(before_an_update, name):
    """It reads the weights that the optimizer changes, small ones included."""
    agent, randomness = before_an_update(name)
    capture(agent, compiled=True)
    for _ in range(3):
        exact = agent.learner._clipped_gradients(*randomness)
        compiled = agent.learner.clipped_gradients(*randomness)
        for ours, theirs in zip(compiled, exact, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        with torch.no_grad():
            agent.learner.flat.mul_(0.9)


def test_what_cannot_be_compiled_is_refused(before_an_update, monkeypatch, tmp_path):
    agent, _ = before_an_update("r2d2")
    agent.capturable = False
    with pytest.raises(ConfigError, match="compile is for a CPU, and not for recurrent updates"):
        capture(agent, compiled=True)
    agent, _ = before_an_update("dqn")
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "no-compiler"),))
    with pytest.raises(ConfigError, match=r"the update was not compiled .*leave out compile"):
        capture(agent, compiled=True)


def test_a_run_keeps_its_precision(tmp_path):
    options = TrainOptions(num_envs=4, eval_episodes=1, precision="bfloat16")
    ludus.train("ppo", "CartPole-v1", steps=600, train_options=options, root=tmp_path, quiet=True)
    (folder,) = tmp_path.glob("*/*/*")
    assert Run.open(folder).config().train.precision == "bfloat16"
    plain = replace(options, precision="float32")
    ludus.train("ppo", "CartPole-v1", steps=600, train_options=plain, root=tmp_path, quiet=True)
    first, second = (Run.open(path).newest_weights() for path in tmp_path.glob("*/*/*"))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_what_the_device_or_the_agent_has_not_is_refused(tmp_path):
    def start(agent, **options):
        options = TrainOptions(num_envs=4, device="cpu", **options)
        ludus.train(agent, "CartPole-v1", train_options=options, root=tmp_path, quiet=True)

    with pytest.raises(RunError, match="precision is tf32, which cpu has not"):
        start("dqn", precision="tf32")
    with pytest.raises(RunError, match="precision, compile and deterministic are not for sb3:dqn"):
        start("sb3:dqn", precision="bfloat16")
    assert not list(tmp_path.glob("*/*/*"))


def _options():
    return torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()


def test_options_are_set_for_the_training_and_restored(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = _options()
    with arithmetic("cuda", "tf32", deterministic=True):
        assert _options() == ("high", True)
    assert _options() == before
    with arithmetic("cuda", "bfloat16", deterministic=False):
        assert _options() == before
    with arithmetic("cpu", "float32", deterministic=True):
        assert _options() == before


def test_an_operation_without_a_deterministic_algorithm_is_named():
    said = "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but"
    before = _options()
    with (
        pytest.raises(RunError, match=r"adaptive_max_pool2d_backward_cuda has no deterministic"),
        arithmetic("cuda", "float32", deterministic=True),
    ):
        raise RuntimeError(said)
    assert _options() == before
    with (
        pytest.raises(RuntimeError, match="some other"),
        arithmetic("cuda", "float32", deterministic=True),
    ):
        raise RuntimeError("some other")
