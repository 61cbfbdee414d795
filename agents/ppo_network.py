"""The network of a PPO: encoder and core, shared by policy and value or one for each."""

from gymnasium import spaces

from ludus.agents.agent import EnvLike
from ludus.agents.auxiliary import auxiliary_network
from ludus.agents.ppo_config import PPOConfig
from ludus.envs.dict_observation import MASK, PackedDict
from ludus.envs.errors import ConfigError
from ludus.networks.cores import Core, TwoCores, make_core
from ludus.networks.encoders import Encoder, ProjectedEncoder, TwoEncoders, make_encoder
from ludus.networks.layers import start_orthogonal
from ludus.networks.network import Network
from ludus.networks.policies import ActionKind, PolicyHead, PolicyOut


def make_network(config: PPOConfig, env: EnvLike, kind: ActionKind) -> Network[PolicyOut]:
    """Build policy and value as one network, with a shared trunk or two.

    Raises:
        ConfigError: the encoder or a mask of actions does not fit.
    """
    c, space = config, env.observation_space
    _check_mask(space, kind)
    encoders = [_make_encoder(c, space) for _ in range(1 if c.shared else 2)]
    cores = [
        make_core(c.core, e.dim, c.core_units, layers=c.layers, heads=c.heads, window=c.window)
        for e in encoders
    ]
    encoder = encoders[0] if c.shared else TwoEncoders(encoders[0], encoders[1])
    core: Core = cores[0] if c.shared else TwoCores(cores[0], cores[1])
    head = PolicyHead(core.dim, kind, not c.shared, c.log_std)
    if c.orthogonal:
        start_orthogonal(encoder, 2**0.5)
        start_orthogonal(head.policy, 0.01)
        start_orthogonal(head.value, 1.0)
    return Network(encoder, core, head, auxiliary=auxiliary_network(c, encoder, env))


def _check_mask(space: spaces.Box, kind: ActionKind) -> None:
    if isinstance(space, PackedDict) and MASK in space.parts:
        size = space.parts[MASK].space.shape[0]
        if kind.continuous or size != kind.outputs:
            needed = "none, for they are continuous" if kind.continuous else str(kind.outputs)
            raise ConfigError(f"{MASK} has {size} numbers; these actions need {needed}")


def _make_encoder(config: PPOConfig, space: spaces.Box) -> Encoder | ProjectedEncoder:
    c = config
    encoder = make_encoder(
        c.encoder,
        space,
        c.hidden,
        c.width,
        activation=c.activation,
        normalise=c.normalize_observation,
    )
    return ProjectedEncoder(encoder, c.features) if c.features else encoder
