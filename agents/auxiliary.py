"""Auxiliary losses: what an agent's features learn besides its own loss.

An agent adds `Auxiliary.loss` to its own loss of each row, and its `Learner` does the rest. The
losses are those of an autoencoder (also a variational one, https://arxiv.org/abs/1312.6114) of the
newest frame, of self-predictive representations (SPR, https://arxiv.org/abs/2007.05929), and of an
inverse model (https://arxiv.org/abs/1705.05363). Latents are what `Network.latents` returns.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ludus.agents.agent import EnvLike
from ludus.agents.auxiliary_config import AuxiliaryFields
from ludus.agents.memory.following import Following
from ludus.agents.memory.rollout import Minibatch, Rollout
from ludus.agents.seeding import generator, restore_generator
from ludus.networks.auxiliary import (
    AuxiliaryNetwork,
    InverseModel,
    NewestFrame,
    Reconstruction,
    SelfPrediction,
    Variational,
)
from ludus.networks.encoders import ProjectedEncoder, RenormalisedEncoder, latent_shape
from ludus.networks.network import Network, TargetNetwork
from ludus.networks.policies import ActionKind


class Auxiliary:
    """An auxiliary loss of an agent.

    Args:
        config: choice and weights.
        network: the online network, with the part that `auxiliary_network` returned.
        env: defines observations and actions.
        rows: M, of an update.
        device: of the network.
        seed: of the noise of codes.
    """

    def __init__(
        self,
        config: AuxiliaryFields,
        network: Network[Any],
        env: EnvLike,
        *,
        rows: int,
        device: torch.device,
        seed: int,
    ) -> None:
        assert network.auxiliary is not None
        self._config, self._network, self._part = config, network, network.auxiliary
        self._actions = ActionKind(env.action_space)
        self._frame: NewestFrame | None = None
        if isinstance(self._part, Reconstruction | Variational):
            self._frame = NewestFrame(network.encoder, env.observation_space, env.stack)
        self.momentum: TargetNetwork[Any] | None = None  # encoder of SPR's targets, see `attach`
        self._noise: torch.Generator | None = None
        self._shape = (rows, 0)
        if isinstance(self._part, Variational):
            self._noise, self._shape = generator(device, seed, 6), (rows, self._part.units)
        self._device = device

    def attach(self, flat: Tensor) -> None:
        """Take the network's parameters [size], see `flatten_parameters`."""
        if isinstance(self._part, SelfPrediction):
            self.momentum = TargetNetwork(self._network, flat)

    @property
    def steps(self) -> int:
        """Number of rows after a row that the loss looks at."""
        return self._config.rows_ahead

    def randomness(self) -> tuple[Tensor, ...]:
        """Return the random input of the next update: the noise of codes [M, units], or nothing."""
        if self._noise is None:
            return ()
        return (torch.randn(self._shape, generator=self._noise, device=self._device),)

    def example(self) -> tuple[Tensor, ...]:
        """Return fixed randomness."""
        return () if self._noise is None else (torch.zeros(self._shape, device=self._device),)

    def follow(self) -> None:
        """Move the encoder of SPR's targets after an update."""
        if self.momentum is not None:
            self.momentum.update(1 - self._config.spr_momentum)

    def loss(
        self, latents: Tensor, obs: Tensor, following: Following | None, *noise: Tensor
    ) -> Tensor:
        """Return the weighted loss of each row, [M].

        Args:
            latents: [M, dim] of the online network, with gradient.
            obs: [M, *obs].
            following: the `steps` rows after each; None where there are none.
            noise: what `randomness` returned.
        """
        match self._part:
            case Reconstruction():
                return self._config.reconstruction_weight * self._error(self._part(latents), obs)
            case Variational():
                return self._variational(self._part, latents, obs, *noise)
            case SelfPrediction():
                assert following is not None
                return self._config.spr_weight * self._unlikeness(self._part, latents, following)
            case InverseModel():
                assert following is not None
                return self._config.inverse_weight * self._surprise(self._part, latents, following)

    def loss_of_minibatch(
        self, latents: Tensor, batch: Minibatch, rollout: Rollout, index: Tensor, *noise: Tensor
    ) -> Tensor:
        """Return the weighted loss of the rows of a minibatch at indices [N]: [L, N]."""
        following = rollout.following(index, self.steps) if self.steps else None
        loss = self.loss(latents, batch.obs.flatten(0, 1), following, *noise)
        return loss.view(batch.obs.shape[:2])

    def _error(self, frame: Tensor, obs: Tensor) -> Tensor:
        """Return the mean squared error [M] of frames [M, *frame]."""
        assert self._frame is not None
        return (frame - self._frame.seen(obs)).square().flatten(1).mean(1)

    def _variational(
        self, part: Variational, latents: Tensor, obs: Tensor, noise: Tensor
    ) -> Tensor:
        """Return the negative evidence lower bound, but for a constant, times 2 / pixels: [M].

        Pixels are normal with variance 1, and codes a priori standard normal (equation 10).
        """
        c, mean, log_variance = self._config, part.mean(latents), part.log_variance(latents)
        frame = part.decoder(mean + (0.5 * log_variance).exp() * noise)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        pixels = frame[0].numel()
        error = self._error(frame, obs)
        return c.reconstruction_weight * (error + 2 * c.kl_weight / pixels * divergence)

    def _unlikeness(self, part: SelfPrediction, latents: Tensor, following: Following) -> Tensor:
        """Return 1 - cosine of predicted and true projection, summed over the steps: [M].

        Equations 1 to 4 of the paper, whose loss has no 1: it is 0 for a perfect prediction here.
        """
        assert self.momentum is not None
        with torch.no_grad():
            momentum = self.momentum.network
            true = _projected(momentum, momentum.latents(following.obs))  # [R, units]
            true = F.normalize(true, dim=1)
        predicted = []
        for action in following.action:
            latents = part.next(latents, action)
            predicted.append(latents)
        guess = part.predictor(_projected(self._network, torch.cat(predicted)))  # [K * M, units]
        guess = F.normalize(guess, dim=1).unflatten(0, following.place.shape)
        cosine = (guess * true[following.place]).sum(2)  # [K, M]
        return ((1 - cosine) * following.reached).sum(0)

    def _surprise(self, part: InverseModel, latents: Tensor, following: Following) -> Tensor:
        """Return the cross-entropy of the action, or half its squared error: [M]."""
        after = self._network.latents(following.obs)[following.place[0]]
        out, action = part(latents, after), following.action[0]
        if self._actions.continuous:
            loss = 0.5 * (out - action).square().sum(1)
        else:
            choices = action if action.ndim > 1 else action.unsqueeze(1)  # [M, K]
            parts = zip(out.split(self._actions.sizes, 1), choices.unbind(1), strict=True)
            loss = torch.stack([F.cross_entropy(o, a, reduction="none") for o, a in parts]).sum(0)
        return loss * following.reached[0]

    def state_dict(self) -> dict[str, Any]:
        """Return the momentum encoder's weights and the state of the noise."""
        momentum = {} if self.momentum is None else self.momentum.network.state_dict()
        noise = {} if self._noise is None else {"noise": self._noise.get_state()}
        return {"momentum": dict(momentum), **noise}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        if self.momentum is not None:
            self.momentum.network.load_state_dict(state["momentum"])
        if self._noise is not None:
            restore_generator(self._noise, state["noise"])


def _projected(network: Network[Any], latents: Tensor) -> Tensor:
    """Return SPR's projection [N, units] of latents [N, dim], before an activation."""
    encoder, part = network.encoder, network.auxiliary
    if isinstance(encoder, ProjectedEncoder):
        return encoder.layer(latents)
    assert isinstance(part, SelfPrediction)
    assert part.projection is not None
    return part.projection(latents)


def make_auxiliary(
    config: AuxiliaryFields,
    network: Network[Any],
    env: EnvLike,
    rows: int,
    device: torch.device,
    seed: int,
) -> Auxiliary | None:
    """Return the auxiliary loss that the config chooses, if it chooses one."""
    if network.auxiliary is None:
        return None
    return Auxiliary(config, network, env, rows=rows, device=device, seed=seed)


def auxiliary_network(
    config: AuxiliaryFields, encoder: nn.Module, env: EnvLike
) -> AuxiliaryNetwork | None:
    """Return the part of a network that its auxiliary loss trains; None without one.

    Raises:
        ConfigError: the loss does not suit the env.
    """
    c, latents, space = config, latent_shape(encoder), env.observation_space
    match c.auxiliary:
        case "none":
            return None
        case "reconstruction":
            return Reconstruction(latents, NewestFrame(encoder, space, env.stack).shape)
        case "variational":
            frame = NewestFrame(encoder, space, env.stack).shape
            return Variational(latents, frame, c.code_units)
        case "spr":
            shared = encoder.layer.out_features if isinstance(encoder, ProjectedEncoder) else 0
            inner = encoder.encoder if isinstance(encoder, ProjectedEncoder) else encoder
            return SelfPrediction(
                latents,
                ActionKind(env.action_space),
                c.spr_units,
                shared=shared,
                renormalise=isinstance(inner, RenormalisedEncoder),
            )
        case "inverse":
            return InverseModel(latents, ActionKind(env.action_space))
