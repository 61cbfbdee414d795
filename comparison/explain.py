"""What a trained network has learned: its features, filters and units, and tests of its maps."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from ludus.comparison.explain_reconstruction import Reconstructed, reconstruct
from ludus.envs.board.spiel import is_game
from ludus.envs.make import make
from ludus.evaluation.evaluate import torch_settings
from ludus.evaluation.feature_map import (
    Components,
    ExcitingStates,
    Neighbours,
    exciting_states,
    nearest_states,
    principal_components,
    umap_points,
)
from ludus.evaluation.first_layer import FirstLayer, first_layers
from ludus.evaluation.occlusion import Occlusion, has_planes, occlude
from ludus.evaluation.played_states import (
    Explainable,
    PlayedStates,
    play_states,
    require_explainable,
    steps_of_states,
)
from ludus.evaluation.randomisation import (
    Randomisable,
    SaliencyCheck,
    check_saliency,
    maps_of_check,
)
from ludus.evaluation.reconstruction import FrameDecoder, has_decoder
from ludus.evaluation.saliency import NetworkInspector, Saliency
from ludus.networks.auxiliary import Variational
from ludus.training.progress import Show
from ludus.training.train import LoadedAgent

APART = 20  # env steps of a game within which two states count as the same
_NEIGHBOURS = 6
_UNITS, _FRAMES_OF_UNIT = 16, 6
_OCCLUDED, _SHOWN_POSITIONS = 400, 12
_FEWEST_PIECES = 3  # of a position that is shown
_CHECKED: dict[Saliency, int] = {"gradient": 200, "perturbation": 60}  # states; it is slower
_EXAMPLES = 4
_BOARD_EPSILON = 0.25  # without random moves an agent plays one game again and again

Task = Callable[[str, int, str], AbstractContextManager[Show]]


@dataclass(frozen=True)
class OccludedPositions:
    """What the pieces of some positions are worth to the network."""

    occlusion: Occlusion  # of all positions
    shown: np.ndarray  # indices into them, those that are shown
    states: np.ndarray  # [N] indices of the positions among the states


@dataclass(frozen=True)
class Explanation:
    """What a page shows of a network."""

    states: PlayedStates
    components: Components
    umap: np.ndarray | None  # [N, 2]; None if UMAP is not installed
    neighbours: Neighbours
    units: list[ExcitingStates]
    layers: list[FirstLayer]
    occluded: OccludedPositions | None  # of a board game whose squares are a grid
    reconstructed: Reconstructed | None  # of a network with a decoder
    checks: list[SaliencyCheck]  # empty if observations are no images
    checked: list[np.ndarray]  # of each check, the indices of its states
    asked: int  # states that were asked for
    epsilon: float
    every: int
    recurrent: bool


def explain(
    loaded: LoadedAgent,
    *,
    count: int,
    every: int | None,
    seed: int,
    epsilon: float | None,
    task: Task,
) -> Explanation:
    """Play held-out games and examine the network on their states.

    Args:
        loaded: the agent and its configuration.
        count: states, at most.
        every: env steps of a game between two states; None for 1 in board games, else 4.
        seed: of the games, of UMAP and of the randomised networks.
        epsilon: probability of a random action; None for 0.25 in board games, else 0.
        task: shows the progress.

    Raises:
        RunError: the agent has no network of Ludus.
    """
    config, board = loaded.config, is_game(loaded.config.env)
    agent = require_explainable(loaded.agent, config.agent)
    every = (1 if board else 4) if every is None else every
    epsilon = (_BOARD_EPSILON if board else 0.0) if epsilon is None else epsilon
    with task("games", steps_of_states(count, every), "steps") as show:
        states = play_states(
            agent,
            config.env,
            config.options,
            count=count,
            every=every,
            seed=seed,
            epsilon=epsilon,
            on_step=lambda steps: show(steps, ""),
        )
    env = make(config.env, 1, 0, config.options)
    space, stack = env.observation_space, env.stack
    env.close()
    with torch_settings(env, agent):
        checks, checked = _check(agent, space, states, seed, task)
        occluded = _occlude(agent, space, states) if has_planes(space) else None
        reconstructed = _reconstruct(agent, space, stack, states) if has_decoder(agent) else None
    features, game, step = states.features, states.game, states.step
    with task("map of the features", 1, "maps"):
        points = umap_points(features, seed)
    return Explanation(
        states=states,
        components=principal_components(features),
        umap=points,
        neighbours=nearest_states(features, game, step, count=_NEIGHBOURS, apart=APART),
        units=exciting_states(
            features, game, step, units=_UNITS, count=_FRAMES_OF_UNIT, apart=APART
        ),
        layers=first_layers(agent.network.encoder),
        occluded=occluded,
        reconstructed=reconstructed,
        checks=checks,
        checked=checked,
        asked=count,
        epsilon=epsilon,
        every=every,
        recurrent=bool(agent.network.initial_state(1)),
    )


def spread(total: int, count: int) -> np.ndarray:
    """Return at most `count` indices below `total`, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


def _check(
    agent: Explainable, space: spaces.Box, states: PlayedStates, seed: int, task: Task
) -> tuple[list[SaliencyCheck], list[np.ndarray]]:
    """Test each kind of saliency that suits the agent."""
    checks, checked = list[SaliencyCheck](), list[np.ndarray]()
    assert isinstance(agent, Randomisable)
    for kind in NetworkInspector(agent, space).kinds:
        indices = spread(len(states.obs), _CHECKED[kind])
        with task(f"{kind} saliency", maps_of_check(agent, len(indices)), "maps") as show:

            def on_map(done: int, show: Show = show) -> None:
                show(done, "")

            checks.append(
                check_saliency(
                    agent,
                    space,
                    states.obs[indices],
                    kind=kind,
                    seed=seed,
                    examples=_EXAMPLES,
                    on_map=on_map,
                )
            )
        checked.append(indices)
    return checks, checked


def _reconstruct(
    agent: Explainable, space: spaces.Box, stack: int, states: PlayedStates
) -> Reconstructed:
    return reconstruct(
        FrameDecoder(agent, space, stack),
        states,
        apart=APART,
        variational=isinstance(agent.network.auxiliary, Variational),
    )


def _occlude(agent: Explainable, space: spaces.Box, states: PlayedStates) -> OccludedPositions:
    indices = spread(len(states.obs), _OCCLUDED)
    occlusion = occlude(agent, space, states.obs, indices)
    many = np.flatnonzero(occlusion.occupied.sum((1, 2)) >= _FEWEST_PIECES)
    return OccludedPositions(occlusion, many[spread(len(many), _SHOWN_POSITIONS)], indices)
