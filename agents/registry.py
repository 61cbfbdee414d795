"""Every agent by name: its presets, and from a configuration to an agent.

The table holds the name of a module in place of an import, so that listing agents and refusing a
wrong name load neither torch nor Stable-Baselines3.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from ludus.envs.errors import ConfigError
from ludus.envs.suggest import closest

if TYPE_CHECKING:
    import torch

    from ludus.agents.agent import AgentConfig, EnvLike
    from ludus.agents.preset import Preset


class Entry(NamedTuple):
    """One agent."""

    summary: str
    module: str  # offers `preset(name, env)` and the configuration's class


_DQN, _R2D2 = "ludus.agents.dqn_presets", "ludus.agents.r2d2_config"
_PPO, _SB3 = "ludus.agents.ppo_config", "ludus.agents.sb3_config"
AGENTS = {
    "dqn": Entry("the deep Q-network, https://doi.org/10.1038/nature14236", _DQN),
    "dqn2013": Entry(
        "DQN's first, smaller CNN, for two cores, https://arxiv.org/abs/1312.5602", _DQN
    ),
    "ddqn": Entry("double DQN, https://arxiv.org/abs/1509.06461", _DQN),
    "dueling": Entry("double DQN with a dueling head, https://arxiv.org/abs/1511.06581", _DQN),
    "c51": Entry("categorical DQN, https://arxiv.org/abs/1707.06887", _DQN),
    "qrdqn": Entry("quantile-regression DQN, https://arxiv.org/abs/1710.10044", _DQN),
    "iqn": Entry("implicit quantile network, https://arxiv.org/abs/1806.06923", _DQN),
    "munchausen": Entry("Munchausen DQN, https://arxiv.org/abs/2007.14430", _DQN),
    "rainbow": Entry("Rainbow, https://arxiv.org/abs/1710.02298", _DQN),
    "btr": Entry("Beyond the Rainbow, https://arxiv.org/abs/2411.03820", _DQN),
    "der": Entry("data-efficient Rainbow, https://arxiv.org/abs/1906.05243", _DQN),
    "spr": Entry(
        "Rainbow with self-predictive representations, https://arxiv.org/abs/2007.05929", _DQN
    ),
    "bbf": Entry("Bigger, Better, Faster, https://arxiv.org/abs/2305.19452", _DQN),
    "pqn": Entry(
        "Q-learning without replay or target network, https://arxiv.org/abs/2407.04811",
        "ludus.agents.pqn_config",
    ),
    "r2d2": Entry("recurrent replay, https://openreview.net/forum?id=r1lyTjAqYX", _R2D2),
    "drqn": Entry("deep recurrent Q-network, https://arxiv.org/abs/1507.06527", _R2D2),
    "ppo": Entry("proximal policy optimisation, https://arxiv.org/abs/1707.06347", _PPO),
    "ppo_small": Entry("PPO for Atari on two cores, https://arxiv.org/abs/1707.06347", _PPO),
    "recurrent_ppo": Entry(
        "PPO with an LSTM; --core gru or gtrxl, https://arxiv.org/abs/1910.06764", _PPO
    ),
    "a2c": Entry("advantage actor-critic, https://arxiv.org/abs/1602.01783", _PPO),
    "impala": Entry("actor-critic with V-trace, https://arxiv.org/abs/1802.01561", _PPO),
    "alphazero": Entry(
        "search and self-play on board games, https://openreview.net/forum?id=bERaNdoegnO",
        "ludus.agents.alphazero_config",
    ),
    "random": Entry("uniformly random legal actions", "ludus.agents.random_agent"),
}


# off-policy algorithms for continuous actions, which Ludus does not have
_CONTINUOUS = ("sac", "td3", "ddpg", "tqc", "crossq")


def _entries() -> dict[str, Entry]:
    from ludus.agents.sb3_config import algorithms

    baselines = {f"sb3:{name}": Entry(f"Stable-Baselines3's {name}", _SB3) for name in algorithms()}
    small = {
        f"sb3:{ours}": Entry(
            f"Stable-Baselines3's {name} with the network and values of {ours}", _SB3
        )
        for name, ours in (("dqn", "dqn2013"), ("ppo", "ppo_small"))
    }
    return AGENTS | baselines | small


def names() -> dict[str, str]:
    """Return every agent that can be named, with a summary of each."""
    return {name: entry.summary for name, entry in _entries().items()}


def entry(name: str) -> Entry:
    """Return the table's entry of that name.

    Raises:
        ConfigError: there is no such agent.
    """
    entries = _entries()
    if name.lower() in _CONTINUOUS:
        theirs = "sb3:sac" if name.lower() != "td3" else "sb3:td3"
        raise ConfigError(
            f"there is no agent {name}; ppo takes continuous actions, and {theirs} is a baseline"
        )
    if name not in entries:
        raise ConfigError(closest(name, entries, "agent", "`ludus list agents` shows all"))
    return entries[name]


def preset(name: str, env: EnvLike) -> Preset:
    """Return the preset of that name for an env.

    Raises:
        ConfigError: there is no such agent, or it does not suit the env.
    """
    return import_module(entry(name).module).preset(name, env)


def trains_itself(name: str) -> bool:
    """Return whether an agent is of another library, which trains with a loop of its own."""
    return entry(name).module == _SB3


def config_classes(module: str) -> list[type[Any]]:
    """Return the classes of agents' configurations in a module of `Entry`."""
    kinds = (kind for kind in vars(import_module(module)).values() if isinstance(kind, type))
    return [kind for kind in kinds if is_dataclass(kind) and getattr(kind, "module", None)]


def config_class(name: str) -> type[Any]:
    """Return the class of configurations with that name.

    Raises:
        ConfigError: no agent has such a configuration.
    """
    modules = sorted({entry.module for entry in AGENTS.values()} | {_SB3})
    for module in modules:
        for found in config_classes(module):
            if found.__name__ == name:
                return found
    raise ConfigError(f"no agent of this ludus has the configuration {name}")


def agents_with(field: str) -> list[str]:
    """Return the agents of Ludus whose configuration has a field of that name."""
    return [
        name
        for name, each in AGENTS.items()
        if any(field in kind.__dataclass_fields__ for kind in config_classes(each.module))
    ]


def build(
    config: AgentConfig,
    env: EnvLike,
    *,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> Any:
    """Build a fresh agent.

    Args:
        config: its choices.
        env: the env, or anything with its properties.
        device: where networks and memory live.
        seed: of weights, exploration and sampling.
        steps: env steps of the whole training, for schedules and for the size of the memory.
        training: False for an agent that only acts: its memory is as small as possible.

    Returns:
        An `Agent`, or a `SelfTraining` agent of Stable-Baselines3.

    Raises:
        ConfigError: the configuration does not suit the env or the machine.
    """
    module = import_module(config.module)
    agent = module.build(config, env, device=device, seed=seed, steps=steps, training=training)
    adaptation = getattr(env, "adaptation", None)  # a data set or a test's env has none
    if adaptation is not None:
        from ludus.agents.raw_observations import accept_raw_observations

        agent.predict = accept_raw_observations(agent.predict, adaptation)
    return agent
