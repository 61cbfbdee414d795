"""Messages to the page: a JSON head and PNG images, in one binary web socket message.

A message is the head's length as 4 bytes (big-endian), the head, and the images one after another.
The head's `parts` has the name and the length of each.
"""

import io
import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

_LINE = 0.25  # grey level of the lines between feature maps
_MAX_DEPTH = 20  # of a nested value; no file of ours is deeper
_MAX_ERROR = 1000  # characters of an error's text
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tab and newline


def pack(head: Mapping[str, Any], images: Mapping[str, bytes]) -> bytes:
    """Return a message.

    Raises:
        ValueError: the head holds a number that is not finite.
    """
    parts = {name: len(data) for name, data in images.items()}
    text = json.dumps({**head, "parts": parts}, allow_nan=False).encode()
    return b"".join((struct.pack(">I", len(text)), text, *images.values()))


def error_message(error: BaseException) -> bytes:
    """Return the message that reports an error, in one line."""
    return pack({"kind": "error", "text": one_line(error)}, {})


def one_line(error: BaseException) -> str:
    """Return the text of an error, or its type if it has none, in one line of limited length."""
    text = clean_text(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _MAX_ERROR else f"{text[:_MAX_ERROR]}…"


def clean_text(text: str) -> str:
    """Escape what a page or a terminal cannot take: control characters and half surrogates."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def plain(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Return a JSON value of a file as any page can take it.

    Numbers that are not finite, which JSON has not, become None; what cannot be printed in a text
    is escaped; what is nested deeper than `depth` is left out.
    """
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(k): plain(v, depth - 1) for k, v in value.items()} if depth else "…"
    if isinstance(value, list | tuple):
        return [plain(item, depth - 1) for item in value] if depth else "…"
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image as PNG, with little compression because speed matters more than size.

    Args:
        image: [height, width, 3] or grey [height, width], uint8.
    """
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG", compress_level=1)
    return data.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Return the image [height, width, 3] uint8 of a PNG."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def encode_grey_png(values: np.ndarray) -> bytes:
    """Encode values from 0 to 1, [height, width], as a grey PNG."""
    return encode_png((values * 255).astype(np.uint8))


def tile_maps(maps: np.ndarray) -> np.ndarray:
    """Tile feature maps [filters, H, W] into one image, with grey lines between them."""
    count, height, width = maps.shape
    columns = math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), _LINE, maps.dtype)
    for index, feature_map in enumerate(maps):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        sheet[top : top + height, left : left + width] = feature_map
    return sheet


def finite_or_none(value: Any) -> float | None:
    """Return a number as a float, or None if it is not finite, which JSON cannot express."""
    number = float(value)
    return number if math.isfinite(number) else None


def finite_list(values: np.ndarray | None) -> list[float | None] | None:
    """Apply `finite_or_none` to each value; return None for None."""
    return None if values is None else [finite_or_none(value) for value in values]
