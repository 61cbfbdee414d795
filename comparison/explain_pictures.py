"""Pictures for the page of an explanation: sheets of frames, weights, and maps over frames."""

import base64
import io
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image

_SIDES = (160, 128, 96, 72, 56, 40)  # pixels of the longer side of a frame in a sheet
_PER_SHEET = 400  # frames; larger pictures are slow on phones
_SAMPLE = 60  # frames by which the size of all is estimated
_WIDEST = 900  # pixels of a picture of weights
_MOST_FILTERS, _MOST_PLANES = 64, 16
_MOST_UNITS, _MOST_INPUTS = 128, 256
_RIM = 0.39  # from the middle of a square, in squares
_OVERLAY = np.array((230, 60, 20), np.float32)


class Sheets(NamedTuple):
    """Frames in a few pictures, row by row."""

    images: list[str]  # PNG in base64
    width: int  # pixels of one frame
    height: int
    columns: int
    per_sheet: int
    bytes: int  # of all PNGs together


def png(picture: np.ndarray) -> str:
    """Return a picture, [height, width, 3] uint8, as PNG in base64."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode()


def sheets(frames: np.ndarray, most_bytes: int) -> Sheets:
    """Return frames [N, height, width, 3] in sheets, reduced until they fit into so many bytes.

    The smallest size is used even if it does not fit.
    """
    sample = frames[:: max(1, len(frames) // _SAMPLE)]
    longer = max(frames.shape[1:3])
    sides = [side for side in _SIDES if side < longer]
    for side in (longer, *sides):
        height, width = (max(1, round(x * side / longer)) for x in frames.shape[1:3])
        size = len(_sheet(sample, width, height)) * len(frames) / len(sample)
        if size <= most_bytes:
            break
    parts = [frames[i : i + _PER_SHEET] for i in range(0, len(frames), _PER_SHEET)]
    data = [_sheet(part, width, height) for part in parts]
    return Sheets(
        images=[base64.b64encode(each).decode() for each in data],
        width=width,
        height=height,
        columns=_columns(_PER_SHEET),
        per_sheet=_PER_SHEET,
        bytes=sum(map(len, data)),
    )


def _columns(count: int) -> int:
    return int(np.ceil(np.sqrt(count)))


def _sheet(frames: np.ndarray, width: int, height: int) -> bytes:
    """Return frames as one PNG with a palette, in rows of `_columns(_PER_SHEET)`."""
    columns = _columns(_PER_SHEET)
    rows = -(-len(frames) // columns)
    whole = Image.new("RGB", (columns * width, rows * height))
    for i, frame in enumerate(frames):
        image = Image.fromarray(frame)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BOX)
        whole.paste(image, (i % columns * width, i // columns * height))
    data = io.BytesIO()
    few = whole.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    few.save(data, "PNG", optimize=True)
    return data.getvalue()


def weights_picture(weight: np.ndarray) -> np.ndarray:
    """Draw the weights of a first layer, [height, width, 3] uint8: blue below 0, red above.

    Args:
        weight: [filters, planes, height, width]: each filter is a row of its slices, one for each
            plane; or [units, inputs]: a column for each unit, a row for each input.
    """
    cells = _filters(weight) if weight.ndim == 4 else _matrix(weight)
    times = max(1, _WIDEST // cells.shape[1])
    times = min(times, 16)
    return cells.repeat(times, 0).repeat(times, 1)


def _filters(weight: np.ndarray) -> np.ndarray:
    weight = weight[:_MOST_FILTERS, :_MOST_PLANES]
    count, planes, height, width = weight.shape
    across = max(1, round(np.sqrt(2 * count * (height + 1) / (planes * (width + 1) + 1))))
    rows = -(-count // across)
    strip = planes * (width + 1) + 2  # pixels, with the gap to the next filter
    whole = np.full((rows * (height + 1) - 1, across * strip - 3, 3), 128, np.uint8)
    for i, one in enumerate(weight):
        colours = _diverging(one / max(float(np.abs(one).max()), 1e-12))
        for plane, picture in enumerate(colours):
            top, left = i // across * (height + 1), i % across * strip + plane * (width + 1)
            whole[top : top + height, left : left + width] = picture
    return whole


def _matrix(weight: np.ndarray) -> np.ndarray:
    weight = weight[:_MOST_UNITS, :_MOST_INPUTS].T
    return _diverging(weight / max(float(np.abs(weight).max()), 1e-12))


def _diverging(values: np.ndarray) -> np.ndarray:
    """Colour values from -1 to 1, [..., H, W] to [..., H, W, 3] uint8."""
    return _coloured((values + 1) / 2, "RdBu_r")


def _coloured(values: np.ndarray, name: str) -> np.ndarray:
    """Colour values from 0 to 1 by a colour map of matplotlib."""
    colours: np.ndarray = matplotlib.colormaps[name](np.clip(values, 0, 1))[..., :3]
    return (colours * 255).round().astype(np.uint8)


def heat_picture(heat: np.ndarray) -> np.ndarray:
    """Colour a saliency map from 0 to 1, [H, W] to [H, W, 3] uint8."""
    return _coloured(heat, "inferno")


def shaded_board(frame: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Shade the squares of a picture of a board.

    Args:
        frame: [height, width, 3] uint8, whose squares fill it.
        change: [H, W] from 0 to 1, row 0 at the top; NaN for no shade.
    """
    height, width = frame.shape[:2]
    down = (np.arange(height) + 0.5) * change.shape[0] / height  # in squares
    across = (np.arange(width) + 0.5) * change.shape[1] / width
    # only the rim of a square, so that its piece keeps its colour
    far = np.maximum(np.abs(down % 1 - 0.5)[:, None], np.abs(across % 1 - 0.5)) > _RIM
    shade = np.nan_to_num(change)[down.astype(int)][:, across.astype(int)] * far
    return (frame * (1 - shade[..., None]) + _OVERLAY * shade[..., None]).round().astype(np.uint8)


def change_picture(change: np.ndarray) -> np.ndarray:
    """Colour changes from 0 to 1, [H, W] to [H, W, 3] uint8; NaN is grey."""
    colours = _coloured(np.nan_to_num(change), "OrRd")
    colours[np.isnan(change)] = 160
    return colours
