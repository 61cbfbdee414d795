"""Search spaces: around a preset, by words, and as parameters of a trial."""

from dataclasses import replace

import pytest

from ludus.agents.dqn_config import DQNConfig
from ludus.agents.ppo_config import PPOConfig
from ludus.comparison.search_space import Dimension, grid, params_of, search_space
from ludus.envs.errors import ConfigError


class Ends:
    """A trial that suggests the low or the high end of everything."""

    def __init__(self, high: bool) -> None:
        self.high = high

    def suggest_float(self, name, low, high, *, log=False):
        return high if self.high else low

    def suggest_int(self, name, low, high):
        return high if self.high else low

    def suggest_categorical(self, name, choices):
        return choices[-1 if self.high else 0]


def test_values_vary_around_the_preset_within_their_bounds():
    preset = PPOConfig(learning_rate=3e-4, gamma=0.99, lam=1.0, minibatches=2, entropy_coef=0.0)
    config, space = search_space(preset)
    assert config == preset
    assert space["learning_rate"] == Dimension("float", pytest.approx(3e-5), pytest.approx(3e-3))
    assert space["learning_rate"].log
    assert space["minibatches"].choices == (1, 2, 4, 8)
    assert "entropy_coef" not in space  # off
    assert "batch_size" not in space  # PPO has none
    gamma = space["gamma"]
    assert (gamma.low, gamma.high) == (pytest.approx(0.9), pytest.approx(0.999))
    assert space["lam"].high <= 1
    for high in (False, True):
        for name, dimension in space.items():
            values = {name: dimension.suggest(Ends(high), name)}
            replace(preset, **values)


def test_every_preset_has_a_space_whose_ends_can_work():
    for preset in (DQNConfig(), DQNConfig(n_step=3, prioritised=True), PPOConfig()):
        _, space = search_space(preset)
        assert len(space) >= 5
        assert params_of(space, preset) is not None


def test_words_change_the_space():
    words = ["learning-rate=1e-5..1e-2", "n_step=1..5", "head=q,c51", "dueling=true,false"]
    config, space = search_space(DQNConfig(), words, ["gamma=0.5", "batch_size=1e2"])
    assert (config.gamma, config.batch_size) == (0.5, 100)
    assert not {"gamma", "batch_size"} & set(space)
    assert space["learning_rate"] == Dimension("float", 1e-5, 1e-2)
    assert space["n_step"] == Dimension("int", 1, 5)
    assert space["head"].choices == ("q", "c51")
    assert space["dueling"].choices == (True, False)
    assert str(space["n_step"]) == "1 to 5, whole numbers"


def test_discounts_vary_in_what_they_leave_to_one():
    _, space = search_space(DQNConfig(), ["gamma=0.9..0.999"], [])
    dimension = space["gamma"]
    assert dimension.below_one
    assert dimension.suggest(Ends(True), "gamma") == pytest.approx(0.9)
    assert dimension.suggest(Ends(False), "gamma") == pytest.approx(0.999)
    assert params_of(space, DQNConfig(gamma=0.98))["1 - gamma"] == pytest.approx(0.02)
    assert params_of(space, DQNConfig(gamma=0.5)) is None


@pytest.mark.parametrize(
    ("space", "fix", "message"),
    [
        (["learning_rat=1..2"], [], "did you mean learning_rate"),
        (["learning_rate"], [], "--space is learning_rate; it must be field=low..high"),
        (["learning_rate=1..0.1"], [], "varies from 1 to 0.1; the first must be smaller"),
        (["learning_rate=a..b"], [], "learning_rate is a; it must be a number"),
        (["learning_rate=-1..1"], [], "learning_rate is -1.0; it must be above 0"),
        (["n_step=1.5..3"], [], "n_step is 1.5; it must be a whole number"),
        (["head=q,zzz"], [], "head is zzz; it must be one of q, c51"),
        (["head=q"], [], "head has the only value q; use --fix head=q"),
        (["hidden=1..2"], [], "hidden is no number|hidden cannot vary"),
        ([], ["gamma"], "--fix is gamma; it must be field=value"),
        ([], ["gamma=7"], "gamma is 7.0; it must be"),
        ([], ["hidden=64"], "hidden cannot vary; numbers, flags and names can"),
    ],
)
def test_a_mistake_is_one_sentence(space, fix, message):
    with pytest.raises(ConfigError, match=message):
        search_space(DQNConfig(), space, fix)


def test_a_grid_is_every_combination_of_the_values():
    configs = grid(DQNConfig(), ["learning-rate=1e-3,1e-4", "dueling=true,false"])
    assert [(c.learning_rate, c.dueling) for c in configs] == [
        (1e-3, True),
        (1e-3, False),
        (1e-4, True),
        (1e-4, False),
    ]
    assert replace(configs[3], learning_rate=1e-3, dueling=True) == configs[0]
    assert grid(DQNConfig(gamma=0.9), []) == [DQNConfig(gamma=0.9)]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["learning_rat=1,2"], "did you mean learning_rate"),
        (["learning_rate"], "--grid is learning_rate; it must be field=a,b,c"),
        (["width=1", "width=2"], "--grid names width twice"),
        (["width=1,1.0"], "--grid is width=1,1.0, which contains a value twice"),
        (["width=0,1"], "width is 0.0; it must be above 0"),
        (["pool=2"], "pool does not go with encoder mlp"),
    ],
)
def test_a_mistake_in_a_grid_is_one_sentence(axes, message):
    with pytest.raises(ConfigError, match=message):
        grid(DQNConfig(), axes)


def test_a_field_that_has_no_effect_with_any_of_the_values_is_refused():
    sentence = r"^spr_steps has no effect with auxiliary none; choose auxiliary spr"
    for refused in (
        lambda: grid(DQNConfig(), ["spr_steps=1,2"]),
        lambda: search_space(DQNConfig(), ["spr_steps=1,2"]),
        lambda: search_space(DQNConfig(), [], ["spr_steps=1"]),
    ):
        with pytest.raises(ConfigError, match=sentence):
            refused()
    assert len(grid(DQNConfig(), ["spr_steps=1,2", "auxiliary=none,spr"])) == 4
    _, space = search_space(DQNConfig(), ["auxiliary=none,spr"], ["spr_steps=1"])
    assert "auxiliary" in space
    assert len(grid(DQNConfig(auxiliary="spr"), ["spr_steps=1,2"])) == 2
