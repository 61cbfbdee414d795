"""The section of an explanation on what a network's decoder shows of the frames it sees."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ludus.comparison.explain_pictures import png
from ludus.evaluation.played_states import PlayedStates
from ludus.evaluation.reconstruction import (
    PLANE_COLOURS,
    DecodedFrames,
    FrameDecoder,
    ReconstructionError,
    explained_share,
)

_SPREAD, _WORST = 8, 4  # states that are shown
_CONSTANT = 0.01  # of the variance of frames, below which the decoder's do not vary
_NUMBERS = 12  # of a vector, those that vary most


@dataclass(frozen=True)
class Reconstructed:
    """What a decoder shows of some states, and its errors over all."""

    decoder: FrameDecoder
    error: ReconstructionError
    shown: np.ndarray  # [M] indices of the states that are shown
    worst: np.ndarray  # [M] bool, chosen for its error
    frames: DecodedFrames  # of the M states
    variational: bool


def reconstruct(
    decoder: FrameDecoder, states: PlayedStates, *, apart: int, variational: bool
) -> Reconstructed:
    """Decode the features of states.

    Args:
        decoder: of the network.
        states: of held-out games.
        apart: steps of one game between two states that are shown for their error, at least.
        variational: whether the decoder gets the mean code.
    """
    error = decoder.measure(states.obs)
    even, worst = shown_states(error.error, states.game, states.step, apart)
    shown = np.concatenate([even, worst])
    return Reconstructed(
        decoder=decoder,
        error=error,
        shown=shown,
        worst=np.arange(len(shown)) >= len(even),
        frames=decoder.show(states.obs[shown]),
        variational=variational,
    )


def shown_states(
    error: np.ndarray, game: np.ndarray, step: np.ndarray, apart: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the states to show: some spread evenly over all games, and some of large errors.

    Args:
        error: [N].
        game: [N] number of the game of each state.
        step: [N] its step in that game.
        apart: steps of one game between two states of large errors, at least.

    Returns:
        Their indices, those of large errors with the largest first; none is in both.
    """
    in_order = np.lexsort((step, game))
    places = np.linspace(0, len(error) - 1, min(_SPREAD, len(error))).round().astype(int)
    even = in_order[np.unique(places)]
    worst = list[int]()
    for i in map(int, np.argsort(-error, kind="stable")):
        if len(worst) == _WORST:
            break
        if i not in even and all(
            game[i] != game[j] or abs(step[i] - step[j]) >= apart for j in worst
        ):
            worst.append(i)
    return even, np.array(worst, int)


def reconstruction_values(
    found: Reconstructed | None, states: PlayedStates
) -> dict[str, Any] | None:
    """Return what the template shows; None without a decoder."""
    if found is None:
        return None
    error = found.error
    values: dict[str, Any] = {
        "kind": found.decoder.kind,
        "variational": found.variational,
        "error": error.mean,
        "mean_frame": error.of_mean_frame,
        "explained": error.explained,
        "constant": error.of_decoded < _CONSTANT * error.of_mean_frame,
        "rows": [
            {
                "where": f"game {states.game[i]}, step {states.step[i]}",
                "error": float(found.frames.error[row]),
                "worst": bool(found.worst[row]),
            }
            for row, i in enumerate(found.shown)
        ],
        "planes": [],
        "numbers": [],
    }
    if found.decoder.kind == "numbers":
        _add_numbers(values, found)
        return values
    pictures = found.decoder.pictures(found.frames)
    for row, three in zip(values["rows"], zip(*pictures, strict=True), strict=True):
        row["pictures"] = [png(each) for each in three]
    if found.decoder.kind == "planes":
        values["planes"] = [
            {
                "colour": "#"
                + bytes(PLANE_COLOURS[i % len(PLANE_COLOURS)].astype(int).tolist()).hex(),
                "explained": explained_share(error.by_number[i], error.variance[i]),
            }
            for i in range(len(error.variance))
        ]
    return values


def _add_numbers(values: dict[str, Any], found: Reconstructed) -> None:
    """Add the numbers of a vector that vary most, of each state and over all."""
    error, frames = found.error, found.frames
    seen, decoded = (x.reshape(len(x), -1) for x in (frames.seen, frames.decoded))
    variance, by_number = error.variance.ravel(), error.by_number.ravel()
    chosen = np.sort(np.argsort(-variance, kind="stable")[:_NUMBERS])
    values["of"] = len(variance)
    values["numbers"] = [
        {"index": int(i), "explained": explained_share(by_number[i], variance[i])} for i in chosen
    ]
    for row, here, there in zip(values["rows"], seen, decoded, strict=True):
        row["numbers"] = [
            tuple(f"{x:z.3g}" for x in (here[i], there[i], abs(here[i] - there[i]))) for i in chosen
        ]
