"""Named configurations, and from a configuration to an agent.

On Atari values are as the papers print them; elsewhere every member of the family has the values of
one plain DQN that suits the env, and what makes it that member. SB3's DQN and QR-DQN get our plain
DQN's values there, and rl-baselines3-zoo's on Atari; its PPO and A2C get ours everywhere.
"""

import difflib
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch
from gymnasium import spaces

from ludus.agents import alphazero, dqn, ppo, pqn, r2d2, sb3
from ludus.agents.agent import Agent
from ludus.agents.alphazero import AlphaZero, AlphaZeroConfig
from ludus.agents.dqn import DQN, DQNConfig
from ludus.agents.ppo import PPO, PPOConfig
from ludus.agents.pqn import PQN, PQNConfig
from ludus.agents.r2d2 import R2D2, R2D2Config
from ludus.agents.random_agent import RandomAgent, RandomConfig
from ludus.agents.sb3 import SB3Agent, SB3Config
from ludus.envs.board.game import BOARD
from ludus.envs.board.spiel import make_game
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import ConfigError

Config = DQNConfig | PPOConfig | PQNConfig | R2D2Config | AlphaZeroConfig | SB3Config | RandomConfig
AnyAgent = Agent | SB3Agent
Family = Literal["classic", "minatar", "atari"]


class EnvLike(Protocol):
    """What a preset and an agent look at of an env, or of a data set in its place."""

    @property
    def env_id(self) -> str:
        """What it is called."""

    @property
    def num_envs(self) -> int:
        """Envs that step together."""

    @property
    def observation_space(self) -> spaces.Box:
        """Of one env."""

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Of one env."""

    @property
    def stack(self) -> int:
        """Frames in one observation."""


# Mnih et al. 2015, extended data table 1. The target follows after 10,000 env steps, as in the
# authors' code; rmsprop's eps is that of the summed gradient, 0.1, over the batch.
_NATURE = DQNConfig(
    encoder="nature",
    head_hidden=512,
    clip_reward=True,
    replay_size=1_000_000,
    learning_starts=50_000,
    optimizer="rmsprop",
    learning_rate=2.5e-4,
    optimizer_eps=0.1 / 32,
    max_grad_norm=0.0,
    batch_size=32,
    replay_ratio=0.25,
    target_interval=2_500,
    epsilon_end=0.1,
    epsilon_steps=1_000_000,
)
_ADAM = replace(_NATURE, optimizer="adam", optimizer_eps=0.01 / 32, epsilon_end=0.01)
_ATARI = {
    "dqn": _NATURE,
    "ddqn": replace(_NATURE, double=True),
    "dueling": replace(_NATURE, double=True, dueling=True, max_grad_norm=10.0),
    "c51": replace(_ADAM, head="c51"),
    "qrdqn": replace(_ADAM, head="qr", learning_rate=5e-5),
    "iqn": replace(_ADAM, head="iqn", learning_rate=5e-5),
    "munchausen": replace(
        _ADAM,
        munchausen=True,
        loss="mse",
        learning_rate=5e-5,
        learning_starts=20_000,
        target_interval=2_000,
        epsilon_steps=250_000,
    ),
    # table 1; the epsilon of 0 holds from the first update, actions before it are random
    "rainbow": replace(
        _ADAM,
        head="c51",
        double=True,
        dueling=True,
        noisy=True,
        prioritised=True,
        n_step=3,
        learning_rate=6.25e-5,
        optimizer_eps=1.5e-4,
        max_grad_norm=10.0,
        learning_starts=20_000,
        target_interval=2_000,
        epsilon_start=0.0,
        epsilon_end=0.0,
    ),
    # appendix; the paper turns epsilon off after 100 million frames, here 1% stays
    "btr": replace(
        _ADAM,
        encoder="impala",
        width=2,
        pool=6,
        spectral_norm=True,
        head="iqn",
        samples=8,
        target_samples=8,
        policy_samples=8,
        dueling=True,
        noisy=True,
        munchausen=True,
        prioritised=True,
        priority_alpha=0.2,
        n_step=3,
        gamma=0.997,
        learning_rate=1e-4,
        optimizer_eps=0.005 / 256,
        max_grad_norm=10.0,
        batch_size=256,
        replay_size=1 << 20,
        replay_ratio=1 / 64,
        learning_starts=200_000,
        target_interval=500,
        epsilon_steps=2_000_000,
    ),
}
# rl-baselines3-zoo's values for Atari: what SB3's users run.
_ZOO = replace(
    _NATURE,
    optimizer="adam",
    learning_rate=1e-4,
    optimizer_eps=1e-8,
    max_grad_norm=10.0,
    replay_size=100_000,
    learning_starts=10_000,
    target_interval=250,
    epsilon_end=0.01,
    epsilon_steps=100_000,
)
# The 2013 DQN's network and 3-step returns, for a machine of two cores and little time.
_SMALL = replace(
    _ZOO,
    encoder="dqn2013",
    head_hidden=256,
    n_step=3,
    learning_starts=1_000,
    epsilon_steps=10_000,
    epsilon_end=0.05,
)

# What makes each member of the family, for small envs.
_IMPLICIT: dict[str, Any] = {"head": "iqn", "samples": 8, "target_samples": 8, "policy_samples": 16}
_NOISY: dict[str, Any] = {"noisy": True, "epsilon_start": 0.0, "epsilon_end": 0.0}
_CHANGES: dict[str, dict[str, Any]] = {
    "dqn": {},
    "ddqn": {"double": True},
    "dueling": {"double": True, "dueling": True},
    "c51": {"head": "c51"},
    "qrdqn": {"head": "qr", "quantiles": 50},
    "iqn": _IMPLICIT,
    "munchausen": {"munchausen": True},
    "rainbow": {
        **{"head": "c51", "double": True, "dueling": True, "prioritised": True, "n_step": 3},
        **_NOISY,
    },
    "btr": {
        **{"dueling": True, "munchausen": True, "prioritised": True, "n_step": 3},
        **{"priority_alpha": 0.2, "noisy": True, **_IMPLICIT},
    },
}
# Young and Tian 2019, with Adam and 1 update per 4 steps in place of RMSProp and 1 per step.
_MINATAR_BASE = DQNConfig(
    encoder="minatar",
    head_hidden=128,
    replay_size=100_000,
    learning_starts=5_000,
    learning_rate=2.5e-4,
    batch_size=32,
    replay_ratio=0.25,
    target_interval=250,
    epsilon_end=0.05,
    epsilon_steps=50_000,
    v_min=-20.0,
    v_max=20.0,
)
_MINATAR = {name: replace(_MINATAR_BASE, **changes) for name, changes in _CHANGES.items()}
# Found on CartPole-v1: with a target that is copied, of 3 seeds 1 or 2 had fallen back by 50,000
# steps; with one that moves a hundredth of the way at each update all 3 stayed at 500.
_CLASSIC_BASE = DQNConfig(
    encoder="mlp",
    hidden=(128, 128),
    replay_size=100_000,
    learning_starts=1_000,
    learning_rate=1e-3,
    batch_size=64,
    replay_ratio=0.5,
    target_interval=1,
    polyak=0.01,
    epsilon_end=0.04,
    epsilon_steps=8_000,
    v_min=-100.0,
    v_max=100.0,
)
_TWO_STREAMS: dict[str, Any] = {"hidden": (128,), "head_hidden": 128}
_CLASSIC = {
    name: replace(_CLASSIC_BASE, **changes, **(_TWO_STREAMS if name in ("rainbow", "btr") else {}))
    for name, changes in _CHANGES.items()
}
_FAMILY: dict[Family, dict[str, DQNConfig]] = {
    "atari": _ATARI,
    "minatar": _MINATAR,
    "classic": _CLASSIC,
}
# Appendix of the paper; MinAtar as in the authors' code. Annealing the learning rate decides most:
# CartPole after 100,000 steps at 476 or more on 6 of 6 seeds, without it on 2 of 3.
_PQN: dict[Family, PQNConfig] = {
    "atari": PQNConfig(encoder="nature", head_hidden=512, clip_reward=True),
    "minatar": PQNConfig(
        encoder="minatar",
        head_hidden=128,
        learning_rate=5e-4,
        anneal_learning_rate=True,
        epsilon_end=0.05,
    ),
    "classic": PQNConfig(
        learning_rate=1e-3,
        anneal_learning_rate=True,
        lam=0.95,
        epochs=4,
        minibatches=8,
        epsilon_end=0.05,
        epsilon_fraction=0.2,
    ),
}
# Kapturowski et al. 2019, table 2, for one machine: 64 envs in place of 256 actors.
_R2D2: dict[Family, R2D2Config] = {
    "atari": R2D2Config(
        encoder="nature",
        core_units=512,
        head_hidden=512,
        replay_size=1_000_000,
        learning_starts=50_000,
        replay_ratio=1 / 640,
    ),
    "minatar": R2D2Config(
        encoder="minatar",
        core_units=128,
        batch_size=32,
        sequence_length=20,
        burn_in=10,
        n_step=3,
        gamma=0.99,
        learning_rate=5e-4,
        learning_starts=5_000,
        replay_ratio=1 / 16,
        target_interval=250,
    ),
    "classic": R2D2Config(
        batch_size=32,
        sequence_length=20,
        burn_in=10,
        n_step=3,
        gamma=0.99,
        learning_rate=1e-3,
        replay_ratio=1 / 8,
        target_interval=1,
        polyak=0.02,
    ),
}


# Values of the authors' code for Atari (https://arxiv.org/abs/1707.06347, table 5, has 3 epochs),
# without its value clipping, which https://arxiv.org/abs/2006.05990 finds to hurt.
_PPO_ATARI = PPOConfig(
    encoder="nature",
    features=512,
    shared=True,
    learning_rate=2.5e-4,
    rollout_length=128,
    epochs=4,
    minibatches=4,
    clip_range=0.1,
    anneal_clip_range=True,
    entropy_coef=0.01,
    clip_reward=True,
)
# For two cores: the 2013 DQN's network, and steps as large as their divergence lets them be. Pong's
# pixels vary by 0.014 around a mean of 0.42: without statistics the ball is hardly there for a
# network, and 2,500,000 steps reached -17 in training where 325,000 with them reached 18.
_PPO_SMALL = replace(
    _PPO_ATARI,
    encoder="dqn2013",
    features=256,
    learning_rate=5e-4,
    anneal_learning_rate=False,
    desired_kl=0.01,
    minibatches=8,
    clip_range=0.2,
    anneal_clip_range=False,
    normalize_observation=True,
)
_PPO: dict[Family, PPOConfig] = {
    "atari": _PPO_ATARI,
    "minatar": PPOConfig(
        encoder="minatar",
        features=128,
        shared=True,
        learning_rate=1e-3,
        rollout_length=32,
        epochs=4,
        minibatches=8,
        entropy_coef=0.01,
    ),
    "classic": PPOConfig(
        learning_rate=1e-3,
        rollout_length=32,
        epochs=10,
        minibatches=4,
        anneal_clip_range=True,
    ),
}
# Pendulum wants a short horizon; statistics as "The 37 implementation details" has them.
_PPO_CONTINUOUS = PPOConfig(
    learning_rate=1e-3,
    rollout_length=64,
    epochs=10,
    minibatches=16,
    gamma=0.95,
    normalize_observation=True,
    normalize_reward=True,
)


# CartPole without its velocities: with normalised observations and rows of 128 500 on 60,000 steps,
# with rows of 32 or 64, or without statistics, 350 at best.
_RECURRENT_PPO: dict[Family, PPOConfig] = {
    "atari": replace(_PPO_ATARI, core="lstm", core_units=128),
    "minatar": replace(_PPO["minatar"], core="lstm", rollout_length=64),
    "classic": replace(
        _PPO["classic"],
        core="lstm",
        core_units=64,
        rollout_length=128,
        gamma=0.98,
        normalize_observation=True,
    ),
}


def _a2c(config: PPOConfig) -> PPOConfig:
    """Mnih et al. 2016 without the threads: one update on all of a short rollout.

    https://arxiv.org/abs/1602.01783, values of the authors' successors' code (baselines, SB3).
    """
    return replace(
        config,
        rollout_length=5,
        epochs=1,
        minibatches=1,
        lam=1.0,
        clip_range=float("inf"),
        anneal_clip_range=False,
        normalize_advantage=False,
        value_coef=1.0,
        optimizer="plain_rmsprop",
        learning_rate=7e-4,
    )


def _drqn(config: R2D2Config) -> R2D2Config:
    """Hausknecht and Stone 2015: random stretches of 10 rows from a zero state."""
    return replace(
        config,
        dueling=False,
        double=False,
        value_rescaling=False,
        loss="huber",
        sequence_length=10,
        burn_in=0,
        stored_state=False,
        n_step=1,
        prioritised=False,
        epsilon_start=1.0,
        epsilon_end=0.05,
        epsilon_steps=max(10_000, config.learning_starts * 2),
        epsilon_alpha=0.0,
        clip_reward=config.encoder == "nature",
    )


OURS = {
    "dqn": "the deep Q-network, https://doi.org/10.1038/nature14236",
    "dqn2013": "its first, smaller CNN, for Atari on a small machine, https://arxiv.org/abs/1312.5602",
    "ddqn": "double DQN, https://arxiv.org/abs/1509.06461",
    "dueling": "double DQN with a dueling head, https://arxiv.org/abs/1511.06581",
    "c51": "categorical DQN, https://arxiv.org/abs/1707.06887",
    "qrdqn": "quantile-regression DQN, https://arxiv.org/abs/1710.10044",
    "iqn": "implicit quantile network, https://arxiv.org/abs/1806.06923",
    "munchausen": "Munchausen DQN, https://arxiv.org/abs/2007.14430",
    "rainbow": "Rainbow, https://arxiv.org/abs/1710.02298",
    "btr": "Beyond the Rainbow, https://arxiv.org/abs/2411.03820",
    "pqn": "Q-learning without replay or target network, https://arxiv.org/abs/2407.04811",
    "r2d2": "recurrent replay, https://openreview.net/forum?id=r1lyTjAqYX",
    "drqn": "deep recurrent Q-network, https://arxiv.org/abs/1507.06527",
    "ppo": "proximal policy optimisation, https://arxiv.org/abs/1707.06347",
    "ppo_small": "PPO for Atari on a small machine, https://arxiv.org/abs/1707.06347",
    "recurrent_ppo": "PPO with an LSTM; --core gru or gtrxl, https://arxiv.org/abs/1910.06764",
    "a2c": "advantage actor-critic, https://arxiv.org/abs/1602.01783",
    "alphazero": "search and self-play on board games, https://openreview.net/forum?id=bERaNdoegnO",
    "random": "every action with the same probability",
}


def names() -> dict[str, str]:
    """Every agent that can be asked for, with a line on each."""
    theirs = {f"sb3:{name}": f"Stable-Baselines3's {name}" for name in sb3.installed()}
    small = {"sb3:dqn2013": "Stable-Baselines3's dqn with the network and values of dqn2013"}
    return OURS | theirs | small


def family(env: EnvLike) -> Family:
    """Which defaults suit the env, by the shape of its observations, the largest of several."""
    space = env.observation_space
    parts = space.parts.values() if isinstance(space, PackedDict) else ()
    sides = [min(s.shape[1:]) for s in (space, *(p.space for p in parts)) if len(s.shape) == 3]
    if not sides:
        return "classic"
    return "atari" if max(sides) >= 36 else "minatar"


def preset(agent: str, env: EnvLike) -> Config:
    """The configuration of that name for that env.

    Raises:
        ConfigError: there is no such agent, or it does not suit the env.
    """
    kind = family(env)
    ours = _FAMILY[kind]
    if agent == "random":
        return RandomConfig()
    if agent in ours:
        return ours[agent]
    if agent == "alphazero":
        return _alphazero(env)
    if agent == "pqn":
        return _PQN[kind]
    if agent == "recurrent_ppo":
        return _on_board(_RECURRENT_PPO[kind], env)
    if agent in ("ppo", "a2c"):
        continuous = kind == "classic" and isinstance(env.action_space, spaces.Box)
        ppo_config = _PPO_CONTINUOUS if continuous else _PPO[kind]
        ppo_config = _on_board(ppo_config, env)
        return ppo_config if agent == "ppo" else _a2c(ppo_config)
    if agent in ("r2d2", "drqn"):
        return _R2D2[kind] if agent == "r2d2" else _drqn(_R2D2[kind])
    if agent in ("dqn2013", "sb3:dqn2013", "ppo_small"):
        if kind != "atari":
            raise ConfigError(f"{agent} is for pictures of 36 pixels or more; not {env.env_id}")
        if agent == "ppo_small":
            return _PPO_SMALL
        return _SMALL if agent == "dqn2013" else _sb3_preset("dqn", _SMALL, kind)
    if agent in ("sb3:ppo", "sb3:a2c"):
        own = preset(agent.removeprefix("sb3:"), env)
        assert isinstance(own, PPOConfig)
        return SB3Config(
            "ppo" if agent == "sb3:ppo" else "a2c",
            encoder=own.encoder,
            hidden=own.hidden,
            activation=own.activation,
            shared=own.shared,
            head_hidden=own.features,
            clip_reward=own.clip_reward,
            arguments=match_ppo(own),
        )
    if agent in [f"sb3:{name}" for name in sb3.installed()]:
        theirs = _ZOO if kind == "atari" else ours["dqn"]
        return _sb3_preset(agent.removeprefix("sb3:"), theirs, kind)
    close = difflib.get_close_matches(agent, list(names()), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else "; `ludus list agents` shows all"
    raise ConfigError(f"there is no agent {agent}{hint}")


def _board(env: EnvLike) -> spaces.Box | None:
    """What is shown of a board game's positions; None where the env is none."""
    space = env.observation_space
    if not isinstance(space, PackedDict) or BOARD not in space.parts:
        return None
    return space.parts[BOARD].space


def _on_board(config: PPOConfig, env: EnvLike) -> PPOConfig:
    """For a board game: no discount, and a policy that stays open to moves it has not tried."""
    return config if _board(env) is None else replace(config, gamma=1.0, entropy_coef=0.02)


def _alphazero(env: EnvLike) -> AlphaZeroConfig:
    """A tower where positions are planes, else fully connected layers."""
    board = _board(env)
    if board is None:
        raise ConfigError(f"alphazero is for board games, `ludus list games`; not {env.env_id}")
    planes = len(board.shape) == 3
    return AlphaZeroConfig(encoder="tower" if planes else "mlp")


def rivals(agent: str) -> tuple[str, ...]:
    """Who the other side of a board game is drawn from by default."""
    if agent == "alphazero":
        return ("self",)
    # connect four: PPO won 97% against random play with these, 83% to 92% with self, self, past,
    # and more against search too
    return ("self", "past", "random", "random")


def num_envs(agent: str, kind: Family) -> int:
    """Envs that step together by default: SB3's value-based agents are written for one."""
    if agent in ("sb3:dqn", "sb3:dqn2013", "sb3:qrdqn"):
        return 1
    if agent == "dqn2013":
        return 2  # Road Runner, 30,000 steps: 2 envs scored 2,430 and 2,730, 8 envs 1,150 to 3,600
    if agent == "ppo_small":
        return 16
    if agent == "alphazero":
        return 128
    if agent == "pqn" and kind != "classic":
        return 128
    if kind == "minatar" and agent.endswith(("ppo", "a2c")):
        return 32  # with 8 as good on one seed, and half as fast
    if agent in ("btr", "r2d2") and kind == "atari":
        return 64
    return 16 if kind == "classic" and agent != "sb3:recurrent_ppo" else 8


def _sb3_preset(algorithm: Any, base: DQNConfig, kind: Family) -> SB3Config:
    """SB3's algorithm with our encoder; the DQNs with exactly our values."""
    config = SB3Config(
        algorithm,
        encoder=base.encoder,
        hidden=base.hidden,
        head_hidden=base.head_hidden,
        clip_reward=base.clip_reward,
    )
    if algorithm == "dqn":
        return replace(config, arguments=match_dqn(base))
    if algorithm == "qrdqn":
        quantiles = {"n_quantiles": _FAMILY[kind]["qrdqn"].quantiles}
        return replace(config, arguments=match_dqn(base) | quantiles)
    # recurrent_ppo: SB3's own defaults, and rl-baselines3-zoo's on Atari
    if kind == "classic":
        return replace(config, hidden=(64, 64))
    zoo = {"n_steps": 128, "n_epochs": 4, "batch_size": 256, "clip_range": 0.1, "vf_coef": 0.5}
    return replace(config, arguments=zoo | {"ent_coef": 0.01, "learning_rate": 2.5e-4})


def match_ppo(config: PPOConfig) -> dict[str, Any]:
    """SB3's PPO's arguments for the values of one of our configurations; A2C's for one epoch.

    SB3's value loss is the whole squared error, ours half of it. SB3 has no statistics of its own.
    """
    anneal = {"learning_rate": config.anneal_learning_rate, "clip_range": config.anneal_clip_range}
    arguments = {
        "learning_rate": config.learning_rate,
        "anneal": [name for name, falls in anneal.items() if falls],
        "n_steps": config.rollout_length,
        "gamma": config.gamma,
        "gae_lambda": config.lam,
        "ent_coef": config.entropy_coef,
        "vf_coef": config.value_coef / 2,
        "max_grad_norm": config.max_grad_norm or float("inf"),
        "normalize_advantage": config.normalize_advantage,
    }
    if config.optimizer == "plain_rmsprop":
        return arguments | {"rms_prop_eps": config.optimizer_eps}
    clip = {"clip_range": config.clip_range, "n_epochs": config.epochs}
    return arguments | clip | {"minibatches": config.minibatches}


def match_dqn(config: DQNConfig) -> dict[str, Any]:
    """SB3's arguments for the values of one of our configurations, for one env.

    SB3 counts its target interval in env steps; `exploration_steps` becomes its share of the whole
    training in `fit`.
    """
    per_round = max(1, round(1 / config.replay_ratio))
    return {
        "learning_rate": config.learning_rate,
        "buffer_size": config.replay_size,
        "learning_starts": config.learning_starts,
        "batch_size": config.batch_size,
        "gamma": config.gamma,
        "n_steps": config.n_step,
        "train_freq": per_round,
        "gradient_steps": max(1, round(config.replay_ratio * per_round)),
        "target_update_interval": round(config.target_interval / config.replay_ratio),
        "tau": config.polyak,
        "exploration_initial_eps": config.epsilon_start,
        "exploration_final_eps": config.epsilon_end,
        "exploration_steps": config.epsilon_steps,
        "max_grad_norm": config.max_grad_norm or float("inf"),
    }


def build(
    config: Config,
    env: EnvLike,
    *,
    device: torch.device,
    seed: int,
    steps: int,
    training: bool = True,
) -> DQN | PPO | PQN | R2D2 | AlphaZero | SB3Agent | RandomAgent:
    """A fresh agent for the env and a training of so many env steps.

    Without `training` it takes as little memory as it can.

    Raises:
        ConfigError: the configuration does not suit the env or the machine.
    """
    space = env.observation_space
    if isinstance(space, PackedDict) and MASK in space.parts and isinstance(config, SB3Config):
        raise ConfigError(
            f"{env.env_id} shows an {MASK}, which SB3's agents do not obey; choose one of ours"
        )
    match config:
        case DQNConfig():
            return dqn.build(
                config,
                env.observation_space,
                env.action_space,
                num_envs=env.num_envs,
                stack=env.stack,
                device=device,
                seed=seed,
                steps=steps,
                training=training,
            )
        case R2D2Config():
            return r2d2.build(
                config,
                env.observation_space,
                env.action_space,
                num_envs=env.num_envs,
                stack=env.stack,
                device=device,
                seed=seed,
                steps=steps,
                training=training,
            )
        case PPOConfig():
            return ppo.build(
                config,
                env.observation_space,
                env.action_space,
                num_envs=env.num_envs,
                device=device,
                seed=seed,
                steps=steps,
                training=training,
            )
        case PQNConfig():
            return pqn.build(
                config,
                env.observation_space,
                env.action_space,
                num_envs=env.num_envs,
                device=device,
                seed=seed,
                steps=steps,
                training=training,
            )
        case AlphaZeroConfig():
            return alphazero.build(
                config,
                make_game(env.env_id, device),
                num_envs=env.num_envs,
                device=device,
                seed=seed,
                steps=steps,
                training=training,
            )
        case SB3Config():
            return SB3Agent(config, env.observation_space, env.action_space, device, seed)
        case RandomConfig():
            return RandomAgent(env.observation_space, env.action_space, seed)
