"""A trained agent's game as an MP4 or a GIF, with what it looks at and what it thinks."""

import io
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ludus.agents.agent import Player
from ludus.envs.make import EnvOptions
from ludus.evaluation.playback import Playback
from ludus.evaluation.saliency import Saliency

Overlay = Literal["gradient", "perturbation", "none"]
SUFFIXES = (".mp4", ".gif")
_TALL = 420  # pixels, at least
_GIF_WIDE = 640  # pixels, at most
_PANEL = 320  # pixels
_HEAT = np.array((255, 60, 30), np.float32)
_GROUND, _INK, _SOFT = (31, 34, 38), (233, 234, 236), (162, 169, 177)
_BAR, _CHOSEN, _CURVE = (47, 95, 125), (217, 120, 50), (86, 180, 233)
_BARS = 18  # actions that are shown, at most
_PAST, _CURVE_TALL = 200, 110  # steps of the value's curve, and its pixels


class Filmed(NamedTuple):
    """What was filmed."""

    score: float  # unclipped return so far
    length: int  # env steps so far


def record(
    player: Player,
    env_id: str,
    options: EnvOptions,
    path: Path,
    *,
    seed: int = 0,
    epsilon: float = 0.0,
    max_steps: int = 2_000,
    overlay: Overlay = "gradient",
    panel: bool = True,
) -> Filmed:
    """Play one held-out game and write its pictures.

    Args:
        player: who plays.
        env_id: what is played.
        options: the protocol, as in training.
        path: of the MP4 (H.264) or GIF.
        seed: of the held-out game, as in `evaluate`.
        epsilon: probability of a random action.
        max_steps: env steps after which the film ends, the game over or not.
        overlay: what the agent looks at, drawn on the picture where it sees pictures.
        panel: show its actions, its value and the return beside the picture.
    """
    live = Playback(player, env_id, options, seed, epsilon)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        pictures = _pictures(live, max_steps, overlay, panel)
        if path.suffix == ".gif":
            temporary.write_bytes(_gif(pictures, live.speed, _GIF_WIDE))
        else:
            _write_mp4(pictures, live.speed, temporary)
        temporary.replace(path)
        return Filmed(float(live.row.episode_return[0]), int(live.row.episode_length[0]))
    finally:
        temporary.unlink(missing_ok=True)
        live.close()


def gif(player: Player, env_id: str, options: EnvOptions, *, max_steps: int, wide: int) -> bytes:
    """A held-out game as a GIF of `wide` pixels, the picture alone."""
    live = Playback(player, env_id, options)
    try:
        return _gif(_pictures(live, max_steps, "none", False), live.speed, wide)
    finally:
        live.close()


def _pictures(
    live: Playback, max_steps: int, overlay: Overlay, panel: bool
) -> Iterator[np.ndarray]:
    """[height, width, 3] uint8 of each step, all of one size."""
    kind: Saliency | None = None if overlay == "none" else overlay
    kind = kind if kind in live.insight.kinds else None
    values = deque[float](maxlen=_PAST)
    for step in range(max_steps + 1):
        over = bool(live.row.game_over[0])
        picture = _enlarged(live.picture())
        if kind is not None and not over:
            picture = _heated(picture, live.saliency(kind))
        yield np.concatenate([picture, _panel(live, values, len(picture))], 1) if panel else picture
        if over or step == max_steps:
            return
        live.step()


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """Small pictures larger, without blur; both sides even, as H.264 wants them."""
    times = max(1, -(-_TALL // picture.shape[0]))
    large = picture.repeat(times, axis=0).repeat(times, axis=1)
    return np.ascontiguousarray(large[: len(large) // 2 * 2, : large.shape[1] // 2 * 2])


def _heated(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The picture with saliency [H, W] over all of it, in red."""
    height, width = picture.shape[:2]
    grey = Image.fromarray((heat * 255).astype(np.uint8))
    large = np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    share = (large**2)[..., None]
    return (picture * (1 - share) + _HEAT * share).astype(np.uint8)


def _panel(live: Playback, values: deque[float], height: int) -> np.ndarray:
    """What the agent thinks, [height, _PANEL, 3] uint8."""
    image = Image.new("RGB", (_PANEL, height), _GROUND)
    pen, font = ImageDraw.Draw(image), _font()
    over = bool(live.row.game_over[0])
    told = f"step {int(live.row.episode_length[0])}"
    told += f"   return {float(live.row.episode_return[0]):.6g}"
    pen.text((14, 12), told + ("   game over" if over else ""), _INK, font)
    thought = None if over else live.think()
    advice = None if thought is None else thought.advice
    top = 44
    if thought is not None and not live.action_names:
        shown = " ".join(f"{x:.3g}" for x in np.atleast_1d(thought.action).ravel()[:6])
        pen.text((14, top), f"action {shown}", _INK, font)
        top += 24
    if advice is not None:
        values.append(live.sign * float(advice.value[0]))
        bars = advice.q if advice.probability is None else advice.probability
        if bars is not None:
            best = int(advice.action[0]) - live.first_action
            are = "value" if advice.probability is None else "probability"
            pen.text((14, top), f"{are} of each action", _SOFT, font)
            top = _draw_bars(pen, live, bars[0], best, are == "value", top + 24, font)
    if len(values) > 1:
        pen.text((14, top + 8), f"value {values[-1]:.3g}", _SOFT, font)
        _draw_curve(pen, values, top + 34, min(top + 34 + _CURVE_TALL, height - 14))
    return np.asarray(image)


def _draw_bars(
    pen: ImageDraw.ImageDraw,
    live: Playback,
    bars: np.ndarray,
    best: int,
    are_values: bool,
    top: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> int:
    """Draw the highest of them in the order of the actions; where the next thing may begin."""
    known = np.nan_to_num(bars, nan=-np.inf)
    shown = sorted(sorted(live.legal(), key=lambda action: -known[action])[:_BARS])
    low, high = (float(np.nanmin(bars)), float(np.nanmax(bars))) if are_values else (0.0, 1.0)
    for action in shown:
        value = float(bars[action])
        share = 0.0 if np.isnan(value) else (value - low) / max(high - low, 1e-9)
        share = 0.08 + 0.92 * share if are_values else share
        colour = _CHOSEN if action == best else _BAR
        pen.text((14, top), live.name(action).lower()[:14], _INK, font)
        pen.rectangle((130, top + 3, 130 + round(115 * share), top + 13), colour)
        told = "-" if np.isnan(value) else f"{value:.2f}" if are_values else f"{value:.0%}"
        pen.text((255, top), told, _INK, font)
        top += 19
    return top


def _draw_curve(pen: ImageDraw.ImageDraw, values: deque[float], top: int, bottom: int) -> None:
    if bottom - top < 20:
        return
    low, high = min(values), max(values)
    points = max(len(values), _PAST // 4)
    across = np.linspace(14, _PANEL - 14, points)[: len(values)]
    down = [bottom - (v - low) / max(high - low, 1e-9) * (bottom - top) for v in values]
    pen.line(list(zip(across.tolist(), down, strict=True)), _CURVE, 2)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)


def _gif(pictures: Iterator[np.ndarray], speed: int, wide: int) -> bytes:
    frames = []
    for picture in pictures:
        image = Image.fromarray(picture)
        if image.width > wide:
            size = (wide, round(image.height * wide / image.width))
            image = image.resize(size, Image.Resampling.BILINEAR)
        frames.append(image.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    data = io.BytesIO()
    pause = round(1000 / speed)
    frames[0].save(
        data, "GIF", save_all=True, append_images=frames[1:], duration=pause, loop=0, optimize=False
    )
    return data.getvalue()


def _write_mp4(pictures: Iterator[np.ndarray], speed: int, path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(speed))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20"}
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            large = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode(None))
