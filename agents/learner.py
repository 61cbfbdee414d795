"""Everything that learning agents have in common: prediction, weights, updates, metrics, state.

An agent holds a `Learner` and implements `Algorithm`; there is no base class.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import Advice, Algorithm, Observation
from ludus.agents.auxiliary import Auxiliary
from ludus.agents.memory.priority import Priorities
from ludus.agents.observation_batch import as_batch
from ludus.agents.optimizer import decay_factors, make_optimizer
from ludus.agents.overlap import Overlap
from ludus.agents.preset import AnyOptimizerName
from ludus.agents.ranks import ALONE, Ranks
from ludus.agents.sampling_policy import SamplingPolicy
from ludus.agents.seeding import restore_generator
from ludus.agents.value_policy import ValuePolicy
from ludus.networks.network import Network, TargetNetwork, flat_gradient


class Learner:
    """The half of an agent that all agents have in common.

    Args:
        agent: the other half.
        network: the online network.
        flat: its parameters [size], see `flatten_parameters`.
        space: of one observation.
        metrics: names of the first output of `agent.gradients`; `auxiliary_loss`, if there is one,
            and `grad_norm` come after them.
        learning_rate: a number, or a scalar tensor that the agent changes over the training.
        optimizer: name of the optimizer.
        eps: of the optimizer.
        momentum: of the optimizer.
        weight_decay: of adamw; its learning rate must be a number.
        max_grad_norm: gradients are scaled down to this L2 norm; 0 for no limit.
        actor: acts in the training; None for an agent that acts in another way.
        target: follows the online network; None without one.
        acts_by_target: the actor acts by the target.
        overlap: runs the updates in another thread; None where the caller waits for them.
        priorities: updated after each optimizer step; None for uniform replay.
        auxiliary: whose loss is part of the agent's; None without one.
        frozen_encoder: keep the encoder's weights as they are.
        schedules: returns the current value of each schedule but the learning rate, for the log.
    """

    def __init__(
        self,
        agent: Algorithm,
        network: Network[Any],
        flat: Tensor,
        space: spaces.Box,
        *,
        metrics: Sequence[str],
        learning_rate: float | Tensor,
        optimizer: AnyOptimizerName = "adam",
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
        actor: ValuePolicy | SamplingPolicy | None = None,
        target: TargetNetwork[Any] | None = None,
        acts_by_target: bool = False,
        overlap: Overlap[Any] | None = None,
        priorities: Priorities | None = None,
        auxiliary: Auxiliary | None = None,
        frozen_encoder: bool = False,
        schedules: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.agent, self.network, self.actor, self._space = agent, network, actor, space
        self._target, self._overlap, self._priorities = target, overlap, priorities
        self._auxiliary = auxiliary
        if auxiliary is not None:
            auxiliary.attach(flat)
        predicted = None if auxiliary is None else auxiliary.momentum
        # Copies of the network that follow it: the target, and the encoder of SPR's targets.
        self.followers = [each for each in (target, predicted) if each is not None]
        self.flat = flat
        # The network that acts, and its parameters [size].
        self.acting: tuple[Network[Any], Tensor] = network, flat
        if acts_by_target and target is not None:
            self.acting = target.network, target.flat
        frozen = list(network.encoder.parameters()) if frozen_encoder else []
        self._parameters = list(network.parameters())[len(frozen) :]  # the encoder's come first
        self.trained = self.flat[sum(p.numel() for p in frozen) :]  # [size]
        rate, decay = float(learning_rate), None
        if weight_decay:
            decay = decay_factors(self._parameters, rate * weight_decay)
        self.optimizer = make_optimizer(optimizer, self.trained, rate, eps, momentum, decay)
        if isinstance(learning_rate, Tensor):  # a captured update reads the tensor
            self.optimizer.param_groups[0]["lr"] = learning_rate
        self._max_grad_norm, self._schedules = max_grad_norm, schedules
        further = () if auxiliary is None else ("auxiliary_loss",)
        self.metric_names = (*metrics, *further, "grad_norm")
        self.sums = torch.zeros(len(self.metric_names), device=self.flat.device)
        self.summed = 0  # updates in `sums`
        # Taken from there since the last call of `metrics`: sums, number of updates, learning rate.
        self._taken: tuple[Sequence[float], int, float] = (), 0, float(learning_rate)
        # Those that learn with this one, in the thread that learns and in that which adds rows.
        self.ranks = self.row_ranks = ALONE
        # `capture` replaces these by faster functions with the same results.
        self.gradients: Callable[..., Sequence[Tensor]] = agent.gradients
        self.clipped_gradients: Callable[..., Sequence[Tensor]] = self._clipped_gradients
        self.apply: Callable[..., None] = self._apply
        self.step: Callable[..., None] = self._step

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return actions and the next state, with Stable-Baselines3's signature.

        Args:
            observation: one observation, a batch, or a dictionary of either.
            state: returned by the previous call; None at the start.
            episode_start: [B] bool, resets the state.
            deterministic: act greedily, without the evaluation epsilon or sampling.
        """
        self.finish()
        obs, first, single = as_batch(observation, episode_start, self._space)
        state = self.agent.initial_state(len(obs)) if state is None else state
        actions, state = self.agent.choose(obs, state, first, deterministic=deterministic)
        return (actions[0] if single else actions), state

    def advise(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
    ) -> tuple[Advice, Any]:
        """Return the agent's assessment of its actions, and the next state."""
        self.finish()
        obs, first, _ = as_batch(observation, episode_start, self._space)
        state = self.agent.initial_state(len(obs)) if state is None else state
        return self.agent.advice(obs, state, first)

    def gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient of a loss [size]."""
        device = self.flat.device.type
        # The backward pass has the precision of the forward pass, layer by layer, on its own.
        mixed = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else None
        with mixed or nullcontext():
            gradients = torch.autograd.grad(loss, self._parameters)
        return flat_gradient(gradients, self._parameters)

    def update(self, *randomness: Tensor) -> None:
        """Do one optimizer step and count it."""
        if self._auxiliary is None:
            self.step(*randomness)
        else:
            self.step(*randomness, *self._auxiliary.randomness())
            self._auxiliary.follow()
        self.summed += 1
        if self._overlap is None:
            self.agent.updates += 1

    def example(self) -> Sequence[Tensor]:
        """Return fixed arguments for `gradients`, of the shapes that it always gets."""
        further = () if self._auxiliary is None else self._auxiliary.example()
        return *self.agent.example(), *further

    def finish(self) -> None:
        """Wait for the updates that run in another thread, and count them."""
        if self._overlap is not None:
            self._overlap.finish()
            self.agent.updates += self.summed
            self._take_sums()

    def _take_sums(self) -> None:
        """Add the metrics of the latest updates to those since the last call of `metrics`."""
        sums, count, _ = self._taken
        rate = float(self.optimizer.param_groups[0]["lr"])
        if self.summed:
            latest = self.sums.tolist()
            sums = [a + b for a, b in zip(sums, latest, strict=True)] if count else latest
            count += self.summed
            self.sums.zero_()
            self.summed = 0
        self._taken = sums, count, rate

    def join(self, ranks: Ranks, row_ranks: Ranks) -> None:
        """Learn together with other ranks, from the weights of rank 0."""
        self.ranks, self.row_ranks = ranks, row_ranks
        for tensor in (self.flat, *self.network.buffers()):
            ranks.copy_from_first(tensor)
        for follower in self.followers:
            follower.update(1.0)
        if self._overlap is not None:
            self._overlap.take_over()

    def restart(self) -> None:
        """Begin anew with weights that were replaced: those of rank 0, and no moments."""
        for flat in (self.flat, *(follower.flat for follower in self.followers)):
            self.ranks.copy_from_first(flat)
        for moment in self.optimizer.state[self.trained].values():
            moment.zero_()

    def agree(self, condition: bool) -> bool:
        """Return whether a condition holds on all ranks."""
        return condition if self.ranks.size == 1 else self.ranks.all(condition)

    def _step(self, *randomness: Tensor) -> None:
        """Do one optimizer step; changes only the tensors in `changes`."""
        self.network.power_iteration()
        self.apply(*self.clipped_gradients(*randomness))

    def _clipped_gradients(self, *randomness: Tensor) -> Sequence[Tensor]:
        """Return the norm of the gradient, and what `joint_gradients` does; pure if alone."""
        metrics, gradient, *replayed = self.joint_gradients(*randomness)
        norm = clip_norm(gradient, self._max_grad_norm)
        return norm, metrics, gradient, *replayed

    def joint_gradients(self, *randomness: Tensor) -> Sequence[Tensor]:
        """Return what `gradients` returns, for the batches of all ranks as one."""
        results = self.gradients(*randomness)
        if self.ranks.size == 1:
            return results
        metrics, gradient, *replayed = results
        if self._priorities is not None:  # importance weights have one maximum for all ranks
            largest = replayed[-1]
            scale = (largest / self.ranks.largest(largest)).to(gradient.dtype)
            metrics[0] *= scale  # the loss
            gradient = gradient * scale
        mean = self.ranks.mean(torch.cat([metrics, gradient]))
        return mean[: len(metrics)], mean[len(metrics) :], *replayed

    def _apply(self, norm: Tensor, metrics: Tensor, gradient: Tensor, *replayed: Tensor) -> None:
        """Take a step with a gradient, and set the priorities of a replayed batch."""
        take_step(self.optimizer, self.trained, gradient)
        if self._priorities is not None:
            index, priority, _ = replayed
            self._priorities.update(index, priority)
        torch._foreach_add_([self.sums[:-1], self.sums[-1]], [metrics, norm])  # one kernel

    def changes(self) -> list[Tensor]:
        """Return every tensor that `step` changes."""
        priorities = [] if self._priorities is None else self._priorities.tensors().values()
        moments = self.optimizer.state[self.trained].values()
        return [self.flat, *self.network.buffers(), *moments, *priorities, self.sums]

    def metrics(self) -> dict[str, float]:
        """Return the schedules, and the means of the metrics since the last call.

        Updates that run in another thread are part of a later call.
        """
        if self._overlap is None:
            self._take_sums()
        sums, count, rate = self._taken
        self._taken = (), 0, rate
        values = {"learning_rate": rate} | self._schedules()
        if count:
            values |= {name: x / count for name, x in zip(self.metric_names, sums, strict=True)}
        return values

    def weights(self) -> dict[str, Tensor]:
        """Return the parameters and buffers of the network that acts by name."""
        self.finish()
        return dict(self.acting[0].state_dict())

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load tensors returned by `weights`."""
        self.finish()
        self.network.load_state_dict(weights)
        if self._target is not None and self.acting[0] is not self.network:
            self._target.update(1.0)
        if self._overlap is not None:
            self._overlap.take_over()

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Load the weights of another training, into the target network too."""
        self.load_weights(weights)
        for follower in self.followers:
            follower.update(1.0)

    def _parts(self) -> dict[str, Any]:
        target = {} if self._target is None else {"target": self._target.network}
        auxiliary = {} if self._auxiliary is None else {"auxiliary": self._auxiliary}
        return {"network": self.network, **target, **auxiliary, **self.agent.parts()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on."""
        self.finish()
        return {
            "env_steps": self.agent.env_steps,
            "updates": self.agent.updates,
            "optimizer": dict(self.optimizer.state[self.trained]),
            **{name: _state_of(part) for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict`."""
        self.finish()
        for name, moment in self.optimizer.state[self.trained].items():
            moment.copy_(state["optimizer"][name])
        for name, part in self._parts().items():
            _load(part, state[name])
        self.agent.env_steps, self.agent.updates = state["env_steps"], state["updates"]


def _state_of(part: Any) -> Any:
    match part:
        case Tensor() | np.ndarray():
            return part
        case torch.Generator():
            return part.get_state()
        case np.random.Generator():
            return part.bit_generator.state
        case _:
            return dict(part.state_dict())


def _load(part: Any, saved: Any) -> None:
    match part:
        case Tensor():
            part.copy_(saved)
        case np.ndarray():
            part[...] = saved
        case torch.Generator():
            restore_generator(part, saved)
        case np.random.Generator():
            part.bit_generator.state = saved
        case _:
            part.load_state_dict(saved)


@torch.no_grad()
def take_step(optimizer: torch.optim.Optimizer, flat: Tensor, gradient: Tensor) -> None:
    """Do one step of an optimizer from `make_optimizer`; never synchronises with a GPU.

    On a CPU, Adam's fused operation is called directly: the Python around it took 140 of the 450
    microseconds of a small network's update.

    Args:
        optimizer: of `flat`.
        flat: parameters, [size].
        gradient: [size].
    """
    decay = optimizer.param_groups[0]["decay"]
    if decay is not None:
        flat.mul_(decay)
    if flat.is_cuda or not isinstance(optimizer, torch.optim.Adam):
        flat.grad = gradient
        optimizer.step()
        return
    group, state = optimizer.param_groups[0], optimizer.state[flat]
    state["step"].add_(1)
    torch._fused_adam_(
        [flat],
        [gradient],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=0.0,
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def clip_norm(gradient: Tensor, limit: float) -> Tensor:
    """Scale the gradient [size] down in place to an L2 norm of `limit` (0: none).

    Returns:
        The norm before.
    """
    norm = torch.linalg.vector_norm(gradient)
    if limit:  # else a pass over all weights that changes nothing
        gradient.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def linear(start: float, end: float, duration: float, step: float) -> float:
    """Interpolate from `start` at step 0 to `end` at step `duration`; constant afterwards."""
    if step >= duration:
        return end
    return start + (end - start) * step / duration


def exponential(start: float, end: float, duration: float, step: float) -> float:
    """Approach `end` from `start`; the distance falls by a factor of e every `duration` steps."""
    return end + (start - end) * math.exp(-step / duration) if duration else end


class UpdateSchedule:
    """Updates in proportion to env steps: floor(replay_ratio * steps since learning_starts).

    Args:
        replay_ratio: updates per env step; kept exactly, whatever the number of envs.
        learning_starts: env steps before the first update.
    """

    def __init__(self, replay_ratio: float, learning_starts: int) -> None:
        self._ratio, self._starts = Fraction(str(replay_ratio)), learning_starts

    def due(self, env_steps: int, updates: int) -> int:
        """Return how many updates are due after `env_steps`, of which `updates` were done."""
        return max(0, int(self._ratio * max(0, env_steps - self._starts)) - updates)
