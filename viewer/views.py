"""What a playback session displays: an env or a board game that an agent plays, as messages."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ludus.agents.agent import Advisor, AnyAgent, Searching
from ludus.envs.board.positions.read import read_position
from ludus.envs.dict_observation import PackedDict
from ludus.envs.errors import RunError
from ludus.evaluation.feature_map import has_umap
from ludus.evaluation.first_layer import first_layers
from ludus.evaluation.interactive_game import InteractiveGame
from ludus.evaluation.playback import Playback
from ludus.evaluation.played_states import Explainable
from ludus.evaluation.reconstruction import FrameDecoder, has_decoder
from ludus.evaluation.saliency import Saliency
from ludus.training.run import RunConfig
from ludus.training.saved_replay import replayed_states
from ludus.viewer.messages import (
    encode_grey_png,
    encode_png,
    finite_list,
    finite_or_none,
    tile_maps,
)
from ludus.viewer.occluded_board import OccludedBoard
from ludus.viewer.reconstruction import show_reconstruction
from ludus.viewer.similar import SimilarInReplay, SimilarStates

_PERTURBATION_SECONDS = 0.4  # between two maps of perturbation saliency, which is slow
_REPLAYED = 1_000  # states of the saved replay among which similar ones are searched
_RANDOM_OPENING = 2  # random moves at the start of a board game with a seed other than 0


PANELS = (
    "similar",  # the most similar states of the session and of the saved replay
    "reconstruction",  # what the decoder of an auxiliary loss shows
    "features",  # the place of the state on the map of the session's features
    "filters",  # the weights of the first layer
    "units",  # the states of the session that excite some units most
    "occlusion",  # the pieces of a board that the policy looks at
)


class Chosen(NamedTuple):
    """What a frame includes besides the picture and the agent's decision."""

    saliency: str = ""
    """kind of saliency map; "" for none"""
    layer: str = ""
    """layer whose feature maps are shown; "" for none"""
    panels: frozenset[str] = frozenset()
    """of `PANELS`"""
    umap: bool = False
    """the map of features is that of UMAP, not of two principal components"""


class View(Protocol):
    """An agent in a game, as a page shows it."""

    @property
    def speed(self) -> float:
        """Return the steps per second at which a person would play."""

    @property
    def over(self) -> bool:
        """Return whether the game has ended."""

    def description(self) -> dict[str, Any]:
        """Return what a page needs before the first frame."""

    def restart(self, seed: int) -> None:
        """Start the game of this seed."""

    def refresh(self) -> None:
        """Discard what was computed with the agent's previous weights."""

    def step(self) -> None:
        """Take one step."""

    def frame(self, chosen: Chosen) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the head and the images of the current state."""

    def features_map(self, *, now: bool, umap: bool) -> dict[str, Any] | None:
        """Return a map of the states of the session if it is new, see `SimilarStates`."""

    def state_picture(self, number: int) -> bytes | None:
        """Return the picture of a state of that map as PNG; None if it is not remembered."""

    def still(self) -> bytes:
        """Return the picture of the last frame for a film, as PNG."""

    def close(self) -> None:
        """Release resources."""


class EnvView:
    """An agent in any env but a board game, or a person and the agent in two copies of it.

    Args:
        config: of the run.
        agent: plays.
        person: whether a person plays a second env of the same seed, with the action of `pressed`
            in each step.
        checkpoints: folder of the run's, with its replay.
    """

    def __init__(self, config: RunConfig, agent: AnyAgent, person: bool, checkpoints: Path) -> None:
        self._config, self._agent, self._person = config, agent, person
        self._checkpoints = checkpoints
        self._similar: SimilarStates | None = None
        self._panels = [] if person else _panels(agent)
        self._filters: bytes | None = None  # PNG
        self._replayed: SimilarInReplay | None = None
        self._reads_replay = True  # when it is asked for
        self.pressed = 0
        """the person's current action, counted from 0"""
        self._open(0)

    def _open(self, seed: int) -> None:
        c = self._config
        self._seed = seed
        self._playback = Playback(self._agent, c.env, c.options, seed)
        self._person_playback: Playback | None = None
        if self._person:
            self._person_playback = Playback(self._agent, c.env, c.options, seed)
        self._perturbation: tuple[float, bytes] = (-np.inf, b"")  # time and PNG of the last map
        self.speed: float = self._playback.speed

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions; () if they are not discrete."""
        return self._playback.action_names

    def description(self) -> dict[str, Any]:
        """Return the actions, and the saliency maps and layers that can be shown."""
        inspector = self._playback.inspector
        return {
            "board": False,
            "actions": self.actions,
            "saliencies": inspector.kinds,
            "layers": inspector.layers,
            "panels": self._panels,
            "has_umap": has_umap(),
            "person": self._person,
        }

    def restart(self, seed: int) -> None:
        """Start the game of this seed."""
        self.close()
        self._open(seed)

    def refresh(self) -> None:
        """Discard the decision that was made with the previous weights, and their features."""
        self._playback.discard_decision()
        if self._similar is not None:
            self._similar.forget()
        self._replayed, self._reads_replay, self._filters = None, True, None

    @property
    def over(self) -> bool:
        """Return whether the game has ended: the person's, if a person plays."""
        return bool((self._person_playback or self._playback).row.game_over[0])

    def step(self) -> None:
        """Take one step in each game that has not ended."""
        if self._person_playback is not None:
            self._person_playback.step(self.pressed + self._person_playback.first_action)
            if self._playback.row.game_over[0]:
                return
        self._playback.step()

    def frame(self, chosen: Chosen) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the image, the agent's decision, and the requested maps."""
        playback, row = self._playback, self._playback.row
        over = bool(row.game_over[0])
        head: dict[str, Any] = {
            "kind": "frame",
            "step": int(row.episode_length[0]),
            "over": over,
            "reward": finite_or_none(row.reward[0]),
            "return": finite_or_none(row.episode_return[0]),
        }
        picture = playback.picture()
        self._still = encode_png(picture)
        images = {"picture": self._still}
        if self._person_playback is not None:
            person = self._person_playback.row
            head["person"] = {
                "return": finite_or_none(person.episode_return[0]),
                "step": int(person.episode_length[0]),
                "over": bool(person.game_over[0]),
            }
            images["person"] = encode_png(self._person_playback.picture())
        if not over:
            head |= self._decision()
            for kind in playback.inspector.kinds:
                if kind == chosen.saliency:
                    images["heat"] = self._saliency_png(kind)
            if chosen.layer in playback.inspector.layers:
                images["maps"] = encode_grey_png(tile_maps(playback.features(chosen.layer)))
            panels = chosen.panels.intersection(self._panels)
            if "reconstruction" in panels:
                assert has_decoder(self._agent)
                decoder = FrameDecoder(self._agent, playback.observation_space, playback.stack)
                head["reconstruction"], strip = show_reconstruction(decoder, row.obs)
                if strip is not None:
                    images["reconstruction"] = encode_png(strip)
            if panels & {"similar", "features", "units"}:
                self._add_alike(panels, head, images, picture)
            if "filters" in panels:
                images["filters"] = self._filters_picture()
        return head, images

    def _add_alike(
        self,
        panels: frozenset[str],
        head: dict[str, Any],
        images: dict[str, bytes],
        picture: np.ndarray,
    ) -> None:
        """Add the most similar states, and the place on the map of features."""
        assert isinstance(self._agent, Explainable)
        if self._similar is None:
            self._similar = SimilarStates(self._agent, self._playback.observation_space)
        row, advice = self._playback.row, self._playback.decision().advice
        value = np.nan if advice is None else float(advice.value[0])
        found, strip = self._similar.look(
            row.obs, picture, self._seed, int(row.episode_length[0]), value
        )
        if "similar" in panels:
            head["similar_states"] = found
            if strip is not None:
                images["similar"] = encode_png(strip)
            self._add_replayed(self._agent, self._similar.feature, head, images)
        if "features" in panels:
            head["place"] = self._similar.present()
        if "units" in panels:
            head["units"], pictures = self._similar.exciting()
            if pictures is not None:
                images["units"] = encode_png(pictures)

    def _add_replayed(
        self,
        agent: Explainable,
        feature: np.ndarray,
        head: dict[str, Any],
        images: dict[str, bytes],
    ) -> None:
        """Add the states of the saved replay that are most similar to one with features [dim]."""
        space, stack = self._playback.observation_space, self._playback.stack
        if self._reads_replay and not isinstance(space, PackedDict):
            states = replayed_states(self._checkpoints, space, stack, _REPLAYED)
            if states is not None:
                self._replayed = SimilarInReplay(agent, space, stack, states)
        self._reads_replay = False
        if self._replayed is None:
            return
        head["replayed_states"], strip = self._replayed.look(feature)
        if strip is not None:
            images["replayed"] = encode_png(strip)

    def _filters_picture(self) -> bytes:
        """Return the weights of the first layer as PNG, of several the first."""
        assert isinstance(self._agent, Explainable)
        if self._filters is None:
            from ludus.comparison.explain_pictures import weights_picture  # matplotlib takes 1 s

            layers = first_layers(self._agent.network.encoder)
            self._filters = encode_png(weights_picture(layers[0].weight))
        return self._filters

    def features_map(self, *, now: bool, umap: bool) -> dict[str, Any] | None:
        """Return a map of the states of the session if it is new."""
        if self._similar is None:
            return None
        return self._similar.new_umap(now=now) if umap else self._similar.new_map(now=now)

    def state_picture(self, number: int) -> bytes | None:
        """Return the picture of a state of that map; None if it is not remembered."""
        picture = None if self._similar is None else self._similar.picture_of(number)
        return None if picture is None else encode_png(picture)

    def _decision(self) -> dict[str, Any]:
        """Return the action that the agent is about to take, and its estimates."""
        thought = self._playback.decision()
        advice, action = thought.advice, thought.action
        if advice is None:
            return {"action": np.atleast_1d(action).ravel().tolist(), "bars": None, "value": None}
        bars = advice.q if advice.probability is None else advice.probability
        discrete = bool(self.actions)
        return {
            "action": int(action) - self._playback.first_action if discrete else action.tolist(),
            "bars": None if bars is None else finite_list(bars[0]),
            "bars_are": "values" if advice.probability is None else "probabilities",
            "value": finite_or_none(advice.value[0]),
        }

    def _saliency_png(self, kind: Saliency) -> bytes:
        """Return the saliency map as PNG; perturbation is recomputed only a few times a second."""
        if kind != "perturbation":
            return encode_grey_png(self._playback.saliency(kind))
        computed_at, data = self._perturbation
        if time.monotonic() - computed_at >= _PERTURBATION_SECONDS:
            data = encode_grey_png(self._playback.saliency(kind))
            self._perturbation = (time.monotonic(), data)
        return data

    def still(self) -> bytes:
        """Return the picture of the agent's env in the last frame, as PNG."""
        return self._still

    def close(self) -> None:
        """Close the envs."""
        self._playback.close()
        if self._person_playback is not None:
            self._person_playback.close()


class BoardView:
    """An agent that plays both sides of a board game.

    Raises:
        RunError: the agent cannot evaluate moves.
    """

    speed = 1.0

    def __init__(self, config: RunConfig, agent: AnyAgent) -> None:
        self._game = InteractiveGame(require_advisor(agent, config.agent), config.env)
        self._simulations = agent.simulations if isinstance(agent, Searching) else 0
        self._occluded: OccludedBoard | None = None
        if isinstance(agent, Explainable):
            board = OccludedBoard(agent, config.env)
            self._occluded = board if board.available else None

    def description(self) -> dict[str, Any]:
        """Return that this is a board game, and its name."""
        return {
            "board": True,
            "game": self._game.name,
            "actions": (),
            "saliencies": (),
            "layers": (),
            "panels": [] if self._occluded is None else ["occlusion"],
            "simulations": self._simulations,
        }

    def restart(self, seed: int) -> None:
        """Start a game: seed 0 from the initial position, other seeds with a random opening."""
        self._game.replay([])
        generator = np.random.default_rng(seed)
        for _ in range(_RANDOM_OPENING if seed else 0):
            if not self._game.over:
                self._game.play(int(generator.choice(self._game.legal_moves())))

    def refresh(self) -> None:
        """Replay the game with the agent's new weights."""
        self._game.replay([move.action for move in self._game.moves])

    @property
    def over(self) -> bool:
        """Return whether the game has ended."""
        return self._game.over

    def step(self) -> None:
        """Make the agent's move."""
        self._game.play(int(self._game.advice.action[0]))

    def frame(self, chosen: Chosen) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the position and the agent's estimates."""
        head = {"kind": "board", **describe_game(self._game, with_advice=True)}
        if "occlusion" in chosen.panels and self._occluded is not None and not self._game.over:
            head["occlusion"] = self._occluded.look(self._game.obs)
        return head, {}

    def features_map(self, *, now: bool, umap: bool) -> dict[str, Any] | None:
        """Return None: there is no map of board games."""

    def state_picture(self, number: int) -> bytes | None:
        """Return None: there is no map of board games."""

    def still(self) -> bytes:
        """Return the picture of the board, as PNG."""
        return encode_png(self._game.picture())

    def close(self) -> None:
        """Do nothing: a board game holds no resources."""


def _panels(agent: AnyAgent) -> list[str]:
    """Return which of `PANELS` an agent has in an env that is no board game."""
    found = ["reconstruction"] if has_decoder(agent) else []
    if isinstance(agent, Explainable):
        found += ["similar", "features", "units"]
        found += ["filters"] if first_layers(agent.network.encoder) else []
    return found


def require_advisor(agent: AnyAgent, name: str) -> Any:
    """Return an agent that can evaluate moves.

    Raises:
        RunError: it cannot.
    """
    if not isinstance(agent, Advisor):
        raise RunError(f"the agent {name} cannot evaluate moves; choose another run")
    return agent


def describe_game(game: InteractiveGame, *, with_advice: bool) -> dict[str, Any]:
    """Return the state of a board game for the page, with the agent's estimates if requested."""
    head: dict[str, Any] = {
        "position": asdict(read_position(game.state)),
        "step": len(game.moves),
        "moves": [[move.side, move.name] for move in game.moves],
        "over": game.over,
        "result": game.result(0) if game.over else None,
        "value": None,
        "advice": None,
    }
    if with_advice and not game.over:
        advice = game.advice
        value = finite_or_none(advice.value[0])
        # The agent's value is for the player to move; the page shows the first player's.
        head["value"] = None if value is None else value * (1 if game.side_to_move == 0 else -1)
        head["best"] = int(advice.action[0])
        estimates: Mapping[str, np.ndarray | None] = {
            "probability": advice.probability,
            "q": advice.q,
            "visits": advice.visits,
        }
        legal = game.legal_moves()
        head["advice"] = {
            name: None if values is None else {a: finite_or_none(values[0, a]) for a in legal}
            for name, values in estimates.items()
        }
    return head
