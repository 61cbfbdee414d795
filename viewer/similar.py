"""The states of a session that are most similar to the present one, by the network's features."""

from typing import Any

import numpy as np
from gymnasium import spaces

from ludus.evaluation.played_states import Explainable, features_of, reduced

_SIDE = 80  # pixels of the longer side of a remembered picture
_LINE = 2  # pixels between two pictures
_COUNT = 4  # similar states that are shown
_EVERY = 4  # looks between two states that are remembered
_REMEMBERED = 1_000  # states, the newest
_APART = 20  # steps of one game within which states do not count: successive ones are alike


class SimilarStates:
    """Remembers states that a page has seen, and finds those that are like another.

    Args:
        agent: its encoder gives the features.
        space: of the observations.
    """

    def __init__(self, agent: Explainable, space: spaces.Box) -> None:
        self._agent, self._space = agent, space
        self.forget()

    def forget(self) -> None:
        """Forget all states: features of other weights cannot be compared."""
        self._directions: np.ndarray | None = None  # [_REMEMBERED, dim], of length 1
        self._pictures: list[np.ndarray] = []
        self._places: list[tuple[int, int]] = []  # game and step of each
        self._looks = 0

    def look(
        self, obs: np.ndarray, picture: np.ndarray, game: int, step: int
    ) -> tuple[list[dict[str, Any]], np.ndarray | None]:
        """Return the most similar states remembered, and remember one state in `_EVERY`.

        Args:
            obs: the state, [1, *obs].
            picture: of it, [height, width, 3] uint8.
            game: seed of the game.
            step: env steps of the game so far.

        Returns:
            Cosine, game and step of each, and their pictures side by side, None without any.
        """
        feature = features_of(self._agent, self._space, obs)[0]
        direction = feature / max(float(np.linalg.norm(feature)), 1e-12)
        found = self._nearest(direction, game, step)
        heads = [
            {"similarity": cosine, "seed": self._places[i][0], "step": self._places[i][1]}
            for i, cosine in found
        ]
        strip = self._strip([i for i, _ in found]) if found else None
        if self._looks % _EVERY == 0:  # after the search, which it may take a state from
            self._remember(direction, picture, game, step)
        self._looks += 1
        return heads, strip

    def _strip(self, states: list[int]) -> np.ndarray:
        """Return pictures side by side, each with a grey line at its right."""
        pictures = [self._pictures[i] for i in states]
        line = np.full((len(pictures[0]), _LINE, 3), 128, np.uint8)
        return np.concatenate([part for picture in pictures for part in (picture, line)], 1)

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

    def _remember(self, direction: np.ndarray, picture: np.ndarray, game: int, step: int) -> None:
        """Remember a state in place of the oldest."""
        if self._directions is None:
            self._directions = np.zeros((_REMEMBERED, len(direction)), np.float32)
        shape = self._pictures[0].shape if self._pictures else None
        small = reduced(picture, shape, _SIDE)
        at = self._looks // _EVERY % _REMEMBERED
        self._directions[at] = direction
        if at == len(self._places):
            self._pictures.append(small)
            self._places.append((game, step))
        else:
            self._pictures[at], self._places[at] = small, (game, step)
