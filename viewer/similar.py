"""States by the network's features: those like the present, a map, and those that excite a unit.

They are those that a page has seen; similar ones are also searched in the replay of the run.
"""

import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
from gymnasium import spaces

from ludus.evaluation.feature_map import (
    LEAST_UMAP,
    Components,
    exciting_states,
    principal_components,
    umap_points,
)
from ludus.evaluation.played_states import Explainable, features_of, reduced
from ludus.evaluation.reconstruction import draw_newest_frames, frame_kind
from ludus.training.saved_replay import ReplayedStates
from ludus.viewer.messages import finite_or_none
from ludus.viewer.reconstruction import enlarged

_SIDE = 80  # pixels of the longer side of a remembered picture
_LINE = 2  # pixels between two pictures
_COUNT = 4  # similar states that are shown
_UNITS = 4  # that are shown
_NUMBERS = 8  # of a replayed vector, the first
_EVERY = 4  # looks between two states that are remembered
_REMEMBERED = 2_000  # states, the newest
_FIRST_MAP = 8  # states of the first map
_GROWTH = 1.25  # of the states remembered, from one map to the next
_APART = 20  # steps of one game within which states do not count: successive ones are alike


class SimilarStates:
    """Remembers states that a page has seen, finds those that are like another, and maps them.

    States are numbered as they are remembered.

    Args:
        agent: its encoder gives the features.
        space: of the observations.
    """

    def __init__(self, agent: Explainable, space: spaces.Box) -> None:
        self._agent, self._space = agent, space
        self._next = 0  # number of the next state that is remembered
        self._maps = 0  # that were made
        self.feature = np.zeros(0)
        """[dim], of the state that was looked at last"""
        self.forget()

    def forget(self) -> None:
        """Forget all states: features of other weights cannot be compared."""
        self._directions: np.ndarray | None = None  # [_REMEMBERED, dim], of length 1
        self._sizes = np.zeros(_REMEMBERED)  # lengths of the features
        self._values: list[float] = []
        self._first = self._next  # the number of the first state since then
        self._mapped = 0  # states remembered since then when the map was made
        self._components: Components | None = None  # of the map, if they are its axes
        self._umap: tuple[dict[str, Any], Future[np.ndarray | None]] | None = None  # being made
        self._pictures: list[np.ndarray] = []
        self._places: list[tuple[int, int]] = []  # game and step of each
        self._looks = 0

    def look(
        self, obs: np.ndarray, picture: np.ndarray, game: int, step: int, value: float
    ) -> tuple[list[dict[str, Any]], np.ndarray | None]:
        """Return the most similar states remembered, and remember one state in `_EVERY`.

        Args:
            obs: the state, [1, *obs].
            picture: of it, [height, width, 3] uint8.
            game: seed of the game.
            step: env steps of the game so far.
            value: that the network expects.

        Returns:
            Cosine, game and step of each, and their pictures side by side, None without any.
        """
        feature = features_of(self._agent, self._space, obs)[0]
        size = float(np.linalg.norm(feature))
        direction = _directions(feature)
        self.feature = feature
        found = self._nearest(direction, game, step)
        heads = [
            {"similarity": cosine, "seed": self._places[i][0], "step": self._places[i][1]}
            for i, cosine in found
        ]
        strip = _strip([self._pictures[i] for i, _ in found]) if found else None
        if self._looks % _EVERY == 0:  # after the search, which it may take a state from
            self._remember(direction, size, picture, (game, step), value)
        self._looks += 1
        return heads, strip

    def new_map(self, *, now: bool) -> dict[str, Any] | None:
        """Return a map of the states remembered if there are enough new ones since the last.

        Its axes are the first two principal components.

        Args:
            now: make a map even if there is only one new state.

        Returns:
            Its number, and of each state its number, point, value, game and step.
        """
        remembered = self._next - self._first
        due = max(_FIRST_MAP, min(self._mapped * _GROWTH, self._mapped + _REMEMBERED / 4))
        if self._directions is None or remembered < (min(due, 3) if now else due):
            return None
        found = principal_components(self._features())
        self._components, self._mapped, self._umap = found, remembered, None
        return self._map_of_states() | {
            "share": found.share,
            "points": [_rounded(point) for point in found.points],
        }

    def new_umap(self, *, now: bool) -> dict[str, Any] | None:
        """Return a map by UMAP once it has been made, as `new_map`, but with no share.

        It is made in another thread, which takes seconds.

        Args:
            now: begin to make one, unless one is being made.
        """
        if self._umap is None:
            if now and len(self._places) >= LEAST_UMAP:
                points = Future[np.ndarray | None]()
                self._umap = self._map_of_states(), points
                arguments = points, self._features()
                threading.Thread(target=_make_umap, args=arguments, daemon=True).start()
            return None
        found, points = self._umap
        if not points.done():
            return None
        self._umap, self._components = None, None  # the axes are no components
        places = points.result()
        if places is None:
            return None
        return found | {"share": None, "points": [_rounded(point) for point in places]}

    def _features(self) -> np.ndarray:
        """Return the features of the states remembered, [N, dim]."""
        assert self._directions is not None
        count = len(self._places)
        return self._directions[:count] * self._sizes[:count, None]

    def _map_of_states(self) -> dict[str, Any]:
        """Return the number of a new map, and of the states all but their points."""
        self._maps += 1
        return {
            "map": self._maps,
            "states": [self._number(at) for at in range(len(self._places))],
            "values": [finite_or_none(value) for value in self._values],
            "games": [game for game, _ in self._places],
            "steps": [step for _, step in self._places],
        }

    def present(self) -> dict[str, Any] | None:
        """Return the point of the state that was looked at last, and the map that it is on."""
        if self._components is None:
            return None
        return {"map": self._maps, "point": _rounded(self._components.place(self.feature))}

    def picture_of(self, number: int) -> np.ndarray | None:
        """Return the picture of a state; None if it is not remembered any more."""
        at = (number - self._first) % _REMEMBERED
        known = self._first <= number < self._next and self._number(at) == number
        return self._pictures[at] if known else None

    def exciting(self) -> tuple[list[dict[str, Any]], np.ndarray | None]:
        """Return the states remembered that excite the units most whose outputs vary most.

        Returns:
            Of each unit its number, its present output, and output, game and step of its states;
            and their pictures, one row a unit, None without any.
        """
        if self._directions is None:
            return [], None
        game, step = np.array(self._places).T
        units = exciting_states(
            self._features(), game, step, units=_UNITS, count=_COUNT, apart=_APART
        )
        heads = [
            {
                "unit": unit.unit,
                "present": finite_or_none(self.feature[unit.unit]),
                "states": [
                    {"output": output, "seed": self._places[i][0], "step": self._places[i][1]}
                    for i, output in zip(unit.states, unit.activation, strict=True)
                ],
            }
            for unit in units
        ]
        blank = np.zeros_like(self._pictures[0])
        rows = [
            _strip([self._pictures[i] for i in unit.states] + [blank] * (_COUNT - len(unit.states)))
            for unit in units
        ]
        return heads, np.concatenate(rows) if rows else None

    def _number(self, at: int) -> int:
        """Return the number of the state at an index."""
        last = self._next - 1 - self._first
        return self._first + last - (last - at) % _REMEMBERED

    def _nearest(self, direction: np.ndarray, game: int, step: int) -> list[tuple[int, float]]:
        """Return index and cosine of the most similar states, the most similar first."""
        if self._directions is None:
            return []
        cosine = self._directions[: len(self._places)] @ direction
        order = np.argsort(-cosine, kind="stable")
        far = (
            (int(i), float(cosine[i]))
            for i in order
            if self._places[i][0] != game or abs(self._places[i][1] - step) >= _APART
        )
        return [each for each, _ in zip(far, range(_COUNT), strict=False)]

    def _remember(
        self,
        direction: np.ndarray,
        size: float,
        picture: np.ndarray,
        place: tuple[int, int],
        value: float,
    ) -> None:
        """Remember a state in place of the oldest."""
        if self._directions is None:
            self._directions = np.zeros((_REMEMBERED, len(direction)), np.float32)
        shape = self._pictures[0].shape if self._pictures else None
        small = reduced(picture, shape, _SIDE)
        at = (self._next - self._first) % _REMEMBERED
        self._next += 1
        self._directions[at], self._sizes[at] = direction, size
        if at == len(self._places):
            self._pictures.append(small)
            self._places.append(place)
            self._values.append(value)
        else:
            self._pictures[at], self._places[at], self._values[at] = small, place, value


class SimilarInReplay:
    """Finds the states of a replay that are like another.

    Args:
        agent: its encoder gives the features.
        space: of the observations.
        stack: frames in one observation.
        states: of the replay.
    """

    def __init__(
        self, agent: Explainable, space: spaces.Box, stack: int, states: ReplayedStates
    ) -> None:
        self._space, self._stack, self._states = space, stack, states
        self._all = _directions(features_of(agent, space, states.obs))  # [N, dim]

    def look(self, feature: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray | None]:
        """Return the states that are most similar to the one with features [dim].

        Returns:
            Cosine, age and, of a vector, the first numbers of each; and the newest frames of images
            side by side.
        """
        cosine = self._all @ _directions(feature)
        best = np.argsort(-cosine, kind="stable")[:_COUNT]
        heads = [
            {"similarity": float(cosine[i]), "age": int(self._states.age[i]), "numbers": []}
            for i in best
        ]
        chosen = self._states.obs[best]
        if frame_kind(chosen.shape[1:]) != "numbers":
            frames = draw_newest_frames(chosen, self._space, self._stack)
            return heads, _strip([enlarged(frame) for frame in frames])
        for head, numbers in zip(heads, chosen.reshape(len(best), -1), strict=True):
            head["numbers"] = [finite_or_none(x) for x in numbers[:_NUMBERS]]
        return heads, None


def _make_umap(points: Future[np.ndarray | None], features: np.ndarray) -> None:
    """Compute a map by UMAP."""
    try:
        points.set_result(umap_points(features, seed=0))
    except Exception as error:  # raised where the result is asked for
        points.set_exception(error)


def _directions(features: np.ndarray) -> np.ndarray:
    """Return features [..., dim] of length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def _strip(pictures: list[np.ndarray]) -> np.ndarray:
    """Return pictures side by side, each with a grey line at its right."""
    line = np.full((len(pictures[0]), _LINE, 3), 128, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, line)], 1)


def _rounded(point: np.ndarray) -> list[float | None]:
    return [finite_or_none(f"{x:.4g}") for x in point]
