"""A trained agent's game as an MP4."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ludus.envs.make import EnvOptions, make
from ludus.training.evaluate import HELD_OUT, Player

_SPEED = {"atari": 15, "minatar": 10}  # pictures a second: Atari's 60 frames, 4 an action
_TALL = 420  # pixels, at least


def record(
    player: Player,
    env_id: str,
    options: EnvOptions,
    path: Path,
    *,
    seed: int = 0,
    epsilon: float = 0.0,
    max_steps: int = 2_000,
) -> tuple[float, int]:
    """Play one held-out game and write its pictures; return its score and length so far.

    Args:
        player: who plays.
        env_id: what is played.
        options: the protocol, as in training.
        path: of the MP4 (H.264).
        seed: of the held-out game, as in `evaluate`.
        epsilon: probability of a random action.
        max_steps: env steps after which the film ends, the game over or not.
    """
    env = make(env_id, 1, seed + HELD_OUT, options, render=True)
    env.action_space.seed(seed)
    generator = np.random.default_rng([seed, 4])
    fps = _SPEED.get(env.protocol["kind"], 30)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        row, state = env.reset(), None
        with av.open(str(temporary), "w", format="mp4") as container:
            film = _Film(container, env.render(0), fps)
            for _ in range(max_steps):
                film.add(env.render(0))
                actions, state = player.predict(row.obs, state, row.first, deterministic=True)
                if generator.random() < epsilon:
                    actions = np.stack([np.asarray(env.action_space.sample())])
                env.send(actions)
                row = env.recv()
                if row.game_over[0]:
                    film.add(env.render(0))
                    break
            film.end()
        temporary.replace(path)
        return float(row.episode_return[0]), int(row.episode_length[0])
    finally:
        temporary.unlink(missing_ok=True)
        env.close()


class _Film:
    """An H.264 stream of pictures of one size, small ones enlarged without blur."""

    def __init__(self, container: av.container.OutputContainer, first: np.ndarray, fps: int):
        self._container = container
        self._times = max(1, -(-_TALL // first.shape[0]))
        height, width = (side * self._times // 2 * 2 for side in first.shape[:2])
        self._stream = container.add_stream("libx264", rate=Fraction(fps))
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "20"}

    def add(self, picture: np.ndarray) -> None:
        """Append one picture [height, width, 3] uint8."""
        large = picture.repeat(self._times, axis=0).repeat(self._times, axis=1)
        large = np.ascontiguousarray(large[: self._stream.height, : self._stream.width])
        frame = av.VideoFrame.from_ndarray(large, format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def end(self) -> None:
        """Write what the encoder still holds."""
        self._container.mux(self._stream.encode(None))
