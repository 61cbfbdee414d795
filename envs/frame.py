"""Convert what envs render to a picture [height, width, 3] uint8."""

from typing import Any

import numpy as np

from ludus.envs.errors import EnvError


def as_picture(frame: Any) -> np.ndarray:
    """Convert a rendered frame to [height, width, 3] uint8.

    Accepts grey and RGBA images, channels first or last, booleans, floats from 0 to 1 or to 255,
    images of Pillow, and a list of frames, of which the last is taken.

    Raises:
        EnvError: the frame is no picture.
    """
    if isinstance(frame, list | tuple):
        frame = frame[-1] if len(frame) else None
    if frame is None:
        raise EnvError("renders no picture; it needs the render mode rgb_array")
    image = np.asarray(frame)
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4) and image.shape[0] in (1, 3, 4):
        image = image.transpose(1, 2, 0)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.dtype.kind not in "biuf":
        what = f"an array {image.dtype}{list(image.shape)}" if image.ndim else repr(frame)
        raise EnvError(f"renders {what}, which is no picture [height, width, 3]")
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[:, :, :3]
    if image.dtype == np.bool_ or (image.dtype.kind == "f" and np.nanmax(image, initial=0) <= 1):
        image = image * 255.0
    if image.dtype.kind == "f":
        image = np.nan_to_num(image)
    return np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8))
