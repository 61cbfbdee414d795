"""The Q-network of a DQN and of its variants."""

from ludus.agents.agent import EnvLike
from ludus.agents.auxiliary import auxiliary_network
from ludus.agents.dqn_config import DQNConfig
from ludus.agents.value_heads import HeadKind
from ludus.networks.cores import make_core
from ludus.networks.encoders import Encoder, ProjectedEncoder, RenormalisedEncoder, make_encoder
from ludus.networks.heads import Streams, ValueOut
from ludus.networks.layers import start_xavier
from ludus.networks.network import Network


def make_network(
    config: DQNConfig, head: HeadKind, env: EnvLike, actions: int
) -> Network[ValueOut]:
    """Build the Q-network that the config describes.

    Raises:
        ConfigError: the encoder does not fit the observations.
    """
    c, space = config, env.observation_space
    encoder: Encoder = make_encoder(
        c.encoder,
        space,
        c.hidden,
        c.width,
        pool=c.pool,
        spectral_norm=c.spectral_norm,
        layer_norm=c.layer_norm,
        normalise=c.normalize_observation,
    )
    if c.renormalize:
        encoder = RenormalisedEncoder(encoder)
    projected = ProjectedEncoder(encoder, c.features) if c.features else None
    core = make_core("none", c.features or encoder.dim)
    streams = Streams(
        core.dim,
        actions,
        head.outputs,
        hidden=c.head_hidden,
        dueling=c.dueling,
        rescale_dueling=c.rescale_dueling,
        sigma=c.noisy_sigma if c.noisy else 0.0,
        layer_norm=c.layer_norm != "none",
    )
    whole = projected or encoder
    auxiliary = auxiliary_network(c, whole, env)
    network = Network[ValueOut](whole, core, head.make(streams), space, auxiliary)
    if c.xavier:
        start_xavier(network)
    return network
