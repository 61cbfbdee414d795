"""What the page is sent: a JSON head and pictures behind it, in one binary message.

A message is the head's length as 4 bytes (big-endian), the head, and for each name in the head's
`parts` a picture of the length that stands there.
"""

import io
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

_LINE = 0.25  # the grey between feature maps


def pack(head: Mapping[str, Any], pictures: Mapping[str, bytes]) -> bytes:
    """One message."""
    parts = {name: len(data) for name, data in pictures.items()}
    text = json.dumps({**head, "parts": parts}, allow_nan=False).encode()
    return b"".join((struct.pack(">I", len(text)), text, *pictures.values()))


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The inverse of `pack`."""
    (length,) = struct.unpack_from(">I", message)
    head = json.loads(message[4 : 4 + length])
    pictures, at = {}, 4 + length
    for name, size in head.pop("parts").items():
        pictures[name], at = message[at : at + size], at + size
    return head, pictures


def png(picture: np.ndarray) -> bytes:
    """[height, width, 3] or grey [height, width], uint8, as a PNG: fast rather than small."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG", compress_level=1)
    return data.getvalue()


def grey(values: np.ndarray) -> bytes:
    """[height, width] from 0 to 1 as a grey PNG."""
    return png((values * 255).astype(np.uint8))


def mosaic(maps: np.ndarray) -> np.ndarray:
    """Feature maps [filters, H, W] beside each other, a grey line between them."""
    count, height, width = maps.shape
    columns = math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), _LINE, maps.dtype)
    for number, one in enumerate(maps):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        sheet[top : top + height, left : left + width] = one
    return sheet


def number(value: Any) -> float | None:
    """A finite number, or None: JSON knows no others."""
    told = float(value)
    return told if math.isfinite(told) else None


def numbers(values: np.ndarray | None) -> list[float | None] | None:
    """A list of them."""
    return None if values is None else [number(value) for value in values]


def error(problem: Exception) -> bytes:
    """What went wrong, as a message."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    return pack({"kind": "error", "text": text}, {})
