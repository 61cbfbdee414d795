"""Video of a trained agent's game, MP4 or GIF, with its saliency, values and probabilities."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ludus.agents.agent import Player
from ludus.envs.board.spiel import is_game
from ludus.envs.make import EnvOptions
from ludus.evaluation.playback import Playback
from ludus.evaluation.saliency import Saliency

Overlay = Literal["gradient", "perturbation", "none"]
SUFFIXES = (".mp4", ".gif")
_LEAST = (420, 0)  # pixels of the height and the width, so that a panel fits
_GIF_MAX_WIDTH = 640  # pixels
_PANEL_WIDTH = 320  # pixels
_HEAT = np.array((255, 60, 30), np.float32)
_BACKGROUND, _TEXT, _MUTED = (31, 34, 38), (233, 234, 236), (162, 169, 177)
_BAR, _CHOSEN, _CURVE = (47, 95, 125), (217, 120, 50), (86, 180, 233)
_GAMES = 5  # of which the one with the median return is shown
_MAX_BARS = 18  # actions in the panel
_CURVE_STEPS, _CURVE_HEIGHT = 200, 110  # steps of the value curve, and its pixels


class Recording(NamedTuple):
    """Result of the recorded game, finished or not."""

    score: float  # unclipped return
    length: int  # env steps
    seed: int  # of the game


def record(
    player: Player,
    env_id: str,
    options: EnvOptions,
    path: Path,
    *,
    title: Sequence[str] = (),
    seed: int | None = None,
    epsilon: float = 0.0,
    max_steps: int = 2_000,
    overlay: Overlay = "gradient",
    panel: bool = True,
    on_step: Callable[[int], None] = lambda step: None,
) -> Recording:
    """Play one held-out game and write a video of it.

    Args:
        player: the agent.
        env_id: id of the env.
        options: protocol of the env, as in training.
        path: path of the MP4 (H.264) or GIF.
        title: lines at the top of the panel, such as the agent and the env.
        seed: seed of the held-out game, as in `evaluate`; None for the one of `median_seed`.
        epsilon: probability of a random action.
        max_steps: env steps after which the video ends, even if the game goes on.
        overlay: saliency method to overlay if the agent has image observations.
        panel: add a panel with the title, the actions, the value and the return.
        on_step: called before each env step with the number of those before, of `most_steps`.
    """
    before = 0
    if seed is None:
        seed = median_seed(
            player, env_id, options, epsilon=epsilon, max_steps=max_steps, on_step=on_step
        )
        before = most_steps(env_id, max_steps, None) - max_steps
    lines = (*title, f"game of seed {seed}") if panel else ()
    playback = Playback(player, env_id, options, seed, epsilon)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        pictures = _pictures(
            playback, max_steps, overlay, lines, _LEAST, lambda step: on_step(before + step)
        )
        if path.suffix == ".gif":
            temporary.write_bytes(_gif(pictures, playback.speed, _GIF_MAX_WIDTH))
        else:
            _write_mp4(pictures, playback.speed, str(temporary))
        temporary.replace(path)
        row = playback.row
        return Recording(float(row.episode_return[0]), int(row.episode_length[0]), seed)
    finally:
        temporary.unlink(missing_ok=True)
        playback.close()


def most_steps(env_id: str, max_steps: int, seed: int | None) -> int:
    """Return how many env steps `record` takes at most, those of `median_seed` included."""
    return max_steps if seed is not None or is_game(env_id) else (_GAMES + 1) * max_steps


def median_seed(
    player: Player,
    env_id: str,
    options: EnvOptions,
    *,
    epsilon: float,
    max_steps: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> int:
    """Return the seed of the game with the median return of the first `_GAMES`.

    In board games the agent plays both sides, so that a return says nothing; their seed is 0.
    `on_step` is called before each step; a game that is over counts as all of its steps.
    """
    if is_game(env_id):
        return 0
    returns = []
    for seed in range(_GAMES):
        playback = Playback(player, env_id, options, seed, epsilon)
        try:
            for step in range(max_steps):
                on_step(seed * max_steps + step)
                if playback.row.game_over[0]:
                    break
                playback.step()
            returns.append(float(playback.row.episode_return[0]))
        finally:
            playback.close()
    return int(np.argsort(returns, kind="stable")[_GAMES // 2])


def record_gif(
    player: Player,
    env_id: str,
    options: EnvOptions,
    *,
    max_steps: int,
    max_width: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> bytes:
    """Play one held-out game and return a GIF of at most `max_width` pixels, without a panel.

    `on_step` is called before each image with the number of env steps so far.
    """
    playback = Playback(player, env_id, options)
    try:
        pictures = _pictures(playback, max_steps, "none", (), (0, max_width), on_step)
        return _gif(pictures, playback.speed, max_width)
    finally:
        playback.close()


def encode_mp4(pictures: Iterable[np.ndarray], speed: float) -> bytes:
    """Return an MP4 (H.264) of pictures [height, width, 3] uint8 of one size, `speed` a second."""
    data = io.BytesIO()
    _write_mp4((_enlarged(picture, _LEAST) for picture in pictures), round(speed), data)
    return data.getvalue()


def _pictures(
    playback: Playback,
    max_steps: int,
    overlay: Overlay,
    title: Sequence[str],
    least: tuple[int, int],
    on_step: Callable[[int], None],
) -> Iterator[np.ndarray]:
    """Yield one image for each step, [height, width, 3] uint8; with a panel if there is a title.

    `least` is the height and the width that the env's picture has at least, without the panel.
    """
    kind: Saliency | None = None if overlay == "none" else overlay
    kind = kind if kind in playback.inspector.kinds else None
    values = deque[float](maxlen=_CURVE_STEPS)
    for step in range(max_steps + 1):
        on_step(step)
        over = bool(playback.row.game_over[0])
        picture = _enlarged(playback.picture(), least)
        if kind is not None and not over:
            picture = _overlaid(picture, playback.saliency(kind))
        yield (
            np.concatenate([picture, _panel(playback, title, values, len(picture))], 1)
            if title
            else picture
        )
        if over or step == max_steps:
            return
        playback.step()


def _enlarged(picture: np.ndarray, least: tuple[int, int]) -> np.ndarray:
    """Enlarge small images without blur; both sides become even, which H.264 requires."""
    times = max(1, *(-(-side // own) for side, own in zip(least, picture.shape, strict=False)))
    large = picture.repeat(times, axis=0).repeat(times, axis=1)
    return np.ascontiguousarray(large[: len(large) // 2 * 2, : large.shape[1] // 2 * 2])


def _overlaid(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend saliency [H, W] into an image, in red."""
    height, width = picture.shape[:2]
    grey = Image.fromarray((heat * 255).astype(np.uint8))
    large = np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    share = (large**2)[..., None]
    return (picture * (1 - share) + _HEAT * share).astype(np.uint8)


def _panel(
    playback: Playback, title: Sequence[str], values: deque[float], height: int
) -> np.ndarray:
    """Render the panel, [height, _PANEL_WIDTH, 3] uint8; append the value to `values`."""
    image = Image.new("RGB", (_PANEL_WIDTH, height), _BACKGROUND)
    pen, font = ImageDraw.Draw(image), _font()
    over = bool(playback.row.game_over[0])
    top = 8
    for line in title:
        pen.text((14, top), _fitting(line, font), _MUTED, font)
        top += 17
    state = f"step {int(playback.row.episode_length[0])}"
    state += f"   return {float(playback.row.episode_return[0]):.6g}"
    pen.text((14, top), state + ("   game over" if over else ""), _TEXT, font)
    decision = None if over else playback.decision()
    advice = None if decision is None else decision.advice
    top += 22
    if decision is not None and not playback.action_names:  # continuous actions
        numbers = " ".join(f"{x:.3g}" for x in np.atleast_1d(decision.action).ravel()[:6])
        pen.text((14, top), f"action {numbers}", _TEXT, font)
        top += 24
    if advice is not None:
        values.append(playback.value_sign * float(advice.value[0]))
        bars = advice.q if advice.probability is None else advice.probability
        if bars is not None:
            best = int(advice.action[0]) - playback.first_action
            are_values = advice.probability is None
            label = "value" if are_values else "probability"
            pen.text((14, top), f"{label} of each action", _MUTED, font)
            top = _draw_bars(pen, playback, bars[0], best, are_values, top + 20, font)
    if len(values) > 1 and top + 28 <= height:
        pen.text((14, top + 8), f"value {values[-1]:.3g}", _MUTED, font)
        _draw_curve(pen, values, top + 34, min(top + 34 + _CURVE_HEIGHT, height - 14))
    return np.asarray(image)


def _draw_bars(
    pen: ImageDraw.ImageDraw,
    playback: Playback,
    bars: np.ndarray,
    best: int,
    are_values: bool,
    top: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> int:
    """Draw one bar for each of the best legal actions; return the next free height."""
    ranks = np.nan_to_num(bars, nan=-np.inf)  # NaN: the agent has no value for the action
    best_first = sorted(playback.legal_actions(), key=lambda action: -ranks[action])
    low, high = (float(np.nanmin(bars)), float(np.nanmax(bars))) if are_values else (0.0, 1.0)
    for action in sorted(best_first[:_MAX_BARS]):
        value = float(bars[action])
        share = 0.0 if np.isnan(value) else (value - low) / max(high - low, 1e-9)
        share = 0.08 + 0.92 * share if are_values else share
        colour = _CHOSEN if action == best else _BAR
        pen.text((14, top), playback.action_name(action).lower()[:14], _TEXT, font)
        pen.rectangle((130, top + 3, 130 + round(115 * share), top + 13), colour)
        number = "-" if np.isnan(value) else f"{value:.2f}" if are_values else f"{value:.0%}"
        pen.text((255, top), number, _TEXT, font)
        top += 17
    return top


def _draw_curve(pen: ImageDraw.ImageDraw, values: deque[float], top: int, bottom: int) -> None:
    """Draw the values of the last steps; nothing if there is no space."""
    if bottom - top < 20:
        return
    low, high = min(values), max(values)
    points = max(len(values), _CURVE_STEPS // 4)
    across = np.linspace(14, _PANEL_WIDTH - 14, points)[: len(values)]
    down = [bottom - (v - low) / max(high - low, 1e-9) * (bottom - top) for v in values]
    pen.line(list(zip(across.tolist(), down, strict=True)), _CURVE, 2)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return the text, without what does not fit in the panel."""
    room = _PANEL_WIDTH - 28
    while font.getlength(text) > room:
        text = f"{text.removesuffix('…')[:-1]}…"
    return text


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)


def _gif(pictures: Iterator[np.ndarray], speed: int, max_width: int) -> bytes:
    """Encode images as a GIF of at most `max_width` pixels."""
    frames = []
    for picture in pictures:
        image = Image.fromarray(picture)
        if image.width > max_width:
            size = (max_width, round(image.height * max_width / image.width))
            image = image.resize(size, Image.Resampling.BILINEAR)
        frames.append(image.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    data = io.BytesIO()
    pause = round(1000 / speed)
    frames[0].save(
        data, "GIF", save_all=True, append_images=frames[1:], duration=pause, loop=0, optimize=False
    )
    return data.getvalue()


def _write_mp4(pictures: Iterator[np.ndarray], speed: int, file: str | BinaryIO) -> None:
    """Encode images as an MP4 with H.264."""
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(speed))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20"}
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            large = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode(None))
