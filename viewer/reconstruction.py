"""What the decoder of a playing agent's network shows of the present frame."""

from typing import Any

import numpy as np

from ludus.evaluation.reconstruction import FrameDecoder
from ludus.viewer.messages import finite_or_none

_LINE = 2  # pixels between two pictures
_SIDE = 80  # pixels of the longer side of a frame, to which a smaller one is enlarged
_NUMBERS = 24  # of a vector, the first


def show_reconstruction(
    decoder: FrameDecoder, obs: np.ndarray
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Return the error of one observation [1, *obs], and its frames.

    Returns:
        The mean squared error and, of a vector, each number as seen and as decoded; of an image
        three pictures side by side, [height, width, 3] uint8: the frame as the network sees it,
        the decoder's and their absolute difference.
    """
    frames = decoder.show(obs)
    head: dict[str, Any] = {"error": finite_or_none(frames.error[0]), "numbers": []}
    if decoder.kind == "numbers":
        pairs = zip(frames.seen.ravel(), frames.decoded.ravel(), strict=True)
        head["numbers"] = [
            [finite_or_none(seen), finite_or_none(decoded)]
            for (seen, decoded), _ in zip(pairs, range(_NUMBERS), strict=False)
        ]
        return head, None
    seen, decoded, difference = (enlarged(each[0]) for each in decoder.pictures(frames))
    line = np.full((len(seen), _LINE, 3), 128, np.uint8)
    return head, np.concatenate([seen, line, decoded, line, difference], 1)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """Repeat the pixels of a small picture, to about `_SIDE` of them."""
    times = max(1, _SIDE // max(picture.shape[:2]))
    return picture.repeat(times, 0).repeat(times, 1)
