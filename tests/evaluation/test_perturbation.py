"""Perturbed observations: against hand-computed gradients, naive loops, and the plain games."""

import json
import re
from itertools import combinations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import ludus
from ludus.agents import registry
from ludus.cli.main import main
from ludus.envs.env_object import env_name
from ludus.envs.errors import ConfigError
from ludus.envs.make import EnvOptions, make
from ludus.evaluation.evaluate import evaluate
from ludus.evaluation.perturbation import (
    Frame,
    Perturbation,
    against_greedy,
    describe_sizes,
    parse_perturbation,
    parse_perturbations,
    perturbed_frame,
    perturber,
)
from ludus.networks.cores import NoCore
from ludus.networks.heads import QOut
from ludus.networks.network import Network

TWO, THREE = spaces.Discrete(2), spaces.Discrete(3)
VECTOR = Frame(
    spaces.Box(-9, 9, (4,), np.float32), THREE, np.array([0.5, 1, 2, 0], np.float32)
)  # the last number never changes
BYTES = Frame(spaces.Box(0, 255, (2, 5, 6), np.uint8), THREE, None)
BINARY = Frame(spaces.Box(0, 1, (2, 3, 3), np.uint8), TWO, None)
SEEDS = np.array([11, 12, 13])
ALL, NONE = np.ones(3, bool), np.zeros(3, bool)


class _Flat(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, obs):  # [N, *obs]
        return obs.flatten(1).to(torch.float32)


class _Linear(nn.Module):
    """Values W x."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(weights.astype(np.float32)))

    def forward(self, x, noise):
        return QOut(x @ self.weights.T)


class _LinearAgent:
    def __init__(self, weights: np.ndarray) -> None:  # [A, D]
        self.network = Network(_Flat(weights.shape[1]), NoCore(weights.shape[1]), _Linear(weights))


class _Balancer(_LinearAgent):
    """Balances CartPole's pole, but lets the cart go."""

    def __init__(self) -> None:
        super().__init__(np.array([[0, 0, 0, 0], [0, 0, 1, 0.3]]))

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return (observation @ np.array([0, 0, 1, 0.3]) > 0).astype(np.int64), state


def _observations(frame: Frame, games: int = 3, stack: int = 1) -> np.ndarray:
    """Return observations [B, *obs], some at the bounds."""
    generator, space = np.random.default_rng(1), frame.space
    shape = (games, stack * space.shape[0], *space.shape[1:])
    if frame.whole:
        obs = generator.integers(0, int(space.high.max()) + 1, shape).astype(np.uint8)
        obs.reshape(games, -1)[:, :3] = (0, space.high.max(), space.high.max() // 2)
        return obs
    return generator.uniform(-9, 9, shape).astype(np.float32)


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


@pytest.mark.parametrize("scale", [1.0, 1000.0])  # the greedy action's probability rounds to 1
def test_fgsm_follows_the_gradient_of_the_cross_entropy_of_a_linear_agent(scale):
    """With Q = W x and p = softmax(Q), dL/dx = W^T (p - e) for the greedy action's e."""
    weights = np.random.default_rng(0).normal(size=(3, 4)) * scale
    obs = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    changed = perturber(Perturbation("fgsm", 0.1), _LinearAgent(weights), VECTOR)(
        obs, None, ALL, SEEDS
    )
    for x, seen in zip(obs, changed, strict=True):
        q = weights @ x
        away = _softmax(np.delete(q, q.argmax()))  # (p - e) / (1 - p of the greedy action)
        gradient = np.insert(away, q.argmax(), -1) @ weights
        if scale == 1.0:
            exact = (_softmax(q) - np.eye(3)[q.argmax()]) @ weights
            np.testing.assert_array_equal(np.sign(gradient), np.sign(exact))
        expected = x + 0.1 * np.array([0.5, 1, 2, 0]) * np.sign(gradient)
        np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_the_log_odds_have_the_sign_of_the_cross_entropy():
    scores = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores.requires_grad_()
    (ours,) = torch.autograd.grad(against_greedy(scores, [5]).sum(), scores)
    entropy = torch.nn.functional.cross_entropy(scores, scores.argmax(-1), reduction="sum")
    (theirs,) = torch.autograd.grad(entropy, scores)
    p = scores.softmax(-1).max(-1, keepdim=True).values
    torch.testing.assert_close(ours * (1 - p), theirs)


def test_several_choices_are_summed_and_those_without_a_choice_left_out():
    scores = torch.tensor([[1.0, 3.0, 0.5, 7.0, 2.0]])
    one, two = against_greedy(scores[:, :2], [2]), against_greedy(scores[:, 3:], [2])
    assert one.item() == -2.0  # of two actions it is the difference of their scores
    assert two.item() == -5.0
    assert against_greedy(scores, [2, 1, 2]).item() == -7.0


def test_fgsm_keeps_bytes_within_their_bounds():
    weights = np.random.default_rng(0).normal(size=(3, 60))
    obs = _observations(BYTES)
    changed = perturber(Perturbation("fgsm", 2), _LinearAgent(weights), BYTES)(
        obs, None, ALL, SEEDS
    )
    assert changed.dtype == np.uint8
    for x, seen in zip(obs.reshape(3, -1), changed.reshape(3, -1), strict=True):
        q = weights @ x
        away = np.insert(_softmax(np.delete(q, q.argmax())), q.argmax(), -1)
        expected = np.clip(x.astype(int) + 2 * np.sign(away @ weights), 0, 255)
        np.testing.assert_array_equal(seen, expected)


def test_fgsm_switches_the_cells_of_binary_planes_that_count_most():
    """For a linear agent with two actions no other cells of that number do more."""
    weights = np.random.default_rng(3).normal(size=(2, 18))
    obs = _observations(BINARY, games=1)
    changed = perturber(Perturbation("fgsm", 2), _LinearAgent(weights), BINARY)(
        obs, None, ALL[:1], SEEDS[:1]
    )

    def margin(x: np.ndarray) -> float:
        q = weights @ x
        greedy = int((weights @ obs.reshape(-1)).argmax())
        return float(q[greedy] - q[1 - greedy])

    def switched(cells: tuple[int, ...]) -> np.ndarray:
        x = obs.reshape(-1).copy()
        x[list(cells)] ^= 1
        return x

    least = min(margin(switched(cells)) for cells in combinations(range(18), 2))
    assert margin(changed.reshape(-1)) == pytest.approx(least)
    assert (changed != obs).sum() == 2


def test_fgsm_leaves_cells_whose_switching_would_help():
    weights = np.zeros((2, 18))
    weights[0] = 1.0  # the cells that are 1 speak for the first action, those that are 0 do not
    obs = np.zeros((1, 2, 3, 3), np.uint8)
    obs[0, 0, 0, :2] = 1
    changed = perturber(Perturbation("fgsm", 9), _LinearAgent(weights), BINARY)(
        obs, None, ALL[:1], SEEDS[:1]
    )
    assert not changed.any()


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("frame", [VECTOR, BYTES, BINARY], ids=["vector", "bytes", "binary"])
def test_noise_is_one_pattern_of_each_game_in_all_frames(frame, stack):
    size = 2.0
    noise = perturber(Perturbation("noise", size), object(), frame)  # type: ignore[arg-type]
    obs = _observations(frame, stack=stack)
    changed, later = noise(obs, None, ALL, SEEDS), noise(obs, None, NONE, SEEDS)
    np.testing.assert_array_equal(changed, later)
    shape = frame.space.shape
    for game, seed in enumerate(SEEDS):
        generator = np.random.default_rng([seed, 5])
        if frame.binary:
            cells = generator.permutation(18)[:2]
        elif frame.whole:
            pattern = generator.integers(-2, 3, shape)
        else:
            pattern = size * generator.uniform(-1, 1, shape) * frame.unit
        frames = obs[game].reshape(stack, *shape)
        for k, x in enumerate(frames):
            if frame.binary:
                expected = x.reshape(-1).copy()
                for cell in cells:
                    expected[cell] = 1 - expected[cell]
                expected = expected.reshape(shape)
            else:
                expected = np.clip(x + pattern, frame.space.low, frame.space.high)
            seen = changed[game].reshape(stack, *shape)[k]
            np.testing.assert_allclose(seen, expected, rtol=1e-6)
    assert (noise(obs, None, np.array([False, True, False]), SEEDS + 5)[1] != changed[1]).any()


@pytest.mark.parametrize("stack", [1, 2])
def test_shift_moves_all_frames_of_a_game_alike_and_repeats_the_edges(stack):
    shift = perturber(Perturbation("shift", 2), object(), BYTES)  # type: ignore[arg-type]
    obs = _observations(BYTES, stack=stack)
    changed, later = shift(obs, None, ALL, SEEDS), shift(obs, None, NONE, SEEDS)
    np.testing.assert_array_equal(changed, later)
    moved = set()
    for game, seed in enumerate(SEEDS):
        down, right = np.random.default_rng([seed, 5]).integers(-2, 3, 2)
        moved.add((int(down), int(right)))
        for plane, seen in zip(obs[game], changed[game], strict=True):
            for y in range(5):
                for x in range(6):
                    source = min(max(y - down, 0), 4), min(max(x - right, 0), 5)
                    assert seen[y, x] == plane[source]
    assert len(moved) > 1


@pytest.mark.parametrize("kind", ["noise", "shift"])
def test_a_pattern_depends_on_the_game_alone(kind):
    """Not on the number of games that are played together, nor on the place among them."""
    obs = np.repeat(_observations(BYTES, games=1), 3, axis=0)
    together = perturber(Perturbation(kind, 3), object(), BYTES)(obs, None, ALL, SEEDS)  # type: ignore[arg-type]
    alone = perturber(Perturbation(kind, 3), object(), BYTES)  # type: ignore[arg-type]
    for game in (2, 0, 1):
        seen = alone(obs[:1], None, ALL[:1], SEEDS[game : game + 1])
        np.testing.assert_array_equal(seen[0], together[game])


@pytest.mark.parametrize("text", ["fgsm:3", "noise:3"])
@pytest.mark.parametrize("frame", [VECTOR, BYTES, BINARY], ids=["vector", "bytes", "binary"])
def test_the_size_bounds_the_change(text, frame):
    size = int(np.prod(frame.space.shape))
    weights = np.random.default_rng(0).normal(size=(frame.action_space.n, size))
    obs = _observations(frame)
    changed = perturber(parse_perturbation(text), _LinearAgent(weights), frame)(
        obs, None, ALL, SEEDS
    )
    change = np.abs(changed.astype(float) - obs)
    assert change.any()
    if frame.binary:
        assert (change.reshape(3, -1).sum(1) <= 3).all()
    else:
        unit = 1 if frame.unit is None else frame.unit
        assert (change <= 3 * unit + 1e-5).all()
    assert (changed >= frame.space.low).all()
    assert (changed <= frame.space.high).all()


def test_what_exceeds_its_bounds_is_not_moved_back():
    frame = Frame(spaces.Box(-1, 1, (4,), np.float32), TWO, np.ones(4, np.float32))
    obs = np.array([[1.25, -1.5, 0, 1]], np.float32)
    same = perturber(Perturbation("noise", 0), object(), frame)  # type: ignore[arg-type]
    np.testing.assert_array_equal(same(obs, None, ALL[:1], SEEDS[:1]), obs)


def _agent(name: str, env_id: str, seed: int = 0, **options: int):
    """Return an agent that has not learned anything."""
    env = make(env_id, 2, 0, EnvOptions(**options))
    config = registry.preset(name, env).config
    agent = registry.build(
        config, env, device=torch.device("cpu"), seed=seed, steps=100, training=False
    )
    env.close()
    return agent


def _play(agent, env_id: str, text: str | None, episodes=6, num_envs=3, **options: int):
    given = EnvOptions(**options)
    change = None
    if text is not None:
        change = perturber(parse_perturbation(text), agent, perturbed_frame(env_id, given))
    return evaluate(
        agent, env_id, given, episodes=episodes, num_envs=num_envs, perturb=change,
        max_episode_steps=200,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make_agent", "env_id", "kinds", "options"),
    [
        (_Balancer, "CartPole-v1", {"fgsm": 1, "noise": 1}, {}),
        (
            lambda: _agent("recurrent_ppo", "CartPole-v1", stack=2),
            "CartPole-v1",
            {"fgsm": 0.5, "noise": 3},
            {"stack": 2},
        ),
        (
            lambda: ludus.load("pretrained:minatar_breakout").algorithm,
            "MinAtar/Breakout-v1",
            {"fgsm": 1, "noise": 10, "shift": 2},
            {},
        ),
    ],
    ids=["linear", "recurrent", "minatar"],
)
def test_a_size_of_0_changes_no_game_and_a_large_one_does(make_agent, env_id, kinds, options):
    agent = make_agent()
    plain = _play(agent, env_id, None, **options)
    for kind, size in kinds.items():
        assert _play(agent, env_id, f"{kind}:0", **options) == plain
        assert _play(agent, env_id, f"{kind}:{size}", **options) != plain


@pytest.mark.parametrize("text", ["fgsm:0.5", "noise:1"])
def test_the_number_of_envs_changes_no_game(text):
    """Game i is the first of env i while there are as many envs as games."""
    agent = _Balancer()
    many = _play(agent, "CartPole-v1", text, episodes=6, num_envs=6)
    few = _play(agent, "CartPole-v1", text, episodes=2, num_envs=2)
    assert few.returns == many.returns[:2]
    assert len(set(many.returns)) > 1
    assert _play(agent, "CartPole-v1", text, episodes=6, num_envs=6) == many


_PLAYERS = ("dqn", "c51", "qrdqn", "iqn", "rainbow", "pqn", "r2d2", "ppo", "recurrent_ppo", "a2c")


@pytest.mark.parametrize("name", _PLAYERS)
def test_fgsm_lowers_the_greedy_actions_odds_for_every_family(name):
    """By a small step from the agent's present state, which is left as it is."""
    agent = _agent(name, "CartPole-v1")
    frame = perturbed_frame("CartPole-v1", EnvOptions())
    obs = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)  # two rows
    _, state = agent.predict(obs[0], None, ALL, deterministic=True)
    before = [part.clone() for part in state]
    step = perturber(Perturbation("fgsm", 1e-3), agent, frame)
    changed = step(obs[1], state, NONE, SEEDS)
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))

    def scores(x: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            rows = torch.from_numpy(x)[None]
            out, _ = agent.network(rows, state, torch.zeros(1, 3, dtype=torch.bool))
        return (out.q if hasattr(out, "q") else out.logits)[0].double()

    greedy = scores(obs[1]).argmax(-1, keepdim=True)

    def log_p(x: np.ndarray) -> torch.Tensor:
        return scores(x).log_softmax(-1).gather(-1, greedy)

    assert (log_p(changed) < log_p(obs[1])).all()


class _Coin(gymnasium.Env):
    """Shows the last action as -3 or 3, and a constant."""

    def __init__(self, continuous=False):
        self.observation_space = spaces.Box(-9, 9, (2,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32) if continuous else TWO

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.float32([3, 5]), {}

    def step(self, action):
        return np.float32([6 * int(action) - 3, 5]), 0.0, False, False, {}


class _Described(_Coin):
    """Shows a dictionary."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (2,), np.float32)})

    def reset(self, *, seed=None, options=None):
        return {"a": np.zeros(2, np.float32)}, {}


class _Numbered(_Coin):
    """Shows the number of a state."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Discrete(16)

    def reset(self, *, seed=None, options=None):
        return 3, {}


def _frame(env: gymnasium.Env, **options: int) -> Frame:
    return perturbed_frame(env_name(env), EnvOptions(**options))


def test_the_unit_of_a_vector_is_its_deviation_under_random_actions():
    """Of one frame, whatever is stacked; it is the same again."""
    frame = _frame(_Coin())
    assert frame.unit == pytest.approx([3, 0], abs=0.02)
    for other in (_frame(_Coin()), _frame(_Coin(), stack=3)):
        np.testing.assert_array_equal(other.unit, frame.unit)
        assert other.space == frame.space
    assert perturbed_frame("MinAtar/Breakout-v1", EnvOptions()).unit is None


def test_the_sizes_are_described():
    assert "cells" in describe_sizes(BINARY)
    assert "(0 to 255)" in describe_sizes(BYTES)
    assert describe_sizes(VECTOR).endswith("0.5, 1, 2, 0")
    long = VECTOR._replace(unit=np.ones(9, np.float32))
    assert describe_sizes(long).endswith(", ".join(["1"] * 8) + ", ...")


def test_a_list_is_parsed_and_its_repetitions_left_out():
    parsed = parse_perturbations("fgsm:2, noise:0.5,fgsm:2.0,shift:3")
    assert list(map(str, parsed)) == ["fgsm:2", "noise:0.5", "shift:3"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("blur:2", "no perturbation 'blur:2'; use fgsm:SIZE"),
        ("", "no perturbation ''"),
        ("fgsm", "the size of fgsm is no number from 0 to 1,000,000; write it as fgsm:2"),
        ("noise:much", "the size of noise:much is no number"),
        ("noise:-1", "the size of noise:-1 is no number"),
        ("shift:nan", "the size of shift:nan is no number"),
        ("noise:1e7", "the size of noise:1e7 is no number from 0 to 1,000,000"),
        ("shift:inf", "the size of shift:inf is no number"),
    ],
)
def test_what_is_no_perturbation_is_refused(text, why):
    with pytest.raises(ConfigError, match=re.escape(why)):
        parse_perturbation(text)


@pytest.mark.parametrize(
    ("text", "frame", "why"),
    [
        ("shift:1", VECTOR, "shift:1 is for pictures with sides of more than 1 pixels"),
        ("shift:0", VECTOR, "shift:0 is for pictures"),
        ("shift:5", BYTES, "these observations have shape [2, 5, 6]"),
        (
            "shift:1.5",
            BYTES,
            "the size of shift:1.5 is 1.5, and shifts are by whole numbers; write shift:1",
        ),
        ("noise:1.5", BYTES, "1.5, and these observations have whole numbers; write noise:1"),
        ("fgsm:0.5", BINARY, "0.5, and these observations have whole numbers; write fgsm:1"),
        ("fgsm:1", VECTOR, "fgsm follows the gradient of a network of Ludus"),
    ],
)
def test_what_does_not_suit_the_observations_is_refused(text, frame, why):
    with pytest.raises(ConfigError, match=re.escape(why)):
        perturber(parse_perturbation(text), object(), frame)


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(1)])
def test_fgsm_needs_two_discrete_actions(space):
    frame, agent = VECTOR._replace(action_space=space), _LinearAgent(np.ones((1, 4)))
    with pytest.raises(ConfigError, match="fgsm needs two discrete actions or more"):
        perturber(Perturbation("fgsm", 1), agent, frame)
    assert perturber(Perturbation("noise", 1), agent, frame)


def test_fgsm_attacks_all_choices_of_an_action():
    """With two of two actions each, the gradient is that of both differences of values."""
    weights = np.random.default_rng(0).normal(size=(4, 4))
    obs = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    frame = VECTOR._replace(action_space=spaces.MultiDiscrete([2, 2]))
    changed = perturber(Perturbation("fgsm", 1), _LinearAgent(weights), frame)(
        obs, None, ALL, SEEDS
    )
    for x, seen in zip(obs, changed, strict=True):
        q = weights @ x
        first, second = int(q[1] > q[0]), 2 + int(q[3] > q[2])
        gradient = weights[1 - first] - weights[first] + weights[5 - second] - weights[second]
        expected = x + np.array([0.5, 1, 2, 0]) * np.sign(gradient)
        np.testing.assert_allclose(seen, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ("tic_tac_toe", "tic_tac_toe is a board game"),
        (_Described(), "shows dictionaries, which are not perturbed"),
        (_Numbered(), "shows Discrete(16), which has no small changes"),
    ],
)
def test_envs_without_small_changes_are_refused(env, why):
    with pytest.raises(ConfigError, match=re.escape(why)):
        perturbed_frame(env_name(env), EnvOptions())


@pytest.mark.parametrize("name", ["sb3:ppo", "random"])
def test_agents_without_a_network_of_ludus_have_noise_but_no_fgsm(name, tmp_path):
    agent = ludus.train(name, "CartPole-v1", steps=100, eval_episodes=0, quiet=True, root=tmp_path)
    with pytest.raises(ConfigError, match="network of Ludus, which this agent does not have"):
        ludus.evaluate(agent, episodes=2, perturb="fgsm:1")
    assert len(ludus.evaluate(agent, episodes=2, perturb="noise:1").returns) == 2


class _Rounded(nn.Module):
    """A user's network that has no gradient."""

    def __init__(self):
        super().__init__()
        self.dim = 4

    def forward(self, obs):
        return obs.detach().round()


def test_a_network_without_a_gradient_is_refused():
    agent = _LinearAgent(np.ones((3, 4)))
    agent.network.encoder = _Rounded()
    agent.network.head.weights.requires_grad_(False)
    step = perturber(Perturbation("fgsm", 1), agent, VECTOR)
    with pytest.raises(ConfigError, match="has no gradient with respect to its observations"):
        step(_observations(VECTOR), None, ALL, SEEDS)


def test_the_python_api_plays_perturbed_games(tmp_path):
    agent = ludus.train("ppo", "CartPole-v1", steps=300, eval_episodes=0, quiet=True, root=tmp_path)
    plain = ludus.evaluate(agent, episodes=3)
    assert ludus.evaluate(agent, episodes=3, perturb="fgsm:0") == plain
    assert ludus.evaluate(agent, episodes=3, perturb="noise:9") != plain
    with pytest.raises(ConfigError, match="the size of fgsm:1,noise:2 is no number"):
        ludus.evaluate(agent, episodes=3, perturb="fgsm:1,noise:2")


def _evaluated(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_command_shows_each_perturbation_beside_the_plain_games(capsys):
    given = ("pretrained:cartpole", "--episodes", "3")
    perturbed = (*given, "--perturb", "noise:0,fgsm:1")
    plain = json.loads(_evaluated(capsys, *given, "--json"))
    output = json.loads(_evaluated(capsys, *perturbed, "--json"))
    games = output.pop("perturbed")
    assert len(output.pop("unit")) == 4
    assert output == plain
    assert list(games) == ["noise:0", "fgsm:1"]
    assert games["noise:0"].pop("difference") == {"value": 0, "low": 0, "high": 0}
    assert games["noise:0"] == {key: plain[key] for key in games["noise:0"]}
    attacked = games["fgsm:1"]
    each = np.subtract(attacked["returns"], plain["returns"])
    assert attacked["difference"]["value"] == pytest.approx(each.mean())
    assert min(each) <= attacked["difference"]["low"] <= attacked["difference"]["high"] < 0
    table = _evaluated(capsys, *perturbed)
    for words in ("perturbation", "none", "noise:0", "fgsm:1", f"{each.mean():.1f}", "a size of 1"):
        assert words in table


def test_a_list_with_a_mistake_is_refused_before_any_game(capsys):
    for text, why in {
        "fgsm:1,blur:2": "no perturbation 'blur:2'",
        "shift:1": "is for pictures",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "pretrained:cartpole", "--perturb", text])
        assert ended.value.code == 2
        said = capsys.readouterr()
        assert why in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
