"""Small changes of what an agent observes, to measure how robust it is.

`fgsm` is the fast gradient sign method of Goodfellow et al. 2014, https://arxiv.org/abs/1412.6572,
on policies as in Huang et al. 2017, https://arxiv.org/abs/1702.02284. With the cross entropy L of
the greedy action under the softmax of the agent's values or logits, the agent observes

x' = clip(x + size * unit * sign(dL/dx)).

`noise` adds a pattern and `shift` moves the picture; each is drawn once for each game, from a
generator that is seeded by the game, and stays until its end.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ludus.agents.agent import HasNetwork, Player
from ludus.envs.action_mask import mask_size, random_actions
from ludus.envs.board.spiel import is_game
from ludus.envs.dict_observation import PackedDict
from ludus.envs.errors import ConfigError
from ludus.envs.make import EnvOptions, make
from ludus.envs.vector import VectorEnv
from ludus.networks.policies import PolicyOut

PerturbationKind = Literal["fgsm", "noise", "shift"]
RANDOM_STEPS = 2_000  # of random play, whose standard deviations are the unit of vectors
_LARGEST = 1_000_000  # size; far above any that makes sense, and below an overflow
_PRINTED = 8  # at most so many numbers of a unit are printed
_RANDOM_ENVS, _RANDOM_SEED = 8, 1 << 41  # beyond the seeds of trainings and evaluations


class Perturbation(NamedTuple):
    """A kind of change and its size."""

    kind: PerturbationKind
    size: float  # see `perturber`

    def __str__(self) -> str:
        """Return it as a user writes it."""
        return f"{self.kind}:{self.size:.12g}"


class Perturber(Protocol):
    """Changes the observations of B games that are played together."""

    def __call__(
        self, obs: np.ndarray, state: Any, first: np.ndarray, seeds: np.ndarray
    ) -> np.ndarray:
        """Return changed observations [B, *obs] of the same dtype.

        Args:
            obs: [B, *obs].
            state: the agent's before them; None at the start.
            first: [B] bool, the observation begins a game.
            seeds: [B] of the games.
        """


class Frame(NamedTuple):
    """One frame of an env's observations: all of an observation without a stack."""

    space: spaces.Box  # [*frame]
    action_space: spaces.Space[Any]
    unit: np.ndarray | None  # [*frame] float32, of a size of 1; None for the observation's own

    @property
    def picture(self) -> bool:
        """Whether it is a picture [C, H, W]."""
        return len(self.space.shape) == 3

    @property
    def whole(self) -> bool:
        """Whether it has whole numbers."""
        return self.space.dtype == np.uint8

    @property
    def binary(self) -> bool:
        """Whether all its cells are 0 or 1, as MinAtar's."""
        return self.whole and not self.space.low.any() and bool((self.space.high == 1).all())


def parse_perturbation(text: str) -> Perturbation:
    """Parse `fgsm:2`.

    Raises:
        ConfigError: there is no such kind, or the size is no number from 0 to a million.
    """
    kind, _, number = text.strip().partition(":")
    if kind not in get_args(PerturbationKind):
        raise ConfigError(
            f"there is no perturbation {text!r}; use fgsm:SIZE, noise:SIZE or shift:PIXELS"
        )
    try:
        size = float(number)
    except ValueError:
        size = -1.0
    if not 0 <= size <= _LARGEST:
        raise ConfigError(
            f"the size of {text} is no number from 0 to {_LARGEST:,}; write it as {kind}:2"
        )
    return Perturbation(kind, size)  # type: ignore[arg-type]  # checked above


def parse_perturbations(text: str) -> list[Perturbation]:
    """Parse `fgsm:2,noise:4`; see `parse_perturbation`."""
    return list(dict.fromkeys(parse_perturbation(part) for part in text.split(",")))


def perturbed_frame(env_id: str, options: EnvOptions) -> Frame:
    """Return what perturbations of an env's observations depend on.

    The numbers of a vector have different units, so a size of 1 stands for the standard deviation
    of each in 2,000 steps of random actions. That depends neither on the agent, so that agents can
    be compared, nor on the games that it plays.

    Raises:
        ConfigError: the env is a board game, or its observations have no small changes.
    """
    if is_game(env_id):
        raise ConfigError(f"{env_id} is a board game, whose positions are not perturbed")
    env = make(env_id, _RANDOM_ENVS, _RANDOM_SEED, replace(options, stack=1))
    try:
        space = env.observation_space
        source = space if env.adaptation is None else env.adaptation.source
        if isinstance(space, PackedDict):
            raise ConfigError(f"{env_id} shows dictionaries, which are not perturbed")
        if not isinstance(source, spaces.Box):
            raise ConfigError(f"{env_id} shows {source}, which has no small changes to perturb")
        vector = len(space.shape) != 3 and space.dtype == np.float32
        return Frame(space, env.action_space, _deviation(env) if vector else None)
    finally:
        env.close()


def _deviation(env: VectorEnv) -> np.ndarray:
    """Return the standard deviation [*frame] of each number in steps of random actions."""
    generator, row = np.random.default_rng(0), env.reset()
    seen = [row.obs]
    while len(seen) * env.num_envs < RANDOM_STEPS:
        env.send(random_actions(env.action_space, env.num_envs, generator))
        seen.append(env.recv().obs)
    return np.concatenate(seen).std(axis=0, dtype=np.float64).astype(np.float32)


def describe_sizes(frame: Frame) -> str:
    """Return a sentence on what the sizes of `fgsm` and `noise` count, see `perturber`."""
    if frame.binary:
        return "sizes are numbers of cells that are switched in each frame, and of shifts pixels"
    if frame.unit is None:
        low, high = frame.space.low.min(), frame.space.high.max()
        return f"sizes are in units of the observation ({low:g} to {high:g}), and of shifts pixels"
    numbers = [f"{each:.3g}" for each in frame.unit.reshape(-1)]
    shown = ", ".join([*numbers[:_PRINTED], *["..."][: len(numbers) > _PRINTED]])
    return f"a size of 1 is the deviation of each number in {RANDOM_STEPS:,} random steps: {shown}"


def perturber(perturbation: Perturbation, player: Player, frame: Frame) -> Perturber:
    """Return the function that changes a player's observations.

    The size bounds the change of each number, in units of the observation (grey levels of 255) or,
    for vectors, in `Frame.unit`. Of binary planes it is the number of cells of each frame that are
    switched, and of a shift the number of pixels.

    Raises:
        ConfigError: the size or the kind does not suit the observations, or `fgsm` the agent.
    """
    size = perturbation.size
    if (frame.whole or perturbation.kind == "shift") and size % 1:
        of = "shifts are by" if perturbation.kind == "shift" else "these observations have"
        write = f"{perturbation.kind}:{max(1, int(size))}"
        raise ConfigError(
            f"the size of {perturbation} is {size:g}, and {of} whole numbers; write {write}"
        )
    match perturbation.kind:
        case "noise":
            return StickyNoise(size, frame)
        case "shift":
            if not frame.picture or size >= min(frame.space.shape[1:]):
                raise ConfigError(
                    f"{perturbation} is for pictures with sides of more than {size:g} pixels; "
                    f"these observations have shape {list(frame.space.shape)}"
                )
            return Shift(int(size), frame)
        case "fgsm":
            return GradientSign(size, player, frame)


class _PerGame:
    """One array for each env, drawn anew where a game begins."""

    def __init__(self, draw: Callable[[np.random.Generator], np.ndarray]) -> None:
        self._draw, self._drawn = draw, dict[int, np.ndarray]()

    def __call__(self, first: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Return the arrays [B, ...]; see `Perturber`."""
        for i in np.flatnonzero(first):
            self._drawn[int(i)] = self._draw(np.random.default_rng([int(seeds[i]), 5]))
        return np.stack([self._drawn[i] for i in range(len(first))])


class StickyNoise:
    """Adds a pattern to each frame, uniform in [-size, size] and the same for a whole game.

    Binary planes have `size` defective cells instead, which are switched.
    """

    def __init__(self, size: float, frame: Frame) -> None:
        self._size, self._frame = size, frame
        self._patterns = _PerGame(self._draw)

    def __call__(
        self, obs: np.ndarray, state: Any, first: np.ndarray, seeds: np.ndarray
    ) -> np.ndarray:
        """Add the patterns of the games; see `Perturber`."""
        pattern = self._patterns(first, seeds)[:, None]  # [B, 1, *frame], alike in all frames
        frames = _frames(obs, self._frame)
        changed = frames ^ pattern if self._frame.binary else _moved(frames, pattern, self._frame)
        return changed.reshape(obs.shape)

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        """Return the pattern of one game, [*frame]."""
        shape = self._frame.space.shape
        if self._frame.binary:
            cells = np.zeros(shape, np.uint8)
            cells.reshape(-1)[generator.permutation(cells.size)[: int(self._size)]] = 1
            return cells
        if self._frame.whole:
            return generator.integers(-int(self._size), int(self._size) + 1, shape)
        return _in_units(self._size * generator.uniform(-1, 1, shape), self._frame)


class Shift:
    """Moves the picture by up to `size` pixels along each axis, the same for a whole game.

    The pixels at the edges are repeated beyond them.
    """

    def __init__(self, size: int, frame: Frame) -> None:
        self._frame = frame
        self._offsets = _PerGame(lambda generator: generator.integers(-size, size + 1, 2))

    def __call__(
        self, obs: np.ndarray, state: Any, first: np.ndarray, seeds: np.ndarray
    ) -> np.ndarray:
        """Move the pictures, all frames of a stack alike; see `Perturber`."""
        height, width = obs.shape[2:]
        offsets = self._offsets(first, seeds)  # [B, 2] down and to the right
        rows = np.clip(np.arange(height) - offsets[:, :1], 0, height - 1)  # [B, H]
        columns = np.clip(np.arange(width) - offsets[:, 1:], 0, width - 1)  # [B, W]
        moved = np.take_along_axis(obs, rows[:, None, :, None], axis=2)
        return np.take_along_axis(moved, columns[:, None, None, :], axis=3)


class GradientSign:
    """Changes each number of the observation by up to `size`, against the agent's greedy action.

    All frames of a stack are changed. The gradient is that of one step, with the agent's present
    state. Of binary planes, those `size` cells of each frame are switched whose switching raises
    the cross entropy most by its gradient (the attack of Huang et al. in the L1 norm).

    Raises:
        ConfigError: the agent has no network of Ludus, or no two discrete actions.
    """

    def __init__(self, size: float, player: Player, frame: Frame) -> None:
        if not isinstance(player, HasNetwork):
            raise ConfigError(
                "fgsm follows the gradient of a network of Ludus, which this agent does not have; "
                "use noise or shift"
            )
        space = frame.action_space
        if mask_size(space) < 2:
            raise ConfigError(
                f"fgsm needs two discrete actions or more; the env has {space}; use noise or shift"
            )
        self._choices = [mask_size(space)]
        if isinstance(space, spaces.MultiDiscrete):
            self._choices = [int(n) for n in space.nvec]
        self._size, self._network, self._frame = size, player.network, frame

    def __call__(
        self, obs: np.ndarray, state: Any, first: np.ndarray, seeds: np.ndarray
    ) -> np.ndarray:
        """Take one step of the method; see `Perturber`."""
        frame = self._frame
        frames, gradient = (_frames(x, frame) for x in (obs, self._gradient(obs, state, first)))
        if frame.binary:
            gain = np.where(frames == 0, gradient, -gradient)  # of switching a cell
            cells = _largest(gain.reshape(*gain.shape[:2], -1), int(self._size))
            changed = frames ^ cells.reshape(frames.shape)
        else:
            changed = _moved(frames, _in_units(self._size * np.sign(gradient), frame), frame)
        return changed.reshape(obs.shape)

    def _gradient(self, obs: np.ndarray, state: Any, first: np.ndarray) -> np.ndarray:
        """Return the gradient [B, *obs] of `against_greedy`."""
        network = self._network
        device = next(network.parameters()).device
        state = network.initial_state(len(obs)) if state is None else state
        try:
            with torch.enable_grad():
                x = torch.from_numpy(obs).to(device, torch.float32).requires_grad_()
                resets = torch.from_numpy(first).to(device)
                out, _ = network(x.unsqueeze(0), state, resets.unsqueeze(0))  # [T = 1, B, ...]
                scores = out.logits if isinstance(out, PolicyOut) else out.q
                (gradient,) = torch.autograd.grad(against_greedy(scores, self._choices).sum(), x)
        except (RuntimeError, TypeError) as error:  # of a user's own network
            text = " ".join(str(error).split())
            raise ConfigError(
                f"the network has no gradient with respect to its observations: {text}; use noise "
                "or shift"
            ) from error
        return gradient.cpu().numpy()


def against_greedy(scores: Tensor, choices: list[int]) -> Tensor:
    """Return the log-odds against the greedy action, [...], of scores [..., P].

    With the probability p of the greedy action under the softmax, log((1 - p) / p) rises with the
    cross entropy -log(p), so their gradients have the same sign. That of the cross entropy is 0 in
    float32 where p rounds to 1; that of the log-odds never is. Several choices are summed.

    Args:
        scores: values or logits of the actions of all choices.
        choices: number of actions of each choice; the sum is P.
    """
    total = torch.zeros_like(scores[..., 0])
    for part in scores.split(choices, dim=-1):
        if part.shape[-1] > 1:
            best = part.argmax(-1, keepdim=True)
            others = part.scatter(-1, best, -torch.inf)
            total = total + others.logsumexp(-1) - part.gather(-1, best).squeeze(-1)
    return total


def _frames(x: np.ndarray, frame: Frame) -> np.ndarray:
    """Split observations [B, *obs] into frames [B, K, *frame]."""
    return x.reshape(len(x), -1, *frame.space.shape)


def _in_units(change: np.ndarray, frame: Frame) -> np.ndarray:
    """Return a change [..., *frame] in units of the observation."""
    return change if frame.unit is None else change * frame.unit


def _moved(frames: np.ndarray, change: np.ndarray, frame: Frame) -> np.ndarray:
    """Add a change to frames [B, K, *frame] within the bounds of the space.

    Envs may exceed their bounds by rounding: what is beyond one is not moved back.
    """
    low, high = np.minimum(frame.space.low, frames), np.maximum(frame.space.high, frames)
    return np.clip(frames + change.astype(np.float32), low, high).astype(frames.dtype)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return 1 for the `count` largest of values [..., N] if they are positive, else 0, uint8."""
    marked = np.zeros(values.shape, np.uint8)
    order = np.argsort(-values, axis=-1, kind="stable")[..., :count]
    np.put_along_axis(marked, order, 1, axis=-1)
    return marked * (values > 0)
